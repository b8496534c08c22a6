"""Metrics: COCO AP of each task and of all labels together, and label accuracy on matched objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions
from mtseg.evaluation.ap import coco
from mtseg.evaluation.ap.average_precision import means, percent
from mtseg.evaluation.ap.classes import label_confusion, label_scores
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches


def metrics(evaluation: Evaluation, numbers: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Metrics in percent with 3 decimals; undefined ones are left out.

    | key                         | metric                                                                   |
    |-----------------------------|--------------------------------------------------------------------------|
    | `segm`, `bbox`              | COCO's 12 numbers of the main task                                       |
    | `tasks.NAME.AP`             | mask AP with the labels of a task as categories                          |
    | `tasks.NAME.accuracy`, `f1` | accuracy and macro-F1 of labels on class-agnostic matches (IoU >= 0.5)   |
    | `joint.AP`, `AP50`          | mask AP with the combinations of labels in the ground truth as categories |

    AP is at the largest of `max_dets`. An object without a label of a task is ignored, as crowds are, in the AP of that
    task and in joint AP. numbers: those of `coco.numbers`, if they are known.
    """
    found: dict[str, Any] = {"joint": summary(evaluation, evaluation.joint, "AP", "AP50"), "tasks": {}}
    for task in evaluation.tasks:
        labels = label_scores(label_confusion(evaluation, task))
        found["tasks"][task.name] = summary(evaluation, evaluation.matches[task.name], "AP") | labels
    return found | (dict(numbers) or coco.numbers(evaluation))


def headline(images: Images, predictions: Predictions, tasks: Sequence[Task]) -> dict[str, float]:
    """Metrics of validation during training, in percent: segm_AP, joint_AP, TASK_accuracy; undefined ones are left out.
    With COCO's 100 detections and the ranking `product_quality`: the section `test` of params.yaml can change without a
    new training."""
    evaluation = Evaluation(images, predictions, tasks=tasks, ranking="product_quality")
    matches = {"segm_AP": evaluation.matches[evaluation.tasks[0].name], "joint_AP": evaluation.joint}
    row = {name: ap for name, own in matches.items() for ap in summary(evaluation, own, "AP").values()}
    accuracies = {task.name: label_scores(label_confusion(evaluation, task)) for task in evaluation.tasks}
    return row | {f"{name}_accuracy": own["accuracy"] for name, own in accuracies.items() if own}


def summary(evaluation: Evaluation, matches: Matches, *names: str) -> dict[str, float]:
    """AP and AP50 in percent: those in `names` that are defined."""
    numbers = means(evaluation.average_precision(matches))
    return {name: percent(numbers[name][0]) for name in names if not np.isnan(numbers[name][0])}
