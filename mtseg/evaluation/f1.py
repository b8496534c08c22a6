"""Precision, recall and F1 of predictions as they stand, at no score: what a reader of overlays sees."""

from __future__ import annotations

import numpy as np

from mtseg.core.tables import UNLABELLED
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT, Matches


def main_matches(evaluation: Evaluation, kept: np.ndarray | None = None) -> Matches:
    """Matches at IoU 0.5 by the main class, of all predictions or of those `kept`, bool [N]."""
    main, count = evaluation.tasks[0], len(evaluation.predictions)
    true, found = evaluation.images.instances.labels[main.name], evaluation.predictions.labels[main.name]
    options = {"most": count, "kept": kept, "thresholds": np.array([HIT])}
    return evaluation.match(true, found, categories=main.num_classes, **options)


def counts(evaluation: Evaluation, kept: np.ndarray | None = None) -> np.ndarray:
    """int [I, 4] of each image: predictions, instances, hits, hits with every label right. kept: bool [N].

    A hit has IoU >= 0.5 and the main class. Where an instance has no label of a further task, any is right. Crowds are
    no instances, and a prediction half inside a crowd of its class is not counted unless it is a hit.
    """
    matches, images = main_matches(evaluation, kept), len(evaluation.images)
    hits = np.flatnonzero(matches.hit[0] >= 0)
    counted = np.zeros(len(evaluation.predictions), dtype=bool)
    counted[matches.scored] = ~matches.ignored[0, matches.scored]
    of_image = (
        evaluation.image[counted],
        evaluation.images.instances.image[matches.objects],
        evaluation.image[hits],
        evaluation.image[hits[~wrong_labels(evaluation, hits, matches.hit[0, hits]).any(axis=1)]],
    )
    return np.stack([np.bincount(rows, minlength=images) for rows in of_image], axis=1)


def wrong_labels(evaluation: Evaluation, rows: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """bool [n, T]: which labels of predictions differ from those of the objects, where these have one."""
    true = np.stack([evaluation.images.instances.labels[task.name][objects] for task in evaluation.tasks], axis=1)
    found = np.stack([evaluation.predictions.labels[task.name][rows] for task in evaluation.tasks], axis=1)
    return (true != UNLABELLED) & (true != found)


def summary(counts: np.ndarray) -> dict[str, float]:
    """Precision, recall, f1 and joint_f1 over the counts of some images: percent, 3 decimals, undefined left out."""
    parts = fractions(np.reshape(counts, (-1, 4)).sum(axis=0))
    return {name: round(100 * int(part) / int(whole), 3) for name, (part, whole) in parts.items() if whole}


def shares(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The same of each draw, 0 to 1, NaN where undefined: [B] each. counts: [B, 4]."""
    return {
        name: np.divide(part, whole, out=np.full(len(counts), np.nan), where=whole > 0)
        for name, (part, whole) in fractions(counts).items()
    }


def fractions(counts: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Numerator and denominator of each. counts: [..., 4], as of `counts`."""
    found, true, hit, right = np.moveaxis(counts, -1, 0)
    return {
        "precision": (hit, found),
        "recall": (hit, true),
        "f1": (2 * hit, found + true),
        "joint_f1": (2 * right, found + true),
    }
