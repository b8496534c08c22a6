"""The scores that predictions can be ranked by."""

from __future__ import annotations

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
    of, _, with_quality = ranking.partition("_")
    kind, join = ("logit", np.add) if of == "sum" else ("probability", np.multiply)
    names = [name for name in predictions.names if name.startswith(f"{kind}.")]  # the main task's first
    columns = [*names[: 1 if of == "main" else None], *(["mask_quality"] if with_quality else [])]
    found = np.empty(len(predictions))
    for parts in zip(*map(predictions.parts, columns), strict=True):
        place, values = parts[0][0], [values for _, values in parts]
        if with_quality and of == "sum":  # finite: figures have an axis of scores
            values[-1] = np.log(np.maximum(values[-1], np.finfo(float).tiny))
        found[place] = reduce(join, values)
    return found


def order(predictions: Predictions, image: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """int [N]: the predictions sorted by image and query, the most probable labels of a query first. Equal scores are
    ranked in this order, so that no metric depends on the order of rows in a file. image: int [N], rows of images.
    cuts: of `matching.Candidates`."""
    likeliest = score(predictions, "product")
    np.negative(likeliest, out=likeliest)
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
