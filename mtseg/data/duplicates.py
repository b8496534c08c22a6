"""Images that are nearly the same: copies, other sizes or qualities of one image, neighbouring video frames.

Two images count as one when their thumbnails correlate above `ALIKE`. Brightness and contrast cancel out.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 32  # pixels of a thumbnail's side
ALIKE = 0.98
BLOCK = 256  # rows of the correlation matrix at a time: 100 MB at 100,000 images


def thumbnail(image: Image.Image) -> np.ndarray:
    """The grey values by which an image is compared, uint8 [SIDE x SIDE]."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def groups(thumbnails: np.ndarray) -> np.ndarray:
    """For thumbnails [N, SIDE x SIDE], group number [N]: alike images share one, and so do chains of them."""
    values = thumbnails.astype(np.float32)
    values -= values.mean(1, keepdims=True)
    # contrast below one grey level is noise: such an image is alike to none
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), SIDE)
    group = np.arange(len(values))
    for start in range(0, len(values), BLOCK):  # groups join block by block: of a fixed camera all pairs are alike
        left, right = group[np.argwhere(values[start : start + BLOCK] @ values[start:].T > ALIKE).T + start]
        graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(values), len(values)))
        group = connected_components(graph, directed=False)[1][group]
    return group
