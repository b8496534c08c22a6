"""Faster convolutions for prediction, with the same outputs and keys.

Without gradients a frozen norm is folded into the convolution before it, which has its scale in the weights and its
shift as a bias. With gradients each is computed by itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from types import MethodType
from typing import Any

import torch
from detectron2.layers import Conv2d
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn

from mtseg.model.backbones._frozen_norm import FrozenNormAct

KINDS = nn.Conv2d, Conv2dSame, Conv2d  # a subclass of another kind may compute something else


def fold_norms(network: nn.Module) -> None:
    """Patch the convolutions of `network` whose output a frozen norm alone reads."""
    for conv, norm in following(network).items():
        object.__setattr__(conv, "norm_after", norm)  # not as a submodule, which would change the keys
        conv.forward = MethodType(_forward, conv)  # a method, so that a deep copy runs its own weights
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


def _forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    weight, bias, norm = self.weight, self.bias, self.norm_after
    if not torch.is_grad_enabled():
        weight, bias = weight * norm.scale.to(weight.dtype), norm.shift.to(weight.dtype)
    if type(self) is Conv2dSame:
        x = pad_same(x, self.kernel_size, self.stride, self.dilation)
    y = self._conv_forward(x, weight, bias)
    if type(self) is Conv2d:
        for part in (self.norm, self.activation):
            y = y if part is None else part(y)
    return y
