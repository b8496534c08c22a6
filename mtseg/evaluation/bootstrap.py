"""Confidence intervals over images by the bootstrap (Efron, 1979).

Images are resampled rather than objects, since the objects of one image are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

SEED = 0
LEVEL = 0.95
REPLICATES = 500
MIN_IMAGES = 5  # with fewer there is no interval
MIN_REPLICATES = 100
MAX_WORK = 40_000_000  # limit of replicates x predictions or images, but for the least and most replicates
DIAGNOSIS_LEVEL = 0.99  # higher, since a diagnosis computes dozens of intervals
DIAGNOSIS_REPLICATES = 1000


def draws(images: int, predictions: int) -> np.ndarray:
    """Bootstrap weights int [1 + B, I]: how often each image is drawn. The first row, all ones, is the original sample.

    B is 500, down to 100 for many predictions, and 0 below 5 images.
    """
    count = int(np.clip(MAX_WORK // max(predictions, 1), MIN_REPLICATES, REPLICATES))
    drawn = _drawn(images, count if images >= MIN_IMAGES else 0, SEED)
    return np.concatenate([np.ones((1, images)), drawn], dtype=np.int32, casting="unsafe")


@lru_cache(maxsize=4)  # a diagnosis uses the same array dozens of times
def resamples(images: int, seed: int = SEED) -> np.ndarray:
    """Bootstrap weights [B, I] of the diagnosis: how often each image is drawn with replacement. B is 1000, and fewer
    above 40,000 images."""
    count = int(np.clip(MAX_WORK // max(images, 1), MIN_REPLICATES, DIAGNOSIS_REPLICATES))
    return _drawn(images, count, seed).astype(np.float64)


def _drawn(images: int, count: int, seed: int) -> np.ndarray:
    shares = np.full(images, 1 / max(images, 1))
    return np.random.default_rng(seed).multinomial(images, shares, size=count)


def interval(values: np.ndarray, *, minimum: float = 0) -> tuple[float, float, float]:
    """Value, low and high end of its 95 % interval, in percent. values: [1 + B], 0 to 1, that of the original sample
    first. minimum: smallest possible value, -1 for a difference.

    The ends are percentiles, shifted so that the median of the replicates equals the value: AP of a replicate is biased
    upwards, since copies of an image are adjacent in the ranking. They are NaN without replicates.
    """
    value, replicates = values[0], values[1:][~np.isnan(values[1:])]
    if not len(replicates):
        return round(100 * float(value), 3), np.nan, np.nan
    low, median, high = np.quantile(replicates, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    ends = np.clip([value + low - median, value + high - median], minimum, 1)
    value, low, high = (round(100 * float(number), 3) for number in (value, *ends))
    return value, low, high


@dataclass(frozen=True)
class Interval:
    """A value with its 99 % interval, infinite if it is of a single image."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 2, times: float = 1.0) -> str:
        """`0.52 (0.48 to 0.55)`"""
        if not np.isfinite(self.low):
            return f"{times * self.value:.{digits}f} (one image, no interval)"
        value, low, high = (f"{times * number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


def ratio(numerator: np.ndarray, denominator: np.ndarray, seed: int = SEED) -> Interval | None:
    """Ratio of two sums, given per image: [I] each. None if the denominators sum to 0."""
    numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if not denominator.sum() > 0:
        return None
    if len(numerator) == 1:  # each draw is the same
        return Interval(float(numerator.sum() / denominator.sum()), -np.inf, np.inf)
    weights = resamples(len(numerator), seed)
    above, below = weights @ numerator, weights @ denominator
    return of_replicates(numerator.sum() / denominator.sum(), above[below > 0] / below[below > 0])


def of_replicates(value: float, replicates: np.ndarray) -> Interval:
    """The percentile interval of a value, at the level of the diagnosis."""
    low, high = np.quantile(replicates, [(1 - DIAGNOSIS_LEVEL) / 2, (1 + DIAGNOSIS_LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def mean(values: np.ndarray, images: np.ndarray, count: int) -> Interval | None:
    """Mean of values [M]. images: int [M], the image of each value. count: number of images."""
    return ratio(*(np.bincount(images, weights, minlength=count) for weights in (values, np.ones(len(values)))))


def median(values: np.ndarray, images: np.ndarray, count: int) -> Interval:
    """Median of values [M], at least one. images: int [M], the image of each value. count: number of images."""
    if count == 1:
        return Interval(float(np.median(values)), -np.inf, np.inf)
    order = np.argsort(values, kind="stable")
    below = resamples(count)[:, images[order]].cumsum(axis=1)
    below = below[below[:, -1] > 0]
    return of_replicates(np.median(values), values[order][(below >= below[:, -1:] / 2).argmax(axis=1)])


def proportion(hits: np.ndarray) -> Interval:
    """Fraction of hits, bool [n], with the Wilson score interval for independent trials."""
    from scipy.stats import binomtest  # here: slow to import

    count, total = int(np.sum(hits)), max(len(hits), 1)
    ends = binomtest(count, total).proportion_ci(DIAGNOSIS_LEVEL, method="wilson")
    return Interval(count / total, float(ends.low), float(ends.high))


def auc(scores: np.ndarray, hits: np.ndarray) -> Interval | None:
    """Area under the ROC curve: the probability that a hit scores above a miss, with the interval of Hanley & McNeil
    1982. scores: [n]; hits: bool [n]. None with fewer than 5 hits or 5 misses."""
    from scipy.stats import rankdata  # here: slow to import

    above, below = int(hits.sum()), int((~hits).sum())
    if above < 5 or below < 5:
        return None
    area = (rankdata(scores)[hits].sum() - above * (above + 1) / 2) / (above * below)
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (above - 1) * (one - area**2) + (below - 1) * (two - area**2)) / (above * below)
    half = ndtri((1 + DIAGNOSIS_LEVEL) / 2) * np.sqrt(max(variance, 0))
    return Interval(float(area), float(area - half), float(area + half))
