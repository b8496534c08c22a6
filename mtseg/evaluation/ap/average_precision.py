"""COCO's average precision from matches; images may be weighted, as a bootstrap does.

Tests compare it with pycocotools and detectron2's `COCOEvaluator`.
K categories, T IoU thresholds, I images, B weightings of the images.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from mtseg.evaluation.ap.matching import Candidates, Matches

RECALLS = np.linspace(0, 1, 101)  # COCO's
CHUNK = 200_000  # elements of an array computed in one step, few enough for the processor's cache


def average_precision(matches: Matches, candidates: Candidates, weights: np.ndarray) -> np.ndarray:
    """AP of each weighting, category and threshold: [B, K, T], 0 to 1, NaN where there is no ground truth.

    weights: whole numbers [B, I], how often each image counts; one row of ones gives COCO's AP. All categories are
    computed together and at their hits alone, so that the time depends on the number of objects, not of classes.
    """
    K, rows = matches.categories, matches.scored[: matches.starts[-1]]
    true = np.flatnonzero(matches.objects & (matches.true < K))
    true = true[np.argsort(matches.true[true], kind="stable")]
    ends = np.searchsorted(matches.true[true], np.arange(K + 1))
    scored = np.full((K, len(weights), len(matches.hit)), np.nan)

    matched = np.zeros(len(matches.predicted), dtype=bool)
    matched[matches.rows] = True
    place = np.flatnonzero(matched[rows])  # in `rows`, of predictions with a match
    own = np.searchsorted(matches.rows, rows[place])
    hit, ignored = matches.hit[:, own] >= 0, matches.ignored[:, own]
    skipped = [place[each] for each in ignored]
    some = hit.any(axis=0)
    place, hit = place[some], hit[:, some]
    hits = rows[place]
    category = matches.predicted[hits]
    # sums of weights are needed up to each of these places and up to the first of its category
    bounds = np.union1d(place + 1, matches.starts)
    last, start = np.searchsorted(bounds, place + 1), np.searchsorted(bounds, matches.starts[category])
    images = len(weights[0])
    of_objects = groups(candidates.true_image[true], ends, images)
    of_rows = groups(candidates.image[rows], bounds, images)
    parts = []
    for threshold, own in enumerate(hit):
        at, out = np.flatnonzero(own), skipped[threshold]
        known, first = np.unique(category[at], return_index=True)
        of_skipped = groups(candidates.image[rows[out]], np.searchsorted(out, bounds), images) if len(out) else None
        if len(at):
            parts.append((threshold, at, candidates.image[hits[at]], known, first, of_skipped))

    def compute(columns: slice) -> None:
        own = np.ascontiguousarray(weights[columns].T)
        objects = np.diff(sums(of_objects, own), axis=0)
        scored[:, columns] = np.where(objects > 0, 0.0, np.nan)[..., None]
        before = sums(of_rows, own)
        before = before[last] - before[start]
        for threshold, at, image, known, first, of_skipped in parts:
            counted = before[at]
            if of_skipped is not None:
                out = sums(of_skipped, own)
                counted -= out[last[at]] - out[start[at]]
            of_hit = np.repeat(objects[known], np.diff(first, append=len(at)), axis=0)
            scored[known, columns, threshold] = _areas(own[image], counted, of_hit, first)
        scored[:, columns][objects == 0] = np.nan

    step = max(1, CHUNK // max(len(hits), 1))
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # NumPy computes outside Python's lock
        list(threads.map(compute, (slice(low, low + step) for low in range(0, len(weights), step))))
    return scored.swapaxes(0, 1)


def groups(images: np.ndarray, bounds: np.ndarray, count: int) -> csr_array:
    """Images [n] grouped by bounds, for `sums`. bounds: ascending, 0 to n. count: of all images."""
    bounds = np.append(0, bounds)
    return csr_array((np.ones(bounds[-1]), images[: bounds[-1]], bounds), shape=(len(bounds) - 1, count))


def sums(groups: csr_array, weights: np.ndarray) -> np.ndarray:
    """Weights of the images summed up to each bound: [len(bounds), B]. groups: of `groups`. weights: [I, B]."""
    return (groups @ weights).cumsum(axis=0)


def _areas(right: np.ndarray, predicted: np.ndarray, objects: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Mean precision at the 101 recalls of each category: [categories, B].

    H hits, by category, highest score first. right [H, B]: weight of each hit. predicted [H, B]: weight of the
    predictions of the category up to the hit. objects [H, B]: weight of the category's objects. first: int
    [categories], index of each category's first hit.
    """
    true = right.cumsum(axis=0)
    if len(first) > 1:
        sizes = np.diff(first, append=len(true))
        true[first[1] :] -= np.repeat(true[first[1:] - 1], sizes[1:], axis=0)
    precision = np.divide(true, predicted, out=np.zeros_like(true), where=predicted > 0)
    for low, high in pairwise([*first.tolist(), len(true)]):
        interpolate(precision[low:high])
    recall = np.divide(true, objects, out=true, where=objects > 0)  # of a category without objects nothing is a hit
    nearest = np.rint(100 * recall).astype(np.intp)
    reached = nearest + (RECALLS[nearest] <= recall)  # number of recalls reached; np.searchsorted is slower
    gained = np.diff(reached, axis=0, prepend=0)
    gained[first] = reached[first]
    return np.add.reduceat(precision * gained, first, axis=0) / len(RECALLS)


def interpolate(precision: np.ndarray) -> None:
    """Raise precision [H, ...], highest score first, in place to the highest precision at the same or a higher
    recall."""
    np.maximum.accumulate(precision[::-1], axis=0, out=precision[::-1])


def mean(scored: np.ndarray) -> np.ndarray:
    """Mean over the categories with ground truth and over thresholds: [B, K, T] -> [B], NaN if there are none."""
    defined = ~np.isnan(scored)
    counts = defined.sum(axis=(1, 2))
    return np.divide(np.nansum(scored, axis=(1, 2)), counts, out=np.full(len(scored), np.nan), where=counts > 0)


def means(scored: np.ndarray) -> dict[str, np.ndarray]:
    """AP, and AP50 of the first threshold: [B] each. scored: [B, K, T]."""
    return {"AP": mean(scored), "AP50": mean(scored[:, :, :1])}


def percent(share: float | None) -> float | None:
    """A fraction in percent, 3 decimals; None stays None."""
    return None if share is None else round(100 * float(share), 3)
