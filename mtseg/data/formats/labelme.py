"""LabelMe and X-AnyLabeling: one .json next to each image, in folders of any depth.

Shapes are polygons, rectangles or circles; shapes with equal labels and `group_id` form one object. Labels are read
from `label`, `attributes` and `flags` (see mtseg/data/labels.py). If both train/ and val/ exist, they are the split. An
image with an empty list of shapes has no object; an image without a .json is not used.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath
from typing import Any

from mtseg.data.labels import Vocabulary
from mtseg.data.raw import (
    SUFFIXES,
    BadRecord,
    RawData,
    RawImage,
    RawObject,
    checked_polygon,
    items,
    read_record,
    stated_size,
)

SPLITS = {"train", "val"}
CIRCLE = 72  # corners of the polygon that approximates a circle


def read(folder: Path, vocabulary: Vocabulary) -> RawData:
    """Read every .json under a folder."""
    data = RawData()
    files = _files(folder)
    given = {path.name for path in folder.iterdir() if path.is_dir()} >= SPLITS
    images = {path.relative_to(folder).as_posix() for path in files if path.suffix.lower() in SUFFIXES}
    stems = {os.path.splitext(name)[0]: name for name in sorted(images)}
    annotated = set()
    for path in files:
        if path.suffix.lower() != ".json":
            continue
        where = path.relative_to(folder)
        if given and where.parts[0] not in SPLITS:
            data.leave(".json files outside train/ and val/")
            continue
        with data.refusing(where.as_posix()):
            raw = read_record(path)
            shapes = items(raw, "shapes")
            image = _image(where, raw.get("imagePath"), images, stems)
            annotated.add(image)
            size = stated_size(raw.get("imageHeight"), raw.get("imageWidth"))
            split = where.parts[0] if given else None
            objects = _objects(data, where.as_posix(), shapes, vocabulary)
            data.images.append(RawImage(where.as_posix(), image, size, split, objects))
    if bare := sum(not given or name.split("/")[0] in SPLITS for name in images - annotated):
        data.leave("images without a .json", bare)
    return data


def _files(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, also linked ones, except hidden files."""
    found = []
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(path, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _image(where: Path, stated: Any, images: set[str], stems: dict[str, str]) -> str:
    """The image of an annotation file: `imagePath`, or an image next to it with that name or the file's name."""
    named = str(stated or "").replace("\\", "/")
    own = stems.get(where.with_suffix("").as_posix(), "")
    for name in (where.parent / named, where.parent / PurePosixPath(named).name, own):
        if (tried := os.path.normpath(name).replace(os.sep, "/")) in images:
            return tried
    raise BadRecord("missing image", f"there is no image {named!r} and no image with the name of this file")


def _objects(data: RawData, where: str, shapes: list[dict[str, Any]], vocabulary: Vocabulary) -> tuple[RawObject, ...]:
    objects: dict[Any, RawObject] = {}
    for number, shape in enumerate(shapes, start=1):
        with data.refusing(f"{where}, shape {number}"):
            labels = vocabulary.labels(shape.get("label"), shape.get("attributes"), shape.get("flags"))
            if labels is None:
                data.leave("objects that data.mapping leaves out")
                continue
            polygon = _polygon(shape)
            group = shape.get("group_id")
            key = ("alone", number) if group is None else (str(group), *labels.values())
            if key in objects:
                objects[key].segmentation.append(polygon)
            else:
                objects[key] = RawObject(f"{where}, shape {number}", labels, [polygon])
    return tuple(objects.values())


def first_shape(item: RawObject) -> int:
    """The place, from 0, of an object's first shape in the file that `read` took it from."""
    return int(item.where.rpartition(", shape ")[2]) - 1


def _polygon(shape: dict[str, Any]) -> list[float]:
    """[x0, y0, x1, y1, ...] of a polygon, a rectangle (2 or 4 corners) or a circle (centre, a point on it)."""
    kind = shape.get("shape_type", "polygon")
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise BadRecord("geometry", f"points are {str(shape.get('points'))[:60]}, expected [[x, y], ...]") from None
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    elif kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        turns = [2 * math.pi * step / CIRCLE for step in range(CIRCLE)]
        points = [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]
    elif kind not in ("polygon", "rectangle") or (kind == "rectangle" and len(points) != 4):
        raise BadRecord("geometry", f"a {kind} of {len(points)} points is not a polygon, rectangle or circle")
    return checked_polygon([value for point in points for value in point])
