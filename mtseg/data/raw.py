"""The interface of raw formats: images with their annotated objects, and the records that cannot be read.

A format is a module of mtseg/data/formats with one function,
    read(folder: Path, vocabulary: Vocabulary) -> RawData
which validates all input: an invalid record becomes a fault with its location, and reading continues.
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
    """An invalid record. `reason` is a category, for counting; the message describes this record."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Fault:
    """An invalid record. `where`: the file, relative to data.raw, and the shape or annotation."""

    reason: str
    where: str
    text: str


@dataclass(frozen=True)
class RawObject:
    """One object. `where`: its location, for messages. `labels`: class name of every task, None if unlabelled."""

    where: str
    labels: dict[str, str | None]
    segmentation: Segmentation
    crowd: bool = False


@dataclass(frozen=True)
class RawImage:
    """One image. `size`: height and width in the annotation. `split`: None if the raw data have no split."""

    where: str
    file_name: str
    size: tuple[int, int] | None
    split: str | None
    objects: tuple[RawObject, ...]


@dataclass
class RawData:
    """The contents of a raw folder. `unused`: number of valid images or files that are not used, by reason."""

    images: list[RawImage] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)

    def leave(self, reason: str, count: int = 1) -> None:
        """Count valid images or files that are not used."""
        self.unused[reason] = self.unused.get(reason, 0) + count

    @contextmanager
    def refusing(self, where: str) -> Iterator[None]:
        """Turn a `BadRecord` that is raised in the block into a fault at `where`."""
        try:
            yield
        except BadRecord as bad:
            self.faults.append(Fault(bad.reason, where, str(bad)))


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises BadRecord."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadRecord("broken json", f"cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRecord("broken json", f"contains a {type(value).__name__}, expected a JSON object")
    return value


def items(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of JSON objects under `key`. Raises BadRecord."""
    if not isinstance(value.get(key), list) or not all(isinstance(item, dict) for item in value[key]):
        raise BadRecord("broken json", f"`{key}` is not a list of JSON objects")
    return value[key]


def stated_size(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width in the annotation, None if it has none. Raises BadRecord."""
    if height is None and width is None:
        return None
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise BadRecord("size", f"the annotated size is {width!r} x {height!r}, expected integers")
    return height, width


def checked_polygon(values: list[float]) -> list[float]:
    """The polygon [x0, y0, x1, y1, ...]. Raises BadRecord if it has fewer than three points or no area."""
    if not all(isinstance(value, int | float) and abs(value) < FAR for value in values):  # rejects NaN, too
        raise BadRecord("geometry", f"a polygon has a coordinate that is not a number below {FAR:g}")
    if len(values) % 2 or len(values) < 6:
        raise BadRecord("geometry", f"a polygon of {len(values) / 2:g} points, expected 3 or more")
    points = list(zip(values[::2], values[1::2], strict=True))
    if sum(a * d - b * c for (a, b), (c, d) in zip(points, points[1:] + points[:1], strict=True)) == 0:
        raise BadRecord("geometry", "a polygon has no area")
    return values
