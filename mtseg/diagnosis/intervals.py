"""How sure a figure is: bootstrap over pictures, since the objects of one picture are no independent draws.

Efron & Tibshirani 1993, percentile intervals. 99 % throughout: a healthy run meets dozens of these tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

LEVEL = 0.99
DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float

    def text(self, digits: int = 2, times: float = 1.0) -> str:
        """`0.52 (0.48 to 0.55)`"""
        value, low, high = (f"{times * number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


def ratio(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> Interval | None:
    """Sum over sum, with sums a picture: [P] and [P]. None when there is nothing to divide by."""
    numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if not denominator.sum() > 0:
        return None
    weights = _weights(len(numerator), seed)
    above, below = weights @ numerator, weights @ denominator
    drawn = above[below > 0] / below[below > 0]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(numerator.sum() / denominator.sum()), float(low), float(high))


@lru_cache(maxsize=4)  # a case asks for the same dozens of times
def _weights(count: int, seed: int) -> np.ndarray:
    """How often each of `count` pictures is drawn: [DRAWS, count]."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS).astype(np.float64)


def mean(values: np.ndarray, pictures: np.ndarray, count: int) -> Interval | None:
    """Mean of values [M] that lie in pictures [M], of which there are `count`."""
    return ratio(*(np.bincount(pictures, weights, minlength=count) for weights in (values, np.ones(len(values)))))
