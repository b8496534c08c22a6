"""LabelMe and X-AnyLabeling: one .json next to each image, in folders of any depth.

Shapes are polygons, rectangles (also rotated), circles and masks; shapes with equal labels and `group_id` form one
object, the union of them. Labels are read from `label`, `attributes` and `flags` (see mtseg/data/labels.py);
`difficult` is an attribute, true or false. The image is the one with the name of the .json, otherwise the one that
`imagePath` names. An image with an empty list of shapes has no object; an image without a .json is not used. Lost:
descriptions, scores, and shapes that are no outline.
Format: wkentaro/labelme, labelme/_label_file.py; CVHub520/X-AnyLabeling, docs/en/user_guide.md.
"""

from __future__ import annotations

import base64
import filecmp
import io
import math
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mtseg.core.errors import quoted
from mtseg.core.masks import Segmentation
from mtseg.data import duplicates
from mtseg.data.files import Files
from mtseg.data.formats._rasters import pasted
from mtseg.data.formats._reading import Reading, Shapes, is_no_group, json_with, refuse_shape
from mtseg.data.images import DECODE_ERRORS, MOST_PIXELS, open_lazily, pillow
from mtseg.data.labels import Vocabulary
from mtseg.data.polygons import ellipse, rectangle
from mtseg.data.raw import (
    BadRecord,
    RawData,
    RawImage,
    RawObject,
    by,
    checked_polygon,
    items,
    no_object,
    read_value,
    whole,
)

BOXES = ("rectangle", "rotation", "oriented_rectangle", "quadrilateral")  # with four corners


def recognises(files: Files) -> str | None:
    return json_with(files, r'\{.*"shapes"\s*:')


def read(folder: Path, vocabulary: Vocabulary) -> RawData:
    """Read every .json under a folder."""
    reading = Reading(folder, vocabulary)
    data, files = reading.data, reading.files
    groups: set[str] = set()
    most = int(vocabulary.max_megapixels * 1e6)
    joined = 0  # images whose shapes are fewer objects
    for where in files.ending(".json"):
        with data.refusing(where):
            raw = read_value(folder / where)
            keys = {*raw} if isinstance(raw, dict) else set()
            if not {"shapes", "imagePath", "imageData"} & keys and not files.image_of_stem(where[: -len(".json")]):
                data.unused_files.append(where)
                continue
            if not isinstance(raw, dict):
                raise no_object(raw)
            shapes = items(raw, "shapes")
            image = _image(files, where, raw)
            reading.listed.add(image)
            size = reading.stated_size(raw.get("imageHeight"), raw.get("imageWidth"))
            found, before = reading.shapes(image, size), len(data.faults)
            for number, shape in enumerate(shapes, start=1):
                with data.refusing(f"{where}, shape {number}"):
                    _add_shape(found, f"{where}, shape {number}", shape)
            split = _split(reading, raw, where, image)
            objects = found.objects()
            groups |= {str(whole(shape.get("group_id"))) for shape in shapes}
            joined += len(shapes) > len(objects)
            stated, shown = _other_name(files, where, raw, image), _embedded(folder / image, raw.get("imageData"), most)
            data.images.append(RawImage(where, image, size, split, objects, stated, len(data.faults) - before, shown))
    if joined > 1 and len(groups) == 1 and not is_no_group(group := groups.pop()):
        text = f"images with several shapes in one object, as all shapes of the data have the group_id {group}"
        data.warn(f"{text} (if they are objects of their own: empty it)", joined)
    return reading.finished("images without a valid .json")


def _split(reading: Reading, raw: dict[str, Any], where: str, image: str) -> str | None:
    """By the folders, else by keys beside the shapes."""
    of_folders = reading.splits.of_folders
    return of_folders(where) or of_folders(image) or reading.splits.of_record(raw, reading.data)


def _other_name(files: Files, where: str, raw: dict[str, Any], image: str) -> str | None:
    """`imagePath`, if there is an image of its name that is not `image`, nor a copy of it."""
    name, stated = _file_name(raw), str(raw.get("imagePath") or "").replace("\\", "/")
    if name != PurePosixPath(image).name:
        return name if name in files.image_names else None
    path = os.path.normpath(PurePosixPath(where).parent / stated).replace(os.sep, "/")
    if path == image or path not in files.images:
        return None
    try:
        copied = filecmp.cmp(files.folder / path, files.folder / image, shallow=False)
    except OSError:  # a file that cannot be read is reported when it is
        return None
    return None if copied else stated


def _embedded(path: Path, data: Any, most: int) -> tuple[tuple[int, int], np.ndarray] | None:
    """Height and width, and the thumbnail, of the image in `imageData`, if it is not the file's bytes. Data that are no
    image, or one of more than `most` pixels, are not compared."""
    try:
        content = base64.b64decode(data or "")
        if not content or content == path.read_bytes():
            return None
        with open_lazily(io.BytesIO(content), most) as opened:
            return duplicates.upright(opened)
    except DECODE_ERRORS:
        return None


def _file_name(raw: dict[str, Any]) -> str:
    """The last part of `imagePath`, which Windows writes with backslashes."""
    return str(raw.get("imagePath") or "").replace("\\", "/").rpartition("/")[2]


def _image(files: Files, where: str, raw: dict[str, Any]) -> str:
    """The image of an annotation file: of the same name beside it, or `imagePath`, relative to it or to images/, also
    of labels/train/ to images/train/."""
    own = files.image_of_stem(where[: -len(".json")], _file_name(raw))
    if own:
        return own
    beside = PurePosixPath(where).parent
    parallel = [PurePosixPath(*beside.parts[:n], "images", *beside.parts[n + 1 :]) for n in range(len(beside.parts))]
    try:
        return files.image(raw.get("imagePath") or "", [*map(str, (beside, *reversed(parallel), "images" / beside))])
    except BadRecord as missing:
        if not raw.get("imageData"):
            unread = [name for name in files.beside(where) if name != where]
            known = not unread or unread[0] in str(missing)
            hint = "" if known else f"; Pillow does not read {unread[0]}: convert it to PNG or JPEG"
            raise BadRecord("missing image", f"{missing}, and no image with the name of this file{hint}") from None
    advice = f"write it beside this file with `python -m mtseg.data.embedded {files.folder}`"
    raise BadRecord("embedded image", f"the image is embedded in this file (imageData) and not a file: {advice}")


def _add_shape(shapes: Shapes, where: str, shape: dict[str, Any]) -> None:
    kind = shape.get("shape_type") or "polygon"
    attributes = shape.get("attributes")
    if "difficult" in shape:
        attributes = {"difficult": shape["difficult"]} | (attributes if isinstance(attributes, dict) else {})

    def outline() -> Segmentation:
        if kind == "mask":
            return _mask(shape, shapes.size())
        return [_polygon(kind, _points(shape))]

    shapes.add(
        where,
        kind,
        shape.get("label"),
        outline,
        attributes=attributes,
        flags=shape.get("flags"),
        group=shape.get("group_id"),
    )


def first_shape(item: RawObject) -> int:
    """The place, from 0, of an object's first shape in the file that `read` took it from."""
    return int(item.where.rpartition(", shape ")[2]) - 1


def _points(shape: dict[str, Any]) -> list[tuple[float, float]]:
    try:
        return [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise BadRecord("geometry", f"points are {quoted(shape.get('points'))}, expected [[x, y], ...]") from None


def _polygon(kind: str, points: list[tuple[float, float]]) -> list[float]:
    """[x0, y0, x1, y1, ...] of a polygon, a rectangle (2 or 4 corners) or a circle (centre, a point on it)."""
    if kind == "rectangle" and len(points) == 2:
        return checked_polygon(rectangle(*points[0], *points[1]).ravel().tolist())
    if kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        return checked_polygon(ellipse(*points[0], radius, radius))
    if kind != "polygon" and (kind not in BOXES or len(points) != 4):
        raise refuse_shape(kind, len(points), "a polygon, rectangle (also rotated), circle or mask")
    return checked_polygon([value for point in points for value in point])


def _mask(shape: dict[str, Any], size: tuple[int, int]) -> Segmentation:
    """RLE of a mask: a PNG in base64 and the centres of its first and last pixel."""
    points = _points(shape)
    try:
        content = base64.b64decode(shape.get("mask") or "", validate=True)
        drawn = open_lazily(io.BytesIO(content), MOST_PIXELS)
        if drawn.width * drawn.height > math.prod(size):
            message = f"the mask has {drawn.width} x {drawn.height} pixels, the image {by(size)}"
            raise BadRecord("geometry", message)
        with pillow():
            drawn.load()
        pixels = np.array(drawn.convert("L")) > 0
    except DECODE_ERRORS:
        raise BadRecord("geometry", "`mask` is not a PNG in base64") from None
    if len(points) != 2 or not all(math.isfinite(value) for point in points for value in point):
        raise BadRecord("geometry", f"a mask with {len(points)} points, expected 2 corners")
    left, top = (round(min(values)) for values in zip(*points, strict=True))
    right, bottom = (round(max(values)) for values in zip(*points, strict=True))
    height, width = pixels.shape
    if not (right - left <= width <= right - left + 1 and bottom - top <= height <= bottom - top + 1):
        span = f"{right - left + 1} x {bottom - top + 1}"
        raise BadRecord("geometry", f"the mask has {width} x {height} pixels, its corners span {span}")
    return pasted(pixels, left, top, size)
