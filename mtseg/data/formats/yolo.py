"""YOLO segmentation: data.yaml with `names`, and for each image a .txt with a line for each object.

A line is the number of the class, then x and y of each point of one polygon, divided by the image's width and height.
The labels of images/.../NAME.jpg are labels/.../NAME.txt; otherwise NAME.txt lies beside the image. data.yaml names
the splits: folders, or text files that list images; if it names none, the folders' names are the splits. Without
data.yaml, classes.txt has a name in each line. The class is the label (see mtseg/data/labels.py); further tasks need
data.mapping. An image whose .txt is empty has no object; an image without a .txt, or that data.yaml does not list, is
not used. Lost: which polygons are parts of one object.
Format: docs.ultralytics.com/datasets/segment.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mtseg.core import yaml
from mtseg.core.errors import quoted
from mtseg.data.files import Files
from mtseg.data.formats._reading import Reading, note_duplicates
from mtseg.data.labels import Vocabulary, is_null
from mtseg.data.raw import BadRecord, Fault, RawData, RawImage, RawObject, checked_polygon, read_text, whole
from mtseg.data.splits import split_of

SPLITS = ("train", "val", "test")  # keys of data.yaml, also by their other usual names
BOX = "a box, and no outline: export the data set for segmentation"


@dataclass
class _Odd:
    """Lines whose cause shows when all were read: those of boxes, and where, the largest coordinate and the image's
    longer side of those that are not from 0 to 1."""

    boxes: list[Fault] = field(default_factory=list)
    undivided: list[tuple[str, float, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.boxes) + len(self.undivided)


def recognises(files: Files) -> str | None:
    return next(iter(_descriptions(files)), None)


def read(folder: Path, vocabulary: Vocabulary) -> RawData:
    """Read every data.yaml of a folder, or classes.txt if there is none."""
    reading = Reading(folder, vocabulary)
    data, files = reading.data, reading.files
    data.relative = True
    odd = _Odd()
    before: dict[str, str] = {}  # images that were read, and the description that listed them
    owner: dict[str, str] = {}  # the first image of each label file
    found = _descriptions(files)
    if not found:
        data.faults.append(Fault("no names", "data.yaml", "there is no data.yaml with `names`, and no classes.txt"))
    for where in found:
        with data.refusing(where):
            names, listed = _described(reading, where)
            splits_of: dict[str, list[str | None]] = {}
            for split, images in listed.items():
                for image in images:
                    splits_of.setdefault(image, []).append(split)
            alike = len({*map(frozenset, listed.values())}) == 1 < len(listed)  # train and val alike are no split
            if alike:
                data.note("images that data.yaml lists for train and val alike, which is no split", len(splits_of))
            again = [image for image in splits_of if image in before]
            double = [image for image, own in splits_of.items() if len({*own}) > 1 and not alike]
            if again:
                text = (
                    f"lists {len(again)} images, such as {again[0]}, that {before[again[0]]} lists too: remove a file"
                )
                data.faults.append(Fault("annotated twice", where, text))
            if double:
                text = f"lists {len(double)} images in several splits, such as {double[0]}: keep each in one"
                data.faults.append(Fault("several splits", where, text))
            for image in {*again, *double}:
                del splits_of[image]
            before |= dict.fromkeys(splits_of, where)
            for image, own in splits_of.items():
                split = reading.splits.of_folders(image) if alike else own[0]
                _add_image(reading, names, image, split, odd)
                if (labels := _label_file(files, image)) and owner.setdefault(labels, image) != image:
                    data.warn("images that have the .txt of another one of their name (a.jpg and a.png): remove one")
            if any(image.split for image in data.images) and data.split_source is None:
                data.split_source = where
    if before:
        _count_rest(reading, before)
    data.faults += _undivided(odd.undivided)
    outlines = [item.segmentation[0] for image in data.images for item in image.objects]
    if outlines and all(len(outline) == 8 for outline in outlines):
        text = "objects of four corners, as all are: read as outlines, also if they are rotated boxes (OBB)"
        data.note(text, len(outlines))
    if odd.boxes and not any(image.objects for image in data.images):
        data.faults.append(Fault("boxes only", "labels", f"all {len(odd.boxes)} lines have 4 numbers, {BOX}"))
    else:
        data.faults += odd.boxes
    return data


def _undivided(lines: Sequence[tuple[str, float, int]]) -> Iterator[Fault]:
    """Faults of lines whose coordinates are no shares: percent, if none is above 100 in images that are larger."""
    largest = max((most for _, most, _ in lines), default=0)
    cause, divisor = "", "x by the image's width and y by its height"
    if largest > 10:  # else they were divided by something else
        percent = largest <= 101 and any(side > 200 for *_, side in lines)
        cause = f"they are likely {'percent' if percent else 'pixels'}, "
        divisor = "them by 100" if percent else divisor
    for where, most, _ in lines:
        yield Fault("geometry", where, f"coordinates reach {most:g}, expected 0 to 1: {cause}divide {divisor}")


def _count_rest(reading: Reading, used: Iterable[str]) -> None:
    """Count the images that no description lists; labels without an image are faults."""
    files, data = reading.files, reading.data
    if rest := len(files.images - {*used}):
        data.leave("images that data.yaml does not list", rest)
    labels = {_label_file(files, image) for image in files.images} | {None}
    for name in files.ending(".txt"):
        path = PurePosixPath(name)
        if "labels" in path.parent.parts and path.name != "classes.txt" and name not in labels:
            text = "there is no image of this name in images/ or beside it"
            if found := files.of_stem(path.stem):
                text += f"; {found[0]} has this name: put both in the same folders below labels/ and images/"
            data.faults.append(Fault("missing image", name, text))


def _descriptions(files: Files) -> list[str]:
    found = [
        name
        for name in files.ending(".yaml", ".yml")
        if re.search(rb"""^\W*names['"]?\s*:""", (files.folder / name).read_bytes()[: 1 << 20], re.MULTILINE)
    ]
    return found or [
        name for name in files.ending("classes.txt") if any(other.endswith(".txt") for other in _labels(files, name))
    ]


def _labels(files: Files, where: str) -> list[str]:
    """Files in labels/ beside a file."""
    start = (PurePosixPath(where).parent / "labels").as_posix() + "/"
    return [name for name in files.names if name.startswith(start)]


def _described(reading: Reading, where: str) -> tuple[dict[Any, str], dict[str | None, list[str]]]:
    """Class names by number, and the images of each split; None if the data state none."""
    data, files, beside = reading.data, reading.files, PurePosixPath(where).parent
    if where.endswith(".txt"):
        return dict(enumerate(_lines(files, where))), _of_folders(reading, beside)
    try:
        raw = yaml.parse(read_text(files.folder / where), "base")  # all scalars as text: 01 and no are names
    except ValueError as error:
        raise BadRecord("broken yaml", str(error)) from None
    names = raw.get("names") if isinstance(raw, dict) else None
    if not isinstance(names, dict | list):
        raise BadRecord("broken yaml", f"`names` is {quoted(names)}, expected class names")
    if "kpt_shape" in raw:
        raise BadRecord("broken yaml", "is a data set of poses (kpt_shape): outlines are needed")
    if "nc" in raw and whole(raw["nc"]) != len(names):
        raise BadRecord("broken yaml", f"nc is {raw['nc']}, and `names` has {len(names)} classes: correct one of them")
    names = names if isinstance(names, dict) else dict(enumerate(names))
    named = {whole(number): name for number, name in names.items()}
    if (other := (beside / "classes.txt").as_posix()) in files and _lines(files, other) != [*map(str, named.values())]:
        data.warn(f"{other} lists other classes, or in another order, than {where}, which is used: remove one of them")
    listed: dict[str | None, list[str]] = {}
    for split in SPLITS:
        keys = [key for key, value in raw.items() if str(key).isalpha() and not is_null(value)]  # not train_ratio
        key = next((key for key in (split, *keys) if key in keys and split_of(key) == split), split)
        given = raw.get(key)
        entries = [entry for entry in (given if isinstance(given, list) else [given]) if not is_null(entry)]
        images = [image for entry in entries for image in _entry(data, files, beside, raw.get("path"), key, entry)]
        if images:
            listed[split] = images
    return named, listed or _of_folders(reading, beside)


def _of_folders(reading: Reading, root: PurePosixPath) -> dict[str | None, list[str]]:
    """The images below `root` by the split of their folders."""
    listed: dict[str | None, list[str]] = {}
    for image in sorted(reading.files.images):
        if root == PurePosixPath(".") or image.startswith(f"{root}/"):
            listed.setdefault(reading.splits.of_folders(image), []).append(image)
    reading.data.split_source = reading.splits.source()
    return listed


def _entry(data: RawData, files: Files, beside: PurePosixPath, root: Any, key: str, entry: Any) -> list[str]:
    """The images of a folder, or of a text file that lists them. Exported paths are often of another computer, or start
    with `../`: their last folders count."""
    parts = [part for part in str(entry).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(max(1, len(parts))):
        if any(split_of(part) for part in parts[:start]):
            break  # images/ is not the images of test/images
        for place in dict.fromkeys((beside / str(root or "."), beside)):
            path = os.path.normpath(f"{place}/{'/'.join(parts[start:])}").replace(os.sep, "/")
            if path in files and path.endswith(".txt"):
                return list(_listed(data, files, path))
            prefix = "" if path == "." else f"{path}/"
            if found := sorted(image for image in files.images if image.startswith(prefix)):
                return found
    if split_of(key) == "test":  # stated by default, also where there is none
        return []
    raise BadRecord("missing image", f"`{key}` is {quoted(entry)}: there are no images in a folder of this name")


def _listed(data: RawData, files: Files, path: str) -> Iterator[str]:
    for line in _lines(files, path):
        with data.refusing(path):
            yield files.image(line, [PurePosixPath(path).parent.as_posix(), "."])


def _lines(files: Files, path: str) -> list[str]:
    return [line.strip() for line in read_text(files.folder / path).splitlines() if line.strip()]


def _add_image(reading: Reading, names: dict[Any, str], image: str, split: str | None, odd: _Odd) -> None:
    data, files = reading.data, reading.files
    labels = _label_file(files, image)
    if labels is None:
        data.leave("images without a .txt in labels/ or beside them")
        return
    with data.refusing(labels):
        height, width = files.size(image)
        objects, before = [], len(data.faults) + len(odd)
        for number, line in enumerate(_lines(files, labels), start=1):
            where = f"{labels}, line {number}"
            with data.refusing(where):
                values = _numbers(line)
                if len(values) == 5:
                    odd.boxes.append(Fault("boxes only", where, f"has 4 numbers, {BOX}"))
                    continue
                if whole(values[0]) not in names:
                    raise BadRecord(
                        "unknown label", f"there is no class {values[0]:g}, valid: {', '.join(map(str, names))}"
                    )
                if len(values) % 2 == 0:
                    text = f"has {len(values) - 1} numbers after the class, expected pairs of x and y"
                    raise BadRecord("geometry", f"{text} (predictions saved with their confidence have one too many)")
                if max(map(abs, values[1:])) > 2:
                    odd.undivided.append((where, max(map(abs, values[1:])), max(height, width)))
                    continue
                points = [value * (height if place % 2 else width) for place, value in enumerate(values[1:])]
                labels_of = reading.vocabulary.labels(names[whole(values[0])])
                if labels_of is None:
                    data.leave("objects that data.mapping leaves out")
                else:
                    objects.append(RawObject(where, labels_of, [checked_polygon(points)]))
        note_duplicates(data, objects)
        invalid = len(data.faults) + len(odd) - before
        data.images.append(RawImage(labels, image, None, split, tuple(objects), invalid=invalid))


def _label_file(files: Files, image: str) -> str | None:
    """images/ becomes labels/, if the path has it; otherwise the file lies beside the image."""
    *folders, name = os.path.splitext(image)[0].split("/")
    for place in reversed(range(len(folders))):
        if folders[place].lower() == "images":
            folders[place] = "labels"
            break
    return files.file("/".join([*folders, f"{name}.txt"]))


def _numbers(line: str) -> list[float]:
    try:
        values = [float(value) for value in line.split()]
    except ValueError:
        values = []
    if len(values) < 2 or not all(map(math.isfinite, values)):
        raise BadRecord("geometry", f"is {quoted(line)}, expected a class and the coordinates of a polygon")
    return values
