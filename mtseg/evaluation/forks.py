"""Work on many predictions, on all cores. The results are those of one process."""

from __future__ import annotations

import numpy as np

from mtseg.core.forks import cores, in_forks
from mtseg.core.tables import PART, Images, Pairs, Predictions, return_memory
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches
from mtseg.evaluation.ap.pairs import of_masks


def overlaps(images: Images, predictions: Predictions) -> Pairs:
    """`of_masks`."""
    if len(predictions) <= PART or cores() < 2:
        return of_masks(images, predictions)

    def of_rows(first: int) -> Pairs:
        images.instances.column("rle")  # kept for the next rows, in this process
        own = of_masks(images, predictions[first : first + PART])
        return own.replace(prediction=own.prediction + np.int32(first))

    found = Pairs.concatenate([*in_forks(of_rows, range(0, len(predictions), PART))])
    return_memory()
    return found


def average_precision(evaluation: Evaluation, matches: Matches, weights: np.ndarray) -> np.ndarray:
    """`evaluation.average_precision`."""
    if len(evaluation.predictions) <= PART:
        return evaluation.average_precision(matches, weights)
    ends = np.linspace(0, len(weights), min(cores(), len(weights)) + 1).astype(int)
    shares = [slice(low, high) for low, high in zip(ends[:-1], ends[1:], strict=True)]
    return np.concatenate([*in_forks(lambda own: evaluation.average_precision(matches, weights[own]), shares)])
