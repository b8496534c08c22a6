"""Batch norm with fixed statistics and a fixed affine transform."""

from __future__ import annotations

from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn


class FrozenNormAct(FrozenBatchNorm2d):
    """detectron2's frozen batch norm followed by the dropout and activation that timm puts into its norm layers.

    detectron2's own conversion treats timm's BatchNormAct2d as a plain batch norm and so loses its activation; the
    frozen layers of timm and torchvision convert half precision to float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def freeze(network: nn.Module) -> None:
    """Replace every batch norm in `network` by a frozen one; the keys of the state dict stay the same."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm):
            frozen = FrozenNormAct.convert_frozen_batchnorm(child)
            frozen.drop, frozen.act = getattr(child, "drop", nn.Identity()), getattr(child, "act", nn.Identity())
            setattr(network, name, frozen)
        else:
            freeze(child)
