"""How good predictions are: COCO AP of every task and of all labels jointly, and label accuracy on what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtseg.files import replace_file
from mtseg.records import Image, Prediction
from mtseg.scoring.average_precision import (
    Curves,
    Scorer,
    first_of_query,
    joint,
    labels_found,
    labels_true,
    summary,
)
from mtseg.scoring.matching import Picture, check, in_order, pictures
from mtseg.scoring.predictions import scores
from mtseg.sections import Ranking, Task


def evaluate(
    images: Sequence[Image],
    predictions: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    ranking: Ranking,
    max_dets: Sequence[int],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and a table of classes, in percent with 3 decimals; what is undefined is left out (None in the table).

    Metrics: `segm` and `bbox`, COCO's 12 numbers of the main task; `tasks.NAME.AP|accuracy|f1`; `joint.AP|AP50`, whose
    categories are the combinations of labels in the ground truth. Table: task, class, instances, AP, AP50, accuracy.

    AP is at the last of `max_dets`. A ground truth without a task's label is ignored in that task's AP and in the
    joint one, as a crowd is. A further task's AP counts the best prediction of each query only: the others repeat its
    mask and labels. Accuracy and macro-F1 are of the labels on instances matched at mask IoU >= 0.5, class-agnostic.
    Raises UserError on predictions for pictures that are not among `images`.
    """
    check(images, predictions)
    predictions = in_order(predictions, tasks)
    scorer, values = Scorer(images, predictions), scores(predictions, tasks)[ranking]
    best = first_of_query(predictions, values)
    scene = pictures(images, predictions, tasks=tasks, ranking=ranking)

    def curves(true: np.ndarray, found: np.ndarray, categories: int, **options: Any) -> Curves:
        return Curves.of(scorer.run(true, found, values, categories=categories, max_dets=max_dets, **options))

    labels = {task.name: (labels_true(images, task), labels_found(predictions, task)) for task in tasks}
    true, found, names = joint(images, predictions, tasks)
    metrics: dict[str, Any] = {"tasks": {}}
    metrics["joint"] = _chosen(curves(true, found, len(names), sizes=False), "AP", "AP50")
    for kind in ("segm", "bbox"):
        scored = curves(*labels[tasks[0].name], tasks[0].num_classes, kind=kind)
        metrics[kind] = scored.summary()
    classes = []
    for task in tasks:
        options = {} if task is tasks[0] else {"kept": best}
        scored = curves(*labels[task.name], task.num_classes, sizes=False, **options)
        confusion = _confusion(scene, task)
        metrics["tasks"][task.name] = _chosen(scored, "AP") | _label_scores(confusion)
        classes += _class_rows(labels[task.name][0][~scorer.crowd], task, scored, confusion)
    return metrics, classes


def rankings(
    images: Sequence[Image], predictions: Sequence[Prediction], *, tasks: Sequence[Task], max_dets: Sequence[int]
) -> list[dict[str, Any]]:
    """What each way to rank makes of the same predictions (F13): rows of ranking, segm_AP and joint_AP in percent."""
    check(images, predictions)
    predictions = in_order(predictions, tasks)
    scorer, main = Scorer(images, predictions), tasks[0]
    true, found, names = joint(images, predictions, tasks)
    columns = {
        "segm_AP": (labels_true(images, main), labels_found(predictions, main), main.num_classes),
        "joint_AP": (true, found, len(names)),
    }
    rows = []
    for ranking, values in scores(predictions, tasks).items():
        row = {"ranking": ranking}
        for column, (true, found, categories) in columns.items():
            options = {"categories": categories, "max_dets": max_dets, "sizes": False}
            row[column] = summary(scorer.run(true, found, values, **options)).get("AP")
        rows.append(row)
    return rows


def _confusion(scene: Sequence[Picture], task: Task) -> np.ndarray:
    """int [true, predicted]: labelled instances, matched class-agnostically with the best prediction of a query."""
    counts = np.zeros((task.num_classes, task.num_classes), dtype=int)
    for picture in scene:
        row, column = picture.matched
        true, found = picture.true(task)[column], picture.predicted(task)[row]
        np.add.at(counts, (true[true >= 0], found[true >= 0]), 1)
    return counts


def _label_scores(confusion: np.ndarray) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur; nothing when nothing was matched."""
    if not confusion.any():
        return {}
    right, occurring = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    f1 = 2 * right[occurring > 0] / occurring[occurring > 0]
    return {"accuracy": round(100 * float(right.sum() / confusion.sum()), 3), "f1": round(100 * float(f1.mean()), 3)}


def _class_rows(true: np.ndarray, task: Task, scored: Curves, confusion: np.ndarray) -> list[dict[str, Any]]:
    """true: int [G], without crowds."""
    rows = []
    for index, name in enumerate(task.classes):
        matched = confusion[index].sum()
        rows.append(
            {
                "task": task.name,
                "class": name,
                "instances": int((true == index).sum()),
                **scored.of_category(index),
                "accuracy": round(100 * float(confusion[index, index] / matched), 3) if matched else None,
            }
        )
    return rows


def _chosen(scored: Curves, *names: str) -> dict[str, float]:
    summary = scored.summary()
    return {name: summary[name] for name in names if name in summary}


def write_classes(path: Path | str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the table of classes as CSV, with an empty cell for None; `label` tells classes of one name apart."""
    labels = [{"label": f"{row['task']} {row['class']}"} for row in rows]
    write_table(path, [label | row for label, row in zip(labels, rows, strict=True)])


def write_table(path: Path | str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV, with an empty cell for None."""
    with replace_file(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n")
