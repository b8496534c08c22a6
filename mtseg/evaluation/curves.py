"""Precision against recall, and F1 against the score threshold, of one category."""

from __future__ import annotations

import numpy as np

from mtseg.evaluation.ap.average_precision import RECALLS, interpolate


def precisions(hit: np.ndarray, ignored: np.ndarray, objects: int) -> np.ndarray | None:
    """Precision at COCO's 101 recalls: [101], 0 to 1; None without ground truth.

    hit, ignored: bool [n], highest score first. objects: number of ground-truth objects.
    """
    if not objects:
        return None
    at = np.flatnonzero(hit)
    if not len(at):
        return np.zeros(len(RECALLS))
    true = np.arange(1, len(at) + 1)
    precision = true / np.cumsum(~ignored)[at]
    interpolate(precision)
    # precision is 0 at recalls that are not reached
    return np.append(precision, 0.0)[np.searchsorted(true / objects, RECALLS)]


def f1_by_score(hit: np.ndarray, scores: np.ndarray, objects: int, thresholds: np.ndarray) -> np.ndarray | None:
    """F1 of the predictions that reach each threshold: [len(thresholds)], 0 to 1; None without ground truth.

    hit: bool [n], scores: [n], highest score first. objects: number of ground-truth objects.
    """
    return _f1(hit, objects)[np.searchsorted(-scores, -thresholds, side="right")] if objects else None


def best_f1(hit: np.ndarray, scores: np.ndarray, objects: int) -> tuple[float, float] | tuple[float | None, None]:
    """The highest F1, and the highest threshold that gives it: (None, None) without ground truth, (0, None) without a
    hit. Arguments as in `f1_by_score`."""
    if not objects or not hit.any():
        return (0.0 if objects else None), None
    f1 = _f1(hit, objects)[1:]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # a threshold keeps all predictions of a score or none
    best = last[np.argmax(f1[last])]
    return float(f1[best]), float(scores[best])


def _f1(hit: np.ndarray, objects: int) -> np.ndarray:
    """F1 of the first 0, 1, ..., n predictions: [n + 1]."""
    return np.append(0.0, 2 * np.cumsum(hit) / (np.arange(1, len(hit) + 1) + objects))


def score_axis(scores: np.ndarray, *, is_probability: bool) -> np.ndarray:
    """The 101 score thresholds of a curve: 0 to 1 for probabilities, else the lowest to the highest score."""
    low, high = (0.0, 1.0) if is_probability or not len(scores) else (scores.min(), scores.max())
    return np.linspace(low, high, 101)
