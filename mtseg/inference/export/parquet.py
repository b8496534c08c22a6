"""Predictions as a Parquet table, a row each: all columns of `mtseg.core.tables.Predictions`, and `file_name`.

Labels are class names, columns of a task are named `labels.TASK`, `probability.TASK` and so on. `Predictions.read`
reads it back. Lost: images without predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions

NAME_IN_FOLDER = "predictions.parquet"


def write(path: Path, images: Images, predictions: Predictions, tasks: Sequence[Task]) -> None:
    predictions.replace(file_name=images.file_name[images.rows(predictions.image_id)]).write(path, tasks)
