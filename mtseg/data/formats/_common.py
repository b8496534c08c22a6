"""What readers share: files of a raw folder, the image of a stated name, splits by name, objects made of shapes."""

from __future__ import annotations

import os
import re
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtseg.core.errors import UserError, quoted
from mtseg.core.masks import Segmentation, rle
from mtseg.data.images import DECODE_ERRORS, open_lazily, suffixes
from mtseg.data.labels import Labels, Vocabulary
from mtseg.data.raw import BadRecord, Fault, RawData, RawObject, whole
from mtseg.data.splits import names_splits, parts_of, split_in, split_of

# leading folders of a stated file name that tools add, and that need not exist
LAYOUT = {"", ".", "data", "image", "images", "img", "imgs", "jpegimages", "upload"}
ANNOTATIONS = (".csv", ".json", ".lst", ".tsv", ".txt", ".xml", ".yaml", ".yml")
SYSTEM = ("/dev/", "/proc/", "/sys/")  # folders without end
NO_DATA = "a pipe, a device or a file of the system, and no data: remove it"
BOXES = ("box", "rectangle")  # kinds of shapes that often are no outlines


class Files:
    """The files of a folder and its subfolders, also linked ones, except hidden ones. Names are relative, with `/`.

    Links are followed and not resolved: DVC may link files into the folder. A link to a folder above it is not
    followed: it would have no end. Which links are allowed: `check_files`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []
        above = {str(folder): (os.path.realpath(folder),)}  # by folder: the real path of itself, and of those above it
        for path, folders, names in os.walk(folder, followlinks=True):
            own = above.pop(path)
            for name in folders:
                inside = os.path.join(path, name)
                real = os.path.realpath(inside) if os.path.islink(inside) else os.path.join(own[0], name)
                if not name.startswith(".") and real not in own and not f"{real}/".startswith(SYSTEM):
                    above[inside] = (real, *own)
            folders[:] = [name for name in folders if os.path.join(path, name) in above]
            place = Path(path).relative_to(folder).as_posix()
            self.names += [_normal(f"{place}/{name}") for name in names if not name.startswith(".")]
        self.names.sort()
        self._known = frozenset(self.names)
        self.images = {name for name in self.names if PurePosixPath(name).suffix.lower() in suffixes()}

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def ending(self, *suffixes: str) -> list[str]:
        """Files with one of the suffixes, in lower or upper case."""
        return [name for name in self.names if name.lower().endswith(suffixes)]

    def folders(self, name: str) -> list[str]:
        """Folders of this name, in any case and at any depth, that contain files."""
        parents = dict.fromkeys(str(parent) for file in self.names for parent in PurePosixPath(file).parents)
        return [parent for parent in parents if PurePosixPath(parent).name.lower() == name.lower()]

    def file(self, path: str) -> str | None:
        """The file of this path, or the only one whose path differs in case or Unicode composition."""
        return self._at(path, self._known)

    def image(self, stated: Any, places: Sequence[str]) -> str:
        """The image that an annotation names: a path below one of `places`, or an absolute path, of another computer,
        or a URL, whose last parts are. Case and Unicode composition may differ if only one image fits. Raises
        BadRecord."""
        if not isinstance(stated, str) or not stated.strip():
            raise BadRecord("missing image", f"the file name of the image is {quoted(stated)}, expected text")
        tails = list(_tails(stated))
        for tail in tails:
            for place in places:
                if found := self._at(f"{place}/{tail}", self.images):
                    return found
        for tail in tails:
            for place in places:
                if other := self._at(f"{place}/{tail}", self._known):
                    kind = PurePosixPath(other).suffix or "such"
                    reason = f"{other} exists, but Pillow does not read {kind} files: convert it to PNG or JPEG"
                    raise BadRecord("missing image", reason)
        looked = ", ".join(dict.fromkeys(f"{place}/" if place != "." else "data.raw" for place in places))
        raise BadRecord("missing image", f"no image {quoted(stated)} in {looked}")

    def image_of_stem(self, stem: str, preferred: str = "") -> str | None:
        """The image of this name without suffix; of several, the one whose file name is `preferred`. Raises BadRecord
        if there are several and none is preferred."""
        found = self._stems.get(stem) or self._folded_stems.get(_folded(stem), [])
        if len(found) > 1:
            found = [name for name in found if PurePosixPath(name).name == preferred] or found
        if len(found) > 1:
            raise BadRecord("ambiguous image", f"several images have this name: {', '.join(found)}")
        return found[0] if found else None

    def beside(self, where: str) -> list[str]:
        """The files in the same folder and with the same name but for the suffix, itself included."""
        start = os.path.splitext(where)[0] + "."
        return [name for name in self.names if name.startswith(start) and "/" not in name[len(start) :]]

    def size(self, image: str) -> tuple[int, int]:
        """Height and width of an image after rotation by its EXIF data. Raises BadRecord."""
        try:
            with open_lazily(self.folder / image, sys.maxsize) as opened:
                width, height = opened.size
                rotated = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except FileNotFoundError:
            raise BadRecord("missing image", f"{image} is a link to a file that does not exist") from None
        except DECODE_ERRORS as error:
            raise BadRecord("broken image", f"{image} does not decode: {error}") from None
        return (width, height) if rotated else (height, width)

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda name: os.path.splitext(name)[0])

    @cached_property
    def _folded_stems(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda name: _folded(os.path.splitext(name)[0]))

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        return _grouped(self.names, _folded)

    def _at(self, path: str, names: Set[str]) -> str | None:
        path = _normal(path)
        if path in names:
            return path
        found = [name for name in self._alike.get(_folded(path), ()) if name in names]
        return found[0] if len(found) == 1 else None


def check_files(folder: Path, *, follow_links: bool, most: float) -> None:
    """Raise UserError for what readers must not open: links out of the folder, unless they are to be followed; pipes,
    devices and files of the system, which may never end; annotation files above `most` megabytes; and for names that
    are not UTF-8, which no annotation can state."""
    root = os.path.realpath(folder)
    _check_links(folder, root, follow_links)
    for name in Files(folder).names:
        path = f"{folder}/{name}"
        if not name.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(f"{path}: the name is not UTF-8: rename it, for example with convmv -t utf8 -r {folder}")
        try:
            facts = os.stat(path)
        except OSError:
            if name.lower().endswith(ANNOTATIONS):
                raise UserError(f"{path} is a link to nothing: restore its file, or remove it") from None
            continue  # a missing image, if an annotation names it
        system = os.path.realpath(path) if follow_links else root
        if not stat.S_ISREG(facts.st_mode) or f"{system}/".startswith(SYSTEM):
            raise UserError(f"{path} is {NO_DATA}")
        if facts.st_size > most * 1e6 and name.lower().endswith(ANNOTATIONS):
            size = f"{facts.st_size / 1e6:,.0f} MB"
            raise UserError(
                f"{path} has {size}: split so large an annotation file, or raise data.max_file_mb ({most:g})"
            )


def _check_links(folder: Path, root: str, follow: bool) -> None:
    for path, folders, names in os.walk(folder):
        for name in [name for name in (*folders, *names) if os.path.islink(os.path.join(path, name))]:
            place = os.path.join(path, name)
            real = os.path.realpath(place)
            if name.startswith(".") or not os.path.exists(real):
                continue
            if f"{real}/".startswith(SYSTEM):
                raise UserError(f"{place} is {NO_DATA}")
            if not follow and not Path(real).is_relative_to(root):
                raise UserError(
                    f"{place} is a link to {real}, outside {folder} (data.raw): copy the files into the folder, or set "
                    "data.follow_links: true if all links in it are yours, as those of DVC's cache.type symlink are"
                )


def json_with(files: Files, pattern: str) -> str | None:
    """The first of the .json files, of which the first 20 are tried, whose start matches a regular expression."""
    for name in files.ending(".json")[:20]:
        with (files.folder / name).open("rb") as file:
            start = file.read(1 << 20).replace(b"\0", b"").decode(errors="replace")  # without the zeros of UTF-16
            if re.match(pattern, start.lstrip("\ufeff\ufffd \t\r\n"), re.DOTALL):
                return name
    return None


class Splits:
    """The splits that names of files and folders state, and which names they are."""

    def __init__(self, files: Files) -> None:
        parents = [PurePosixPath(name).parent.parts for name in files.names]
        self._enclosing = len(os.path.commonprefix(parents)) if parents else 0  # folders that hold all files
        self._parts = parts_of({part for own in {*parents} for part in own})
        self._stated: dict[str, str] = {}

    def of_name(self, name: str) -> str | None:
        """The split that a file's name means, without its suffix."""
        return self._noted(name, split_of(name))

    def of_record(self, record: Mapping[str, Any], data: RawData) -> str | None:
        """The split that a record of an image has under a key such as split or data_split. Values of such keys that
        mean none, as numbers of folds, are noted."""
        for key in filter(names_splits, record):
            value = record[key]
            if value in (None, ""):
                continue
            if split := self.of_name(str(value)):
                return split
            data.note(f"images whose `{key}` has no split (train, val or test) and is not used")
        return None

    def of_files(self, paths: Sequence[str]) -> dict[str, str | None]:
        """The split of each annotation file, by its name or its folders. A name such as lvis_v1_train counts if those
        of other files are of other splits; a file called crash_test alone states none."""
        meant = {path: split_of(PurePosixPath(path).stem) for path in paths}
        parts = parts_of(PurePosixPath(path).stem for path in paths)
        loose = {path: split or split_in(PurePosixPath(path).stem) for path, split in meant.items()}
        if len({*loose.values()} - {None}) > 1 and parts is not None:
            meant = loose
        return {
            path: self._noted(PurePosixPath(path).stem, split) or self.of_folders(path) for path, split in meant.items()
        }

    def of_folders(self, path: str) -> str | None:
        """The split that one of a path's folders means; the first that means one counts, folders that hold all files
        last."""
        part, split = self._meaning(PurePosixPath(path).parts[:-1])
        return self._noted(f"{part}/", split)

    def meant_by_folders(self, path: str) -> str | None:
        """The same for a folder, without noting that the data state it."""
        return self._meaning(PurePosixPath(path).parts)[1]

    def _meaning(self, folders: Sequence[str]) -> tuple[str, str | None]:
        """The first folder that means a split, and which."""
        for part in (*folders[self._enclosing :], *folders[: self._enclosing]):
            if split := split_of(part) or (self._parts or {}).get(part):
                return part, split
        return "", None

    def _noted(self, name: str, split: str | None) -> str | None:
        if split:
            self._stated[name] = split
        return split

    def source(self) -> str | None:
        """For example "train2017/, valid/ (val)"."""
        given = [
            name if name.strip("/") == split else f"{name} ({split})" for name, split in sorted(self._stated.items())
        ]
        return ", ".join(given) or None


class Reading:
    """What a reader works with: the files of the folder, the vocabulary, and the data and splits that it finds."""

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        self.folder, self.vocabulary = folder, vocabulary
        self.data, self.files = RawData(), Files(folder)
        self.splits = Splits(self.files)

    def shapes(self, image: str, size: tuple[int, int] | None) -> Shapes:
        """For the shapes of an image, whose size is stated or read from its file."""
        return Shapes(self.data, self.vocabulary, lambda: size or self.files.size(image))

    def finished(self) -> RawData:
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
        alone = group is None or not str(group).strip()
        key = ("alone", where) if alone else ("group", str(whole(group)), *labels.values())
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
            if inside := sum(_is_inside(polygon, polygons) for polygon in polygons):
                self._data.leave("polygons inside another one of their group (a union: they cut no hole)", inside)
            return polygons
        if len(parts) == 1:
            return parts[0]
        size = self.size()
        merged = coco_mask.merge([rle(part, *size) for part in parts])
        return {"size": list(size), "counts": merged["counts"].decode()}


def note_duplicates(data: RawData, objects: Iterable[RawObject]) -> None:
    """Count the objects of one image that equal an earlier one in labels and outline."""
    seen: dict[Any, list[Segmentation]] = {}
    for item in objects:
        outline = item.segmentation
        start = tuple(outline[0][:4]) if isinstance(outline, list) else outline["counts"]
        equals = seen.setdefault((*item.labels.values(), item.crowd, start), [])
        if outline in equals:
            data.warn(
                "duplicates: objects with the labels and outline of another object of their image (likely cause: a "
                "file merged twice)"
            )
        else:
            equals.append(outline)


def refuse_shape(kind: Any, count: int, expected: str) -> BadRecord:
    """The error for a shape that is not an outline. count: of its points, 0 if it has no list of them."""
    fix = f"add {kind} to data.ignore_shapes to leave out such shapes"
    points = f" with {count} points" if count else ""
    return BadRecord("geometry", f"a shape of kind {kind}{points} is no outline, expected {expected}; {fix}")


def texts(attributes: Any) -> Any:
    """Attributes with numbers and booleans as text: tools write checkboxes as true and numbers as 2 or 2.0."""
    if not isinstance(attributes, dict):
        return attributes
    return {name: text(value) for name, value in attributes.items()}


def text(value: Any) -> Any:
    """A label as text, if it is a number or a boolean."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(whole(value)) if isinstance(value, int | float) else value


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> list[float]:
    """Polygon [x0, y0, ...] of 72 corners for an ellipse. angle: radians, clockwise on the screen."""
    turns = np.arange(72) * (2 * np.pi / 72)
    return turned(np.stack([x + rx * np.cos(turns), y + ry * np.sin(turns)], axis=1), x, y, angle)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Corners of a rectangle, [4, 2]."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def turned(points: np.ndarray, x: float, y: float, angle: float) -> list[float]:
    """Polygon [x0, y0, ...] of points [n, 2], turned about (x, y). angle: radians, clockwise on the screen."""
    cos, sin = np.cos(angle), np.sin(angle)
    return ((points - (x, y)) @ np.array([[cos, sin], [-sin, cos]]) + (x, y)).ravel().tolist()


def pasted(mask: np.ndarray, left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """Compressed RLE of an image's size (height, width), with `mask` [h, w] at (left, top). Raises BadRecord if the
    mask is not inside the image."""
    (height, width), (h, w) = size, mask.shape
    if left < 0 or top < 0 or left + w > width or top + h > height:
        place = f"a mask of {w} x {h} pixels at ({left}, {top})"
        raise BadRecord("geometry", f"{place} is not inside the image of {width} x {height}")
    whole_mask = np.zeros(size, dtype=np.uint8, order="F")
    whole_mask[top : top + h, left : left + w] = mask
    packed = coco_mask.encode(whole_mask)
    return {"size": [height, width], "counts": packed["counts"].decode()}


def run_mask(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """Mask uint8 [height, width] of run lengths row by row, the first of zeros. Raises BadRecord."""
    if min(runs, default=0) < 0:
        raise BadRecord("geometry", f"a run length is {min(runs)}, expected 0 or more")
    if height < 1 or width < 1 or not runs or sum(runs) != height * width:
        raise BadRecord("geometry", f"run lengths add up to {sum(runs)}, expected {width} x {height}")
    values = np.arange(len(runs), dtype=np.uint8) % 2
    return np.repeat(values, runs).reshape(height, width)


def _is_inside(polygon: list[float], polygons: list[list[float]]) -> bool:
    """Whether another, larger one encloses a polygon."""
    points = np.array(polygon, dtype=np.float32).reshape(-1, 2)
    for other in polygons:
        outer = np.array(other, dtype=np.float32).reshape(-1, 2)
        if other is not polygon and cv2.contourArea(outer) > cv2.contourArea(points):
            low, high = outer.min(axis=0), outer.max(axis=0)
            if (points >= low).all() and (points <= high).all():
                if all(cv2.pointPolygonTest(outer, (float(x), float(y)), False) >= 0 for x, y in points):
                    return True
    return False


def _tails(stated: str) -> Iterator[str]:
    """Relative paths that a stated file name can mean, the most literal first."""
    for name in dict.fromkeys((stated, unquote(stated), unquote(stated.replace("+", " ")))):
        name = name.replace("\\", "/")
        if stored := re.match(r".*(/local-files/\?d=|/media/upload/\d+/)", name):  # Label Studio's own folders
            name = "/" + name[stored.end() :]
        elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
            name = urlsplit(name).path
        absolute = bool(re.match(r"/|[A-Za-z]:/", name))
        rest = re.sub(r"^[A-Za-z]:/|^/+", "", name)
        yield rest
        while "/" in rest:
            first, rest = rest.split("/", 1)
            if not absolute and first.lower() not in LAYOUT:
                break
            yield rest


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(key(name), []).append(name)
    return groups


def _normal(path: str) -> str:
    return os.path.normpath(path).replace(os.sep, "/")


def _folded(name: str) -> str:
    """Equal for names that differ in case or in Unicode composition only: macOS decomposes accents."""
    return unicodedata.normalize("NFC", name).casefold()
