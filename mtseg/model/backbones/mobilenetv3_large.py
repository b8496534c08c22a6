"""MobileNetV3-Large (arXiv 1905.02244, table 1): see _mobilenetv3.py."""

from __future__ import annotations

from detectron2.modeling import Backbone
from torchvision.models import mobilenet_v3_large

from mtseg.model.backbones._mobilenetv3 import PIXEL_MEAN, PIXEL_STD, STRIDES, MobileNetV3, place

__all__ = ["CHANNELS", "PIXEL_MEAN", "PIXEL_STD", "STRIDES", "build", "rename"]

CHANNELS = {"res2": 24, "res3": 40, "res4": 112, "res5": 160}

# A stage ends before the next block of stride 2. res5 ends with the last BLOCK, 160 channels at stride 32; the 112
# channels at index 12 are res4's and have stride 16. features[16], a convolution to 960, is the classifier's.
ENDS = {"res2": 4, "res3": 7, "res4": 13, "res5": 16}


def build() -> Backbone:
    return MobileNetV3(mobilenet_v3_large(weights=None).features, ends=ENDS, channels=CHANNELS)


def rename(key: str) -> str | None:
    return place(key, ENDS)
