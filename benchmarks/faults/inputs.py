"""Faults of the code that reads and augments images; tests/checks runs them on a tiny network as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.faults.case import Fault, Patch, changed
from mtseg.data import loader


def masks_by(change: Callable[[np.ndarray], np.ndarray]) -> Patch:
    """Change the ground-truth masks and leave the images."""
    return changed(loader, "_moved_mask", lambda real, *args: np.ascontiguousarray(change(real(*args))))


def mask_without(*kinds: str) -> Patch:
    """Do not apply these transforms of the image to its masks."""

    def moved(real: Callable, segmentation: Any, image: Any, transforms: Any, size: tuple[int, int]) -> np.ndarray:
        kept = [t for t in transforms.transforms if type(t).__name__ not in kinds]
        mask = real(segmentation, image, type(transforms)(kept), size)
        out = np.zeros(size, bool)
        out[: mask.shape[0], : mask.shape[1]] = mask[: size[0], : size[1]]
        return out

    return changed(loader, "_moved_mask", moved)


def no_crop(real: Callable, self: loader.Mapper, *args: Any, **kwargs: Any) -> None:
    real(self, *args, **kwargs)
    self.augmentations = [step for step in self.augmentations if type(step).__name__ != "FixedSizeCrop"]


def flip_keeps_labels(real: Callable, self: loader.Mapper, image: Any, instance: Any, i: int, flip: bool) -> int:
    return real(self, image, instance, i, False)


def labels_rolled(real: Callable, self: loader.Mapper, *args: Any) -> Any:
    """Give each instance the labels of the image's next instance."""
    target = real(self, *args)
    target.gt_labels = target.gt_labels.roll(1, 0)
    return target


def targets_of_next(real: Callable, *args: Any) -> Iterator[list[dict]]:
    """Give each image the targets of the batch's next image."""
    for batch in real(*args):
        targets = [example.get("instances") for example in batch]
        if None not in targets:
            batch = [one | {"instances": t} for one, t in zip(batch, targets[1:] + targets[:1], strict=True)]
        yield batch


def labels_of_next(real: Callable, *args: Any) -> Iterator[list[dict]]:
    """Give the instances of each image the labels of the batch's next image."""
    for batch in real(*args):
        targets = [example["instances"] for example in batch if "instances" in example]
        labels = [target.gt_labels for target in targets]
        for target, other in zip(targets, labels[1:] + labels[:1], strict=True):
            rows = torch.arange(len(target.gt_labels)) % max(len(other), 1)
            target.gt_labels = other[rows] if len(other) else target.gt_labels
        yield batch


def scaled(real: Callable, *args: Any) -> np.ndarray:
    return (real(*args) / 255).astype(np.uint8)


def bgr(real: Callable, *args: Any) -> np.ndarray:
    return np.ascontiguousarray(real(*args)[..., ::-1])


DISPLACED = ("mapper_displaces",)
SIDES = ("shape", "colour", "fill", "side")
FAULTS = (
    Fault("masks are not cropped and padded with the image", failure="mapper_displaces", causes=DISPLACED,
          code=mask_without("CropTransform", "PadTransform")),
    Fault("masks are not resized with the image", failure="mapper_displaces", causes=DISPLACED,
          code=mask_without("ResizeTransform")),
    Fault("masks are not flipped with the image", failure="mapper_displaces", causes=DISPLACED,
          code=mask_without("HFlipTransform")),
    Fault("masks 3 pixels off in training", failure="mapper_displaces", causes=DISPLACED,
          code=masks_by(lambda mask: np.roll(mask, 3, axis=1))),
    Fault("masks transposed in training", causes=DISPLACED, code=masks_by(lambda mask: mask.T)),
    Fault("masks inverted in training", causes=DISPLACED, code=masks_by(lambda mask: ~mask)),
    Fault("no crop and no padding in the augmentation", failure="mapper_displaces", causes=DISPLACED,
          code=changed(loader.Mapper, "__init__", no_crop)),
    Fault("flip_pairs ignored by the mapper", tasks=SIDES, causes=("mapper_labels", "flip_without_pairs"),
          code=changed(loader.Mapper, "_label", flip_keeps_labels)),
    Fault("every instance but the first is lost", causes=DISPLACED,
          code=changed(loader.Mapper, "_instances", lambda real, *args: real(*args)[:1])),
    Fault("labels of an image's next instance in training", causes=("mapper_labels", "labels_of_other_query"),
          code=changed(loader.Mapper, "_instances", labels_rolled)),
    Fault("targets of the batch's next image", causes=("masks_of_other_image",),
          code=changed(loader, "_load", targets_of_next)),
    Fault("labels of the batch's next image", failure="label_readout", causes=("labels_of_other_image",),
          code=changed(loader, "_load", labels_of_next)),
    Fault("images scaled to 0..1 before the network", causes=("mapper_channels", "normalisation"),
          code=changed(loader, "read_image", scaled)),
    Fault("images read as BGR, always", causes=("mapper_channels", "channels_swapped"),
          code=changed(loader, "read_image", bgr)),
)  # fmt: skip
