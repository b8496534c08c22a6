"""Swin-S: see _swin.py."""

from detectron2.modeling import Backbone

from mtseg.model.backbones._swin import FRESH, PIXEL_MEAN, PIXEL_STD, STRIDES, Swin, rename

__all__ = ["CHANNELS", "FRESH", "PIXEL_MEAN", "PIXEL_STD", "STRIDES", "build", "rename"]

CHANNELS = {"res2": 96, "res3": 192, "res4": 384, "res5": 768}


def build() -> Backbone:
    return Swin(dim=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24), window=7)
