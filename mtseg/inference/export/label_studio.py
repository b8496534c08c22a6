"""Predictions as pre-annotations of Label Studio: tasks.json to import, and config.xml, the labelling interface for it.

An object is one brush region, exact, holes and parts included, labelled by the main task; a choice for each further
task belongs to the region (`perRegion`). A region has its `score`, a task the mean of its regions', which Label Studio
can sort tasks by. Images are at `/data/local-files/?d=FILE`, where Label Studio serves local storage: FILE is relative
to its document root, so make that the folder of images, or put the folder's URL in place of this prefix.

Lost: probabilities, and the mask quality.
Formats: labelstud.io/guide/predictions; the RLE is that of thi.ng/rle-pack, of RGBA pixels, as in
HumanSignal/label-studio-converter, label_studio_converter/brush.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from mtseg.core.files import replace_folder, write_json_array
from mtseg.core.masks import mask
from mtseg.core.params import Task
from mtseg.core.tables import DECIMALS, Image, Images, Predictions
from mtseg.inference.export._objects import CONTROL, Object, by_image, check_classes
from mtseg.inference.export._xml import write_xml

NAME_IN_FOLDER = "label-studio"
PREFIX = "/data/local-files/?d="
IMAGE = "the-image"  # name of the tag; no task is called so, as it has a hyphen
SIZES = (3, 4, 8, 16)  # bits of a run's length, as Label Studio's own converter has them


def check(names: Sequence[str], tasks: Sequence[Task]) -> None:
    check_classes(tasks, CONTROL, "Label Studio's XML")


def write(path: Path, images: Images, predictions: Predictions, tasks: Sequence[Task]) -> None:
    check((), tasks)
    with replace_folder(path) as folder:
        write_xml(folder / "config.xml", _config(tasks))
        found = by_image(images, predictions, tasks)
        write_json_array(folder / "tasks.json", (_task(image, objects, tasks) for image, objects in found))


def _config(tasks: Sequence[Task]) -> Element:
    main, *further = tasks
    view = Element("View")
    SubElement(view, "Image", name=IMAGE, value="$image", zoom="true")
    labels = SubElement(view, "BrushLabels", name=main.name, toName=IMAGE)
    for label in main.classes:
        SubElement(labels, "Label", value=label)
    for task in further:
        SubElement(view, "Header", value=task.name)
        choices = SubElement(view, "Choices", name=task.name, toName=IMAGE, perRegion="true", choice="single")
        for label in task.classes:
            SubElement(choices, "Choice", value=label)
    return view


def _task(image: Image, objects: Sequence[Object], tasks: Sequence[Task]) -> dict[str, Any]:
    results = [result for number, one in enumerate(objects) for result in _results(image, number, one, tasks)]
    prediction: dict[str, Any] = {"model_version": "mtseg", "result": results}
    if objects:
        prediction["score"] = round(sum(one.score for one in objects) / len(objects), DECIMALS)
    return {"data": {"image": PREFIX + quote(image.file_name)}, "predictions": [prediction]}


def _results(image: Image, number: int, one: Object, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    """The region, then its choices, which have the same id."""
    main, *further = tasks
    shared = {
        "id": f"object-{number}",
        "to_name": IMAGE,
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "score": one.score,
    }
    brush = {"format": "rle", "rle": _pack(one.rle), "brushlabels": [one.labels[main.name]]}
    region = shared | {"from_name": main.name, "type": "brushlabels", "value": brush}
    yield region | ({"meta": {"text": [one.note]}} if one.note else {})
    for task in further:
        yield shared | {"from_name": task.name, "type": "choices", "value": {"choices": [one.labels[task.name]]}}


def _pack(rle: dict[str, Any]) -> list[int]:
    """The bytes of a mask: number of values (32 bits), bits of a value - 1 (5), four sizes - 1 (4 each), and runs: a
    1, which size (2), length - 1 (of that size), value (8). Values are RGBA, four for each pixel, row by row."""
    values = mask(rle, *rle["size"]).ravel()
    edges = np.flatnonzero(np.diff(values)) + 1
    lengths = 4 * np.diff([0, *edges, values.size])
    bits = [f"{4 * values.size:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for length, value in zip(lengths.tolist(), values[[0, *edges]].tolist(), strict=True):
        while length:
            run = min(length, 1 << SIZES[-1])
            which = next(i for i, size in enumerate(SIZES) if run <= 1 << size)
            bits.append(f"1{which:02b}{run - 1:0{SIZES[which]}b}{255 * value:08b}")
            length -= run
    text = "".join(bits)
    return list(int(text + "0" * (-len(text) % 8), 2).to_bytes(-(-len(text) // 8)))
