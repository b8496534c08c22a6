"""How good predictions are: COCO AP of every task and of all labels together, and label accuracy on what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions
from mtseg.evaluation import coco
from mtseg.evaluation.average_precision import mean, percent
from mtseg.evaluation.evaluation import Evaluation


def metrics(evaluation: Evaluation) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and a table of classes, in percent with 3 decimals; what is undefined is left out (None in the table).

    Metrics: `segm` and `bbox`, COCO's 12 numbers of the main task; `tasks.NAME.AP|accuracy|f1`; `joint.AP|AP50`, whose
    categories are the combinations of labels in the ground truth. Table: task, class, instances, AP, AP50, accuracy.

    AP is at the largest of `max_dets`. An object without a task's label is ignored in that task's AP and in the joint
    one, as a crowd is. Accuracy and macro-F1 are of the labels on objects matched at mask IoU >= 0.5, class-agnostic.
    """
    found, rows = {"joint": _summary(evaluation.average_precision(evaluation.joint), "AP", "AP50"), "tasks": {}}, []
    for task in evaluation.tasks:
        matches = evaluation.matches[task.name]
        scored, confusion = evaluation.average_precision(matches), _confusion(evaluation, task)
        found["tasks"][task.name] = _summary(scored, "AP") | _label_scores(confusion)
        rows += _class_rows(matches.true[matches.objects], task, scored, confusion)
    return found | coco.numbers(evaluation), rows


def headline(images: Images, predictions: Predictions, tasks: Sequence[Task]) -> dict[str, float]:
    """What training reports of its validation, in percent: segm_AP, joint_AP, TASK_accuracy. By COCO's 100 detections
    and the product of probabilities, not by the params of the test section, which may change without training anew."""
    evaluation = Evaluation(images, predictions, tasks=tasks, ranking="product_quality")
    main, joint = evaluation.matches[evaluation.tasks[0].name], evaluation.joint
    row = {
        name: _summary(evaluation.average_precision(matches), "AP").get("AP", 0.0)
        for name, matches in (("segm_AP", main), ("joint_AP", joint))
    }
    accuracies = {task.name: _label_scores(_confusion(evaluation, task)) for task in evaluation.tasks}
    return row | {f"{name}_accuracy": own["accuracy"] for name, own in accuracies.items() if own}


def _summary(scored: np.ndarray, *names: str) -> dict[str, float]:
    """AP and AP50, those that are asked for and defined."""
    numbers = {"AP": mean(scored)[0], "AP50": mean(scored[:, :, :1])[0]}
    return {name: percent(numbers[name]) for name in names if not np.isnan(numbers[name])}


def _confusion(evaluation: Evaluation, task: Task) -> np.ndarray:
    """int [true, predicted] of the labelled objects that were matched."""
    rows, objects = evaluation.labelled(task)
    counts = np.zeros((task.num_classes, task.num_classes), dtype=int)
    true, found = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
    np.add.at(counts, (true[objects], found[rows]), 1)
    return counts


def _label_scores(confusion: np.ndarray) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur; nothing when nothing was matched."""
    if not confusion.any():
        return {}
    right, occurring = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    f1 = 2 * right[occurring > 0] / occurring[occurring > 0]
    return {"accuracy": percent(right.sum() / confusion.sum()), "f1": percent(f1.mean())}


def _class_rows(true: np.ndarray, task: Task, scored: np.ndarray, confusion: np.ndarray) -> list[dict[str, Any]]:
    """true: int, of the labelled objects, crowds left out."""
    rows = []
    for index, name in enumerate(task.classes):
        matched = confusion[index].sum()
        rows.append(
            {
                "task": task.name,
                "class": name,
                "instances": int((true == index).sum()),
                **dict.fromkeys(("AP", "AP50")),
                **_summary(scored[:, index : index + 1], "AP", "AP50"),
                "accuracy": percent(confusion[index, index] / matched) if matched else None,
            }
        )
    return rows
