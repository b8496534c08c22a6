"""EfficientNet-Lite2: see _efficientnet_lite.py."""

from functools import partial

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
build = partial(EfficientNetLite, 2, channels=CHANNELS)
rename = partial(place, depths=(1, 3, 3, 4, 4, 5, 1))
imagenet = partial(package_file, 2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d")
