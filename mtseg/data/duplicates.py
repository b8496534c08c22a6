"""Find near-identical images: copies, resized or recompressed images, neighbouring video frames.

Two images are near-identical if the correlation of their thumbnails is above `ALIKE`. It ignores brightness and
contrast.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 32  # pixels of a thumbnail's side
ALIKE = 0.98
BLOCK = 256  # rows of the correlation matrix per step: 100 MB for 100,000 images


def thumbnail(image: Image.Image) -> np.ndarray:
    """The grey values that are compared, uint8 [SIDE x SIDE]."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def normalised(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails [N, SIDE x SIDE] as float32, such that the dot product of two is their correlation, -1 to 1."""
    values = thumbnails.astype(np.float32)
    values -= values.mean(1, keepdims=True)
    # contrast below one grey level is noise: such an image is not compared
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), SIDE)


def groups(thumbnails: np.ndarray) -> np.ndarray:
    """Group number [N] of thumbnails [N, SIDE x SIDE]. A group is a connected component of near-identical images."""
    values = normalised(thumbnails)
    group = np.arange(len(values))
    for start in range(0, len(values), BLOCK):  # merged block by block: with a fixed camera, all pairs may be similar
        left, right = group[np.argwhere(values[start : start + BLOCK] @ values[start:].T > ALIKE).T + start]
        graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(values), len(values)))
        group = connected_components(graph, directed=False)[1][group]
    return group
