"""MobileNetV3-Small (arXiv 1905.02244, table 2): see _mobilenetv3.py."""

from __future__ import annotations

from detectron2.modeling import Backbone
from torchvision.models import mobilenet_v3_small

from mtseg.model.backbones._mobilenetv3 import PIXEL_MEAN, PIXEL_STD, STRIDES, MobileNetV3, place

__all__ = ["CHANNELS", "PIXEL_MEAN", "PIXEL_STD", "STRIDES", "build", "rename"]

CHANNELS = {"res2": 16, "res3": 24, "res4": 48, "res5": 96}

# A stage ends before the next block of stride 2. features[12], a convolution to 576 channels, belongs to the
# classifier.
ENDS = {"res2": 2, "res3": 4, "res4": 9, "res5": 12}


def build() -> Backbone:
    return MobileNetV3(mobilenet_v3_small(weights=None).features, ends=ENDS, channels=CHANNELS)


def rename(key: str) -> str | None:
    return place(key, ENDS)
