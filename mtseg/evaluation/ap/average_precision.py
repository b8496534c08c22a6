"""COCO's average precision from matches; images may be weighted, as a bootstrap does.

Tests compare it with pycocotools and detectron2's `COCOEvaluator`.
K categories, T IoU thresholds, I images, B weightings of the images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array

from mtseg.evaluation.ap.matching import Candidates, Matches, by, category_starts

RECALLS = np.linspace(0, 1, 101)  # COCO's
COUNT = np.int32  # of sums of weights: half the memory of float64
CHUNK = 200_000  # elements of an array computed in one step, few enough for the processor's cache


def average_precision(matches: Matches, candidates: Candidates, weights: np.ndarray | None = None) -> np.ndarray:
    """AP of each weighting, category and threshold: [B, K, T], 0 to 1, NaN where there is no ground truth.

    weights: whole numbers [B, I], how often each image counts; by default once, which gives COCO's AP. All categories
    are computed together and at their hits alone, so that the time depends on the number of objects, not of classes.
    """
    return prepared(matches, candidates, None if weights is None else weights.shape[1])(weights)


def prepared(matches: Matches, candidates: Candidates, images: int | None) -> Callable[[np.ndarray | None], np.ndarray]:
    """`average_precision` of weights, without what does not depend on them. images: their number I; None where each
    counts once."""
    K, rows = matches.categories, matches.scored[: matches.starts[-1]]
    true = np.flatnonzero(matches.objects & (matches.true < K))
    true = true[by(matches.true[true])]
    ends = np.searchsorted(matches.true[true], np.arange(K + 1))

    matched = np.zeros(len(matches.predicted), dtype=bool)
    matched[matches.rows] = True
    place = np.flatnonzero(matched[rows])  # in `rows`, of predictions with a match
    number = np.empty(len(matched), dtype=np.int32)
    number[matches.rows] = np.arange(len(matches.rows))
    own = number[rows[place]]
    found, ignored = (columns.take(own, axis=1) for columns in (matches.hit >= 0, matches.ignored))
    skipped = [place[each] for each in ignored]
    some = found.any(axis=0)
    place, found = place[some], found[:, some]
    hits = rows[place]
    category, of_hits = matches.predicted[hits], candidates.image[hits]
    # sums of weights are needed up to each of these places and up to the first of its category
    needed = np.zeros(len(rows) + 1, dtype=bool)
    needed[place + 1] = needed[matches.starts] = True
    bounds = np.flatnonzero(needed)
    last, start = np.searchsorted(bounds, place + 1), np.searchsorted(bounds, matches.starts)[category]
    of_objects = Sums(candidates.true_image, true, ends, images)
    of_rows = Sums(candidates.image, rows, bounds, images)
    parts, of_category = [], category_starts(category, K)
    for threshold, own in enumerate(found):
        at, out = np.flatnonzero(own), skipped[threshold]
        first = np.searchsorted(at, of_category)
        known = np.flatnonzero(np.diff(first))
        of_skipped = Sums(candidates.image, rows[out], np.searchsorted(out, bounds), images) if len(out) else None
        if len(at):
            parts.append((threshold, at, known, first[known], of_skipped))

    def of_weights(weights: np.ndarray | None) -> np.ndarray:
        """Of a few weightings at once."""
        objects = np.diff(of_objects(weights))
        scored = np.repeat(np.where(objects > 0, 0.0, np.nan)[..., None], len(matches.hit), axis=2)
        before = of_rows(weights)
        before = before.take(last, axis=1) - before.take(start, axis=1)
        hit = np.ones((1, len(hits)), dtype=COUNT) if weights is None else weights.take(of_hits, axis=1)
        for threshold, at, known, first, of_skipped in parts:
            counted = before.take(at, axis=1)
            if of_skipped is not None:
                less = of_skipped(weights)
                counted -= less.take(last[at], axis=1) - less.take(start[at], axis=1)
            scored[:, known, threshold] = _areas(hit.take(at, axis=1), counted, objects[:, known], first)
        scored[objects == 0] = np.nan
        return scored

    def of_all(weights: np.ndarray | None) -> np.ndarray:
        if weights is None:
            return of_weights(None)
        step = max(1, CHUNK // max(len(hits), 1))
        chunks = (weights[low : low + step].astype(COUNT) for low in range(0, max(len(weights), 1), step))
        return np.concatenate([*map(of_weights, chunks)])

    return of_all


class Sums:
    """Weights of the images of sorted rows, summed up to each bound: `sums(weights)` is [B, len(bounds)].

    images: int [N]. rows: int [n], some of them. bounds: ascending, 0 to n. count: of images; None if each counts once.
    """

    def __init__(self, images: np.ndarray, rows: np.ndarray, bounds: np.ndarray, count: int | None):
        self._bounds = bounds
        if count is not None:
            ends, size = np.append(0, bounds), (len(bounds), count)
            self._groups = csr_array((np.ones(ends[-1], dtype=COUNT), images[rows[: ends[-1]]], ends), shape=size)

    def __call__(self, weights: np.ndarray | None) -> np.ndarray:
        """weights: COUNT [B, I], as it was given a `count`."""
        if weights is None:
            return self._bounds[None].astype(COUNT)
        own = np.ascontiguousarray(weights.T)
        return np.ascontiguousarray((self._groups @ own).T).cumsum(axis=1, dtype=COUNT)


def _areas(right: np.ndarray, predicted: np.ndarray, objects: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Mean precision at the 101 recalls of each category: [B, categories].

    H hits, by category, highest score first. right [B, H]: weight of each hit. predicted [B, H]: weight of the
    predictions of the category up to the hit. objects [B, categories]: weight of the category's objects. first: int
    [categories], index of each category's first hit.
    """
    (B, H), ends = right.shape, np.append(first[1:], right.shape[1])
    total = right.cumsum(dtype=right.dtype)  # over categories and weightings, so that it ascends
    true = total.reshape(B, H)
    base = true[:, first] - right[:, first]
    precision = np.zeros(B * H + 1)
    np.divide(true - np.repeat(base, ends - first, axis=1), np.maximum(predicted, 1), out=precision[:-1].reshape(B, H))
    # the hit at which each recall is reached, and the highest precision from there on
    offset = np.arange(B)[:, None, None] * H
    wanted = (base[..., None] + least(objects)).astype(total.dtype)
    reached = np.searchsorted(total, wanted.ravel()).reshape(wanted.shape)
    reached = np.maximum(reached, offset + first[:, None])
    known = reached < offset + ends[:, None]
    reached = np.minimum(reached, offset + ends[:, None])
    highest = np.maximum.reduceat(precision, reached.ravel()).reshape(reached.shape)
    interpolate(highest := np.where(known, highest, 0).swapaxes(0, 2))
    return highest.mean(axis=0).T


def least(objects: np.ndarray) -> np.ndarray:
    """The least number of hits with each of the 101 recalls: [..., 101]. objects: whole numbers [...]."""
    objects = objects[..., None]
    count = np.floor(RECALLS * objects)  # this or the next one: recalls are compared as they are rounded
    objects = np.maximum(objects, 1)
    count += count / objects < RECALLS
    return count - ((count - 1) / objects >= RECALLS)


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
