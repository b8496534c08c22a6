"""New images -> those that differ most from the images of a training, as the network's backbone sees them.

A core set by greedy k-centre (Sener and Savarese, ICLR 2018, arXiv 1708.00489): the next image is the one whose feature
is farthest from those of all training images and of all images chosen before, so that near-duplicates are not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mtseg.core.errors import UserError
from mtseg.data.images import square
from mtseg.inference import sources
from mtseg.inference.predictor import Predictor, Report
from mtseg.relabel.uncertain import distinct


def features(
    predictor: Predictor, source: Any, *, batch: int, on_error: Report | None = None
) -> tuple[list[str], np.ndarray]:
    """Names of the images of a source, and their features [N, C], of length 1. The network must be PyTorch's. Images
    that cannot be read are reported to `on_error` and left out; by default the error is raised."""
    names, found = [], []
    for some in sources.batches(sources.find(source), batch):
        squares = []
        for one in some:
            try:
                squares.append(square(one.read(), predictor.metadata.input.size)[0])
                names.append(one.name)
            except UserError as error:
                if on_error is None:
                    raise
                on_error(one.name, error)
        if squares:
            found.append(predictor.network.features(np.stack(squares)))
    joined = np.concatenate(found) if found else np.zeros((0, 1), np.float32)
    return names, joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-12)


def choose(
    predictor: Predictor, source: Any, train: Any, most: int, *, batch: int, on_error: Report | None = None
) -> dict[str, float]:
    """Names of at most `most` images of a source, the most different from those of `train` first, with the distance
    from the nearest of these or of the images before, 0 to 1. Raises UserError for two images of one name."""
    known = features(predictor, train, batch=batch)[1]
    names, new = features(predictor, distinct(source), batch=batch, on_error=on_error)
    return {names[row]: distance for row, distance in core_set(new, known, most)}


def core_set(new: np.ndarray, known: np.ndarray, most: int) -> Iterator[tuple[int, float]]:
    """Rows of `new`, at most `most`, the most different first, with the distance to the nearest of `known` and of the
    rows before, 0 to 1. new, known: features [N, C], [M, C] of length 1."""
    nearest = _distances(new, known).min(axis=1, initial=1.0)
    for _ in range(min(most, len(new))):
        row = int(nearest.argmax())
        yield row, float(nearest[row])
        nearest = np.minimum(nearest, _distances(new, new[[row]])[:, 0])
        nearest[row] = -1.0


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[N, M], 0 to 1: half of the Euclidean distance of unit vectors."""
    return np.sqrt(np.clip((1 - one @ other.T) / 2, 0, 1))
