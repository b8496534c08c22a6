"""COCO's average precision, from matches; images may be weighted, as a bootstrap does.

The one implementation at run time: tests hold it against pycocotools and detectron2's `COCOEvaluator`.
K categories, T IoU thresholds, I images, B weightings of the images.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from mtseg.evaluation.ap.matching import Candidates, Matches

RECALLS = np.linspace(0, 1, 101)  # COCO's
AT_ONCE = 200_000  # numbers held at once while many weightings are scored: they then stay in the processor's cache


def average_precision(matches: Matches, given: Candidates, weights: np.ndarray) -> np.ndarray:
    """AP of each weighting, category and threshold: [B, K, T], 0 to 1, NaN where there is no ground truth.

    weights [B, I], whole numbers: how often an image counts; one row of ones gives COCO's AP. Only hits are looked at,
    of all categories at once, so that many classes take no longer than many objects.
    """
    of_found, of_true = given.image, given.true_image
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


def grouping(groups: np.ndarray, images: np.ndarray, count: int, every: int) -> csr_array:
    """What adds up the weights of each group's images: [count, every]. groups, ascending, and images: int [n]."""
    ends = np.searchsorted(groups, np.arange(count + 1))
    return csr_array((np.ones(len(groups)), images, ends), shape=(count, every))


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


def percent(share: float | None) -> float | None:
    """A share of 1 in percent, 3 decimals; None stays None."""
    return None if share is None else round(100 * float(share), 3)
