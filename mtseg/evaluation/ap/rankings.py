"""The scores that predictions can be ranked by."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import get_args

import numpy as np

from mtseg.core.params import Ranking
from mtseg.core.tables import Predictions

RANKINGS: tuple[Ranking, ...] = get_args(Ranking)


def score(predictions: Predictions, ranking: Ranking) -> np.ndarray:
    """float64 [N].

    | ranking         | score                                                                   |
    |-----------------|-------------------------------------------------------------------------|
    | main            | probability of the main class                                           |
    | sum             | sum of the logits of all labels                                         |
    | product         | product of the probabilities of all labels                              |
    | main_quality    | main x mask quality, as in Mask2Former                                  |
    | sum_quality     | sum + log(mask quality), which has the order of exp(sum) x mask quality |
    | product_quality | product x mask quality                                                  |
    """
    of, _, quality = ranking.partition("_")
    if of == "sum":
        found = reduce(np.add, _of_tasks(predictions, "logit"))
    else:
        probabilities = _of_tasks(predictions, "probability")
        found = next(probabilities) if of == "main" else reduce(np.multiply, probabilities)
    if not quality:
        return found
    quality = predictions.once("mask_quality")
    if of == "sum":  # finite: figures have an axis of scores
        return found + np.log(np.maximum(quality, np.finfo(float).tiny))
    return found * quality


def order(predictions: Predictions) -> np.ndarray:
    """int [N]: the predictions sorted by image and query, the most probable labels of a query first. Equal scores are
    ranked in this order, so that no metric depends on the order of rows in a file."""
    likeliest = -reduce(np.multiply, _of_tasks(predictions, "probability"))
    labels = reversed(predictions.labels.values())
    keys = (*labels, likeliest, predictions.once("query"), predictions.once("image_id"))
    return np.lexsort(keys).astype(np.int32)


def ranks(values: np.ndarray, tie_order: np.ndarray) -> np.ndarray:
    """int [N]: rank of each score, 0 the highest. tie_order: int [N], of `order`, ranks equal scores."""
    ranked = np.empty(len(values), dtype=np.int32)
    ranked[tie_order[np.argsort(-values[tie_order], kind="stable")]] = np.arange(len(values), dtype=np.int32)
    return ranked


def _of_tasks(predictions: Predictions, kind: str) -> Iterator[np.ndarray]:
    """The columns `KIND.TASK`, the main task's first."""
    return (predictions.once(name) for name in predictions.names if name.startswith(f"{kind}."))
