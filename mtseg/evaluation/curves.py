"""Average precision, precision over recall, and F1 over the score, from matches; pictures may be weighted.

K: categories. T: IoU thresholds. S: pictures. B: weightings of the pictures. n: predictions of a category.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from mtseg.evaluation.overlaps import Matches

RECALLS = np.linspace(0, 1, 101)  # COCO's
AT_ONCE = 200_000  # numbers held at once while many weightings are scored: they then stay in the processor's cache


def average_precision(matches: Matches, pictures: tuple[np.ndarray, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """AP of each weighting, category and threshold: [B, K, T], 0 to 1, NaN where there is no ground truth.

    pictures: of each prediction, int [N], and of each ground truth, int [G]. weights [B, S], whole numbers: how often a
    picture counts; one row of ones gives COCO's AP. Only hits are looked at, of all categories at once, so that many
    classes take no longer than many objects.
    """
    of_found, of_true = pictures
    rows = matches.scored[: matches.starts[-1]]
    category = matches.found[rows]
    true = np.flatnonzero(matches.objects & (matches.true < matches.categories))
    true = true[np.argsort(matches.true[true], kind="stable")]
    objects = grouping(matches.true[true], of_true[true], matches.categories, weights.shape[1]) @ weights.T
    scored = np.where(objects > 0, 0.0, np.nan)[..., None].repeat(len(matches.hit), axis=2)  # [K, B, T]
    for threshold, (hit, ignored) in enumerate(zip(matches.hit[:, rows] >= 0, matches.ignored[:, rows], strict=True)):
        at = np.flatnonzero(hit)
        own = category[at]
        known, first = np.unique(own, return_index=True)
        # what counts before each hit, and after the hit before it, in its category
        place = np.searchsorted(at, np.arange(len(rows)))
        counts = ~ignored & (np.append(own, -1)[place] == category)
        sums = grouping(place[counts], of_found[rows[counts]], len(at), weights.shape[1])
        step = max(1, AT_ONCE // max(len(at), 1))
        for low in range(0, len(weights) if len(at) else 0, step):
            part = np.ascontiguousarray(weights[low : low + step].T)
            area = _areas(part[of_found[rows[at]]], sums @ part, objects[own, low : low + step], first)
            scored[known, low : low + step, threshold] = area
    scored[objects == 0] = np.nan
    return scored.swapaxes(0, 1)


def grouping(groups: np.ndarray, pictures: np.ndarray, count: int, every: int) -> csr_array:
    """What adds up the weights of each group's pictures: [count, every]. groups, ascending, and pictures: int [n]."""
    ends = np.searchsorted(groups, np.arange(count + 1))
    return csr_array((np.ones(len(groups)), pictures, ends), shape=(count, every))


def _areas(right: np.ndarray, found: np.ndarray, objects: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Mean precision at the 101 recalls of each category: [categories, B].

    H hits, by category, best score first. right, found [H, B]: weight of each hit, and of it and what was found since
    the hit before. objects [H, B]: of its category. first: int [categories], the first hit of each.
    """
    right, found = right.cumsum(axis=0), found.cumsum(axis=0)
    sizes = np.diff(first, append=len(right))
    before = np.repeat(first, sizes) - 1  # the last hit of the category before
    inner = np.flatnonzero(before >= 0)
    true, everything = right.copy(), found.copy()
    true[inner] -= right[before[inner]]
    everything[inner] -= found[before[inner]]
    precision = np.divide(true, everything, out=np.zeros_like(true), where=everything > 0)
    for low, high in pairwise([*first.tolist(), len(right)]):
        np.maximum.accumulate(precision[low:high][::-1], axis=0, out=precision[low:high][::-1])
    recall = np.divide(true, objects, out=np.zeros_like(true), where=objects > 0)
    nearest = np.rint(100 * recall).astype(int)
    reached = nearest + (RECALLS[nearest] <= recall)  # of the 101: a search for each would take longer than all else
    gained = np.diff(reached, axis=0, prepend=0)
    gained[first] = reached[first]
    return np.add.reduceat(precision * gained, first, axis=0) / len(RECALLS)


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
    at = np.flatnonzero(hit)
    if not len(at):
        return np.zeros(len(RECALLS))
    true = np.arange(1, len(at) + 1)
    precision = true / np.cumsum(~ignored)[at]
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    # past the last recall reached, the precision is 0
    return np.append(precision, 0.0)[np.searchsorted(true / objects, RECALLS)]


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
