"""COCO's average precision from matches; images may be weighted, as a bootstrap does.

Tests compare it with pycocotools and detectron2's `COCOEvaluator`.
K categories, T IoU thresholds, I images, B weightings of the images.
"""

from __future__ import annotations

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
    prediction_image, object_image = candidates.image, candidates.true_image
    rows = matches.scored[: matches.starts[-1]]
    category = matches.predicted[rows]
    true = np.flatnonzero(matches.objects & (matches.true < matches.categories))
    true = true[np.argsort(matches.true[true], kind="stable")]
    objects = group_matrix(matches.true[true], object_image[true], matches.categories, weights.shape[1]) @ weights.T
    scored = np.where(objects > 0, 0.0, np.nan)[..., None].repeat(len(matches.hit), axis=2)  # [K, B, T]
    for threshold, (hit, ignored) in enumerate(zip(matches.hit[:, rows] >= 0, matches.ignored[:, rows], strict=True)):
        at = np.flatnonzero(hit)
        own = category[at]
        known, first = np.unique(own, return_index=True)
        # position: the next hit; counts: the predictions between a hit (included) and the previous one of its category
        position = np.searchsorted(at, np.arange(len(rows)))
        counts = ~ignored & (np.append(own, -1)[position] == category)
        sums = group_matrix(position[counts], prediction_image[rows[counts]], len(at), weights.shape[1])
        step = max(1, CHUNK // max(len(at), 1))
        for low in range(0, len(weights) if len(at) else 0, step):
            part = np.ascontiguousarray(weights[low : low + step].T)
            area = _areas(part[prediction_image[rows[at]]], sums @ part, objects[own, low : low + step], first)
            scored[known, low : low + step, threshold] = area
    scored[objects == 0] = np.nan
    return scored.swapaxes(0, 1)


def group_matrix(groups: np.ndarray, images: np.ndarray, count: int, num_images: int) -> csr_array:
    """Sparse matrix [count, num_images] that sums image weights by group. groups (ascending) and images: int [n]."""
    ends = np.searchsorted(groups, np.arange(count + 1))
    return csr_array((np.ones(len(groups)), images, ends), shape=(count, num_images))


def _areas(right: np.ndarray, predicted: np.ndarray, objects: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Mean precision at the 101 recalls of each category: [categories, B].

    H hits, by category, highest score first. right [H, B]: weight of each hit. predicted [H, B]: weight of the
    predictions after the previous hit of the category, up to this one. objects [H, B]: weight of the category's
    objects. first: int [categories], index of each category's first hit.
    """
    right, predicted = right.cumsum(axis=0), predicted.cumsum(axis=0)
    sizes = np.diff(first, append=len(right))
    before = np.repeat(first, sizes) - 1  # the last hit of the previous category
    inner = np.flatnonzero(before >= 0)
    true, everything = right.copy(), predicted.copy()
    true[inner] -= right[before[inner]]
    everything[inner] -= predicted[before[inner]]
    precision = np.divide(true, everything, out=np.zeros_like(true), where=everything > 0)
    for low, high in pairwise([*first.tolist(), len(right)]):
        np.maximum.accumulate(precision[low:high][::-1], axis=0, out=precision[low:high][::-1])
    recall = np.divide(true, objects, out=np.zeros_like(true), where=objects > 0)
    nearest = np.rint(100 * recall).astype(int)
    reached = nearest + (RECALLS[nearest] <= recall)  # number of recalls reached; np.searchsorted is slower
    gained = np.diff(reached, axis=0, prepend=0)
    gained[first] = reached[first]
    return np.add.reduceat(precision * gained, first, axis=0) / len(RECALLS)


def mean(scored: np.ndarray) -> np.ndarray:
    """Mean over the categories with ground truth and over thresholds: [B, K, T] -> [B], NaN if there are none."""
    defined = ~np.isnan(scored)
    counts = defined.sum(axis=(1, 2))
    return np.divide(np.nansum(scored, axis=(1, 2)), counts, out=np.full(len(scored), np.nan), where=counts > 0)


def percent(share: float | None) -> float | None:
    """A fraction in percent, 3 decimals; None stays None."""
    return None if share is None else round(100 * float(share), 3)
