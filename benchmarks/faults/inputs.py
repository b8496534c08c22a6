"""Faults of the code between a picture's file and the network, patched in from the check on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.faults.case import Fault
from benchmarks.faults.patches import Patch, replaced
from mtseg.data import loader


def masks_by(change: Callable[[np.ndarray], np.ndarray]) -> Patch:
    """Ground-truth masks of training, moved apart from their pictures."""
    return replaced(loader, "_moved_mask", lambda real: lambda *args: np.ascontiguousarray(change(real(*args))))


def mask_without(kinds: tuple[str, ...]) -> Patch:
    """Masks that some of the picture's transforms leave alone."""

    def make(real: Callable) -> Callable:
        def moved(segmentation: Any, image: Any, transforms: Any, size: tuple[int, int]) -> np.ndarray:
            kept = [t for t in transforms.transforms if type(t).__name__ not in kinds]
            mask = real(segmentation, image, type(transforms)(kept), size)
            out = np.zeros(size, bool)
            out[: mask.shape[0], : mask.shape[1]] = mask[: size[0], : size[1]]
            return out

        return moved

    return replaced(loader, "_moved_mask", make)


def no_crop(real: Callable) -> Callable:
    def init(self: loader.Mapper, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        self.augmentations = [step for step in self.augmentations if type(step).__name__ != "FixedSizeCrop"]

    return init


def flip_keeps_labels(real: Callable) -> Callable:
    return lambda self, image, instance, i, flip: real(self, image, instance, i, False)


def labels_rolled(real: Callable) -> Callable:
    """Of a picture's instances, each gets the next one's labels."""

    def instances(self: loader.Mapper, *args: Any) -> Any:
        target = real(self, *args)
        target.gt_labels = target.gt_labels.roll(1, 0)
        return target

    return instances


def targets_of_next(real: Callable) -> Callable:
    """In every batch, each picture gets the next one's targets."""

    def batches(*args: Any) -> Any:
        for batch in real(*args):
            targets = [example.get("instances") for example in batch]
            if None not in targets:
                batch = [one | {"instances": t} for one, t in zip(batch, targets[1:] + targets[:1], strict=True)]
            yield batch

    return batches


def labels_of_next(real: Callable) -> Callable:
    """The same, of labels alone."""

    def batches(*args: Any) -> Any:
        for batch in real(*args):
            targets = [example["instances"] for example in batch if "instances" in example]
            labels = [target.gt_labels for target in targets]
            for target, other in zip(targets, labels[1:] + labels[:1], strict=True):
                rows = torch.arange(len(target.gt_labels)) % max(len(other), 1)
                target.gt_labels = other[rows] if len(other) else target.gt_labels
            yield batch

    return batches


def scaled_picture(real: Callable) -> Callable:
    return lambda *args: (real(*args) / 255).astype(np.float32)


def bgr(real: Callable) -> Callable:
    return lambda *args: np.ascontiguousarray(real(*args)[..., ::-1])


DISPLACED = ("mapper_displaces",)
SIDES = ("shape", "colour", "fill", "side")
FAULTS = (
    Fault("masks are not cropped and padded with the picture", number="F4", causes=DISPLACED,
          code=mask_without(("CropTransform", "PadTransform"))),
    Fault("masks are not resized with the picture", number="F4", causes=DISPLACED,
          code=mask_without(("ResizeTransform",))),
    Fault("masks are not flipped with the picture", number="F4", causes=DISPLACED,
          code=mask_without(("HFlipTransform",))),
    Fault("masks 3 pixels off in training", number="F4", causes=DISPLACED,
          code=masks_by(lambda mask: np.roll(mask, 3, axis=1))),
    Fault("masks transposed in training", causes=DISPLACED, code=masks_by(lambda mask: mask.T)),
    Fault("masks inverted in training", causes=DISPLACED, code=masks_by(lambda mask: ~mask)),
    Fault("no crop and no padding in the augmentation", number="F4", causes=DISPLACED,
          code=replaced(loader.Mapper, "__init__", no_crop)),
    Fault("flip_pairs ignored by the mapper", tasks=SIDES, causes=("mapper_labels", "flip_without_pairs"),
          code=replaced(loader.Mapper, "_label", flip_keeps_labels)),
    Fault("every instance but the first is lost", causes=DISPLACED,
          code=replaced(loader.Mapper, "_instances", lambda real: lambda *args: real(*args)[:1])),
    Fault("labels of a picture's next instance in training", causes=("mapper_labels", "labels_of_other_query"),
          code=replaced(loader.Mapper, "_instances", labels_rolled)),
    Fault("targets of the batch's next picture", causes=("masks_of_other_image",),
          code=replaced(loader, "_load", targets_of_next)),
    Fault("labels of the batch's next picture", number="F12", causes=("labels_of_other_image",),
          code=replaced(loader, "_load", labels_of_next)),
    Fault("pictures scaled to 0..1 before the network", causes=("mapper_channels", "normalisation"),
          code=replaced(loader, "read_image", scaled_picture)),
    Fault("pictures read as BGR, always", causes=("mapper_channels", "channels_swapped"),
          code=replaced(loader, "read_image", bgr)),
)  # fmt: skip
