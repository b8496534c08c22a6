"""Batch norm that keeps its statistics and its affine part."""

from __future__ import annotations

from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn


class FrozenNormAct(FrozenBatchNorm2d):
    """detectron2's frozen batch norm with what timm fuses into a norm layer: drop-out and activation.

    detectron2's own conversion takes timm's BatchNormAct2d for a plain batch norm and loses its activation; timm's
    and torchvision's frozen layers turn half precision back into float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def freeze(network: nn.Module) -> None:
    """Put a frozen layer in the place of every batch norm below `network`; state-dict keys stay the same."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm):
            frozen = FrozenNormAct.convert_frozen_batchnorm(child)
            frozen.drop, frozen.act = getattr(child, "drop", nn.Identity()), getattr(child, "act", nn.Identity())
            setattr(network, name, frozen)
        else:
            freeze(child)
