"""Average precision, precision over recall, and F1 over the score, from matches; pictures may be weighted.

K: categories. T: IoU thresholds. S: pictures. B: weightings of the pictures. n: predictions of a category.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtseg.scoring.overlaps import Matches

RECALLS = np.linspace(0, 1, 101)  # COCO's
AT_ONCE = 4_000_000  # numbers held at once while many weightings are scored


def average_precision(matches: Matches, pictures: tuple[np.ndarray, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """AP of each weighting, category and threshold: [B, K, T], 0 to 1, NaN where there is no ground truth.

    pictures: of each prediction, int [N], and of each ground truth, int [G]. weights [B, S]: how often a picture
    counts; one row of ones gives COCO's AP.
    """
    of_found, of_true = pictures
    scored = np.full((len(weights), matches.categories, len(matches.hit)), np.nan)
    for category in range(matches.categories):
        rows = matches.of(category)
        own = of_true[matches.objects & (matches.true == category)]
        # what ranks below every hit changes no precision at a hit
        rows = rows[: np.flatnonzero((matches.hit[:, rows] >= 0).any(axis=0)).max(initial=-1) + 1]
        hit, ignored = matches.hit[:, rows] >= 0, matches.ignored[:, rows]
        step = max(1, AT_ONCE // max(len(rows), len(own), 1))
        for low in range(0, len(weights), step):
            part = weights[low : low + step]
            objects = part[:, own].sum(axis=1)
            known = np.flatnonzero(objects > 0)
            curves = _precisions(hit, ignored, part[known][:, of_found[rows]], objects[known])
            for threshold, curve in enumerate(curves):
                scored[low + known, category, threshold] = curve.mean(axis=1)
    return scored


def mean(scored: np.ndarray) -> np.ndarray:
    """Mean over the categories that have ground truth, and over thresholds: [B, K, T] -> [B], NaN if there is none."""
    defined = ~np.isnan(scored)
    counts = defined.sum(axis=(1, 2))
    return np.divide(np.nansum(scored, axis=(1, 2)), counts, out=np.full(len(scored), np.nan), where=counts > 0)


def precisions(hit: np.ndarray, ignored: np.ndarray, objects: int) -> np.ndarray | None:
    """Precision at the 101 recalls: [101]; None where there is no ground truth.

    hit, ignored: bool [n], of predictions with the best score first. objects: ground truths there are.
    """
    if not objects:
        return None
    return next(_precisions(hit[None], ignored[None], np.ones((1, len(hit))), np.array([objects])))[0]


def _precisions(hit: np.ndarray, ignored: np.ndarray, weights: np.ndarray, objects: np.ndarray) -> Iterator[np.ndarray]:
    """Per threshold, precision at the 101 recalls: [B, 101].

    hit, ignored: bool [T, n], best score first. weights [B, n]. objects [B]: weighted ground truths, above 0.
    """
    everything = weights.cumsum(axis=1)
    for right, left_out in zip(hit, ignored, strict=True):
        at = np.flatnonzero(right)
        found = everything[:, at]
        if left_out.any():
            where = np.flatnonzero(left_out)
            gone = np.pad(weights[:, where].cumsum(axis=1), ((0, 0), (1, 0)))
            found = found - gone[:, np.searchsorted(where, at)]
        true = weights[:, at].cumsum(axis=1)
        precision = np.divide(true, found, out=np.zeros_like(true), where=found > 0)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = true / objects[:, None]
        # one search for all weightings: row b is moved by 2 b, so that the rows ascend together
        moved = 2.0 * np.arange(len(weights))[:, None]
        place = np.searchsorted((recall + moved).ravel(), (RECALLS + moved).ravel()).reshape(len(weights), len(RECALLS))
        place -= len(at) * np.arange(len(weights))[:, None]
        padded = np.pad(precision, ((0, 0), (0, 1)))  # past the last recall reached, the precision is 0
        yield np.take_along_axis(padded, place, axis=1)


def f1_by_score(
    hit: np.ndarray, scores: np.ndarray, objects: int, at: np.ndarray
) -> tuple[np.ndarray, float, float] | tuple[None, None, None]:
    """F1 of the predictions with at least each score of `at`, the best F1 there is, and the score that takes it.

    hit: bool [n], scores: [n], best first. objects: ground truths there are; F1 is None without. The best score is None
    when there is no hit; of equal F1s the highest score is taken.
    """
    if not objects:
        return None, None, None
    f1 = np.append(0.0, 2 * np.cumsum(hit) / (np.arange(1, len(hit) + 1) + objects))  # of the first 0, 1, ...
    sampled = f1[np.searchsorted(-scores, -at, side="right")]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of equal scores all are taken or none
    if not hit.any():
        return sampled, 0.0, None
    best = last[np.argmax(f1[1 + last])]
    return sampled, float(f1[1 + best]), float(scores[best])


def score_axis(scores: np.ndarray, *, probable: bool) -> np.ndarray:
    """101 scores at which curves are drawn: 0 to 1 for scores that are probabilities, else lowest to highest."""
    low, high = (0.0, 1.0) if probable or not len(scores) else (scores.min(), scores.max())
    return np.linspace(low, high, 101)
