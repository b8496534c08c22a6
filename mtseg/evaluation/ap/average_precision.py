"""COCO's average precision from matches; images may be weighted, as a bootstrap does.

Tests compare it with pycocotools and detectron2's `COCOEvaluator`.
K categories, T IoU thresholds, I images, B weightings of the images.
"""

from __future__ import annotations

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
    scored = np.full((len(weights), K, len(matches.hit)), np.nan)

    matched = np.zeros(len(matches.predicted), dtype=bool)
    matched[matches.rows] = True
    place = np.flatnonzero(matched[rows])  # in `rows`, of predictions with a match
    own = np.searchsorted(matches.rows, rows[place])
    found, ignored = matches.hit[:, own] >= 0, matches.ignored[:, own]
    skipped = [place[each] for each in ignored]
    some = found.any(axis=0)
    place, found = place[some], found[:, some]
    hits = rows[place]
    category = matches.predicted[hits]
    # sums of weights are needed up to each of these places and up to the first of its category
    needed = np.zeros(len(rows) + 1, dtype=bool)
    needed[place + 1] = needed[matches.starts] = True
    bounds = np.flatnonzero(needed)
    last, start = np.searchsorted(bounds, place + 1), np.searchsorted(bounds, matches.starts[category])
    images = weights.shape[1]
    of_objects, of_rows = (
        groups(candidates.true_image[true], ends, images),
        groups(candidates.image[rows], bounds, images),
    )
    parts = []
    for threshold, own in enumerate(found):
        at, out = np.flatnonzero(own), skipped[threshold]
        first = np.flatnonzero(np.diff(category[at], prepend=-1))
        of_skipped = groups(candidates.image[rows[out]], np.searchsorted(out, bounds), images) if len(out) else None
        if len(at):
            parts.append((threshold, at, candidates.image[hits[at]], category[at[first]], first, of_skipped))

    step = max(1, CHUNK // max(len(hits), 1))
    for low in range(0, len(weights), step):
        own = weights[low : low + step]
        objects = np.diff(sums(of_objects, own))
        scored[low : low + step] = np.where(objects > 0, 0.0, np.nan)[..., None]
        before = sums(of_rows, own)
        before = before.take(last, axis=1) - before.take(start, axis=1)
        for threshold, at, image, known, first, of_skipped in parts:
            counted = before.take(at, axis=1)
            if of_skipped is not None:
                less = sums(of_skipped, own)
                counted -= less.take(last[at], axis=1) - less.take(start[at], axis=1)
            scored[low : low + step, known, threshold] = _areas(
                own.take(image, axis=1), counted, objects[:, known], first
            )
        scored[low : low + step][objects == 0] = np.nan
    return scored


def groups(images: np.ndarray, bounds: np.ndarray, count: int) -> csr_array:
    """Images [n] grouped by bounds, for `sums`. bounds: ascending, 0 to n. count: of all images."""
    bounds = np.append(0, bounds)
    return csr_array((np.ones(bounds[-1]), images[: bounds[-1]], bounds), shape=(len(bounds) - 1, count))


def sums(groups: csr_array, weights: np.ndarray) -> np.ndarray:
    """Weights of the images summed up to each bound: [B, len(bounds)]. groups: of `groups`. weights: [B, I]."""
    return np.ascontiguousarray((groups @ np.ascontiguousarray(weights.T)).T).cumsum(axis=1)


def _areas(right: np.ndarray, predicted: np.ndarray, objects: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Mean precision at the 101 recalls of each category: [B, categories].

    H hits, by category, highest score first. right [B, H]: weight of each hit. predicted [B, H]: weight of the
    predictions of the category up to the hit. objects [B, categories]: weight of the category's objects. first: int
    [categories], index of each category's first hit.
    """
    (B, H), ends = right.shape, np.append(first[1:], right.shape[1])
    total = right.cumsum()  # over categories and weightings, so that it ascends
    true = total.reshape(B, H)
    base = true[:, first] - right[:, first]
    precision = np.zeros(B * H + 1)
    np.divide(true - np.repeat(base, ends - first, axis=1), np.maximum(predicted, 1), out=precision[:-1].reshape(B, H))
    # the hit at which each recall is reached, and the highest precision from there on
    offset = np.arange(B)[:, None, None] * H
    reached = np.searchsorted(total, (base[..., None] + least(objects)).ravel()).reshape(*base.shape, -1)
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
