"""MobileNetV3-Large (Howard et al., arXiv 1905.02244, table 1): torchvision's, cut into four stages."""

from __future__ import annotations

import re

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
CHANNELS = {"res2": 24, "res3": 40, "res4": 112, "res5": 160}

# A stage ends before the next block of stride 2. res5 ends with the last BLOCK, 160 channels at stride 32; the 112
# channels at index 12 are res4's and have stride 16 (F5). features[16], a convolution to 960, is the classifier's.
ENDS = {"res2": 4, "res3": 7, "res4": 13, "res5": 16}


class MobileNetV3Large(Backbone):
    def __init__(self):
        super().__init__()
        features = mobilenet_v3_large(weights=None).features
        starts = [0, *ENDS.values()]
        # a slice keeps its blocks' numbers: stages.res3.4.* is torchvision's features.4.*
        self.stages = nn.ModuleDict(
            {level: features[start:end] for start, (level, end) in zip(starts, ENDS.items(), strict=False)}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for level, stage in self.stages.items():
            x = outputs[level] = stage(x)
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {level: ShapeSpec(channels=CHANNELS[level], stride=STRIDES[level]) for level in STRIDES}


def build() -> Backbone:
    return MobileNetV3Large()


def rename(key: str) -> str | None:
    """From a key of torchvision's classifier, whose head is left out."""
    if key.startswith(("features.16.", "classifier.")):
        return None
    if found := re.match(r"features\.(\d+)\.", key):
        level = next((level for level, end in ENDS.items() if int(found[1]) < end), "features")
        return f"stages.{level}.{key.removeprefix('features.')}"
    return key
