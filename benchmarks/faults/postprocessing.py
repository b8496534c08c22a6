"""Faults between the mask logits and the masks of the original image, in training and prediction alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.faults.case import Fault, Patch, changed
from mtseg.data import loader
from mtseg.model import mask2former


def quality_by(change: Callable[[torch.Tensor], torch.Tensor]) -> Patch:
    def masks(real: Callable, *args: Any) -> Any:
        inside, quality = real(*args)
        return inside, change(quality)

    return changed(mask2former, "_masks", masks)


def half_resolution(real: Callable, logits: torch.Tensor, example: dict) -> torch.Tensor:
    """Masks are made at half the size of the image and enlarged by repetition."""
    height, width = example["height"], example["width"]
    half = real(logits, example | {"height": -(-height // 2), "width": -(-width // 2)})
    return half.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :height, :width]


def nearest(real: Callable, logits: torch.Tensor, example: dict) -> torch.Tensor:
    height, width = example["image_size"]
    square = F.interpolate(logits[None], size=example["image"].shape[-2:], mode="nearest")
    size = (example["height"], example["width"])
    return F.interpolate(square[..., :height, :width], size=size, mode="nearest")[0]


def black_padding(real: Callable, self: loader.Mapper, image: Any, seed: int = 0) -> dict:
    """In prediction, images are padded with black."""
    example = real(self, image, seed)
    if not self.training:
        height, width = example["image_size"]
        example["image"][:, height:] = 0
        example["image"][:, :, width:] = 0
    return example


WRONG = ("postprocessing_wrong",)
FAULTS = (
    Fault("masks interpolated by nearest neighbours", causes=WRONG, code=changed(mask2former, "_to_original", nearest)),
    Fault("masks made at half the size of the image", causes=WRONG,
          code=changed(mask2former, "_to_original", half_resolution)),
    Fault("mask logits cut at 1.5 instead of 0", causes=WRONG,
          code=changed(mask2former, "_to_original", lambda real, *args: real(*args) - 1.5)),
    Fault("mask quality is a constant", causes=WRONG, code=quality_by(lambda quality: torch.full_like(quality, 0.9))),
    Fault("mask quality is squared", causes=WRONG, code=quality_by(torch.square)),
    Fault("mask quality is a constant at prediction", since="predict", causes=("ranking",),
          code=quality_by(lambda quality: torch.full_like(quality, 0.9))),
    Fault("padding is black at prediction", causes=("mapper_channels",),
          code=changed(loader.Mapper, "__call__", black_padding)),
)  # fmt: skip
