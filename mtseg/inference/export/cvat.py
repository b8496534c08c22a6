"""Predictions as `CVAT for images 1.1`: one XML file with a mask for each object, and an attribute for each further
task. The labels and their attributes, to create the CVAT task with, are in <meta>.

Each mask is exact, holes and parts included, and one object is one shape; CVAT edits it with its brush and polygon
tools. Images are found by name, so that the names in the CVAT task must be the paths relative to the folder of images.

Lost: score and probabilities, for which the format has no place, and the mask quality.
Format: cvat-ai/cvat, site/content/en/docs/dataset_management/formats/format-xml.md; the RLE as its importer in
cvat/apps/dataset_manager/formats/cvat.py reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from mtseg.core.masks import mask
from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions
from mtseg.inference.export._objects import CONTROL, Object, by_image, check_classes
from mtseg.inference.export._xml import write_xml

NAME_IN_FOLDER = "predictions.cvat.xml"
NOTE = "note"  # attribute of every label, if predictions have notes


def check(names: Sequence[str], tasks: Sequence[Task]) -> None:
    check_classes(tasks, CONTROL, "CVAT's XML")


def write(path: Path, images: Images, predictions: Predictions, tasks: Sequence[Task]) -> None:
    check((), tasks)
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    noted = "note" in predictions.names
    _describe(SubElement(SubElement(root, "meta"), "task"), len(images), tasks, noted)
    found = sorted(by_image(images, predictions, tasks), key=lambda pair: pair[0].file_name)
    for number, (image, objects) in enumerate(found):  # the id is the place in the order of the names
        attributes = {"id": number, "name": image.file_name, "width": image.width, "height": image.height}
        element = SubElement(root, "image", _texts(attributes))
        for one in objects:
            _add_mask(element, one, tasks, noted)
    write_xml(path, root)


def _describe(task: Element, size: int, tasks: Sequence[Task], noted: bool) -> None:
    main, *further = tasks
    for name, text in (("name", "predictions"), ("size", str(size)), ("mode", "annotation")):
        SubElement(task, name).text = text
    labels = SubElement(task, "labels")
    for label in main.classes:
        element = SubElement(labels, "label")
        SubElement(element, "name").text = label
        SubElement(element, "type").text = "any"
        attributes = SubElement(element, "attributes")
        for one in further:
            attribute = SubElement(attributes, "attribute")
            SubElement(attribute, "name").text = one.name
            SubElement(attribute, "mutable").text = "False"
            SubElement(attribute, "input_type").text = "select"
            SubElement(attribute, "default_value").text = one.classes[0]
            SubElement(attribute, "values").text = "\n".join(one.classes)
        if noted:
            attribute = SubElement(attributes, "attribute")
            for name, text in (("name", NOTE), ("mutable", "False"), ("input_type", "text")):
                SubElement(attribute, name).text = text
            SubElement(attribute, "default_value")
            SubElement(attribute, "values")


def _add_mask(image: Element, one: Object, tasks: Sequence[Task], noted: bool) -> None:
    main, *further = tasks
    x, y, width, height = (int(side) for side in one.box)
    pixels = mask(one.rle, *one.rle["size"])[y : y + height, x : x + width].ravel()
    edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()  # the first run is of zeros
    runs = np.diff([0, *edges, pixels.size]).tolist()
    attributes = {"label": one.labels[main.name], "source": "auto", "occluded": 0, "rle": ", ".join(map(str, runs))}
    attributes |= {"left": x, "top": y, "width": width, "height": height, "z_order": 0}
    element = SubElement(image, "mask", _texts(attributes))
    for task in further:
        SubElement(element, "attribute", {"name": task.name}).text = one.labels[task.name]
    if noted:
        SubElement(element, "attribute", {"name": NOTE}).text = one.note or ""


def _texts(attributes: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in attributes.items()}
