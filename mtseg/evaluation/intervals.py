"""The main metrics with their 95 % confidence intervals over images."""

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
    """One row for each metric: metric, value, low and high (95 % interval over images); percent, 3 decimals. low and
    high are NaN below 5 images.

    segm.AP, segm.AP50, joint.AP, joint.AP50, accuracy of each task and AP of each further task, named as in
    metrics/evaluate.json; undefined ones are left out. All metrics are computed on the same bootstrap samples.
    """
    weights = draws(len(evaluation.images), len(evaluation.predictions))
    numbers = samples(evaluation, weights)
    return [_row(metric, values) for metric, values in numbers.items() if not np.isnan(values[0])]


def samples(evaluation: Evaluation, weights: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: [1 + B]}, 0 to 1, NaN where undefined. weights: [1 + B, I], of `bootstrap.draws`."""
    main = evaluation.tasks[0]
    segm = _ap(evaluation, evaluation.matches[main.name], weights)
    joint = _ap(evaluation, evaluation.joint, weights)
    numbers = dict(zip(("segm.AP", "segm.AP50", "joint.AP", "joint.AP50"), (*segm, *joint), strict=True))
    for task in evaluation.tasks:
        if task is not main:  # the main task's AP is segm.AP
            numbers[f"tasks.{task.name}.AP"] = _ap(evaluation, evaluation.matches[task.name], weights)[0]
        numbers[f"tasks.{task.name}.accuracy"] = _accuracy(evaluation, task, weights)
    return numbers


def _ap(evaluation: Evaluation, matches: Matches, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and AP50 of each sample, 0 to 1, NaN for a sample without ground truth."""
    scored = evaluation.average_precision(matches, weights)
    return mean(scored), mean(scored[:, :, :1])


def _accuracy(evaluation: Evaluation, task: Task, weights: np.ndarray) -> np.ndarray:
    """Label accuracy on matched objects, of each sample: [1 + B], 0 to 1."""
    rows, objects = evaluation.labelled(task)
    true, predicted = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
    right, images = predicted[rows] == true[objects], evaluation.image[rows]
    matched, correct = (np.bincount(own, minlength=weights.shape[1]) for own in (images, images[right]))
    count = weights @ matched
    return np.divide(weights @ correct, count, out=np.full(len(weights), np.nan), where=count > 0)


def _row(metric: str, values: np.ndarray) -> dict[str, Any]:
    return dict(zip(COLUMNS, (metric, *interval(values)), strict=True))
