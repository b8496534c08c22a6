"""Backbones, one file each, found by file name: `model.backbone: resnet50` is resnet50.py. What several share is in a
file whose name starts with an underscore. `timm/NAME` is any network of timm that _timm.py can cut into four levels.

A backbone's file holds
  PIXEL_MEAN, PIXEL_STD  three numbers each, RGB, on the scale 0 to 255: how its input is normalised;
  STRIDES, CHANNELS      what `build()` returns at each of the four levels res2 to res5;
  build()                a detectron2 `Backbone` with random weights: x [B, 3, H, W] -> {level: [B, channels,
                         ceil(H / stride), ceil(W / stride)]};
  rename(key)            from a foreign key (timm, torchvision...) to this network's, or None: left out on purpose;
  check(state)           only where other networks have tensors of the same shapes: raises UserError for those;
  FRESH                  only where it has layers that no classifier has: the prefixes of their keys;
  imagenet()             only where an installed package carries ImageNet weights: the file they are in.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mtseg.core.errors import UserError

if TYPE_CHECKING:  # importing torch takes seconds: it is left until a network is built
    from detectron2.modeling import Backbone

    from mtseg.model.backbones._timm import Timm


def names() -> list[str]:
    """Every backbone that has a file here."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def find(name: str) -> ModuleType | Timm:
    """A backbone's file, or the object that stands for it. Raises UserError that lists the valid names."""
    if name.startswith("timm/"):
        from mtseg.model.backbones._timm import Timm

        return Timm(name.removeprefix("timm/"))
    if name not in names():
        raise UserError(f"model.backbone: there is no '{name}'; there are {', '.join(names())}, and timm/NAME")
    return importlib.import_module(f"{__name__}.{name}")


def build(name: str, *, freeze_norm: bool) -> Backbone:
    """A backbone in training mode with random weights, with `output_shape()` and the tuples `pixel_mean`, `pixel_std`.

    freeze_norm: batch norm keeps its statistics and its affine part, so that the output for an image does not depend
    on the rest of the batch. Raises UserError for an unknown name and a wrong declaration.
    """
    module = find(name)
    network = module.build()
    _check(name, module, network)
    network.pixel_mean, network.pixel_std = module.PIXEL_MEAN, module.PIXEL_STD
    if freeze_norm:
        from mtseg.model.frozen_norm import freeze

        freeze(network)
    return network


def imagenet(name: str) -> Path:
    """The file of ImageNet weights that an installed package carries. Raises UserError when there is none."""
    module = find(name)
    if not hasattr(module, "imagenet"):
        raise UserError(
            f"model.weights: no installed package carries ImageNet weights for '{name}'; "
            "allowed are the path of a file of weights or null (random weights): "
            f"`dvc exp run -S model.backbone={name} -S model.weights=null -S model.freeze_norm=false`"
        )
    return module.imagenet()


def _check(name: str, module: ModuleType | Timm, network: Backbone) -> None:
    """Compare what the file states with a real output: a level taken from the wrong block fails here, and not as a
    shape error far away in the pixel decoder."""
    import torch

    side = 64
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, side, side))
    network.train()
    stated = {level: (module.CHANNELS[level], module.STRIDES[level]) for level in module.STRIDES}
    promised = {level: (shape.channels, shape.stride) for level, shape in network.output_shape().items()}
    real = {level: (x.shape[1], side // x.shape[2]) for level, x in features.items()}
    if not stated == promised == real:
        raise UserError(
            f"{module.__file__}: wrong (channels, stride): the file states {stated}, output_shape() {promised}, "
            f"the output of '{name}' has {real}"
        )
