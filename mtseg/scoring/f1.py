"""Precision, recall and F1 of predictions as they stand, whatever their scores: what a reader of overlays sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtseg.records import Image, Prediction
from mtseg.scoring.matching import HIT, Picture, match, pictures
from mtseg.scoring.predictions import Ranking
from mtseg.sections import Task


def compare(
    images: Sequence[Image],
    raw: Sequence[Prediction],
    filtered: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    ranking: Ranking,
) -> dict[str, dict[str, float]]:
    """`raw` and `filtered`, each with what `summary` gives over all pictures."""
    both = {"raw": raw, "filtered": filtered}
    scenes = {name: pictures(images, found, tasks=tasks, ranking=ranking) for name, found in both.items()}
    return {name: summary([count(picture, tasks) for picture in scene]) for name, scene in scenes.items()}


def count(picture: Picture, tasks: Sequence[Task]) -> np.ndarray:
    """int [4] of one picture: predictions, instances, hits, hits with every label right.

    A hit has IoU >= 0.5 and the main class; where an instance has no label of a further task, any is right. Crowds
    are not instances, and a prediction half inside a crowd of its class is not counted unless it is a hit.
    """
    main, *further = tasks
    same = picture.predicted(main)[:, None] == picture.true(main)[None, :]
    matches = match(picture.overlap, same & ~picture.crowd)
    hit = matches >= 0
    right = hit.copy()
    for task in further:
        true = np.append(picture.true(task), -1)[matches]  # -1, no match, picks what is appended
        right &= (true < 0) | (true == picture.predicted(task))
    on_crowd = (same & picture.crowd & (picture.inside >= HIT)).any(axis=1)
    return np.array([(hit | ~on_crowd).sum(), (~picture.crowd).sum(), hit.sum(), right.sum()])


def summary(counts: Sequence[np.ndarray]) -> dict[str, float]:
    """Precision, recall, f1 and joint_f1 over the counts of some pictures: percent, 3 decimals, undefined left out."""
    found, true, hit, right = (int(count) for count in np.sum(counts, axis=0))
    parts = {
        "precision": (hit, found),
        "recall": (hit, true),
        "f1": (2 * hit, found + true),
        "joint_f1": (2 * right, found + true),
    }
    return {name: round(100 * part / whole, 3) for name, (part, whole) in parts.items() if whole}
