"""The interface of raw formats: images with their annotated objects, and the records that cannot be read.

A format is a module of mtseg/data/formats, see its __init__.py. Its `read(folder, vocabulary)` returns RawData and
validates all input: an invalid record becomes a fault with its location, and reading continues.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.core.errors import one_line, quoted
from mtseg.core.files import uncollected
from mtseg.core.masks import Segmentation

MARKS = b"\xff\xfe", b"\xfe\xff"  # of UTF-16
ENCODINGS = {  # as Python and iconv call them
    "GBK": "Chinese",
    "BIG5": "Chinese",
    "CP932": "Japanese, Shift-JIS",
    "CP949": "Korean, EUC-KR",
    "CP1251": "Cyrillic",
    "CP1252": "Western",
}
FOREIGN = re.compile(r"\w*[^\x00-\x7f][^\x00-\x20\"'<>&,;:]{0,11}")  # a word that is not ASCII
MEGAPIXELS = 1000.0  # the limit of data.max_megapixels
FAR = 1e7  # pixels: a larger coordinate is an error
NEAR, ROUNDED = 1e4, 1e-8  # pixels; by how much an area of smaller coordinates is rounded, times their number squared


class BadRecord(Exception):
    """An invalid record. `reason` is a category, for counting; the message describes this record."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)  # both, so that another process can send it
        self.reason = reason

    def __str__(self) -> str:
        return self.args[1]


@dataclass(frozen=True)
class Fault:
    """An invalid record. `where`: the file, relative to data.raw, and the shape or annotation."""

    reason: str
    where: str
    text: str

    def __str__(self) -> str:
        return one_line(f"{self.where}: {self.text}")


@dataclass(frozen=True, slots=True)
class RawObject:
    """One object.

    where           its location, for messages
    labels          class name of every task, None if unlabelled
    box, area       as the annotation states them: x, y, width, height in pixels; square pixels
    parts_left_out  number of invalid parts, such as a polygon of two points, beside at least one valid part
    """

    where: str
    labels: dict[str, str | None]
    segmentation: Segmentation
    crowd: bool = False
    box: tuple[float, float, float, float] | None = None
    area: float | None = None
    parts_left_out: int = 0


@dataclass(frozen=True, slots=True)
class RawImage:
    """One image. `size`: height and width in the annotation. `split`: "train", "val", "test", or None if the data state
    none. `stated_name`: the file name in the annotation, if it is that of another image. `invalid`: number of its
    objects that are faults. `shown`: size and thumbnail of the image inside the annotation, if it is not the file's
    bytes."""

    where: str
    file_name: str
    size: tuple[int, int] | None
    split: str | None
    objects: tuple[RawObject, ...]
    stated_name: str | None = None
    invalid: int = 0
    shown: tuple[tuple[int, int], np.ndarray] | None = None


@dataclass
class RawData:
    """The contents of a raw folder.

    unused          number of valid images, objects or files that are not used, by reason
    unused_files    files with the suffix of annotations that are none in the format
    notes           number of objects that were read in a way to know of, by that way
    warnings        number of objects that are probably wrong, by what is wrong
    split_source    where the split comes from, e.g. "folders train/, valid/ (val)"; None if the data state none
    unclear_splits  values under keys of images such as fold, by key, that mean no split
    ids             paths of images by the id that annotation files give them, as text
    relative        whether the format's coordinates are shares of the image's size, and not pixels
    """

    images: list[RawImage] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)
    unused_files: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    split_source: str | None = None
    unclear_splits: dict[str, set[str]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    relative: bool = False

    def leave(self, reason: str, count: int = 1) -> None:
        """Count valid images or files that are not used."""
        self.unused[reason] = self.unused.get(reason, 0) + count

    def note(self, text: str, count: int = 1) -> None:
        """Count objects of which the user should know how they were read."""
        self.notes[text] = self.notes.get(text, 0) + count

    def warn(self, text: str, count: int = 1) -> None:
        """Count objects that are probably wrong."""
        self.warnings[text] = self.warnings.get(text, 0) + count

    @contextmanager
    def refusing(self, where: str) -> Iterator[None]:
        """Turn a `BadRecord` that is raised in the block into a fault at `where`."""
        try:
            yield
        except BadRecord as bad:
            self.refuse(where, bad)

    def refuse(self, where: str, bad: BadRecord) -> None:
        self.faults.append(Fault(bad.reason, where, str(bad)))


def read_text(path: Path) -> str:
    """Read text in UTF-8, or in UTF-16 with a byte order mark. Raises BadRecord, which names the likely encoding."""
    try:
        text = path.read_text("utf-16" if path.read_bytes().startswith(MARKS) else "utf-8-sig")
    except OSError as error:
        raise BadRecord("broken file", f"{path.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    if "\0" in text:
        raise BadRecord(
            "encoding", f"{path.name} has zero bytes, as UTF-16 without a mark at its start: save it as UTF-8"
        )
    return text


def read_value(path: Path) -> Any:
    """Read a JSON file, in UTF-8 or UTF-16. Polygons of a `segmentation` are arrays, a third of the memory of lists.
    Raises BadRecord, which names the likely encoding if it is another one."""
    try:
        with path.open("rb") as file:
            encoding = json.detect_encoding(file.read(4))
        with uncollected():
            return json.loads(path.read_text(encoding), object_hook=_packed)
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except RecursionError:
        raise BadRecord("broken json", "cannot be read as JSON: it is nested too deep") from None
    except OSError as error:
        raise BadRecord("broken file", f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        text = str(error) if path.stat().st_size else "the file is empty"
        raise BadRecord("broken json", f"cannot be read as JSON: {text}") from None


def _packed(value: dict[str, Any]) -> dict[str, Any]:
    polygons = value.get("segmentation")
    if isinstance(polygons, list) and all(isinstance(polygon, list) for polygon in polygons):
        with suppress(TypeError, OverflowError):  # of a value that is no number: reported when it is read
            value["segmentation"] = [array("d", polygon) for polygon in polygons]
    return value


def _not_utf8(path: Path) -> BadRecord:
    """The error for another encoding. Which one it is, bytes cannot prove, and a wrong one gives wrong names: it shows
    how each reads the first word that is not ASCII."""
    content = path.read_bytes()
    if content.startswith(MARKS):
        return BadRecord("encoding", f"{path.name} starts as UTF-16 and is damaged: export it again, in UTF-8")
    words: dict[str, list[str]] = {}
    for encoding in ENCODINGS:
        with suppress(UnicodeDecodeError):
            if (word := FOREIGN.search(content.decode(encoding))) and word[0].isprintable():
                words.setdefault(word[0], []).append(f"{encoding} ({ENCODINGS[encoding]})")
    fix = f"save it as UTF-8, for example: iconv -f ENCODING -t UTF-8 {path.name} > new{path.suffix}"
    if words:
        read = ", ".join(f"{quoted(word)} in {' and '.join(names)}" for word, names in words.items())
        fix = f"a name in it reads {read}: with the right one of these, {fix}"
    return BadRecord("encoding", f"{path.name} is not UTF-8: {fix}")


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises BadRecord."""
    value = read_value(path)
    if not isinstance(value, dict):
        raise no_object(value)
    return value


def no_object(value: Any) -> BadRecord:
    """The error for a JSON file whose content is no object."""
    kind = "a list" if isinstance(value, list) else quoted(value)
    return BadRecord("broken json", f"contains {kind}, expected a JSON object {{...}}")


def named_by(record: dict[str, Any], number: int) -> str:
    """How messages call a record: by its id or, if it has none, by its number in the file, from 1."""
    return f"number {number}" if record.get("id") is None else str(record["id"])


def by(size: Sequence[int]) -> str:
    """A size, height and width, as messages state it."""
    return f"{size[1]} x {size[0]}"


def whole(value: Any) -> Any:
    """A whole number as int, whether it is written as 1, 1.0 or "1"; any other value as it is, "01" included."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and (match := re.fullmatch(r"(0|-?[1-9]\d{0,17})(\.0+)?", value.strip())):
        return int(match[1])
    return value


def items(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of JSON objects under `key`. Raises BadRecord."""
    if not isinstance(value.get(key), list) or not all(isinstance(item, dict) for item in value[key]):
        raise BadRecord("broken json", f"`{key}` is not a list of JSON objects")
    return value[key]


def check_megapixels(name: str, width: int, height: int, most: float) -> None:
    """Raise BadRecord if an image is larger than data.max_megapixels."""
    if (megapixels := width * height / 1e6) > most:
        raise BadRecord(
            "size",
            f"{name} is {width} x {height}, {megapixels:.0f} megapixels: cut so large an image, such as an aerial or "
            f"slide image, into tiles, or raise data.max_megapixels ({most:g})",
        )


def stated_size(height: Any, width: Any, most: float = MEGAPIXELS) -> tuple[int, int] | None:
    """Height and width in the annotation. None if it has none: tools that do not know them write 0. Raises BadRecord,
    also above `most` megapixels: masks are drawn in this size before the image is read."""
    sides = [whole(side) or 0 for side in (height, width)]
    if sides == [0, 0]:
        return None
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise BadRecord(
            "size", f"the annotated size is {quoted(width)} x {quoted(height)}, expected whole numbers above 0"
        )
    if sides[0] * sides[1] > most * 1e6:
        size = f"{quoted(width)} x {quoted(height)}"
        raise BadRecord("size", f"the annotated size is {size}, above data.max_megapixels ({most:g})")
    return sides[0], sides[1]


def checked_polygon(values: Sequence[float]) -> Sequence[float]:
    """The polygon [x0, y0, x1, y1, ...]. Raises BadRecord if it has fewer than three points, or all are on a line."""
    if isinstance(values, array) and len(values) >= 6 and len(values) % 2 == 0 and _has_area(values):
        return values
    if not all(isinstance(value, int | float) and abs(value) < FAR for value in values):  # rejects NaN, too
        raise BadRecord("geometry", f"a polygon has a coordinate that is not a number below {FAR:,.0f}")
    if len(values) % 2:
        raise BadRecord("geometry", f"a polygon of {len(values)} numbers, expected pairs of x and y")
    if len(values) < 6:
        raise BadRecord("geometry", f"a polygon of {len(values) // 2} points, expected 3 or more")
    points = list(zip(values[::2], values[1::2], strict=True))
    if sum(a * d - b * c for (a, b), (c, d) in zip(points, points[1:] + points[:1], strict=True)) == 0:
        x, y = points[0]  # a sum of 0 can also be that of two lobes, where edges cross
        far, away = max(((a - x, b - y) for a, b in points), key=lambda way: abs(way[0]) + abs(way[1]))
        if all((a - x) * away == (b - y) * far for a, b in points):
            raise BadRecord("geometry", "a polygon has no area: its points are on a line")
    return values


def _has_area(values: array) -> bool:
    """Whether an array is a polygon of valid coordinates with an area well above rounding: a fast check of most."""
    if not (min(values) > -NEAR and max(values) < NEAR):
        return False
    x, y = values[::2], values[1::2]
    double = sum(map(mul, x, y[1:])) - sum(map(mul, x[1:], y)) + x[-1] * y[0] - x[0] * y[-1]  # NaN if one of them is
    return abs(double) > ROUNDED * len(values) ** 2


def checked_polygons(parts: Iterable[Sequence[float]]) -> tuple[list[Sequence[float]], int]:
    """The valid polygons of an object, and how many invalid ones are left out, such as a scrap of two points. Raises
    BadRecord if none is valid."""
    valid, faults = [], []
    for part in parts:
        try:
            valid.append(checked_polygon(part))
        except BadRecord as fault:
            faults.append(fault)
    if not valid:
        raise faults[0]
    return valid, len(faults)
