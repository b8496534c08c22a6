"""Masks as RLE."""

import numpy as np
from pycocotools import mask as coco_mask

from mtseg.core.masks import areas, iou, mask, rle


def test_masks_of_every_kind_of_segmentation_agree():
    polygons = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]
    wanted = np.zeros((5, 8), np.uint8)
    wanted[1:4, 2:6] = 1
    runs = {"size": [5, 8], "counts": [11, 3, 2, 3, 2, 3, 2, 3, 11]}
    for segmentation in (polygons, runs, rle(polygons, 5, 8)):
        assert np.array_equal(mask(segmentation, 5, 8), wanted)
        assert isinstance(rle(segmentation, 5, 8)["counts"], str)


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
