"""The main metrics with their 95 % confidence intervals over images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import ndtri

from mtseg.core.params import Task
from mtseg.evaluation import forks
from mtseg.evaluation.ap import classes
from mtseg.evaluation.ap.average_precision import mean, means
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.bootstrap import LEVEL, draws, interval

COLUMNS = ("metric", "value", "low", "high")
CLASS_COLUMNS = ("label", "task", "class", "instances", "AP", "AP_low", "AP_high", "AP50", "accuracy")


def tables(evaluation: Evaluation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of plots/intervals.csv and of plots/classes.csv; percent, 3 decimals. Intervals are of 95 %, over
    images, and NaN below 5 images. All metrics are computed on the same bootstrap samples.

    A row for each metric: `COLUMNS`. segm.AP, segm.AP50, joint.AP, joint.AP50, accuracy of each task and AP of each
    further task, named as in metrics/evaluate.json; undefined ones are left out.
    A row for each class: `CLASS_COLUMNS`, as of `classes.table`, AP with its interval.
    """
    weights = draws(len(evaluation.images), len(evaluation.predictions))
    scored = average_precisions(evaluation, weights)
    numbers = samples(evaluation, weights, scored)
    rows = [_row(metric, values) for metric, values in numbers.items() if not np.isnan(values[0])]
    of_class = [values for task in evaluation.tasks for values in scored[task.name].mean(axis=2).T]
    ends = [interval(values)[1:] if not np.isnan(values[0]) else (np.nan, np.nan) for values in of_class]
    own = [
        row | {"AP_low": low, "AP_high": high} for row, (low, high) in zip(classes.table(evaluation), ends, strict=True)
    ]
    return rows, own


def average_precisions(evaluation: Evaluation, weights: np.ndarray) -> dict[str, np.ndarray]:
    """{task: AP [1 + B, classes, IoU thresholds]}, 0 to 1, NaN for a sample without ground truth of the class. weights:
    [1 + B, I], of `bootstrap.draws`."""
    return {name: forks.average_precision(evaluation, own, weights) for name, own in evaluation.matches.items()}


def samples(evaluation: Evaluation, weights: np.ndarray, scored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{metric: [1 + B]}, 0 to 1, NaN where undefined. weights: [1 + B, I], of `bootstrap.draws`. scored: of
    `average_precisions`."""
    main = evaluation.tasks[0]
    joint = forks.average_precision(evaluation, evaluation.joint, weights)
    numbers = {
        f"{of}.{name}": values
        for of, own in (("segm", scored[main.name]), ("joint", joint))
        for name, values in means(own).items()
    }
    for task in evaluation.tasks:
        if task is not main:  # the main task's AP is segm.AP
            numbers[f"tasks.{task.name}.AP"] = mean(scored[task.name])
        numbers[f"tasks.{task.name}.accuracy"] = _accuracy(evaluation, task, weights)
    return numbers


def difference(
    one: Mapping[str, float], other: Mapping[str, float], comparisons: int = 1
) -> tuple[float, float, float] | None:
    """other - one in percent with its 95 % interval, low and high, from the intervals of two scores of different images
    (square and add, Zou & Donner 2008). None if a value or an end is undefined. one, other: value, low and high.

    comparisons: number of differences that are looked at together; each interval is widened (Bonferroni) so that, if
    nothing differs, all include 0 with a probability of at least 95 %.
    """
    (a, a_low, a_high), (b, b_low, b_high) = ([each[key] for key in COLUMNS[1:]] for each in (one, other))
    if np.isnan([a, a_low, a_high, b, b_low, b_high]).any():
        return None
    wider = ndtri(1 - (1 - LEVEL) / 2 / comparisons) / ndtri((1 + LEVEL) / 2)
    low, high = b - a - wider * np.hypot(b - b_low, a_high - a), b - a + wider * np.hypot(b_high - b, a - a_low)
    return b - a, max(low, -100.0), min(high, 100.0)


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
