"""MobileNetV3 (Howard et al., arXiv 1905.02244): torchvision's, split into four stages."""

from __future__ import annotations

import re
from collections.abc import Mapping

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class MobileNetV3(Backbone):
    """ends: {level: index of the first block of torchvision's `features` after the level}."""

    def __init__(self, features: nn.Sequential, *, ends: Mapping[str, int], channels: Mapping[str, int]):
        super().__init__()
        self.channels = channels
        starts = [0, *ends.values()]
        # a slice keeps the indices of its blocks: stages.res3.4.* is torchvision's features.4.*
        self.stages = nn.ModuleDict(
            {level: features[start:end] for start, (level, end) in zip(starts, ends.items(), strict=False)}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for level, stage in self.stages.items():
            x = outputs[level] = stage(x)
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {level: ShapeSpec(channels=self.channels[level], stride=STRIDES[level]) for level in STRIDES}


def place(key: str, ends: Mapping[str, int]) -> str | None:
    """Convert a key of torchvision's classifier; None for its head and last convolution."""
    if key.startswith((f"features.{ends['res5']}.", "classifier.")):
        return None
    if found := re.match(r"features\.(\d+)\.", key):
        level = next((level for level, end in ends.items() if int(found[1]) < end), "features")
        return f"stages.{level}.{key.removeprefix('features.')}"
    return key
