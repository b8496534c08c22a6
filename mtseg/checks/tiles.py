"""Find images that show a part of another image at the same scale: tiles that overlap.

The four corners of an image are looked for everywhere in the others, at a low resolution. In the best image of each,
they are looked for at a higher one: two corners that are found in the same image, as far from each other as they are,
show that the images overlap by half or more, if all that lies in both is the same. Images of one camera, or before one
backdrop, have their corners alone in common.

I images, P corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import cv2
import numpy as np

from mtseg.data.duplicates import normalised

LONGER = 64  # pixels of the longer side of most images, to which all are scaled by the same factor
LARGEST = 2 * LONGER  # longer side above which an image is not compared
CORNER = 24  # pixels of a corner's side
MOST = (1000, 300)  # images that are compared, of the split that is searched and of the other
CONTRAST = 4.0  # standard deviation, in grey levels, of a corner that is looked for
NEAR = 0.06  # largest distance (1 - correlation) of the same place, as a share of that of most images
WHOLE = 0.12  # the same of all that two images have in common: a tile may be stretched by a pixel
OFF = 2  # pixels by which the places of two corners may differ from their distance


def overlapping(images: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> dict[int, int]:
    """{row in `others`: row in `images`} of images that overlap. images, others: grey values, uint8 [height, width],
    all scaled by the same factor."""
    rows, found = compared(images, others)
    corners = [(row, *place) for row in found for place in _corners(others[row])]
    if not rows or not corners:
        return {}
    patches = [others[row][y : y + CORNER, x : x + CORNER] for row, y, x in corners]
    best = _best([_half(images[row]) for row in rows], np.stack([_half(patch) for patch in patches]))
    usual, places = np.median(best, axis=0), {}
    for number, ((row, y, x), patch) in enumerate(zip(corners, patches, strict=True)):
        where = rows[int(best[:, number].argmax())]
        alike = cv2.matchTemplate(images[where], patch, cv2.TM_CCOEFF_NORMED)
        top, left = np.unravel_index(alike.argmax(), alike.shape)
        if 1 - alike.max() < NEAR * (1 - usual[number]):
            place = int(top - y), int(left - x)
            places.setdefault((row, where), []).append((place, WHOLE * (1 - usual[number])))
    return {
        row: where
        for (row, where), own in places.items()
        if any(
            np.abs(np.subtract(one, other)).max() <= OFF and 1 - _common(images[where], others[row], *one) < limit
            for (one, limit), (other, _) in combinations(own, 2)
        )
    }


def compared(images: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
    """Rows of the images of both splits that `overlapping` compares."""
    rows, found = (
        [row for row in range(0, len(some), -(-len(some) // most) or 1) if _comparable(some[row])]
        for some, most in zip((images, others), MOST, strict=True)
    )
    return rows, found


def _common(image: np.ndarray, other: np.ndarray, top: int, left: int) -> float:
    """Correlation of what lies in both images, if the corner of `other` is there in `image`, or up to a pixel away."""
    (height, width), (rows, columns) = image.shape, other.shape
    part = other[max(-top, 0) + 1 : min(height - top, rows) - 1, max(-left, 0) + 1 : min(width - left, columns) - 1]
    where = image[max(top, 0) : top + rows, max(left, 0) : left + columns]
    return float(cv2.matchTemplate(where, part, cv2.TM_CCOEFF_NORMED).max())


def _corners(image: np.ndarray) -> list[tuple[int, int]]:
    """(y, x) of the corners that do not overlap and show something."""
    places = product(*({0, side - CORNER} if side >= 2 * CORNER else {0} for side in image.shape))
    return [(y, x) for y, x in places if image[y : y + CORNER, x : x + CORNER].std() >= CONTRAST]


def _comparable(image: np.ndarray) -> bool:
    return min(image.shape) >= CORNER and max(image.shape) <= LARGEST


def _half(image: np.ndarray) -> np.ndarray:
    height, width = (side // 2 for side in image.shape)
    return image[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3), dtype=np.float32)


def _best(images: Sequence[np.ndarray], patches: np.ndarray) -> np.ndarray:
    """[I, P]: highest correlation of each patch [P, side, side] with a part of each image."""
    side = patches.shape[1]
    sizes = np.array([image.shape for image in images])
    canvas = np.zeros((len(images), *sizes.max(0)), dtype=np.float32)
    for row, image in enumerate(images):
        canvas[row, : image.shape[0], : image.shape[1]] = image
    flat, best = normalised(patches.reshape(len(patches), -1)).T, np.full((len(images), len(patches)), -1, np.float32)
    for y, x in product(*(range(length - side + 1) for length in sizes.max(0).tolist())):
        rows = np.flatnonzero((sizes >= (y + side, x + side)).all(1))
        parts = canvas[rows, y : y + side, x : x + side].reshape(len(rows), side * side)  # none, if sizes differ
        best[rows] = np.maximum(best[rows], normalised(parts) @ flat)
    return best
