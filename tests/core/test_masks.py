"""Masks as RLE and as polygons."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.core.masks import areas, iou, joined, mask, overlaps, polygons, rle


def test_masks_of_every_kind_of_segmentation_agree():
    polygons = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]
    wanted = np.zeros((5, 8), np.uint8)
    wanted[1:4, 2:6] = 1
    runs = {"size": [5, 8], "counts": [11, 3, 2, 3, 2, 3, 2, 3, 11]}
    for segmentation in (polygons, runs, rle(polygons, 5, 8)):
        assert np.array_equal(mask(segmentation, 5, 8), wanted)
        assert isinstance(rle(segmentation, 5, 8)["counts"], str)


def test_run_lengths_are_packed_as_pycocotools_does_also_where_its_buffer_is_too_short():
    random = np.random.default_rng(0)
    for most in (2, 40, 10**4, 10**6):
        runs = random.integers(0, most, 9).tolist()
        size = [1, sum(runs)]
        packed = coco_mask.frPyObjects({"size": size, "counts": runs}, *size)
        assert rle({"size": size, "counts": runs}, *size) == {"size": size, "counts": packed["counts"].decode()}
    runs = [2**29, 2**29 + 1, 2**29]
    assert rle({"size": [1, sum(runs)], "counts": runs}, 1, sum(runs))["counts"] == "PPPPP`0QPPPP`0PPPPP`0"


def test_areas_of_more_masks_than_pycocotools_takes_at_once():
    masks = np.zeros((4, 5, 300), dtype=np.uint8, order="F")
    masks[:2, :3, ::2] = 1
    assert areas(coco_mask.encode(masks)).tolist() == [6.0, 0.0] * 150
    assert areas([]).shape == (0,)


def test_iou_of_none_is_an_empty_matrix():
    one = rle([[0, 0, 2, 0, 2, 2, 0, 2]], 4, 4)
    half = rle([[0, 0, 1, 0, 1, 2, 0, 2]], 4, 4)
    assert iou([one], [one, half]).tolist() == [[1.0, 0.5]]
    assert iou([], [one]).shape == (0, 1) and iou([one], []).shape == (1, 0)


def shapes():
    """Masks with holes, islands in holes, parts, lines a pixel wide, corners that touch, and noise."""
    rng = np.random.default_rng(0)
    for side in (12, 40, 90):
        noise = rng.random((side, side + 3))
        yield "noise", noise > 0.5
        yield "blobs", cv2.GaussianBlur(noise, (0, 0), 3) > 0.5
        ring = np.zeros((side, side), np.uint8)
        for share, value in ((2, 1), (3, 0), (6, 1)):
            cv2.circle(ring, (side // 2, side // 2), side // share - 1, value, -1)
        yield "ring", ring
        yield "line", cv2.line(np.zeros((side, side), np.uint8), (0, 0), (side - 1, side // 2), 1)
        yield "checks", np.indices((side, side)).sum(axis=0) % 2
        yield "full", np.ones((side, side))
    yield "pixel", np.pad([[1]], 3)


def encoded(pixels):
    packed = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return {"size": list(pixels.shape), "counts": packed["counts"].decode()}


@pytest.mark.parametrize(("name", "pixels"), [*shapes()])
@pytest.mark.parametrize("tolerance", [0.0, 0.5, 1.0, 3.0, 100.0])
def test_polygons_rasterise_to_the_mask(name, pixels, tolerance):
    wanted = encoded(pixels)
    found = polygons(wanted, tolerance)
    for polygon in found:
        points = np.array(polygon).reshape(-1, 2)
        assert len(points) >= 3
        assert points.min() >= 0 and (points.max(axis=0) <= pixels.shape[::-1]).all()
    agreement = iou([rle(found, *pixels.shape)], [wanted])[0, 0]
    assert agreement == 1 if tolerance == 0 else agreement >= 0.95
    whole = rle([joined(found)], *pixels.shape)
    assert iou([whole], [wanted])[0, 0] >= agreement - 1e-9, "joined by slits they are the same"


def test_a_simplified_polygon_has_fewer_points():
    disc = encoded(cv2.circle(np.zeros((90, 90), np.uint8), (45, 45), 40, 1, -1))
    exact, simple = polygons(disc, 0), polygons(disc, 1)
    assert len(simple) == 1 and len(simple[0]) < len(exact[0]) / 3


def test_the_tolerance_is_halved_until_the_polygon_agrees_with_its_mask():
    disc = encoded(cv2.circle(np.zeros((40, 40), np.uint8), (20, 20), 13, 1, -1))
    sizes = [len(polygons(disc, tolerance)[0]) // 2 for tolerance in (1, 0.5, 0)]
    assert sizes == [44, 44, 68]  # with a tolerance of 1 it had 12 points, and an IoU of 0.95


def test_an_empty_mask_has_no_polygon():
    assert polygons(encoded(np.zeros((5, 8)))) == []


def test_overlaps_are_those_of_every_two_masks():
    rng, found = np.random.default_rng(0), []
    for _ in range(700):  # more than are compared at once
        pixels = np.zeros((60, 900), dtype=np.uint8, order="F")
        y, x = rng.integers(0, 60), rng.integers(0, 900)
        pixels[y : y + rng.integers(0, 30), x : x + rng.integers(1, 300)] = 1
        found.append(coco_mask.encode(pixels))
    row, column, values = overlaps(found)
    wanted = np.tril(iou(found, found), -1)
    assert [row.tolist(), column.tolist()] == [axis.tolist() for axis in np.nonzero(wanted)]
    assert np.array_equal(values, wanted[row, column])
    assert [len(part) for part in overlaps([])] == [0, 0, 0]
    half = [encoded(np.pad(np.ones((4, 4)), ((0, 0), (x, 4 - x)))) for x in (0, 2)]
    assert [part.tolist() for part in overlaps(half)] == [[1], [0], [pytest.approx(1 / 3)]]
