"""Precision over recall, and F1 over the score, from matches of one category."""

from __future__ import annotations

import numpy as np

from mtseg.evaluation.ap.average_precision import RECALLS


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
