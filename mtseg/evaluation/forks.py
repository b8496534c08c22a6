"""Work on many predictions, on all cores. The results are those of one process."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from mtseg.core.forks import cores, in_forks
from mtseg.core.tables import PART, Images, Pairs, Predictions, return_memory
from mtseg.evaluation import analysis
from mtseg.evaluation.ap.average_precision import prepared
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


def works(evaluation: Evaluation) -> analysis.Known:
    """The results of `analysis.works`, none where one process computes them as they are needed."""
    if len(evaluation.predictions) <= PART or cores() < 2:
        return {}
    # what several of them need is computed here, once
    _ = evaluation.rank, evaluation.class_agnostic, evaluation.best_of_query(task=evaluation.tasks[0])
    evaluation.__dict__.pop("scores", None)  # which none of them needs

    def result(name: str | tuple[str, str]) -> Any:
        return_memory()
        # of a copy, so that what it caches is gone before the next; the groups of its queries are the same for all
        return analysis.works(copy(evaluation))[name]()

    return_memory()
    names = [*analysis.works(evaluation)]
    return dict(zip(names, in_forks(result, names), strict=True))


def average_precision(evaluation: Evaluation, matches: Matches, weights: np.ndarray) -> np.ndarray:
    """`evaluation.average_precision`."""
    of_weights = prepared(matches, evaluation.candidates, weights.shape[1])
    if len(evaluation.predictions) <= PART:
        return of_weights(weights)
    ends = np.linspace(0, len(weights), min(cores(), len(weights)) + 1).astype(int)
    shares = [slice(low, high) for low, high in zip(ends[:-1], ends[1:], strict=True)]
    return np.concatenate([*in_forks(lambda own: of_weights(weights[own]), shares)])
