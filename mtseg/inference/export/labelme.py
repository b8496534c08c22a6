"""Predictions as LabelMe annotations: a .json for each image, in the folders of the images, also for empty ones.

Copied into the folder of images, they open in LabelMe and X-AnyLabeling, and `data.format: labelme` reads them. The
label is `class,class,...` in the order of the tasks, so that a class name cannot have a comma. An object of several
parts is several polygons with one `group_id`; holes are cut out along a slit. `description` has the note,
or else the score.

Lost: details of the mask below a pixel or so (see `mtseg.core.masks.polygons`), probabilities, and the mask quality.
Format: wkentaro/labelme, labelme/_label_file.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mtseg.core.files import replace_folder, write_json
from mtseg.core.masks import polygons
from mtseg.core.params import Task
from mtseg.core.tables import Image, Images, Predictions
from mtseg.inference.export._objects import Object, annotation_files, by_image, check_classes

NAME_IN_FOLDER = "labelme"
VERSION = "5.5.0"  # of LabelMe, whose format this is


def check(names: Sequence[str], tasks: Sequence[Task]) -> list[PurePosixPath]:
    check_classes(tasks, r",|^\s|\s$", "LabelMe")
    return annotation_files(names, ".json", "LabelMe")


def write(path: Path, images: Images, predictions: Predictions, tasks: Sequence[Task]) -> None:
    files = check(images.file_name.tolist(), tasks)
    with replace_folder(path) as folder:
        for file, (image, objects) in zip(files, by_image(images, predictions, tasks), strict=True):
            write_json(folder / file, _annotation(image, objects))


def _annotation(image: Image, objects: Sequence[Object]) -> dict[str, Any]:
    shapes = []
    for number, one in enumerate(objects, start=1):
        parts = polygons(one.rle)
        for part in parts:
            shapes.append(
                {
                    "label": ",".join(one.labels.values()),
                    "points": [part[i : i + 2] for i in range(0, len(part), 2)],
                    "group_id": number if len(parts) > 1 else None,
                    "description": one.note or f"score {one.score}",
                    "shape_type": "polygon",
                    "flags": {},
                    "mask": None,
                }
            )
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": PurePosixPath(image.file_name).name,
        "imageData": None,
        "imageHeight": image.height,
        "imageWidth": image.width,
    }
