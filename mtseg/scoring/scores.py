"""How good predictions are: COCO AP of every task and of all labels jointly, and label accuracy on what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from mtseg.files import replace_file
from mtseg.records import Image, Prediction
from mtseg.scoring.average_precision import EVERY, Curves
from mtseg.scoring.matching import Picture, match, pictures
from mtseg.scoring.predictions import Ranking
from mtseg.scoring.reference import View, curves
from mtseg.sections import Task


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
    scene = pictures(images, predictions, tasks=tasks, ranking=ranking)
    views = [_view(picture, tasks[0]) for picture in scene]
    boxes = [_boxed(view, picture) for view, picture in zip(views, scene, strict=True)]
    categories = tasks[0].num_classes
    segm = curves(views, categories=categories, max_dets=max_dets, sizes=True)
    bbox = curves(boxes, categories=categories, max_dets=max_dets, sizes=True)
    views, categories = _joint(views, scene, tasks)
    joint = curves(views, categories=categories, max_dets=max_dets)

    metrics: dict[str, Any] = {"segm": segm.summary(), "bbox": bbox.summary(), "tasks": {}}
    metrics["joint"] = _chosen(joint, "AP", "AP50")
    classes = []
    for task in tasks:
        scored = segm
        if task is not tasks[0]:
            views = [_view(picture, task).rows(picture.first_of_query) for picture in scene]
            scored = curves(views, categories=task.num_classes, max_dets=max_dets)
        confusion = _confusion(scene, task)
        metrics["tasks"][task.name] = _chosen(scored, "AP") | _label_scores(confusion)
        classes += _class_rows(scene, task, scored, confusion)
    return metrics, classes


def rankings(
    images: Sequence[Image], predictions: Sequence[Prediction], *, tasks: Sequence[Task], max_dets: Sequence[int]
) -> list[dict[str, Any]]:
    """What each way to rank makes of the same predictions (F13): rows of ranking, segm_AP and joint_AP in percent."""
    rows = []
    for ranking in get_args(Ranking):
        scene = pictures(images, predictions, tasks=tasks, ranking=ranking)
        views = [_view(picture, tasks[0]) for picture in scene]
        joint, categories = _joint(views, scene, tasks)
        segm = curves(views, categories=tasks[0].num_classes, max_dets=max_dets)
        joint = curves(joint, categories=categories, max_dets=max_dets)
        rows.append({"ranking": ranking, "segm_AP": segm.summary().get("AP"), "joint_AP": joint.summary().get("AP")})
    return rows


def _view(picture: Picture, task: Task) -> View:
    return View(
        true=picture.true(task),
        crowd=picture.crowd,
        true_area=np.array([instance.area for instance in picture.image.instances]),
        found=picture.predicted(task),
        scores=picture.scores,
        found_area=np.array([prediction.area for prediction in picture.predictions]),
        overlap=picture.overlap,
        inside=picture.inside,
    )


def _boxed(view: View, picture: Picture) -> View:
    """The view with boxes in place of masks; as in COCO, the ground truth's area stays that of its mask."""
    found = np.array([p.bbox for p in picture.predictions], dtype=np.float64).reshape(-1, 4)
    true = np.array([i.bbox for i in picture.image.instances], dtype=np.float64).reshape(-1, 4)
    overlap, inside = view.overlap, view.inside
    if found.size and true.size:
        overlap, inside = (coco_mask.iou(found, true, [crowd] * len(true)) for crowd in (False, True))
    return replace(view, found_area=found[:, 2] * found[:, 3], overlap=overlap, inside=inside)


def _joint(views: Sequence[View], scene: Sequence[Picture], tasks: Sequence[Task]) -> tuple[list[View], int]:
    """The views with the combinations of labels in the ground truth for categories, and how many there are.

    Predictions of another combination fall under no category, as with classes that COCO's ground truth lacks.
    """
    true = [list(zip(*(picture.true(task).tolist() for task in tasks), strict=True)) for picture in scene]
    found = [list(zip(*(picture.predicted(task).tolist() for task in tasks), strict=True)) for picture in scene]
    labelled = sorted({labels for rows in true for labels in rows if EVERY not in labels})
    category = {labels: index for index, labels in enumerate(labelled)}
    joint = [
        replace(
            view,
            true=np.array([category.get(labels, EVERY) for labels in true_rows], dtype=int),
            found=np.array([category.get(labels, len(category)) for labels in found_rows], dtype=int),
        )
        for view, true_rows, found_rows in zip(views, true, found, strict=True)
    ]
    return joint, len(category)


def _confusion(scene: Sequence[Picture], task: Task) -> np.ndarray:
    """int [true, predicted]: labelled instances, matched class-agnostically with the best prediction of a query."""
    counts = np.zeros((task.num_classes, task.num_classes), dtype=int)
    for picture in scene:
        allowed = picture.first_of_query[:, None] & ~picture.crowd[None, :]
        true, found = picture.true(task), picture.predicted(task)
        for row, column in enumerate(match(picture.overlap, allowed)):
            if column >= 0 and true[column] >= 0:
                counts[true[column], found[row]] += 1
    return counts


def _label_scores(confusion: np.ndarray) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur; nothing when nothing was matched."""
    if not confusion.any():
        return {}
    right, occurring = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    f1 = 2 * right[occurring > 0] / occurring[occurring > 0]
    return {"accuracy": round(100 * float(right.sum() / confusion.sum()), 3), "f1": round(100 * float(f1.mean()), 3)}


def _class_rows(scene: Sequence[Picture], task: Task, scored: Curves, confusion: np.ndarray) -> list[dict[str, Any]]:
    true = np.concatenate([picture.true(task)[~picture.crowd] for picture in scene])
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
