"""What the writers of predictions write is read back as raw data, and recognised."""

import importlib

import numpy as np
import PIL.Image
import pytest

from mtseg.core.masks import rle
from mtseg.data import formats
from mtseg.data.labels import Vocabulary
from mtseg.inference import export
from tests.inference.test_export_annotations import (  # fixtures and what they need
    HEIGHT,
    NAMES,
    WIDTH,
    check,
    images,
    predictions,
    tasks,
)

__all__ = ["images", "predictions", "tasks"]

# format: folder that the images must be in, relative to the folder of outputs; whether masks are exact
WRITTEN = {
    "labelme": ("labelme", False),
    "coco": ("images", True),
    "cvat": ("images", True),
    "label-studio": ("label-studio/images", True),
    "yolo": ("yolo/images", False),
}


@pytest.mark.parametrize("format", WRITTEN)
def test_written_predictions_are_recognised_and_read_back(tmp_path, format, images, predictions, tasks):
    place, exact = WRITTEN[format]
    export.write(format, tmp_path, images, predictions, tasks)
    for name in NAMES:
        path = tmp_path / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    if format == "yolo":  # has the main task only
        tasks = tasks[:1]
    module = format.replace("-", "_")
    assert formats.recognise(tmp_path)[0] == module
    vocabulary = Vocabulary({task.name: task.classes for task in tasks})
    raw = importlib.import_module(f"mtseg.data.formats.{module}").read(tmp_path, vocabulary)
    assert not raw.faults and not raw.unused
    read = {image.file_name.removeprefix(f"{place}/"): image for image in raw.images}
    assert sorted(read) == sorted(NAMES) and not read[NAMES[0]].objects
    assert {image.size for image in raw.images} <= {(HEIGHT, WIDTH), None}
    found = [one for name in NAMES for one in read[name].objects]
    check([(rle(one.segmentation, HEIGHT, WIDTH), one.labels) for one in found], predictions, tasks, exact)
    assert np.array_equal([len(read[name].objects) for name in NAMES], [0, len(found) // 2, len(found) // 2])
