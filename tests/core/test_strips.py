"""Masks as runs give what the same operations give on pixels."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy.ndimage import label

from mtseg.core.strips import Strips


def encoded(pixels):
    packed = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return {"size": [*pixels.shape], "counts": packed["counts"].decode()}


@pytest.fixture(params=[0.0, 0.1, 0.4, 0.9, 1.0], ids="{:.0%} filled".format)
def cases(request):
    rng = np.random.default_rng(0)
    return [(rng.random(rng.integers(1, 40, 2)) < request.param, rng) for _ in range(60)]


def test_runs_give_the_mask_its_area_and_its_box(cases):
    for pixels, _ in cases:
        rle = encoded(pixels)
        strips = Strips.of(rle)
        assert strips.rle() == rle and strips.area == pixels.sum()
        assert [*strips.box] == coco_mask.toBbox(rle).tolist()


def test_a_placed_mask_is_that_of_the_pixels(cases):
    for pixels, rng in cases:
        (height, width), (y, x, below, right) = pixels.shape, rng.integers(0, 4, 4).tolist()
        whole = np.pad(pixels, ((y, below), (x, right)))
        assert Strips.of(encoded(pixels)).placed(x, y, *whole.shape).rle() == encoded(whole)
        assert whole.shape == (height + y + below, width + x + right)


def test_a_scaled_mask_is_that_of_the_pixels(cases):
    for pixels, rng in cases:
        size = [int(side * rng.uniform(1, 3)) for side in pixels.shape]
        both = zip(pixels.shape, size, strict=True)
        down, across = (np.diff(np.rint(np.arange(old + 1) * (new / old)).astype(int)) for old, new in both)
        wanted = pixels.repeat(down, axis=0).repeat(across, axis=1)
        assert Strips.of(encoded(pixels)).scaled(*size).rle() == encoded(wanted)


def test_the_area_inside_a_rectangle(cases):
    for pixels, rng in cases:
        (y0, y1), (x0, x1) = (np.sort(rng.integers(0, side + 1, 2)).tolist() for side in pixels.shape)
        assert Strips.of(encoded(pixels)).area_inside(x0, y0, x1, y1) == pixels[y0:y1, x0:x1].sum()


def test_parts_are_those_that_touch_by_side_or_corner(cases):
    for pixels, _ in cases:
        strips = Strips.of(encoded(pixels))
        part, (wanted, count) = strips.parts(), label(pixels, structure=np.ones((3, 3)))
        own = wanted[strips.top, strips.column]  # scipy's number of each run
        assert len({*zip(part.tolist(), own.tolist(), strict=True)}) == count == len({*part.tolist()})


def test_a_mask_of_a_huge_image_is_never_made():
    strips = Strips.of(encoded(np.ones((50, 40)))).placed(19_000, 7, 20_000, 20_000)
    rle = strips.rle()
    assert rle["size"] == [20_000, 20_000] and len(rle["counts"]) < 200
    assert coco_mask.toBbox(rle).tolist() == [19_000, 7, 40, 50] and coco_mask.area(rle) == 2000
    assert Strips.of(rle).placed(0, 0, 20_000, 20_000).rle() == rle
