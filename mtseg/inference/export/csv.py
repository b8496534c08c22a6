"""Predictions as CSV, a row each: the label of each task and its probability, and the mask as compressed COCO RLE.

Lost: logits, the probabilities of other classes, the mask quality, and images without predictions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mtseg.core.files import write_table
from mtseg.core.params import Task
from mtseg.core.tables import DECIMALS, Images, Predictions

NAME_IN_FOLDER = "predictions.csv"


def write(path: Path, images: Images, predictions: Predictions, tasks: Sequence[Task]) -> None:
    write_table(path, frame(images, predictions, tasks))


def frame(images: Images, predictions: Predictions, tasks: Sequence[Task]) -> pd.DataFrame:
    """Columns of a task are named by `task_names`."""
    columns = {
        "file_name": images.file_name[images.rows(predictions.image_id)],
        "image_id": predictions.image_id,
        "query": predictions.query,
        "score": predictions.score,
        **dict(zip(("x", "y", "width", "height"), predictions.box.T, strict=True)),
        "area": predictions.area,
    }
    for task, (label, probability) in zip(tasks, task_names(tasks, {*columns, "rle"}), strict=True):
        columns[label] = np.array(task.classes, dtype=object)[predictions.labels[task.name]]
        columns[probability] = predictions.probability[task.name].round(DECIMALS)
    return pd.DataFrame(columns | {"rle": predictions.rle})


def task_names(tasks: Sequence[Task], others: Iterable[str]) -> list[tuple[str, str]]:
    """Names for the label and the probability of each task: TASK and TASK_probability, or, where one of these is also
    another's, labels.TASK and probability.TASK as in Parquet. No task has a dot in its name, so that all are distinct.
    """
    plain = [(task.name, f"{task.name}_probability") for task in tasks]
    count = Counter([*others, *(name for names in plain for name in names)])
    return [
        names if count[names[0]] == count[names[1]] == 1 else (f"labels.{task.name}", f"probability.{task.name}")
        for task, names in zip(tasks, plain, strict=True)
    ]
