"""How far a number would move had other images been drawn: the bootstrap (Efron, 1979).

Images are drawn, not objects, for the objects of one image are no independent draws. An image drawn twice counts twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import binomtest, norm, rankdata

SEED = 0
LEVEL = 0.95
REPLICATES = 500
LEAST_IMAGES = 5  # fewer say nothing of those that were not drawn: no interval
FEWEST = 100  # replicates, however many predictions there are
WORK = 40_000_000  # replicates x predictions beyond which there are fewer replicates
SURE = 0.99  # level of a diagnosis, which asks dozens of such questions of a healthy run
SURE_REPLICATES = 1000


def draws(images: int, predictions: int) -> np.ndarray:
    """How often each image is drawn: [1 + B, I]; the first row, all ones, is the data as they are.

    B is 500, fewer where there are many predictions but 100 at least, and 0 below 5 images.
    """
    count = int(np.clip(WORK // max(predictions, 1), FEWEST, REPLICATES))
    return np.concatenate([np.ones((1, images)), drawn(images, count if images >= LEAST_IMAGES else 0)])


@lru_cache(maxsize=4)  # a diagnosis asks for the same dozens of times
def drawn(images: int, count: int, seed: int = SEED) -> np.ndarray:
    """How often each image is drawn: [count, I]."""
    shares = np.full(images, 1 / max(images, 1))
    return np.random.default_rng(seed).multinomial(images, shares, size=count).astype(np.float64)


def interval(values: np.ndarray, *, least: float = 0) -> tuple[float, float, float]:
    """Value and ends of its 95 % interval, in percent, from [1 + B] draws of which the first is the data as they are.

    The ends are percentiles of the draws, moved so that the draws' median lies at the value: AP of a draw runs a little
    high, for what is drawn twice is ranked side by side, and precision is read at its best.
    The ends are NaN where nothing was drawn. least: the smallest value there may be; of a difference -1.
    """
    value, drawn = values[0], values[1:][~np.isnan(values[1:])]
    if not len(drawn):
        return round(100 * float(value), 3), np.nan, np.nan
    low, median, high = np.quantile(drawn, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    ends = np.clip([value + low - median, value + high - median], least, 1)
    value, low, high = (round(100 * float(number), 3) for number in (value, *ends))
    return value, low, high


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 99 % interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 2, times: float = 1.0) -> str:
        """`0.52 (0.48 to 0.55)`"""
        value, low, high = (f"{times * number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


def ratio(numerator: np.ndarray, denominator: np.ndarray, seed: int = SEED) -> Interval | None:
    """Sum over sum, with sums by image: [I] and [I]. None when there is nothing to divide by."""
    numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if not denominator.sum() > 0:
        return None
    weights = drawn(len(numerator), SURE_REPLICATES, seed)
    above, below = weights @ numerator, weights @ denominator
    ratios = above[below > 0] / below[below > 0]
    low, high = np.quantile(ratios, [(1 - SURE) / 2, (1 + SURE) / 2])
    return Interval(float(numerator.sum() / denominator.sum()), float(low), float(high))


def mean(values: np.ndarray, images: np.ndarray, count: int) -> Interval | None:
    """Mean of values [M] that lie in images [M], of which there are `count`."""
    return ratio(*(np.bincount(images, weights, minlength=count) for weights in (values, np.ones(len(values)))))


def proportion(hits: np.ndarray) -> Interval:
    """Share of independent hits, bool [n], with Wilson's interval."""
    count, total = int(np.sum(hits)), max(len(hits), 1)
    ends = binomtest(count, total).proportion_ci(SURE, method="wilson")
    return Interval(count / total, float(ends.low), float(ends.high))


def auc(scores: np.ndarray, hits: np.ndarray) -> Interval | None:
    """Area under the ROC curve: the probability that a hit scores above a miss, with the interval of Hanley & McNeil
    1982. scores: [n]; hits: bool [n]. None with fewer than 5 hits or 5 misses."""
    above, below = int(hits.sum()), int((~hits).sum())
    if above < 5 or below < 5:
        return None
    area = (rankdata(scores)[hits].sum() - above * (above + 1) / 2) / (above * below)
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (above - 1) * (one - area**2) + (below - 1) * (two - area**2)) / (above * below)
    half = norm.ppf((1 + SURE) / 2) * np.sqrt(max(variance, 0))
    return Interval(float(area), float(area - half), float(area + half))
