"""Predictions as CSV, a row each: the label of each task and its probability, and the mask as compressed COCO RLE.

Lost: logits, the probabilities of other classes, the mask quality, and images without predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """A task whose name is that of another column has the column `TASK_label`."""
    columns = {
        "file_name": images.file_name[images.rows(predictions.image_id)],
        "image_id": predictions.image_id,
        "query": predictions.query,
        "score": predictions.score,
        **dict(zip(("x", "y", "width", "height"), predictions.box.T, strict=True)),
        "area": predictions.area,
    }
    for task in tasks:
        name = f"{task.name}_label" if task.name in {*columns, "rle"} else task.name
        columns[name] = np.array(task.classes, dtype=object)[predictions.labels[task.name]]
        columns[f"{task.name}_probability"] = predictions.probability[task.name].round(DECIMALS)
    return pd.DataFrame(columns | {"rle": predictions.rle})
