"""Polygons [x0, y0, x1, y1, ...] in pixels."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtseg.core.masks import Box, Segmentation

TIE = 1e-4  # hundredths of a pixel: closer to half-way between two of them, NumPy's rounding may be off by one


@dataclass(frozen=True, slots=True)
class Measure:
    """What an outline measures. An RLE has an extent only.

    extent      bounding box, of polygons before they are clipped
    areas       area of each polygon, square pixels; 0 if edges cross such that lobes cancel
    perimeter   sum over the polygons, pixels
    rounded     the polygons, rounded to two decimals
    """

    extent: Box
    areas: Sequence[float] = ()
    perimeter: float = 0.0
    rounded: Sequence[array] = ()

    @property
    def area(self) -> float:
        return sum(self.areas)

    def leaves(self, height: int, width: int) -> bool:
        """Whether a vertex is outside the image."""
        x, y, w, h = self.extent
        return x < 0 or y < 0 or x + w > width or y + h > height


def measure(outlines: Sequence[Segmentation]) -> list[Measure]:
    """The measures of many outlines at once. Polygons have three or more points [x0, y0, ...]."""
    drawn = [own for own in outlines if isinstance(own, list)]
    parts = [part for own in drawn for part in own]
    if not parts:
        return [_of_rle(own) for own in outlines]
    joined = array("d")
    for part in parts:
        joined.extend(part)
    flat = np.frombuffer(joined)
    ends = np.cumsum([len(part) // 2 for part in parts])
    starts = np.concatenate([[0], ends[:-1]])
    x, y = flat[::2], flat[1::2]
    after = np.arange(1, len(x) + 1)  # the next vertex of each
    after[ends - 1] = starts
    areas = (np.abs(np.add.reduceat(x * y[after] - x[after] * y, starts)) / 2).tolist()
    sides = np.add.reduceat(np.hypot(x - x[after], y - y[after]), starts).tolist()
    firsts = np.cumsum([0, *map(len, drawn)])
    low, high = (
        np.stack([pick.reduceat(axis, starts[firsts[:-1]]) for axis in (x, y)]) for pick in (np.minimum, np.maximum)
    )
    extents = iter(np.concatenate([low, high - low]).T.tolist())
    values, bounds = _rounded(flat).tobytes(), [0, *(16 * ends).tolist()]
    rounded = [array("d", values[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)]
    spans = pairwise(firsts.tolist())
    found = []
    for own in outlines:
        if isinstance(own, dict):
            found.append(_of_rle(own))
        else:
            first, last = next(spans)
            extent = tuple(next(extents))
            found.append(Measure(extent, areas[first:last], sum(sides[first:last]), rounded[first:last]))
    return found


def _of_rle(segmentation: Segmentation) -> Measure:
    x, y, w, h = coco_mask.toBbox(segmentation).tolist()
    return Measure((x, y, w, h))


def _rounded(values: np.ndarray) -> np.ndarray:
    """The same as `round(value, 2)` of each value."""
    hundreds = values * 100
    found = np.rint(hundreds) / 100
    ties = np.flatnonzero(np.abs(hundreds - np.floor(hundreds) - 0.5) < TIE)
    found[ties] = [round(value, 2) for value in values[ties].tolist()]
    return found


def clip(polygon: list[float], height: int, width: int) -> list[float]:
    """Clip to the image, one side after the other (Sutherland and Hodgman 1974). Empty if nothing is left. Parts of a
    concave polygon stay connected by edges along the border, which enclose no area."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        kept: list[tuple[float, float]] = []
        for a, b in zip(points[-1:] + points[:-1], points, strict=True):
            inside_a, inside_b = ((point[axis] - limit) * sign >= 0 for point in (a, b))
            if inside_a != inside_b:
                share = (limit - a[axis]) / (b[axis] - a[axis])
                kept.append((a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])))
            if inside_b:
                kept.append(b)
        points = kept
    return [value for point in points for value in point]


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> list[float]:
    """Polygon [x0, y0, ...] of 72 corners for an ellipse. angle: radians, clockwise on the screen."""
    turns = np.arange(72) * (2 * np.pi / 72)
    return turned(np.stack([x + rx * np.cos(turns), y + ry * np.sin(turns)], axis=1), x, y, angle)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Corners of a rectangle, [4, 2]."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def turned(points: np.ndarray, x: float, y: float, angle: float) -> list[float]:
    """Polygon [x0, y0, ...] of points [n, 2], turned about (x, y). angle: radians, clockwise on the screen."""
    cos, sin = np.cos(angle), np.sin(angle)
    return ((points - (x, y)) @ np.array([[cos, sin], [-sin, cos]]) + (x, y)).ravel().tolist()


def enclosed(polygons: Sequence[Sequence[float]]) -> list[bool]:
    """Of each polygon whether another, larger one of them encloses it."""
    points = [np.array(polygon, dtype=np.float32).reshape(-1, 2) for polygon in polygons]
    areas = np.array([cv2.contourArea(own) for own in points])
    # left, top, and right and bottom negated, [4, N]: those of a polygon around another are less
    sides = np.array([[*own.min(axis=0), *-own.max(axis=0)] for own in points]).T.copy()
    found = []
    for own, area, side in zip(points, areas, sides.T, strict=True):
        # an object of a hostile file may have a hundred thousand: few are round this one
        around = np.flatnonzero((areas > area) & (sides <= side[:, None]).all(axis=0))
        corners = [(float(x), float(y)) for x, y in own] if len(around) else []
        found.append(any(all(cv2.pointPolygonTest(points[i], c, False) >= 0 for c in corners) for i in around))
    return found
