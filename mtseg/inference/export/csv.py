"""Predictions as CSV, a row each, for other tools: the label of each task and its probability, no logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mtseg.core.files import write_table
from mtseg.core.params import Task
from mtseg.core.tables import DECIMALS, Images, Predictions


def write(path: Path, predictions: Predictions, images: Images, tasks: Sequence[Task]) -> None:
    write_table(path, frame(predictions, images, tasks))


def frame(predictions: Predictions, images: Images, tasks: Sequence[Task]) -> pd.DataFrame:
    columns = {
        "file_name": images.file_name[images.rows(predictions.image_id)],
        "image_id": predictions.image_id,
        "query": predictions.query,
        "score": predictions.score,
        **dict(zip(("x", "y", "width", "height"), predictions.box.T, strict=True)),
        "area": predictions.area,
    }
    for task in tasks:
        columns[task.name] = np.array(task.classes, dtype=object)[predictions.labels[task.name]]
        columns[f"{task.name}_probability"] = predictions.probability[task.name].round(DECIMALS)
    return pd.DataFrame(columns | {"rle": predictions.rle})
