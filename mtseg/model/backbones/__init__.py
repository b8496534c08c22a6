"""Backbones, one per file, found by file name: `model.backbone: resnet50` is resnet50.py. Shared code is in files whose
names start with an underscore. `timm/NAME` is any network of timm with feature levels of strides 4, 8, 16 and 32.

The file of a backbone defines:

PIXEL_MEAN, PIXEL_STD   normalisation of the input, RGB, on the scale 0 to 255
STRIDES, CHANNELS       of the outputs of `build()`, for the levels res2 to res5
build()                 returns a detectron2 `Backbone` with random weights: x [B, 3, H, W] -> {level: [B, channels,
                        ceil(H / stride), ceil(W / stride)]}
rename(key)             converts a key of other libraries (timm, torchvision...); None: the tensor is not needed
check(state)            optional: raises UserError for weights of other networks with the same shapes
FRESH                   optional: prefixes of the keys of layers that a classifier lacks
imagenet()              optional: returns the file of ImageNet weights in an installed package

The `Backbone` may have a method `exporting()`: a context in which torch.export takes it for any number of images.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mtseg.core.errors import UserError
from mtseg.model.imports import without_compiler

if TYPE_CHECKING:  # torch takes seconds to import, so it is imported when a network is built
    from detectron2.modeling import Backbone

    from mtseg.model.backbones._timm import Timm


def names() -> list[str]:
    """Names of all backbones except timm's, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def find(name: str) -> ModuleType | Timm:
    """The module of a backbone, or a `Timm` with the same attributes. Raises UserError that lists the valid names."""
    if name.startswith("timm/"):
        with without_compiler():
            from mtseg.model.backbones._timm import Timm

        return Timm(name.removeprefix("timm/"))
    if name not in names():
        raise UserError(f"model.backbone: unknown name '{name}', valid: {', '.join(names())}, timm/NAME")
    with without_compiler():
        return importlib.import_module(f"{__name__}.{name}")


def build(name: str, *, freeze_norm: bool) -> Backbone:
    """A backbone in training mode with random weights, with `output_shape()` and the tuples `pixel_mean`, `pixel_std`.

    freeze_norm: statistics and affine transform of batch norm are fixed, so that the output for an image does not
    depend on the rest of the batch. Raises UserError for an unknown name, or if CHANNELS or STRIDES are wrong.
    """
    module = find(name)
    network = module.build()
    _check(name, module, network)
    network.pixel_mean, network.pixel_std = module.PIXEL_MEAN, module.PIXEL_STD
    if freeze_norm:
        from mtseg.model.backbones._frozen_norm import freeze

        freeze(network)
    from mtseg.model.backbones._convolution import speed_up

    speed_up(network)
    return network


def imagenet(name: str) -> Path:
    """The file of ImageNet weights in an installed package. Raises UserError if there is none."""
    module = find(name)
    if not hasattr(module, "imagenet"):
        raise UserError(
            f"model.weights: no package has ImageNet weights for '{name}'; "
            "allowed are the path of a file of weights or null (random weights): "
            f"`dvc exp run -S model.backbone={name} -S model.weights=null -S model.freeze_norm=false`"
        )
    return module.imagenet()


def _check(name: str, module: ModuleType | Timm, network: Backbone) -> None:
    """Compare CHANNELS and STRIDES with an output, so that a level taken from the wrong block is reported as such."""
    import torch

    side = 64
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, side, side))
    network.train()
    declared = {level: (module.CHANNELS[level], module.STRIDES[level]) for level in module.STRIDES}
    shapes = {level: (shape.channels, shape.stride) for level, shape in network.output_shape().items()}
    real = {level: (x.shape[1], side // x.shape[2]) for level, x in features.items()}
    if not declared == shapes == real:
        raise UserError(
            f"{module.__file__}: wrong (channels, stride): declared {declared}, output_shape() {shapes}, "
            f"the output of '{name}' has {real}"
        )
