"""Predictions as a COCO data set in JSON: images, categories (the classes of the main task) and annotations.

Beyond COCO's keys each annotation has `score`, `query`, `mask_quality`, and of every task `labels` (class names) and
`logits`. Where a label's probability is not the softmax of its task's logits, as with one softmax over combinations,
there are `probabilities` too: of each label, given the labels of the tasks before it. Masks are compressed RLE. Nothing
is lost but the list of the further tasks' classes. `write_results` writes the annotations alone: COCO's results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.core.files import write_json, write_json_array
from mtseg.core.params import Task
from mtseg.core.tables import DIGITS, Images, Predictions

NAME_IN_FOLDER = "predictions.coco.json"


def write(path: Path, images: Images, predictions: Predictions, tasks: Sequence[Task]) -> None:
    write_json(path, dataset(images, predictions, tasks), indent=None)


def write_results(path: Path, predictions: Predictions, tasks: Sequence[Task]) -> None:
    write_json_array(path, _records(predictions, tasks))


def dataset(images: Images, predictions: Predictions, tasks: Sequence[Task]) -> dict[str, Any]:
    """A data set in COCO's format, whose annotations are the records, as JSON values."""
    names = ("id", "file_name", "height", "width")
    rows = zip(*(images.column(name).tolist() for name in names), strict=True)
    return {
        "images": [dict(zip(names, row, strict=True)) for row in rows],
        "categories": [{"id": i, "name": name} for i, name in enumerate(tasks[0].classes, start=1)],
        "annotations": [
            {"id": i, "iscrowd": 0} | record for i, record in enumerate(_records(predictions, tasks), start=1)
        ],
    }


def _records(predictions: Predictions, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    names = ("image_id", "score", "box", "area", "query", "mask_quality")
    image_id, score, box, area, query, quality = (predictions.column(name).tolist() for name in names)
    rles, labels = predictions.rles(), {name: column.tolist() for name, column in predictions.labels.items()}
    logits, probabilities = predictions.logits, predictions.probability
    given = not all(_is_softmax(predictions, task.name) for task in tasks)
    for i in range(len(predictions)):
        record = {
            "image_id": image_id[i],
            "category_id": labels[tasks[0].name][i] + 1,
            "bbox": box[i],
            "score": score[i],
            "segmentation": rles[i],
            "area": area[i],
            "query": query[i],
            "mask_quality": quality[i],
            "labels": {task.name: task.classes[labels[task.name][i]] for task in tasks},
            "logits": {task.name: logits[task.name][i].tolist() for task in tasks},
        }
        if given:
            record["probabilities"] = {t.name: float(f"{probabilities[t.name][i]:.{DIGITS}g}") for t in tasks}
        yield record


def _is_softmax(predictions: Predictions, task: str) -> bool:
    labels = predictions.labels[task][:, None]
    own = np.take_along_axis(predictions.probabilities[task], labels, axis=1)[:, 0]
    return np.array_equal(own, predictions.probability[task])
