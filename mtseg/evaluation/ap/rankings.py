"""The scores that predictions may be ranked by."""

from __future__ import annotations

import numpy as np

from mtseg.core.params import Ranking
from mtseg.core.tables import Predictions


def scores(predictions: Predictions) -> dict[Ranking, np.ndarray]:
    """The score of every ranking, float64 [N] each.

    main: probability of the main class. sum: the labels' logits added up. product: their probabilities multiplied.
    main_quality, product_quality: the same times the mask quality. sum_quality: the sum plus the logarithm of the mask
    quality, which orders as exp(sum) x quality does. Mask2Former ranks by main_quality.
    """
    probabilities, quality = list(predictions.probability.values()), predictions.mask_quality
    plain = {
        "main": probabilities[0],
        "sum": np.sum(list(predictions.logit.values()), axis=0),
        "product": np.prod(probabilities, axis=0),
    }
    logarithm = np.log(np.maximum(quality, np.finfo(float).tiny))  # finite, as an axis needs it
    return plain | {
        "main_quality": plain["main"] * quality,
        "sum_quality": plain["sum"] + logarithm,
        "product_quality": plain["product"] * quality,
    }


def order(predictions: Predictions) -> np.ndarray:
    """int [N]: the predictions by image and query, the likeliest labels of a query first. Equal scores are ranked in
    this order, so that no number depends on the order in a file."""
    likeliest = -np.prod(list(predictions.probability.values()), axis=0)
    labels = list(predictions.labels.values())
    return np.lexsort((*reversed(labels), likeliest, predictions.query, predictions.image_id))


def ranks(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """int [N]: rank of each score, 0 the highest; equal scores in the order `ties` of `order`."""
    ranked = np.empty(len(values), dtype=int)
    ranked[ties[np.argsort(-values[ties], kind="stable")]] = np.arange(len(values))
    return ranked
