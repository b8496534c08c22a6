"""Predictions image by image, and the names that a format can carry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mtseg.core.errors import UserError
from mtseg.core.masks import Box
from mtseg.core.params import Task
from mtseg.core.tables import DIGITS, Image, Images, Predictions

CONTROL = r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]"  # characters that XML cannot carry, or not in one line


@dataclass(frozen=True, slots=True)
class Object:
    """One prediction. labels: class name of each task. probabilities: of these labels; see `Predictions`. box: x, y,
    width, height in pixels. rle: the mask at the image's size, compressed. note: for the person who corrects it, of the
    column `note`, which predictions may have."""

    labels: dict[str, str]
    probabilities: dict[str, float]
    score: float
    box: Box
    rle: dict[str, Any]
    note: str | None = None


def by_image(images: Images, predictions: Predictions, tasks: Sequence[Task]) -> Iterator[tuple[Image, list[Object]]]:
    """Every image, in order, with its predictions in theirs."""
    rows = images.rows(predictions.image_id)
    assert (rows >= 0).all(), "a prediction is of an image that is not there"
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(len(images) + 1))
    score, box, rles = predictions.score.tolist(), predictions.box.tolist(), predictions.rles()
    labels = {task.name: predictions.labels[task.name].tolist() for task in tasks}
    probabilities = {task.name: predictions.probability[task.name].tolist() for task in tasks}
    notes = predictions.note.tolist() if "note" in predictions.names else [None] * len(predictions)
    for row, image in enumerate(images):
        yield (
            image,
            [
                Object(
                    {task.name: task.classes[labels[task.name][i]] for task in tasks},
                    {task.name: float(f"{probabilities[task.name][i]:.{DIGITS}g}") for task in tasks},
                    score[i],
                    tuple(box[i]),
                    rles[i],
                    notes[i],
                )
                for i in order[starts[row] : starts[row + 1]].tolist()
            ],
        )


def check_classes(tasks: Sequence[Task], forbidden: str, format: str) -> None:
    """Raise UserError for class names in which the regular expression `forbidden` is found."""
    for task in tasks:
        for name in task.classes:
            if found := re.search(forbidden, name):
                raise UserError(
                    f"class {name!r} of task '{task.name}' cannot be written as {format}, which takes no "
                    f"{found[0]!r} in a name: rename the class, or choose another format"
                )


def annotation_files(names: Sequence[str], suffix: str, format: str) -> list[PurePosixPath]:
    """For each image the path of its own annotation file: the image's, with another suffix. Raises UserError where two
    images would share a file, and for a path that is not below the folder of images."""
    files: dict[PurePosixPath, str] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"image {name!r} cannot be written as {format}: its path must be relative, without '..'")
        file = path.with_name(re.sub(r"\.[A-Za-z0-9]+$", "", path.name) + suffix)  # the suffix of `a.mp4#7` stays
        if file in files:
            raise UserError(
                f"images {files[file]!r} and {name!r} would share the {format} file {str(file)!r}: rename one of them"
            )
        files[file] = name
    return list(files)
