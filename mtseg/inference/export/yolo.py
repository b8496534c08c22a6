"""Predictions as a data set of YOLO segmentation: data.yaml, labels/*.txt, and objects.csv beside them.

A label file has a line for each object: the class of the main task, counted from 0, and one polygon, x and y divided by
the image's width and height; an empty image has an empty file. Put the images at images/, with the paths that they
have, and train and val are both all of them, until you split them.

YOLO knows one task and one polygon for an object. Parts of an object and its holes are therefore joined by slits, as
Ultralytics' converter of COCO does. Lost for YOLO: all further tasks and the score. They are in objects.csv: label
file, line (from 1), score, and of each task `labels.TASK` and `probability.TASK`. Lost altogether: details of the mask
below a pixel or so (see `mtseg.core.masks.polygons`), and the mask quality. Ultralytics removes lines that are equal,
and fills also the pixels that an outline or a slit runs through, so that its masks are up to a pixel larger.

Format: docs.ultralytics.com/datasets/segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from mtseg.core.files import replace_folder, write_table
from mtseg.core.masks import joined, polygons
from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions
from mtseg.inference.export._objects import Object, annotation_files, by_image

NAME_IN_FOLDER = "yolo"
DECIMALS = 6  # of coordinates, relative to the image


def check(names: Sequence[str], tasks: Sequence[Task]) -> list[PurePosixPath]:
    return annotation_files(names, ".txt", "YOLO")


def write(path: Path, images: Images, predictions: Predictions, tasks: Sequence[Task]) -> None:
    files = check(images.file_name.tolist(), tasks)
    rows: list[dict[str, Any]] = []
    with replace_folder(path) as folder:
        (folder / "labels").mkdir()
        for file, (_, objects) in zip(files, by_image(images, predictions, tasks), strict=True):
            lines = []
            for one in objects:
                if line := _line(one, tasks[0]):
                    lines.append(line)
                    rows.append({"label_file": f"labels/{file}", "line": len(lines)} | _columns(one))
            target = folder / "labels" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes("".join(f"{line}\n" for line in lines).encode())
        columns = [f"{kind}.{task.name}" for task in tasks for kind in ("labels", "probability")]
        write_table(folder / "objects.csv", rows, ["label_file", "line", "score", *columns])
        data = {"train": "images", "val": "images", "names": dict(enumerate(tasks[0].classes))}
        with (folder / "data.yaml").open("w", encoding="utf-8", newline="\n") as file:
            YAML().dump(data, file)


def _line(one: Object, main: Task) -> str:
    """Empty for an empty mask."""
    parts = polygons(one.rle)
    if not parts:
        return ""
    height, width = one.rle["size"]
    sides = (width, height)
    points = (f"{value / sides[i % 2]:.{DECIMALS}f}" for i, value in enumerate(joined(parts)))
    return " ".join([str(main.index(one.labels[main.name])), *points])


def _columns(one: Object) -> dict[str, Any]:
    labels = {f"labels.{task}": name for task, name in one.labels.items()}
    return {"score": one.score} | labels | {f"probability.{task}": p for task, p in one.probabilities.items()}
