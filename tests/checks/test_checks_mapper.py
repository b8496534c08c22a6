"""A known pattern through the real mapper: what moves apart, loses its colours or its labels is named."""

from __future__ import annotations

import numpy as np
import pytest

from mtseg.checks import mapper
from mtseg.data import loader
from tests import tiny
from tests.scenes import make_tasks


def causes(count=4, **input):
    tasks = make_tasks(count)
    if count == 4:
        tasks = (*tasks[:3], tasks[3].model_copy(update={"flip_pairs": (("left", "right"),)}))
    return {finding.cause for finding in mapper.check(tasks, input=tiny.params(input={"size": 128, **input}).input)}


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("scales", [(0.8, 1.25), (0.25, 0.3), (0.3, 2.0), (2.0, 3.0)])
@pytest.mark.parametrize("size", [64, 512])
def test_the_mapper_is_sound(count, scales, size):
    assert not causes(count, size=size, min_scale=scales[0], max_scale=scales[1])


def without(kind):
    real = loader._moved_mask

    def moved(segmentation, image, transforms, size):
        kept = [step for step in transforms.transforms if type(step).__name__ not in kind]
        mask = real(segmentation, image, type(transforms)(kept), size)
        whole = np.zeros(size, bool)
        whole[: mask.shape[0], : mask.shape[1]] = mask[: size[0], : size[1]]
        return whole

    return moved


@pytest.mark.parametrize("kind", [("ResizeTransform",), ("CropTransform", "PadTransform"), ("HFlipTransform",)])
def test_f4_masks_that_skip_one_of_the_transforms_are_displaced(kind, monkeypatch):
    monkeypatch.setattr(loader, "_moved_mask", without(kind))
    assert causes() == {"mapper_displaces"}


@pytest.mark.parametrize("change", [lambda mask: np.roll(mask, 3, 1), np.transpose, np.logical_not])
def test_f4_masks_that_lie_elsewhere_are_displaced(change, monkeypatch):
    real = loader._moved_mask
    monkeypatch.setattr(loader, "_moved_mask", lambda *args: np.ascontiguousarray(change(real(*args))))
    assert causes() == {"mapper_displaces"}


@pytest.mark.parametrize("kept", [slice(0, 1), slice(1, None), slice(0, -1)])
def test_instances_that_are_dropped_unseen_are_told(kept, monkeypatch):
    real = loader.Mapper._instances
    monkeypatch.setattr(loader.Mapper, "_instances", lambda *args: real(*args)[kept])
    assert causes() == {"mapper_displaces"}


def test_f4_a_square_that_is_not_filled_is_displacement(monkeypatch):
    real = loader.Mapper.__init__

    def init(self, *args, **kwargs):
        real(self, *args, **kwargs)
        del self.augmentations[1]

    monkeypatch.setattr(loader.Mapper, "__init__", init)
    assert causes() == {"mapper_displaces"}


def test_channels_in_another_order_are_told(monkeypatch):
    real = loader.read_image
    monkeypatch.setattr(loader, "read_image", lambda *args: real(*args)[..., ::-1])
    assert causes() == {"mapper_channels"}


@pytest.mark.parametrize(
    "change", [lambda x: x / 255, lambda x: (x - 120.0) / 58, lambda x: x * 10.0, lambda x: 255 - x]
)
def test_pictures_on_another_scale_are_told_alone(change, monkeypatch):
    """Where colours are others, no patch is found: that is no displacement."""
    real = loader.read_image
    monkeypatch.setattr(loader, "read_image", lambda *args: change(real(*args)).astype(np.float32))
    assert causes() == {"mapper_channels"}


def test_a_flip_that_leaves_the_labels_is_told(monkeypatch):
    real = loader.Mapper._label
    monkeypatch.setattr(loader.Mapper, "_label", lambda self, image, one, i, flip: real(self, image, one, i, False))
    assert causes() == {"mapper_labels"}
    assert not causes(3), "where no task has sides there is nothing to swap"
