"""What a reader works with: files, splits, and the shapes of an image, which it joins into objects."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from mtseg.core.masks import Segmentation, rle
from mtseg.data.files import Files
from mtseg.data.labels import Labels, Vocabulary
from mtseg.data.polygons import clip, enclosed
from mtseg.data.raw import BadRecord, Fault, RawData, RawObject, stated_size, whole
from mtseg.data.splits import Splits

LIST = r'\[\s*["\d]'  # the start of a .json that lists names or numbers, as of a split
UNLISTED = "images that no annotation file in use lists"
BOXES = ("box", "rectangle")  # kinds of shapes that often are no outlines
NO_GROUP = ("", "-1", "nan", "none", "null")  # as text, of a group_id that tools write for no group


def json_with(files: Files, pattern: str) -> str | None:
    """The first of the .json files, of which the first 20 are tried, whose start matches a regular expression."""
    for name in files.ending(".json")[:20]:
        with (files.folder / name).open("rb") as file:
            start = file.read(1 << 20).replace(b"\0", b"").decode(errors="replace")  # without the zeros of UTF-16
            if re.match(pattern, start.lstrip("\ufeff\ufffd \t\r\n"), re.DOTALL):
                return name
    return None


def begins(path: Path, pattern: str) -> bool:
    """Whether the start of a text file matches a regular expression."""
    with path.open("rb") as file:
        start = file.read(1024).replace(b"\0", b"").decode(errors="replace")
    return bool(re.match(pattern, start.lstrip("\ufeff\ufffd \t\r\n")))


class Reading:
    """What a reader works with: the files of the folder, the vocabulary, and the data and splits that it finds."""

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        self.folder, self.vocabulary = folder, vocabulary
        self.data, self.files = RawData(), Files(folder, vocabulary.max_megapixels)
        self.splits = Splits(self.files)
        self.listed: set[str] = set()  # images that an annotation file lists

    def shapes(self, image: str, size: tuple[int, int] | None) -> Shapes:
        """For the shapes of an image, whose size is stated or read from its file."""
        return Shapes(self.data, self.vocabulary, lambda: size or self.files.size(image))

    def stated_size(self, height: Any, width: Any) -> tuple[int, int] | None:
        return stated_size(height, width, self.vocabulary.max_megapixels)

    def finished(self, unlisted: str = UNLISTED) -> RawData:
        """The data, with the number of images that are not `listed`, which `unlisted` describes."""
        if bare := len(self.files.images - self.listed):
            self.data.leave(unlisted, bare)
        self.data.split_source = self.splits.source()
        return self.data


@dataclass(frozen=True)
class Shape:
    """One valid outline: an object or, in a group, a part of one."""

    where: str
    labels: Labels
    segmentation: Segmentation


class Shapes:
    """The shapes of one image. `add` checks them, `objects` joins those with equal labels and group into objects."""

    def __init__(self, data: RawData, vocabulary: Vocabulary, size: Callable[[], tuple[int, int]]) -> None:
        self._data, self._vocabulary, self.size = data, vocabulary, size
        self._groups: dict[Any, list[Shape]] = {}
        self._faults: dict[Any, list[tuple[str, BadRecord]]] = {}

    def add(
        self,
        where: str,
        kind: Any,
        label: Any,
        outline: Callable[[], Segmentation],
        *,
        attributes: Any = None,
        flags: Any = None,
        group: Any = None,
    ) -> None:
        """Add a shape. Raises BadRecord if its labels are invalid. If `outline` raises it, the shape is a fault or, in
        a group with a valid shape, a part that is left out."""
        if kind in self._vocabulary.ignored_shapes:
            self._data.leave(f"shapes of kind {kind} (data.ignore_shapes)")
            return
        labels = self._vocabulary.labels(text(label), texts(attributes), flags)
        if labels is None:
            self._data.leave("objects that data.mapping leaves out")
            return
        key = ("alone", where) if is_no_group(group) else ("group", str(whole(group)), *labels.values())
        shapes = self._groups.setdefault(key, [])
        try:
            shapes.append(Shape(where, labels, outline()))
            if kind in BOXES:
                self._data.note("boxes, read as the outlines of their objects")
        except BadRecord as fault:
            self._faults.setdefault(key, []).append((where, fault))

    def warn(self, text: str) -> None:
        """Count a shape that is probably wrong."""
        self._data.warn(text)

    def objects(self) -> tuple[RawObject, ...]:
        """The objects; faults are added to the data."""
        found = []
        for key, shapes in self._groups.items():
            faults = self._faults.get(key, [])
            if not shapes:
                self._data.faults += [Fault(fault.reason, where, str(fault)) for where, fault in faults]
                continue
            segmentation = self._joined([shape.segmentation for shape in shapes])
            found.append(RawObject(shapes[0].where, shapes[0].labels, segmentation, parts_left_out=len(faults)))
        note_duplicates(self._data, found)
        return tuple(found)

    def _joined(self, parts: list[Segmentation]) -> Segmentation:
        if all(isinstance(part, list) for part in parts):
            polygons = [polygon for part in parts for polygon in part]
            leave_inner(self._data, polygons)
            return polygons
        if len(parts) == 1:
            return parts[0]
        size = self.size()
        drawn = [part for part in parts if isinstance(part, dict)]
        for polygon in (polygon for part in parts if isinstance(part, list) for polygon in part):
            clipped = clip(polygon, *size)  # pycocotools takes memory by the length of edges, also outside the image
            drawn += [[clipped]] if len(clipped) >= 6 else []
        merged = coco_mask.merge([rle(part, *size) for part in drawn])
        return {"size": list(size), "counts": merged["counts"].decode()}


def leave_inner(data: RawData, polygons: Sequence[Sequence[float]]) -> None:
    """Count the polygons of an object that lie inside another one of it."""
    if inside := sum(enclosed(polygons)):
        data.leave("polygons inside another one of their object (a union: they cut no hole)", inside)


def note_duplicates(data: RawData, objects: Iterable[RawObject]) -> None:
    """Count the objects of one image that equal an earlier one in outline, and those that do so in labels too."""
    seen: dict[Any, set[frozenset[tuple[str, str | None]]]] = {}
    for item in objects:
        outline = item.segmentation
        drawn = outline["counts"] if isinstance(outline, dict) else tuple(array("d", own).tobytes() for own in outline)
        others = seen.setdefault((item.crowd, drawn), set())
        labels = frozenset(item.labels.items())
        if labels in others:
            data.warn(
                "duplicates: objects with the labels and outline of another object of their image (likely cause: a "
                "file merged twice)"
            )
        elif others:
            data.warn(
                "objects with the outline of another object of their image, and other labels (likely cause: labels "
                "were corrected in one of two copies)"
            )
        others.add(labels)


def is_no_group(group: Any) -> bool:
    return str(whole(group)).strip().lower() in NO_GROUP


def refuse_shape(kind: Any, count: int, expected: str) -> BadRecord:
    """The error for a shape that is not an outline. count: of its points, 0 if it has no list of them."""
    fix = f"add {kind} to data.ignore_shapes to leave out such shapes"
    points = f" with {count} points" if count else ""
    return BadRecord("geometry", f"a shape of kind {kind}{points} is no outline, expected {expected}; {fix}")


def by_name(attributes: Any) -> Any:
    """Attributes as {name: value}, also if they are a list of {"name", "value"}."""
    listed = attributes if isinstance(attributes, list) else ()
    if listed and all(isinstance(own, dict) and {"name", "value"} <= {*own} for own in listed):
        return {str(own["name"]): own["value"] for own in attributes}
    return attributes


def texts(attributes: Any) -> Any:
    """Attributes with numbers and booleans as text, and lists of one as their value: tools write checkboxes as true,
    numbers as 2 or 2.0, and the one that was chosen as a list."""
    attributes = by_name(attributes)
    if not isinstance(attributes, dict):
        return attributes
    return {
        name: text(value[0] if isinstance(value, list) and len(value) == 1 else value)
        for name, value in attributes.items()
    }


def text(value: Any) -> Any:
    """A label as text, if it is a number or a boolean."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(whole(value)) if isinstance(value, int | float) else value
