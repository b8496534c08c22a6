"""Precision, recall and F1 of a set of predictions, such as the filtered ones, without a score threshold."""

from __future__ import annotations

import numpy as np

from mtseg.core.tables import UNLABELLED
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT, Matches


def main_matches(evaluation: Evaluation, kept: np.ndarray | None = None) -> Matches:
    """Matches at IoU 0.5 by main class. kept: bool [N], the predictions that take part, by default all."""
    main, count = evaluation.tasks[0], len(evaluation.predictions)
    true, predicted = evaluation.images.instances.labels[main.name], evaluation.predictions.labels[main.name]
    options = {"max_dets": count, "kept": kept, "thresholds": np.array([HIT])}
    return evaluation.match(true, predicted, categories=main.num_classes, **options)


def counts(evaluation: Evaluation, kept: np.ndarray | None = None) -> np.ndarray:
    """int [I, 4], for each image: predictions, instances, hits, hits with all labels correct. kept: bool [N], the
    predictions that count, by default all.

    A hit has IoU >= 0.5 and the main class of its instance. A label that the instance lacks counts as correct. Crowds
    are not counted, nor predictions without a hit that lie at least half inside a crowd of their class.
    """
    matches, images = main_matches(evaluation, kept), len(evaluation.images)
    hit = matches.hit[0] >= 0
    hits, objects = matches.rows[hit], matches.hit[0, hit]
    counted = matches.takes_part & ~matches.first_ignored
    of_image = (
        evaluation.image[counted],
        evaluation.images.instances.image[matches.objects],
        evaluation.image[hits],
        evaluation.image[hits[~wrong_labels(evaluation, hits, objects).any(axis=1)]],
    )
    return np.stack([np.bincount(rows, minlength=images) for rows in of_image], axis=1)


def wrong_labels(evaluation: Evaluation, rows: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """bool [n, T]: whether labels of predictions (`rows`) differ from those of `objects`; False where an object has
    none."""
    true = np.stack([evaluation.images.instances.labels[task.name][objects] for task in evaluation.tasks], axis=1)
    predicted = np.stack([evaluation.predictions.labels[task.name][rows] for task in evaluation.tasks], axis=1)
    return (true != UNLABELLED) & (true != predicted)


def summary(counts: np.ndarray) -> dict[str, float]:
    """precision, recall, f1 and joint_f1 of images with these counts [..., 4]: percent, 3 decimals, undefined left
    out."""
    parts = _fractions(np.reshape(counts, (-1, 4)).sum(axis=0))
    return {name: round(100 * int(part) / int(whole), 3) for name, (part, whole) in parts.items() if whole}


def shares(counts: np.ndarray) -> dict[str, np.ndarray]:
    """precision, recall, f1 and joint_f1 of each row of counts [B, 4]: [B] each, 0 to 1, NaN where undefined."""
    return {
        name: np.divide(part, whole, out=np.full(len(counts), np.nan), where=whole > 0)
        for name, (part, whole) in _fractions(counts).items()
    }


def _fractions(counts: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{metric: (numerator, denominator)}. counts: [..., 4], as `counts` returns them."""
    predicted, true, hit, right = np.moveaxis(counts, -1, 0)
    return {
        "precision": (hit, predicted),
        "recall": (hit, true),
        "f1": (2 * hit, predicted + true),
        "joint_f1": (2 * right, predicted + true),
    }
