"""The scores that predictions can be ranked by."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from typing import get_args

import numpy as np

from mtseg.core.params import Ranking
from mtseg.core.tables import Predictions
from mtseg.evaluation.ap.matching import inverse

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


def order(predictions: Predictions, image: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """int [N]: the predictions sorted by image and query, the most probable labels of a query first. Equal scores are
    ranked in this order, so that no metric depends on the order of rows in a file. image: int [N], rows of images.
    cuts: of `matching.Candidates`."""
    likeliest = -reduce(np.multiply, _of_tasks(predictions, "probability"))
    keys = (*reversed(predictions.labels.values()), likeliest, predictions.once("query"), image)
    found = np.empty(len(image), dtype=np.int32)
    for low, high in pairwise(cuts):
        found[low:high] = low + np.lexsort([key[low:high] for key in keys])
    return found


def ranks(values: np.ndarray, tie_order: np.ndarray) -> np.ndarray:
    """int [N]: rank of each score, 0 the highest. tie_order: int [N], of `order`, ranks equal scores."""
    values = values[tie_order]
    np.negative(values, out=values)
    order = tie_order[np.argsort(values, kind="stable")]
    del values
    return inverse(order)


def _of_tasks(predictions: Predictions, kind: str) -> Iterator[np.ndarray]:
    """The columns `KIND.TASK`, the main task's first."""
    return (predictions.once(name) for name in predictions.names if name.startswith(f"{kind}."))
