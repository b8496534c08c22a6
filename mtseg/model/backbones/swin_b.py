"""Swin-B, pretrained at 384 x 384: see _swin.py."""

from detectron2.modeling import Backbone

from mtseg.model.backbones._swin import FRESH, PIXEL_MEAN, PIXEL_STD, STRIDES, Swin, rename

__all__ = ["CHANNELS", "FRESH", "PIXEL_MEAN", "PIXEL_STD", "STRIDES", "build", "rename"]

CHANNELS = {"res2": 128, "res3": 256, "res4": 512, "res5": 1024}


def build() -> Backbone:
    return Swin(dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12)
