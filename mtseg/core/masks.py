"""Masks as compressed COCO RLE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the original image
# polygons [x0, y0, x1, y1, ...] in pixels, or a COCO RLE {"size": [height, width], "counts": str or list}
Segmentation = list[list[float]] | dict[str, Any]


def rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """Convert to compressed RLE {"size": [height, width], "counts": str}.

    Takes polygons (the result is their union), compressed RLE, or uncompressed RLE (`counts` is a list)."""
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return segmentation
    packed = coco_mask.frPyObjects(segmentation, height, width)
    if isinstance(packed, list):
        packed = coco_mask.merge(packed)
    return {"size": [int(side) for side in packed["size"]], "counts": packed["counts"].decode()}


def mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """The segmentation as uint8 [height, width] of 0 and 1."""
    return coco_mask.decode(rle(segmentation, height, width))


def areas(rles: Sequence[dict[str, Any]]) -> np.ndarray:
    """Areas in pixels, float64 [N]. One call per RLE: pycocotools fails on more than 255 at once."""
    return np.array([coco_mask.area(one) for one in rles], dtype=np.float64)


def iou(one: Sequence[dict], other: Sequence[dict]) -> np.ndarray:
    """Mask IoU [len(one), len(other)] of RLEs."""
    if not one or not other:
        return np.zeros((len(one), len(other)))
    return np.asarray(coco_mask.iou(list(one), list(other), [False] * len(other)))
