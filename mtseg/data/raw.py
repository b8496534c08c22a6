"""What a raw format returns to `convert`: images with objects as annotated, and the records it could not read.

A format is a file of mtseg/data/formats with one function,
    read(folder: Path, vocabulary: Vocabulary) -> RawData
which trusts nothing: a record with an error becomes a fault that names its place, and the rest is read on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtseg.core.masks import Segmentation

FAR = 1e7  # pixels: a larger coordinate is an error
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class BadRecord(Exception):
    """A record to refuse. `reason` is one of a few, for counting; the text says what is wrong with this one."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Fault:
    """A refused record: `where` is file and shape or annotation, relative to the raw folder."""

    reason: str
    where: str
    text: str


@dataclass(frozen=True)
class RawObject:
    """One object. `where` names it in messages. `labels`: a class name, or None for no label, of every task."""

    where: str
    labels: dict[str, str | None]
    segmentation: Segmentation
    crowd: bool = False


@dataclass(frozen=True)
class RawImage:
    """One image. `size`: height and width as its annotation states them. `split`: None where raw has no splits."""

    where: str
    file_name: str
    size: tuple[int, int] | None
    split: str | None
    objects: tuple[RawObject, ...]


@dataclass
class RawData:
    """All of a raw folder. `unused`: images or files left out though nothing is wrong with them, counted by reason."""

    images: list[RawImage] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)

    def leave(self, reason: str, count: int = 1) -> None:
        """Count images or files that are left out though nothing is wrong with them."""
        self.unused[reason] = self.unused.get(reason, 0) + count

    @contextmanager
    def refusing(self, where: str) -> Iterator[None]:
        """A `BadRecord` raised in the block becomes a fault of the record `where`."""
        try:
            yield
        except BadRecord as bad:
            self.faults.append(Fault(bad.reason, where, str(bad)))


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object from a raw file. Raises BadRecord."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadRecord("broken json", f"cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRecord("broken json", f"holds a {type(value).__name__}, expected a JSON object")
    return value


def items(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of JSON objects under `key`. Raises BadRecord."""
    if not isinstance(value.get(key), list) or not all(isinstance(item, dict) for item in value[key]):
        raise BadRecord("broken json", f"`{key}` is not a list of JSON objects")
    return value[key]


def stated_size(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width as an annotation states them; None where it does not. Raises BadRecord."""
    if height is None and width is None:
        return None
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise BadRecord("size", f"states the size {width!r} x {height!r}, expected whole pixels")
    return height, width


def checked_polygon(values: list[float]) -> list[float]:
    """[x0, y0, x1, y1, ...] of three points or more round some area, else BadRecord."""
    if not all(isinstance(value, int | float) and abs(value) < FAR for value in values):  # nor is nan
        raise BadRecord("geometry", f"a polygon has a coordinate that is not a number below {FAR:g}")
    if len(values) % 2 or len(values) < 6:
        raise BadRecord("geometry", f"a polygon of {len(values) / 2:g} points, expected 3 or more")
    points = list(zip(values[::2], values[1::2], strict=True))
    if sum(a * d - b * c for (a, b), (c, d) in zip(points, points[1:] + points[:1], strict=True)) == 0:
        raise BadRecord("geometry", "a polygon without area")
    return values
