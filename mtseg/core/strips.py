"""Masks as runs of pixels: moved, enlarged, measured and taken apart without ever being made at the image's size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mtseg.core.masks import Box


@dataclass(frozen=True)
class Strips:
    """A mask without its pixels: of every column of the image the runs inside the mask, in order, disjoint.

    column, top, bottom: int [R], a run covers the rows top to bottom - 1. height, width: of the image.
    """

    column: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    height: int
    width: int

    @classmethod
    def of(cls, rle: dict[str, Any]) -> Strips:
        """Of a compressed RLE. Memory grows with the runs and with the columns they reach."""
        height, width = rle["size"]
        ends = np.cumsum(_lengths(rle["counts"]))
        start, end = ends[:-1:2], ends[1::2]
        start, end = start[start < end], end[start < end]
        first, last = start // height, (end - 1) // height
        run, column = _ranges(first, last - first + 1)
        top = np.maximum(start[run] - column * height, 0)
        bottom = np.minimum(end[run] - column * height, height)
        return cls(column, top, bottom, height, width)

    def rle(self) -> dict[str, Any]:
        """Compressed, the same as of the pixels."""
        start, end = self.column * self.height + self.top, self.column * self.height + self.bottom
        apart = start[1:] != end[:-1]  # a run that goes on in the next column is one
        start, end = start[np.append(True, apart)[: len(start)]], end[np.append(apart, True)[: len(end)]]
        bounds = np.concatenate([[0], np.stack([start, end], axis=1).ravel(), [self.height * self.width]])
        counts = np.diff(bounds)
        packed = coco_mask.frPyObjects(
            {"size": [self.height, self.width], "counts": counts if counts[-1] else counts[:-1]},
            self.height, self.width,
        )  # fmt: skip
        return {"size": [self.height, self.width], "counts": packed["counts"].decode()}

    @property
    def area(self) -> int:
        return int((self.bottom - self.top).sum())

    @property
    def box(self) -> Box:
        if not len(self.column):
            return 0.0, 0.0, 0.0, 0.0
        x, y = int(self.column[0]), int(self.top.min())
        return float(x), float(y), float(self.column[-1] + 1 - x), float(self.bottom.max() - y)

    def __getitem__(self, kept: np.ndarray) -> Strips:
        """Some of the runs, bool [R]."""
        return replace(self, column=self.column[kept], top=self.top[kept], bottom=self.bottom[kept])

    def placed(self, x: int, y: int, height: int, width: int) -> Strips:
        """In a larger image, with the upper left corner at x, y."""
        return Strips(self.column + x, self.top + y, self.bottom + y, height, width)

    def scaled(self, height: int, width: int) -> Strips:
        """In an image enlarged to this size: each pixel becomes a rectangle."""
        across = np.rint(np.arange(self.width + 1) * (width / self.width)).astype(int)
        down = np.rint(np.arange(self.height + 1) * (height / self.height)).astype(int)
        run, column = _ranges(across[self.column], np.diff(across)[self.column])
        order = np.lexsort((run, column))
        run, column = run[order], column[order]
        return Strips(column, down[self.top[run]], down[self.bottom[run]], height, width)

    def area_inside(self, x0: int, y0: int, x1: int, y1: int) -> int:
        """Pixels in the rectangle from x0, y0 to x1 - 1, y1 - 1."""
        first, last = np.searchsorted(self.column, [x0, x1])
        top, bottom = self.top[first:last].clip(y0), self.bottom[first:last].clip(max=y1)
        return int((bottom - top).clip(0).sum())

    def parts(self) -> np.ndarray:
        """The connected part of each run, int [R]: pixels are connected that touch, by side or corner."""
        step = self.height + 2  # a row beyond either end: no run touches one of the wrong column
        start, end = self.column * step + self.top, self.column * step + self.bottom
        low = np.searchsorted(end, start + step)
        count = np.searchsorted(start, end + step, side="right") - low
        run, other = _ranges(low, count)
        if len(np.unique(other)) >= len(start) - 1:
            return np.zeros(len(start), dtype=int)  # every run but the first touches one of the column before it
        touching = coo_array((np.ones(len(run), dtype=bool), (run, other)), shape=(len(start),) * 2)
        return connected_components(touching, directed=False)[1]


def _ranges(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every i the numbers first[i], first[i] + 1, ..., `count[i]` of them: i of each, and the numbers."""
    which = np.repeat(np.arange(len(count)), count)
    return which, first[which] + np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)


def _lengths(counts: str) -> np.ndarray:
    """The run lengths, int64, of compressed counts: six bits a character (five of them data, one for `more`), lowest
    first, signed; from the fourth on differences from the last but one (`rleFrString` of COCO's maskApi.c)."""
    codes = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 32 == 0)
    first = np.append(0, last[:-1] + 1)
    shift = 5 * (np.arange(len(codes)) - np.repeat(first, last - first + 1))
    values = np.add.reduceat((codes & 31) << shift, first)
    values -= np.where(codes[last] & 16, 1 << (shift[last] + 5), 0)
    values[1::2], values[2::2] = np.cumsum(values[1::2]), np.cumsum(values[2::2])
    return values
