"""MobileNetV3-Large (arXiv 1905.02244, table 1): see _mobilenetv3.py."""

from __future__ import annotations

from detectron2.modeling import Backbone
from torchvision.models import mobilenet_v3_large

from mtseg.model.backbones._mobilenetv3 import PIXEL_MEAN, PIXEL_STD, STRIDES, MobileNetV3, place

__all__ = ["CHANNELS", "PIXEL_MEAN", "PIXEL_STD", "STRIDES", "build", "rename"]

CHANNELS = {"res2": 24, "res3": 40, "res4": 112, "res5": 160}

# A stage ends before the next block of stride 2. res5 ends with the last block (160 channels, stride 32); index 12 (112
# channels, stride 16) belongs to res4; features[16], a convolution to 960 channels, to the classifier.
ENDS = {"res2": 4, "res3": 7, "res4": 13, "res5": 16}


def build() -> Backbone:
    return MobileNetV3(mobilenet_v3_large(weights=None).features, ends=ENDS, channels=CHANNELS)


def rename(key: str) -> str | None:
    return place(key, ENDS)
