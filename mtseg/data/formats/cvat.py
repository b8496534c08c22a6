"""CVAT for images 1.1: .xml files, with the images beside them or in images/.

Objects are polygons, boxes and ellipses, also rotated, and masks; shapes of one group with equal labels form one
object, as in CVAT's COCO export. The label is the main class and the attributes are the further ones (see
mtseg/data/labels.py): checkboxes are `true` and `false`, and `__undefined__` means unlabelled. The split is that of the
image's subset, of the file's name, or of a folder. Lost: tags of images, the order in which shapes cover each other,
and `occluded`.
Format: cvat-ai/cvat, site/content/en/docs/dataset_management/formats/format-xml.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

import numpy as np

from mtseg.core.errors import quoted
from mtseg.core.masks import Segmentation
from mtseg.data.files import Files
from mtseg.data.formats._rasters import pasted, run_mask
from mtseg.data.formats._reading import Reading, refuse_shape
from mtseg.data.formats._xml import read_xml
from mtseg.data.labels import Vocabulary
from mtseg.data.polygons import ellipse, rectangle, turned
from mtseg.data.raw import BadRecord, RawData, RawImage, by, checked_polygon

UNDRAWN = ("label", "source", "occluded", "z_order", "group_id")  # keys of a shape that do not draw it


def recognises(files: Files) -> str | None:
    for name in files.ending(".xml"):
        with (files.folder / name).open("rb") as file:
            if b"<annotations" in file.read(4096).replace(b"\0", b""):  # without the zeros of UTF-16
                return name
    return None


def read(folder: Path, vocabulary: Vocabulary) -> RawData:
    """Read every .xml of a folder that has <annotations>."""
    reading = Reading(folder, vocabulary)
    for where, given in reading.splits.of_files(reading.files.ending(".xml")).items():

        def add_image(image: Element, where: str = where, given: str | None = given) -> None:
            named = f"{where}, image {image.get('name')}"
            with reading.data.refusing(named):
                _add_image(reading, named, PurePosixPath(where), image, given)

        def refuse_track(track: Element) -> None:
            raise BadRecord("broken xml", "is of the format 'CVAT for video': export it as 'CVAT for images 1.1'")

        with reading.data.refusing(where):
            read_xml(folder / where, {"image": add_image, "track": refuse_track})
    return reading.finished()


def _add_image(reading: Reading, where: str, path: PurePosixPath, image: Element, given: str | None) -> None:
    subset = image.get("subset") or ""
    below = (f"images/{subset}", "images", subset, ".")
    places = dict.fromkeys((root / place).as_posix() for root in (path.parent, PurePosixPath(".")) for place in below)
    file_name = reading.files.image(image.get("name"), list(places))
    reading.listed.add(file_name)
    size = reading.stated_size(image.get("height"), image.get("width"))
    split = reading.splits.of_name(subset) or given or reading.splits.of_folders(file_name)
    shapes, before = reading.shapes(file_name, size), len(reading.data.faults)
    for number, shape in enumerate(image, start=1):
        if shape.tag == "tag":
            reading.data.leave("tags of images")
            continue
        named = f"{where}, {shape.tag} {number}"
        with reading.data.refusing(named):
            group = shape.get("group_id")
            shapes.add(
                named,
                shape.tag,
                shape.get("label"),
                _outline(shape, shapes.size),
                attributes=_attributes(shape),
                group=None if group == "0" else group,
            )
    objects = shapes.objects()
    invalid = len(reading.data.faults) - before
    reading.data.images.append(RawImage(where, file_name, size, split, objects, invalid=invalid))


def _attributes(shape: Element) -> dict[str, str | None]:
    values: dict[str, str] = {}
    for item in shape.iter("attribute"):
        name, value = item.get("name", ""), (item.text or "").strip()
        if values.setdefault(name, value) != value:
            raise BadRecord("ambiguous label", f"has several values of {quoted(name)}: {values[name]}, {value}")
    return {name: None if value in ("", "__undefined__") else value for name, value in values.items()}


def _outline(shape: Element, size: Callable[[], tuple[int, int]]) -> Callable[[], Segmentation]:
    def outline() -> Segmentation:
        try:
            if shape.tag == "mask":
                return _mask(shape, size())
            return [checked_polygon(_polygon(shape))]
        except (KeyError, ValueError, OverflowError):
            given = {key: value for key, value in shape.attrib.items() if key not in UNDRAWN}
            raise BadRecord("geometry", f"the {shape.tag} has no valid coordinates: {quoted(given)}") from None

    return outline


def _polygon(shape: Element) -> list[float]:
    values = shape.attrib
    if shape.tag == "polygon":
        points = [point.split(",") for point in values["points"].split(";") if point.strip()]
        return [float(value) for x, y in points for value in (x, y)]
    angle = math.radians(float(values.get("rotation") or 0))
    if shape.tag == "box":
        left, top, right, bottom = (float(values[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        return turned(rectangle(left, top, right, bottom), (left + right) / 2, (top + bottom) / 2, angle)
    if shape.tag == "ellipse":
        return ellipse(*(float(values[name]) for name in ("cx", "cy", "rx", "ry")), angle)
    count = len(values["points"].split(";")) if "points" in values else 0
    raise refuse_shape(shape.tag, count, "a polygon, box, ellipse or mask")


def _mask(shape: Element, size: tuple[int, int]) -> Segmentation:
    """Run lengths, row by row and inside the mask's box; the first is of zeros."""
    left, top, width, height = (int(float(shape.attrib[name])) for name in ("left", "top", "width", "height"))
    if width > size[1] or height > size[0]:
        raise BadRecord("geometry", f"a mask of {width} x {height} pixels, the image is {by(size)}")
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    return pasted(run_mask(runs, height, width).astype(np.uint8), left, top, size)
