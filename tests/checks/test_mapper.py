"""A synthetic pattern passes through mapper and loader without findings, for many params."""

from __future__ import annotations

import re
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from benchmarks.faults.reports.round_4 import boxes_if_mirrored
from mtseg.checks import batches, mapper
from mtseg.data import loader
from tests import tiny
from tests.scenes import make_tasks


@pytest.mark.parametrize("scales", [(2.0, 4.0), (4.0, 4.0), (5.0, 6.0), (0.5, 0.6)])
def test_few_sides_of_the_pattern_in_the_image_are_no_evidence(scales):
    given = tiny.params(input={"size": 128, "min_scale": scales[0], "max_scale": scales[1]}).input
    assert not mapper.check(make_tasks(2), input=given)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("scales", [(0.8, 1.25), (0.25, 0.3), (0.3, 2.0), (2.0, 3.0)])
@pytest.mark.parametrize("size", [64, 512])
def test_the_mapper_gives_no_finding(count, scales, size):
    tasks = make_tasks(count)
    tasks = (*tasks[:-1], tasks[-1].model_copy(update={"flip_pairs": (tasks[-1].classes[:2],)}))
    given = tiny.params(input={"size": size, "min_scale": scales[0], "max_scale": scales[1]}).input
    assert not mapper.check(tasks, input=given)


def shifted_polygons(real: Callable, polygons: list, height: int, width: int, by: float) -> np.ndarray:
    return real([polygon + np.tile([by, 0], len(polygon) // 2) for polygon in polygons], height, width)


def shifted_image(real: Callable, *args: object, by: float) -> np.ndarray:
    """Against all masks, before the flip."""
    pixels = real(*args)
    return cv2.warpAffine(
        pixels, np.array([[1, 0, by], [0, 1, 0]]), pixels.shape[1::-1], borderMode=cv2.BORDER_REPLICATE
    )


@pytest.mark.parametrize("by", [0.1, -0.3])
@pytest.mark.parametrize(("name", "change"), [("polygons_to_bitmask", shifted_polygons), ("read_image", shifted_image)])
def test_a_shift_of_a_fraction_of_a_pixel_is_found(monkeypatch, name, change, by):
    real = getattr(loader, name)
    monkeypatch.setattr(loader, name, lambda *args: change(real, *args, by=by))
    given = tiny.params(input={"size": 128}).input
    found = mapper.check(make_tasks(1), input=given)
    assert {one.cause for one in found} == {"mapper_displaces"}
    x, y = (
        float(value)
        for value in re.search(r"are ([\d.]+) pixels off in x and ([\d.]+) in y", found[0].evidence).groups()
    )
    scale = 1.0 if change is shifted_polygons else 0.75  # from image to example
    assert y < 0.03 and x == pytest.approx(abs(by) * scale, abs=0.1)


def test_boxes_instead_of_masks_are_found(monkeypatch):
    real = loader._moved_mask
    monkeypatch.setattr(loader, "_moved_mask", lambda *args: boxes_if_mirrored(real, *args))
    (found,) = mapper.check(make_tasks(1), input=tiny.params(input={"size": 128}).input)
    assert found.cause == "mapper_displaces" and "do not fit their patch" in found.evidence


def test_images_are_where_image_size_says_to_a_fraction_of_a_pixel(monkeypatch):
    square = loader.square

    def moved(pixels: np.ndarray, size: int) -> tuple[np.ndarray, tuple[int, int]]:
        pixels, content = square(pixels, size)
        return cv2.warpAffine(pixels, np.array([[1, 0, 0], [0, 1, 0.1]]), pixels.shape[1::-1]), content

    monkeypatch.setattr(loader, "square", moved)
    (found,) = mapper.check(make_tasks(1), input=tiny.params(input={"size": 128}).input)
    assert found.cause == "mapper_displaces" and "+0.1" in found.evidence


@pytest.mark.parametrize("count", [1, 3, 4])
def test_batches_hold_what_the_mapper_makes_of_their_images(count):
    assert not batches.check(make_tasks(count), input=tiny.params().input)


def test_targets_may_come_in_any_order_but_not_from_another_image():
    tasks = make_tasks(3)
    right = [tiny.example(tasks, 3, seed=seed) for seed in range(4)]
    reversed_order = [one | {"instances": one["instances"][[2, 1, 0]]} for one in right]
    assert not list(batches.exchanged(reversed_order, right, tasks))
    of_last = [one | {"instances": right[-1]["instances"]} for one in right]
    assert [one.cause for one in batches.exchanged(of_last, right, tasks)] == ["masks_of_other_image"]
    with_others = [tiny.example(tasks, 3, seed=seed) for seed in range(4)]
    for one in with_others:
        one["instances"].gt_labels[:, 1] = 1 - one["instances"].gt_labels[:, 1]
    (found,) = batches.exchanged(with_others, right, tasks)
    assert found.cause == "labels_of_other_image" and found.where == f"task '{tasks[1].name}'"
