"""Faster convolutions with the same outputs and keys.

A frozen norm is folded into the convolution before it, which has its scale in the weights and its shift as a bias. On a
CPU the gradients of depthwise 5 x 5 weights are computed by 3 x 3: oneDNN has no fast kernel for the former, and four
of the latter cover them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.autograd import Function

from mtseg.model.backbones._frozen_norm import FrozenNormAct

KINDS = nn.Conv2d, Conv2dSame, Conv2d  # a subclass of another kind may compute something else


def speed_up(network: nn.Module) -> None:
    """Patch the convolutions of `network` that it fits."""
    norms = following(network)
    for conv in network.modules():
        if type(conv) not in KINDS or not (conv in norms or _wide(conv)):
            continue
        norm = norms.get(conv)
        object.__setattr__(conv, "norm_after", norm)  # not as a submodule, which would change the keys
        conv.forward = MethodType(_forward, conv)  # a method, so that a deep copy runs its own weights
        if norm is not None:
            norm.folded = True


@torch.no_grad()
def following(network: nn.Module) -> dict[nn.Module, FrozenNormAct]:
    """Convolution -> the frozen norm that reads its output, found by a run: one that no other norm reads, in the same
    module."""
    places = {module: name.rpartition(".")[0] for name, module in network.named_modules()}
    norms = [module for module in places if isinstance(module, FrozenNormAct)]
    convs = [module for module in places if type(module) in KINDS and module.bias is None]
    within = {conv: conv.norm for conv in convs if type(conv) is Conv2d and conv.norm in norms}
    if len(within) == len(norms):
        return within
    outputs: list[tuple[nn.Module, Tensor]] = []
    readers: dict[nn.Module, list[nn.Module]] = defaultdict(list)

    def left(conv: nn.Module, _: Any, output: Tensor) -> None:
        outputs.append((conv, output))

    def reached(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        for conv, output in outputs:
            if output is given[0]:
                readers[conv].append(norm)

    hooks = [conv.register_forward_hook(left) for conv in convs]
    hooks += [norm.register_forward_pre_hook(reached) for norm in norms]
    training = network.training
    network.eval()(torch.zeros(1, 3, 64, 64))
    network.train(training)
    for hook in hooks:
        hook.remove()
    uses = Counter(norm for own in readers.values() for norm in own)
    pairs = {conv: own[0] for conv, own in readers.items() if len(own) == 1 and uses[own[0]] == 1}
    return within | {conv: norm for conv, norm in pairs.items() if places[conv] == places[norm]}


def _wide(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.bias is None
    padded = isinstance(conv, Conv2dSame) or (conv.padding == (2, 2) and conv.padding_mode == "zeros")
    return depthwise and conv.kernel_size == (5, 5) and conv.dilation == (1, 1) and padded


def _forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    weight, bias, norm, same = self.weight, None, self.norm_after, type(self) is Conv2dSame
    if norm is not None:
        weight, bias = weight * norm.scale.to(weight.dtype), norm.shift.to(weight.dtype)
    if torch.is_grad_enabled() and x.device.type == "cpu" and _wide(self):
        x = pad_same(x, (5, 5), self.stride) if same else F.pad(x, (2,) * 4)
        y = Wide.apply(x, weight, bias, self.stride)
    elif same:
        y = self._conv_forward(pad_same(x, self.kernel_size, self.stride, self.dilation), weight, bias)
    else:
        y = self._conv_forward(x, weight, bias)
    if type(self) is Conv2d:
        for part in (self.norm, self.activation):
            y = y if part is None else part(y)
    return y


class Wide(Function):
    """A depthwise convolution. x [B, C, H, W], already padded; weight [C, 1, 5, 5]; no gradient of the bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride=stride, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors

        def gradients(x: Tensor, weight: Tensor, *, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
            return torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.stride, (0, 0), (1, 1), False, (0, 0), len(weight), (*wanted, False)
            )[:2]

        part = weight.new_empty(len(weight), 1, 3, 3)  # of the shape of a part; its values are not read
        height, width = ((n - 1) * stride + 3 for n, stride in zip(gradient.shape[2:], ctx.stride, strict=True))
        rows = []
        for row in (0, 2):  # the middle row and column are computed twice
            read = x.narrow(2, row, height)
            left, right = (gradients(read.narrow(3, column, width), part, wanted=(False, True))[1] for column in (0, 2))
            rows.append(torch.cat([left, right.narrow(3, 1, 2)], dim=3))
        of_weight = torch.cat([rows[0], rows[1].narrow(2, 1, 2)], dim=2)
        of_x = gradients(x, weight, wanted=(True, False))[0] if ctx.needs_input_grad[0] else None
        return of_x, of_weight, None, None
