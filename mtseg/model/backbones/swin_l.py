"""Swin-L, pretrained at 384 x 384: see _swin.py."""

from detectron2.modeling import Backbone

from mtseg.model.backbones._swin import FRESH, PIXEL_MEAN, PIXEL_STD, STRIDES, Swin, rename

__all__ = ["CHANNELS", "FRESH", "PIXEL_MEAN", "PIXEL_STD", "STRIDES", "build", "rename"]

CHANNELS = {"res2": 192, "res3": 384, "res4": 768, "res5": 1536}


def build() -> Backbone:
    return Swin(dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
