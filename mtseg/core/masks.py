"""Masks as compressed COCO RLE, and as polygons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the original image
# polygons [x0, y0, x1, y1, ...] in pixels, or a COCO RLE {"size": [height, width], "counts": str or list}
Segmentation = list[list[float]] | dict[str, Any]
# COCO's area ranges in square pixels; its AP counts both ends
AREA_RANGES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}
BLOCK = 256  # masks whose overlaps are computed at once
AGREEMENT = 0.97  # smallest IoU of a mask with the polygons made of it
SEVEN_LETTERS = 2**29  # smallest difference of run lengths that a compressed RLE needs so many letters for


def rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """Convert to compressed RLE {"size": [height, width], "counts": str}.

    Takes polygons (the result is their union), compressed RLE, or uncompressed RLE (`counts` is a list)."""
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return segmentation
    if isinstance(segmentation, dict) and max(segmentation["counts"], default=0) >= SEVEN_LETTERS:
        return {"size": [height, width], "counts": _letters(segmentation["counts"])}
    packed = coco_mask.frPyObjects(segmentation, height, width)
    if isinstance(packed, list):
        packed = packed[0] if len(packed) == 1 else coco_mask.merge(packed)
    return {"size": [int(side) for side in packed["size"]], "counts": packed["counts"].decode()}


def _letters(runs: Sequence[int]) -> str:
    """Run lengths as a compressed RLE has them, with differences from the last but one. pycocotools has a buffer of six
    letters for each, and writes past its end if they need seven.
    Format: cocodataset/cocoapi, common/maskApi.c, rleToString."""
    codes = bytearray()
    for place, run in enumerate(runs):
        rest = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            code, rest = rest & 31, rest >> 5
            more = rest != (-1 if code & 16 else 0)
            codes.append(48 + code + 32 * more)
    return codes.decode()


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


def overlaps(rles: Sequence[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every two of the masks that share a pixel: int rows [P] and [P], the first the greater one, and IoU [P].

    Memory and time grow with the masks that lie near each other in x, not with the square of their number."""
    found = [(np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0))]
    boxes = np.array([coco_mask.toBbox(one) for one in rles]).reshape(-1, 4)
    left, right = boxes[:, 0], boxes[:, 0] + boxes[:, 2]
    order = np.argsort(left, kind="stable")
    for start in range(0, len(order), BLOCK):
        own = order[start : start + BLOCK]
        near = order[start : np.searchsorted(left[order], right[own].max())]  # earlier ones met these in their block
        values = iou([rles[i] for i in own], [rles[i] for i in near])
        i, j = np.nonzero(values)
        i, j = i[i < j], j[i < j]
        found.append((np.maximum(own[i], near[j]), np.minimum(own[i], near[j]), values[i, j]))
    row, column, values = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((column, row))
    return row[order], column[order], values[order]


def polygons(mask: dict[str, Any], tolerance: float = 1.0) -> list[list[float]]:
    """Outlines [x0, y0, x1, y1, ...] of the parts of a compressed RLE, none if it is empty.

    Coordinates are integers, at the edges of pixels: x from 0 to the width, as pycocotools and annotation tools take
    them. A part's holes are cut out along a slit: the outline goes to the hole, round it, and back the same way (fill
    rule even-odd). An outline is at most `tolerance` pixels off the mask's, 0 for no difference at all, and details
    smaller than that are left out, as long as the IoU with the mask is at least `AGREEMENT`: below that, the tolerance
    is halved. Every polygon has three or more points and an area.
    """
    contours, holes_of = _outlines(mask)
    while contours:
        simple = [_simplified(contour, tolerance) for contour in contours]
        parts = [
            joined([simple[part], *(simple[hole] for hole in holes if len(simple[hole]))])
            for part, holes in holes_of.items()
            if len(simple[part])
        ]
        if not tolerance or (parts and iou([rle(parts, *mask["size"])], [mask])[0, 0] >= AGREEMENT):
            return parts
        tolerance = tolerance / 2 if tolerance > 0.1 else 0.0
    return []


def joined(outlines: Sequence[Any]) -> list[float]:
    """One polygon [x0, y0, ...] of several, at least one: from the first, a slit goes to each of the others, between
    the two nearest points and back, so that the even-odd fill is theirs. outlines: each [x0, y0, ...] or [n, 2]."""
    first, *rest = (np.asarray(outline, dtype=np.float64).reshape(-1, 2) for outline in outlines)
    tree, slits = cKDTree(first), []
    for ring in rest:
        distance, nearest = tree.query(ring)
        start = int(distance.argmin())
        slits.append((int(nearest[start]), np.concatenate([ring[start:], ring[: start + 1]])))
    pieces, last = [], 0
    for corner, ring in sorted(slits, key=lambda slit: slit[0]):
        pieces += [first[last : corner + 1], ring]
        last = corner
    return np.concatenate([*pieces, first[last:]]).ravel().tolist()


def _outlines(mask: dict[str, Any]) -> tuple[list[np.ndarray], dict[int, list[int]]]:
    """Contours at the edges of pixels, int32 [n, 1, 2], and for the index of each part those of its holes.

    OpenCV's contours go through the centres of pixels, so they are taken of the mask at twice its size: there, the
    first of the two centres of pixel x is 2x, on the edge x, and the second 2x + 1, on the edge x + 1.
    """
    left, top, width, height = (int(side) for side in coco_mask.toBbox(mask))
    if not width:
        return [], {}
    cut = coco_mask.decode(mask)[top : top + height, left : left + width]
    double = np.ascontiguousarray(cut.repeat(2, axis=0).repeat(2, axis=1))
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parents = tree[0, :, 3].tolist()
    holes_of: dict[int, list[int]] = {index: [] for index, parent in enumerate(parents) if parent < 0}
    for index, parent in enumerate(parents):
        if parent >= 0:
            holes_of[parent].append(index)
    corner = np.array([left, top], dtype=np.int32)
    return [(contour + 1) // 2 + corner for contour in contours], holes_of


def _simplified(contour: np.ndarray, tolerance: float) -> np.ndarray:
    """Douglas and Peucker's polygon, [n, 2], empty if it has no area."""
    found = cv2.approxPolyDP(contour, tolerance, True)
    return found[:, 0] if len(found) > 2 and cv2.contourArea(found) else found[:0, 0]
