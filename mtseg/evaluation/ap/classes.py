"""Scores of each class: confusion of labels on matched objects, and a table of AP and accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtseg.core.params import Task
from mtseg.evaluation.ap.average_precision import means, percent
from mtseg.evaluation.ap.evaluation import Evaluation


def label_confusion(evaluation: Evaluation, task: Task) -> np.ndarray:
    """int [classes, classes], rows true, columns predicted: labels of the matched objects that have a label."""
    rows, objects = evaluation.labelled(task)
    counts = np.zeros((task.num_classes, task.num_classes), dtype=int)
    true, predicted = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
    np.add.at(counts, (true[objects], predicted[rows]), 1)
    return counts


def label_scores(confusion: np.ndarray) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur, in percent; empty if nothing was matched."""
    if not confusion.any():
        return {}
    right, occurring = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    f1 = 2 * right[occurring > 0] / occurring[occurring > 0]
    return {"accuracy": percent(right.sum() / confusion.sum()), "f1": percent(f1.mean())}


def table(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row for each class of each task: label (task and class), task, class, instances, AP, AP50, accuracy; percent
    with 3 decimals, None where undefined."""
    rows = []
    for task in evaluation.tasks:
        matches, confusion = evaluation.matches[task.name], label_confusion(evaluation, task)
        scored = evaluation.average_precision(matches)
        objects = np.bincount(matches.true[matches.objects], minlength=task.num_classes)
        for index, name in enumerate(task.classes):
            numbers = {key: value[0] for key, value in means(scored[:, index : index + 1]).items()}
            matched = confusion[index].sum()
            rows.append(
                {
                    "label": f"{task.name} {name}",
                    "task": task.name,
                    "class": name,
                    "instances": int(objects[index]),
                    **{key: None if np.isnan(value) else percent(value) for key, value in numbers.items()},
                    "accuracy": percent(confusion[index, index] / matched) if matched else None,
                }
            )
    return rows
