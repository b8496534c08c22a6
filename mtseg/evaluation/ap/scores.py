"""How good predictions are: COCO AP of every task and of all labels together, and label accuracy on what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions
from mtseg.evaluation.ap import coco
from mtseg.evaluation.ap.average_precision import mean, percent
from mtseg.evaluation.ap.classes import label_confusion, label_scores
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches


def metrics(evaluation: Evaluation) -> dict[str, Any]:
    """In percent with 3 decimals; what is undefined is left out.

    `segm` and `bbox`, COCO's 12 numbers of the main task; `tasks.NAME.AP|accuracy|f1`; `joint.AP|AP50`, whose
    categories are the combinations of labels in the ground truth.

    AP is at the largest of `max_dets`. An object without a task's label is ignored in that task's AP and in the joint
    one, as a crowd is. Accuracy and macro-F1 are of the labels on objects matched at mask IoU >= 0.5, class-agnostic.
    """
    found: dict[str, Any] = {"joint": summary(evaluation, evaluation.joint, "AP", "AP50"), "tasks": {}}
    for task in evaluation.tasks:
        labels = label_scores(label_confusion(evaluation, task))
        found["tasks"][task.name] = summary(evaluation, evaluation.matches[task.name], "AP") | labels
    return found | coco.numbers(evaluation)


def headline(images: Images, predictions: Predictions, tasks: Sequence[Task]) -> dict[str, float]:
    """What training reports of its validation, in percent: segm_AP, joint_AP, TASK_accuracy. By COCO's 100 detections
    and the product of probabilities, not by the params of the test section, which may change without training anew."""
    evaluation = Evaluation(images, predictions, tasks=tasks, ranking="product_quality")
    matches = {"segm_AP": evaluation.matches[evaluation.tasks[0].name], "joint_AP": evaluation.joint}
    row = {name: summary(evaluation, own, "AP").get("AP", 0.0) for name, own in matches.items()}
    accuracies = {task.name: label_scores(label_confusion(evaluation, task)) for task in evaluation.tasks}
    return row | {f"{name}_accuracy": own["accuracy"] for name, own in accuracies.items() if own}


def summary(evaluation: Evaluation, matches: Matches, *names: str) -> dict[str, float]:
    """AP and AP50, those that are asked for and defined."""
    scored = evaluation.average_precision(matches)
    numbers = {"AP": mean(scored)[0], "AP50": mean(scored[:, :, :1])[0]}
    return {name: percent(numbers[name]) for name in names if not np.isnan(numbers[name])}
