"""Batch norm with fixed statistics and a fixed affine transform."""

from __future__ import annotations

from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn


class FrozenNormAct(FrozenBatchNorm2d):
    """detectron2's frozen batch norm followed by the dropout and activation that timm puts into its norm layers.

    detectron2's own conversion treats timm's BatchNormAct2d as a plain batch norm and so loses its activation; the
    frozen layers of timm and torchvision convert half precision to float32. The factors that detectron2 computes in
    every training step are computed once, when weights are loaded: a ninth of the operations of a step. If `folded`, a
    convolution has applied all but dropout and activation.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__(num_features, eps)
        self.folded = False
        for name in ("scale", "shift"):
            self.register_buffer(name, None, persistent=False)
        self.register_load_state_dict_post_hook(lambda module, _: module.fold())

    def fold(self) -> None:
        """Compute `scale` [C, 1, 1, 1], as weights of a convolution have it, and `shift` [C]."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        self.scale, self.shift = scale.view(-1, 1, 1, 1), self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        if self.folded:
            pass
        elif x.requires_grad:
            x = x * self.scale[:, 0].to(x.dtype) + self.shift[:, None, None].to(x.dtype)
        else:
            x = super().forward(x)
        return self.act(self.drop(x))


def freeze(network: nn.Module) -> None:
    """Replace every batch norm in `network` by a frozen one; the keys of the state dict stay the same."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm):
            frozen = FrozenNormAct.convert_frozen_batchnorm(child)
            frozen.drop, frozen.act = getattr(child, "drop", nn.Identity()), getattr(child, "act", nn.Identity())
            frozen.fold()
            setattr(network, name, frozen)
        else:
            freeze(child)
