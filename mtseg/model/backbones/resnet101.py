"""ResNet-101: see _resnet.py."""

from detectron2.modeling import Backbone

from mtseg.model.backbones._resnet import CHANNELS, PIXEL_MEAN, PIXEL_STD, STRIDES, check, rename, resnet

__all__ = ["CHANNELS", "PIXEL_MEAN", "PIXEL_STD", "STRIDES", "build", "check", "rename"]


def build() -> Backbone:
    return resnet(depth=101)
