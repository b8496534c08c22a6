"""How good predictions are: COCO AP of every task and of all labels jointly, and label accuracy on what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtseg.core.files import replace_file
from mtseg.core.params import Ranking, Task
from mtseg.core.tables import Image, Prediction
from mtseg.evaluation.average_precision import (
    EVERY,
    Curves,
    Scorer,
    first_of_query,
    joint,
    labels_found,
    labels_true,
    percent,
)
from mtseg.evaluation.curves import average_precision, mean
from mtseg.evaluation.matching import HIT, check, in_order
from mtseg.evaluation.overlaps import Matches, Overlaps, match
from mtseg.evaluation.predictions import scores


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

    AP is at the largest of `max_dets`. A ground truth without a task's label is ignored in that task's AP and in the
    joint one, as a crowd is. A task's AP counts of each query, hence mask, the best prediction only; the main task's
    the best of each class. Accuracy and macro-F1 are of the labels on instances matched at mask IoU >= 0.5,
    class-agnostic. Raises UserError on predictions for pictures that are not among `images`.
    """
    check(images, predictions)
    predictions = in_order(predictions, tasks)
    scorer, values = Scorer(images, predictions), scores(predictions, tasks)[ranking]
    best, once = first_of_query(predictions, values), first_of_query(predictions, values, tasks[0])
    overlaps, most = Overlaps.of(images, predictions), max(max_dets)
    labels = {task.name: (labels_true(images, task), labels_found(predictions, task)) for task in tasks}
    true, found, names = joint(images, predictions, tasks)
    one_class = np.zeros(len(scorer.crowd), dtype=int), np.zeros(len(predictions), dtype=int)
    options = {"categories": 1, "most": len(predictions), "kept": best, "thresholds": np.array([HIT])}
    metrics, classes = by_label(
        tasks,
        {
            task.name: match(
                overlaps,
                *labels[task.name],
                values,
                categories=task.num_classes,
                most=most,
                kept=once if task is tasks[0] else best,
            )
            for task in tasks
        },
        whatever=match(overlaps, *one_class, values, **options),
        jointly=match(overlaps, true, found, values, categories=len(names), most=most),
        pictures=(overlaps.found_picture, overlaps.true_picture),
    )
    options = {"categories": tasks[0].num_classes, "max_dets": max_dets, "kept": once}
    for kind in ("segm", "bbox"):
        metrics[kind] = Curves.of(scorer.run(*labels[tasks[0].name], values, **options, kind=kind)).summary()
    return metrics, classes


def by_label(
    tasks: Sequence[Task],
    matches: Mapping[str, Matches],
    *,
    whatever: Matches,
    jointly: Matches,
    pictures: tuple[np.ndarray, np.ndarray],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`evaluate` without `segm` and `bbox`, of matches that are at hand, as `Evidence` has them."""
    metrics: dict[str, Any] = {"joint": _summary(_ap(jointly, pictures), "AP", "AP50"), "tasks": {}}
    classes = []
    for task in tasks:
        own = matches[task.name]
        scored, confusion = _ap(own, pictures), _confusion(own.true, own.found, whatever.hit[0], task)
        metrics["tasks"][task.name] = _summary(scored, "AP") | _label_scores(confusion)
        classes += _class_rows(own.true[own.objects], task, scored, confusion)
    return metrics, classes


def _ap(matches: Matches, pictures: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """[1, categories, thresholds]"""
    once = np.ones((1, int(max((place.max(initial=-1) for place in pictures), default=-1)) + 1))
    return average_precision(matches, pictures, once)


def _summary(scored: np.ndarray, *names: str) -> dict[str, float]:
    """AP and AP50, those that are asked for and defined."""
    numbers = {"AP": float(mean(scored)[0]), "AP50": float(mean(scored[:, :, :1])[0])}
    return {name: percent(numbers[name]) for name in names if not np.isnan(numbers[name])}


def _confusion(true: np.ndarray, found: np.ndarray, hit: np.ndarray, task: Task) -> np.ndarray:
    """int [true, predicted] of the labelled instances that were hit. hit: int [N], the ground truth or -1."""
    counts = np.zeros((task.num_classes, task.num_classes), dtype=int)
    hits = np.flatnonzero(hit >= 0)
    hits = hits[true[hit[hits]] != EVERY]
    np.add.at(counts, (true[hit[hits]], found[hits]), 1)
    return counts


def _label_scores(confusion: np.ndarray) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur; nothing when nothing was matched."""
    if not confusion.any():
        return {}
    right, occurring = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    f1 = 2 * right[occurring > 0] / occurring[occurring > 0]
    return {"accuracy": round(100 * float(right.sum() / confusion.sum()), 3), "f1": round(100 * float(f1.mean()), 3)}


def _class_rows(true: np.ndarray, task: Task, scored: np.ndarray, confusion: np.ndarray) -> list[dict[str, Any]]:
    """true: int [G], without crowds."""
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
                "accuracy": round(100 * float(confusion[index, index] / matched), 3) if matched else None,
            }
        )
    return rows


def write_classes(path: Path | str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the table of classes as CSV, with an empty cell for None; `label` tells classes of one name apart."""
    labels = [{"label": f"{row['task']} {row['class']}"} for row in rows]
    write_table(path, [label | row for label, row in zip(labels, rows, strict=True)])


def write_table(path: Path | str, rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows as CSV, with an empty cell for None. columns: by default the rows' keys, which no rows do not have."""
    with replace_file(path) as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False, lineterminator="\n")
