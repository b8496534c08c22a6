"""Swin Transformers (Liu et al., arXiv 2103.14030) of detectron2, with the keys and the drop-path rate of FAIR's
Mask2Former. Each level ends with a layer norm that ImageNet classifiers do not have.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import SwinTransformer
from detectron2.modeling.backbone import swin
from timm.layers import DropPath
from torch import Tensor

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
FRESH = ("norm0.", "norm1.", "norm2.", "norm3.")
DROP_PATH = 0.3  # rate of the last block, increasing linearly from 0 in the first


class SharedDropPath(DropPath):
    """Drop path, whose random numbers are those of a batch that several processes share. others: number of images of
    the batch that other processes have, before and after those of this one."""

    others = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.drop_prob or not self.training:
            return x
        (before, after), kept = self.others, 1 - self.drop_prob
        drawn = x.new_empty(before + len(x) + after, *[1] * (x.ndim - 1)).bernoulli_(kept)
        return x * drawn[before : before + len(x)].div_(kept)


class Swin(SwinTransformer):
    def __init__(self, *, dim: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.meshgrid")  # called by detectron2 without `indexing`
            # drop-path is added below: detectron2 imports timm's from a deprecated module
            super().__init__(embed_dim=dim, depths=depths, num_heads=heads, window_size=window, drop_path_rate=0.0)
        blocks = [block for layer in self.layers for block in layer.blocks]
        for block, rate in zip(blocks, torch.linspace(0, DROP_PATH, len(blocks)).tolist(), strict=True):
            block.drop_path = SharedDropPath(rate)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(STRIDES, super().forward(x).values(), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        pairs = zip(STRIDES.items(), self.num_features, strict=True)
        return {level: ShapeSpec(channels=channels, stride=stride) for (level, stride), channels in pairs}

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """detectron2 computes the number of images in floats, which torch.export replaces by a constant."""
        original, swin.window_reverse = swin.window_reverse, _window_reverse
        try:
            yield
        finally:
            swin.window_reverse = original


def _window_reverse(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """Windows [B x windows of an image, size, size, C] -> [B, height, width, C]."""
    x = windows.unflatten(0, (-1, height // size, width // size))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def rename(key: str) -> str | None:
    """Convert a key of Microsoft's classifier; None for its head, last norm and attention masks, which are computed."""
    return None if re.match(r"(head|norm)\.", key) or key.endswith(".attn_mask") else key
