"""Masks of pixels, as readers find them, as RLE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mtseg.data.raw import BadRecord


def pasted(mask: np.ndarray, left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """Compressed RLE of an image's size (height, width), with `mask` [h, w] at (left, top). Raises BadRecord if the
    mask is not inside the image."""
    (height, width), (h, w) = size, mask.shape
    if left < 0 or top < 0 or left + w > width or top + h > height:
        place = f"a mask of {w} x {h} pixels at ({left}, {top})"
        raise BadRecord("geometry", f"{place} is not inside the image of {width} x {height}")
    whole_mask = np.zeros(size, dtype=np.uint8, order="F")
    whole_mask[top : top + h, left : left + w] = mask
    packed = coco_mask.encode(whole_mask)
    return {"size": [height, width], "counts": packed["counts"].decode()}


def run_mask(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """Mask uint8 [height, width] of run lengths row by row, the first of zeros. Raises BadRecord."""
    if min(runs, default=0) < 0:
        raise BadRecord("geometry", f"a run length is {min(runs)}, expected 0 or more")
    if height < 1 or width < 1 or not runs or sum(runs) != height * width:
        raise BadRecord("geometry", f"run lengths add up to {sum(runs)}, expected {width} x {height}")
    values = np.arange(len(runs), dtype=np.uint8) % 2
    return np.repeat(values, runs).reshape(height, width)
