"""The scores that predictions can be ranked by."""

from __future__ import annotations

import numpy as np

from mtseg.core.params import Ranking
from mtseg.core.tables import Predictions


def scores(predictions: Predictions) -> dict[Ranking, np.ndarray]:
    """{ranking: float64 [N]}.

    | ranking         | score                                                                   |
    |-----------------|-------------------------------------------------------------------------|
    | main            | probability of the main class                                           |
    | sum             | sum of the logits of all labels                                         |
    | product         | product of the probabilities of all labels                              |
    | main_quality    | main x mask quality, as in Mask2Former                                  |
    | sum_quality     | sum + log(mask quality), which has the order of exp(sum) x mask quality |
    | product_quality | product x mask quality                                                  |
    """
    probabilities, quality = list(predictions.probability.values()), predictions.mask_quality
    plain = {
        "main": probabilities[0],
        "sum": np.sum(list(predictions.logit.values()), axis=0),
        "product": np.prod(probabilities, axis=0),
    }
    logarithm = np.log(np.maximum(quality, np.finfo(float).tiny))  # finite: figures have an axis of scores
    return plain | {
        "main_quality": plain["main"] * quality,
        "sum_quality": plain["sum"] + logarithm,
        "product_quality": plain["product"] * quality,
    }


def order(predictions: Predictions) -> np.ndarray:
    """int [N]: the predictions sorted by image and query, the most probable labels of a query first. Equal scores are
    ranked in this order, so that no metric depends on the order of rows in a file."""
    likeliest = -np.prod(list(predictions.probability.values()), axis=0)
    labels = list(predictions.labels.values())
    return np.lexsort((*reversed(labels), likeliest, predictions.query, predictions.image_id))


def ranks(values: np.ndarray, tie_order: np.ndarray) -> np.ndarray:
    """int [N]: rank of each score, 0 the highest. tie_order: int [N], of `order`, ranks equal scores."""
    ranked = np.empty(len(values), dtype=int)
    ranked[tie_order[np.argsort(-values[tie_order], kind="stable")]] = np.arange(len(values))
    return ranked
