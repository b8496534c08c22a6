"""The post-filter (F14): rules that turn the model's top-k, with its contradictions and duplicates, into one answer.

A rule takes the predictions of one picture and returns those it keeps, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from mtseg.records import Prediction
from mtseg.scoring.matching import iou
from mtseg.scoring.predictions import Ranking, score
from mtseg.sections import Filter, Task


def background(
    predictions: Sequence[Prediction], *, tasks: Sequence[Task], settings: Filter, ranking: Ranking
) -> list[Prediction]:
    """Drop what a further task calls background: the greatest of its logits is the no-object slot's."""
    further = tasks[1:] if settings.drop_background else ()
    return [p for p in predictions if all(np.argmax(p.logits[task.name]) < task.num_classes for task in further)]


def low_score(
    predictions: Sequence[Prediction], *, tasks: Sequence[Task], settings: Filter, ranking: Ranking
) -> list[Prediction]:
    """Keep main class probability x mask quality >= min_score."""
    return [p for p in predictions if score(p, tasks, "main_quality") >= settings.min_score]


def low_logit(
    predictions: Sequence[Prediction], *, tasks: Sequence[Task], settings: Filter, ranking: Ranking
) -> list[Prediction]:
    """Keep what every further task labels with a logit >= min_logit."""
    further = [task.name for task in tasks[1:]]
    return [p for p in predictions if all(p.logits[name][p.labels[name]] >= settings.min_logit for name in further)]


def duplicate(
    predictions: Sequence[Prediction], *, tasks: Sequence[Task], settings: Filter, ranking: Ranking
) -> list[Prediction]:
    """Mask NMS, class-agnostic: of two masks with IoU > nms_iou the one with the better ranking score stays."""
    masks = [p.segmentation for p in predictions]
    overlap = iou(masks, masks)
    kept: list[int] = []
    # stable: of equal scores the first in the file stays
    for index in sorted(range(len(predictions)), key=lambda i: -score(predictions[i], tasks, ranking)):
        if not (overlap[index, kept] > settings.nms_iou).any():
            kept.append(index)
    return [predictions[index] for index in sorted(kept)]


RULES = (background, low_score, low_logit, duplicate)


def sieve(
    predictions: Sequence[Prediction], *, tasks: Sequence[Task], settings: Filter, ranking: Ranking
) -> tuple[list[Prediction], dict[str, int]]:
    """Every rule in turn, picture by picture: what is kept, by picture, and how many each rule removed."""
    kept, removed = [], {rule.__name__: 0 for rule in RULES}
    for _, group in groupby(sorted(predictions, key=lambda p: p.image_id), key=lambda p: p.image_id):
        own = list(group)
        for rule in RULES:
            before, own = len(own), rule(own, tasks=tasks, settings=settings, ranking=ranking)
            removed[rule.__name__] += before - len(own)
        kept += own
    return kept, removed
