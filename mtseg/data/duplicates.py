"""Find near-identical images: copies, resized or recompressed images, neighbouring video frames.

Two images are near-identical if the correlation of their thumbnails is above `ALIKE`. It ignores brightness and
contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
from PIL import Image, ImageOps
from scipy.spatial import cKDTree

from mtseg.data.images import pillow

SIDE = 32  # pixels of a thumbnail's side
ALIKE = 0.98
NOISE = 2  # mean difference in grey levels that compression explains in images of little contrast
APART = (2 - 2 * ALIKE) ** 0.5 + 1e-3  # largest distance of two such normalised thumbnails, with room for rounding
AXES = 12  # principal axes of the thumbnails, in which near ones are searched: no distance is larger in them
SAMPLE = 500  # thumbnails from which the axes are computed
BLOCK = 64  # thumbnails whose neighbours are searched at once


def thumbnail(image: Image.Image) -> np.ndarray:
    """The grey values that are compared, uint8 [SIDE x SIDE]."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def upright(opened: Image.Image) -> tuple[tuple[int, int], np.ndarray]:
    """Height and width, and the thumbnail, of an opened image as its EXIF orientation turns it. A JPEG is decoded at a
    fraction of its size."""
    width, height = opened.size
    with pillow():
        turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        opened.draft("L", (4 * SIDE, 4 * SIDE))
        opened.load()
    return (width, height) if turned else (height, width), thumbnail(ImageOps.exif_transpose(opened))


def normalised(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails [N, SIDE x SIDE] as float32, such that the dot product of two is their correlation, -1 to 1."""
    values = thumbnails.astype(np.float32)
    values -= values.mean(1, keepdims=True)
    # contrast below one grey level is noise: such an image is not compared
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), SIDE)


def differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two thumbnails are of different images, and not of one that was compressed again."""
    values, (a, b) = np.stack([one, other]), normalised(np.stack([one, other]))
    return bool(a @ b < ALIKE and np.abs(np.diff(values.astype(int), axis=0)).mean() > NOISE)


def groups(thumbnails: np.ndarray) -> np.ndarray:
    """Group number [N] of thumbnails [N, SIDE x SIDE]. A group is a connected component of near-identical images; the
    groups are in the order of their first images.

    Time grows about linearly with N: neighbours are searched in a tree, and each image is compared only with those that
    are in no group yet, so that many alike images, as those of a fixed camera, need few comparisons."""
    originals: dict[bytes, int] = {}  # exact copies are compared once
    copy_of = [originals.setdefault(blake2b(row).digest(), number) for number, row in enumerate(thumbnails)]
    places = _places(thumbnails)
    # number of the first image of each one's group
    first = np.where(np.isnan(places[:, 0]), np.arange(len(places)), np.array(copy_of))
    search = _Search(places, np.unique(first))
    for start in search.rows_with_neighbours():
        front = search.take(np.array([start]))
        while len(front):
            block, front = front[:BLOCK], front[BLOCK:]
            near = search.neighbours(block)
            alike = normalised(thumbnails[near]) @ normalised(thumbnails[block]).T > ALIKE
            near = search.take(near[alike.any(1)])
            first[near] = start
            front = np.concatenate([front, near])
    return np.unique(first[first], return_inverse=True)[1]


def _places(thumbnails: np.ndarray) -> np.ndarray:
    """Normalised thumbnails on their principal axes, float32 [N, AXES], NaN if the contrast is too low to compare."""
    chosen = np.unique(np.linspace(0, len(thumbnails) - 1, SAMPLE).astype(int))
    axes = np.linalg.svd(normalised(thumbnails[chosen]), full_matrices=False)[2][:AXES]
    places = []
    for start in range(0, len(thumbnails), SAMPLE):
        values = normalised(thumbnails[start : start + SAMPLE])
        values[np.linalg.norm(values, axis=1) < ALIKE] = np.nan
        places.append(values @ axes.T)
    return np.concatenate(places)


class _Search:
    """A search tree of the images that are in no group yet. It is built anew when most of what it finds are in one."""

    def __init__(self, places: np.ndarray, rows: np.ndarray) -> None:
        self._places = places
        self._free = np.zeros(len(places), dtype=bool)
        self._free[rows] = ~np.isnan(places[rows, 0])
        self._build()

    def rows_with_neighbours(self) -> Iterator[int]:
        """The images that are near another one and that are in no group when it is their turn."""
        if not len(self._rows):
            return
        distances = self._tree.query(self._places[self._rows], k=2, distance_upper_bound=APART)[0]
        for row in self._rows[np.isfinite(distances[:, 1])].tolist():
            if self._free[row]:
                yield row

    def take(self, rows: np.ndarray) -> np.ndarray:
        self._free[rows] = False
        return rows

    def neighbours(self, rows: np.ndarray) -> np.ndarray:
        """Images in no group that are near one of `rows` on the principal axes."""
        if not len(self._rows):
            return self._rows
        lists = self._tree.query_ball_point(self._places[rows], APART)
        found = self._rows[np.unique(np.concatenate(lists).astype(int))]
        free = found[self._free[found]]
        self._wasted += sum(map(len, lists)) - len(free)
        if self._wasted > 2 * len(self._rows):
            self._build()
        return free

    def _build(self) -> None:
        self._rows, self._wasted = np.flatnonzero(self._free), 0
        self._tree = cKDTree(self._places[self._rows])
