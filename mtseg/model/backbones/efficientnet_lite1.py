"""EfficientNet-Lite1: see _efficientnet_lite.py."""

from functools import partial

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

build = partial(EfficientNetLite, 1, channels=CHANNELS)
rename = partial(place, depths=(1, 3, 3, 4, 4, 5, 1))
imagenet = partial(package_file, 1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850")
