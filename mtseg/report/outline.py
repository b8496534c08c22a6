"""Masks as outlines for the page: SVG path data in whole pixels of a thumbnail."""

from __future__ import annotations

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtseg.core.masks import Segmentation
from mtseg.data import coco

TOLERANCE = 0.75  # pixels of the thumbnail that an outline may lie off


def path(segmentation: Segmentation, height: int, width: int, *, scale: float, corner: tuple[int, int] = (0, 0)) -> str:
    """Path data of a mask of a picture of that size, holes included (fill-rule evenodd); "" for an empty mask.

    scale: pixels of the thumbnail a pixel of the picture. corner: x, y of the thumbnail's origin in the picture.
    """
    rle = coco.rle(segmentation, height, width)
    left, top, wide, high = (int(value) for value in coco_mask.toBbox(rle))
    if not wide:
        return ""
    cut = np.ascontiguousarray(coco_mask.decode(rle)[top : top + high, left : left + wide])
    contours, _ = cv2.findContours(cut, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    shift = np.array([left - corner[0], top - corner[1]])
    simple = (cv2.approxPolyDP(contour, TOLERANCE / scale, True)[:, 0] for contour in contours)
    text = "".join(_ring(np.round((points + shift + 0.5) * scale).astype(int)) for points in simple)
    return text or _box(np.array([left, top, left + wide, top + high]) - np.tile(corner, 2), scale)


def _ring(points: np.ndarray) -> str:
    """A closed ring of points int [N, 2], relative, without repetitions; "" where fewer than three are left."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    if len(points) < 3:
        return ""
    steps = " ".join(f"{x} {y}" for x, y in np.diff(points, axis=0).tolist()).replace(" -", "-")
    return f"M{points[0, 0]} {points[0, 1]}l{steps}z"


def _box(box: np.ndarray, scale: float) -> str:
    """What is too small for an outline is still shown: its box, at least 2 pixels wide."""
    x0, y0, x1, y1 = np.round(box * scale).astype(int).tolist()
    return f"M{x0} {y0}h{max(2, x1 - x0)}v{max(2, y1 - y0)}h-{max(2, x1 - x0)}z"
