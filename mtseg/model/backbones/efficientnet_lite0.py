"""EfficientNet-Lite0: see _efficientnet_lite.py."""

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

build = partial(EfficientNetLite, 0, channels=CHANNELS)
rename = partial(place, depths=(1, 2, 2, 3, 3, 4, 1))
imagenet = partial(package_file, 0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db")
