"""Predictions as JSON Lines: one object for each image, to be read line by line.

    {"file_name", "height", "width", "predictions": [{"labels": {task: class}, "probabilities": {task: of that label},
     "score", "box": [x, y, width, height], "polygons": [[x0, y0, ...], ...], "rle": {"size", "counts"}}, ...]}

Boxes and polygons are in pixels; `rle` is the exact mask as compressed COCO RLE, the polygons are simplified (see
`mtseg.core.masks.polygons`). Lost: logits, the probabilities of other classes, and the mask quality.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mtseg.core.files import replace_file
from mtseg.core.masks import polygons
from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions
from mtseg.inference.export._objects import by_image

NAME_IN_FOLDER = "predictions.jsonl"


def write(path: Path, images: Images, predictions: Predictions, tasks: Sequence[Task]) -> None:
    encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for image, objects in by_image(images, predictions, tasks):
            found = [asdict(one) | {"polygons": polygons(one.rle)} for one in objects]
            for one in found:
                del one["note"]  # for a person who corrects
            record = {"file_name": image.file_name, "height": image.height, "width": image.width, "predictions": found}
            file.write(encode(record) + "\n")
