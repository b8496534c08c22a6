"""Swin Transformers (Liu et al., arXiv 2103.14030): detectron2's, with the names and the drop-path rate of FAIR's
Mask2Former, whose keys are ours. A layer norm stands behind each level, which ImageNet classifiers do not have.
"""

from __future__ import annotations

import re
import warnings

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import SwinTransformer
from timm.layers import DropPath
from torch import Tensor

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
FRESH = ("norm0.", "norm1.", "norm2.", "norm3.")
DROP_PATH = 0.3  # of the last block, rising from 0 in the first


class Swin(SwinTransformer):
    def __init__(self, *, dim: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.meshgrid")  # detectron2 calls it in the old way
            # without drop-paths: detectron2 would import timm's from where it is deprecated
            super().__init__(embed_dim=dim, depths=depths, num_heads=heads, window_size=window, drop_path_rate=0.0)
        blocks = [block for layer in self.layers for block in layer.blocks]
        for block, rate in zip(blocks, torch.linspace(0, DROP_PATH, len(blocks)).tolist(), strict=True):
            block.drop_path = DropPath(rate)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(STRIDES, super().forward(x).values(), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        pairs = zip(STRIDES.items(), self.num_features, strict=True)
        return {level: ShapeSpec(channels=channels, stride=stride) for (level, stride), channels in pairs}


def rename(key: str) -> str | None:
    """From a key of Microsoft's classifier, whose head, last norm and masks (they are computed) are left out."""
    return None if re.match(r"(head|norm)\.", key) or key.endswith(".attn_mask") else key
