"""The leading numbers with their 95 % intervals over images."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtseg.core.params import Task
from mtseg.evaluation.ap.average_precision import mean
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches
from mtseg.evaluation.bootstrap import draws, interval

COLUMNS = ("metric", "value", "low", "high")


def rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A row a number: metric, value, and its 95 % interval over images, low and high; percent, 3 decimals;
    low and high are NaN below 5 images.

    segm.AP, segm.AP50, joint.AP, joint.AP50, of each task accuracy and of each further one AP, under the names of
    metrics/evaluate.json; what is undefined is left out. The same draws serve all numbers.
    """
    weights = draws(len(evaluation.images), len(evaluation.predictions))
    numbers = samples(evaluation, weights)
    return [_row(metric, values) for metric, values in numbers.items() if not np.isnan(values[0])]


def samples(evaluation: Evaluation, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of each draw, 0 to 1 and NaN where undefined: [1 + B] each. weights: of `draws`."""
    main = evaluation.tasks[0]
    segm = _ap(evaluation, evaluation.matches[main.name], weights)
    joint = _ap(evaluation, evaluation.joint, weights)
    numbers = dict(zip(("segm.AP", "segm.AP50", "joint.AP", "joint.AP50"), (*segm, *joint), strict=True))
    for task in evaluation.tasks:
        if task is not main:  # whose AP is segm.AP
            numbers[f"tasks.{task.name}.AP"] = _ap(evaluation, evaluation.matches[task.name], weights)[0]
        numbers[f"tasks.{task.name}.accuracy"] = _accuracy(evaluation, task, weights)
    return numbers


def _ap(evaluation: Evaluation, matches: Matches, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and AP50 of each draw, 0 to 1, NaN where nothing that counts was drawn."""
    scored = evaluation.average_precision(matches, weights)
    return mean(scored), mean(scored[:, :, :1])


def _accuracy(evaluation: Evaluation, task: Task, weights: np.ndarray) -> np.ndarray:
    """Share of labels that are right on matched objects, of each draw."""
    rows, objects = evaluation.labelled(task)
    true, found = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
    right, images = found[rows] == true[objects], evaluation.image[rows]
    matched, correct = (np.bincount(own, minlength=weights.shape[1]) for own in (images, images[right]))
    count = weights @ matched
    return np.divide(weights @ correct, count, out=np.full(len(weights), np.nan), where=count > 0)


def _row(metric: str, values: np.ndarray) -> dict[str, Any]:
    return dict(zip(COLUMNS, (metric, *interval(values)), strict=True))
