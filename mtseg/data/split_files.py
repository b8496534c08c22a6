"""Files that list the images of the splits, and the lines of each split in them.

train.txt, val.txt, test.txt        a path, file name or stem on each line; also .lst, .csv and .tsv, in any column
split.csv, or any table             a column called split, set, fold or the like
split.txt, folds.tsv                the same without a header: a column that has a split in each line
split.json, .jsonl, .yaml           {split: images}, {image: split}, or [{image, split}, ...]
train.json                          [image, ...], or COCO's {images: [...]}
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from mtseg.core import yaml
from mtseg.core.errors import UserError, quoted
from mtseg.data.files import Files, suffix_of
from mtseg.data.raw import BadRecord, RawData, read_text, read_value
from mtseg.data.splits import (
    divides,
    folds,
    looks_split,
    names_splits,
    of_flags,
    says_split,
    split_in,
    split_of,
    states,
)

TEXTS = ("", ".lst", ".txt")
TABLES = (".csv", ".tsv")
VALUES = (".json", ".jsonl", ".yaml", ".yml")
UNREAD = (  # may list images, and are not read
    *(".feather", ".h5", ".hdf5", ".ini", ".mat", ".npy", ".npz", ".ods", ".parquet", ".pickle", ".pkl", ".pth"),
    *(".sqlite", ".toml", ".xls", ".xlsx"),
)
FORMS = (
    "train.txt, val.txt and test.txt with an image on each line, a .csv with the columns image,split, or a .json or "
    ".yaml of {train: [images], val: [images]} or {image: split}"
)
SEPARATORS = ",;\t"
NO_SPLITS = "it has no images by split"
IMAGE_KEYS = ("image", "file_name", "filename", "file", "path", "image_path", "img", "name")
ID_KEYS = ("image_id", "id")
csv.field_size_limit(2**31 - 1)  # a cell may be a mask


@dataclass
class Listed:
    """lines: of each file and split that it states. not_understood: by path, why a file that looks like a list of
    splits is not read."""

    lines: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    not_understood: dict[str, str] = field(default_factory=dict)


class _NotUnderstood(Exception):
    """Why a file states no split that can be used."""


class _Unclear(_NotUnderstood):
    """The same of a file that states a split, under any name."""


def listed(files: Files, raw: RawData, annotations: Set[str]) -> Listed:
    """The lists of a folder, of Pascal VOC's those for segmentation. annotations: files that are none. Columns of
    splits that have none are noted in `raw`. Raises UserError if a list cannot be read, or states a split for
    some of its lines alone."""
    found, texts = Listed(), {}
    for path in _candidates(files, annotations):
        stem, suffix = PurePosixPath(path).stem, PurePosixPath(path).suffix.lower()
        try:
            if suffix in TABLES and (lines := _table(files, path, raw)):
                found.lines |= lines
            elif suffix in (*TABLES, *TEXTS) and meaning(path) and not says_split(stem, alone=False):
                texts[path] = split_of(stem)
            elif suffix in VALUES and (says_split(stem) or _may_list(files, path)):
                found.lines |= _of_value(path, _value(files, path), raw)
            elif suffix in (*TABLES, *TEXTS) and meaning(path) and (fold := folds(path)):
                raise _NotUnderstood(f"it is of {fold}: copy the lists of one fold to train.txt and val.txt")
            elif suffix in (*TABLES, *TEXTS) and says_split(stem):
                found.lines |= _headless(files, path)
            elif suffix in UNREAD and says_split(stem):
                raise _NotUnderstood(f"{suffix} files are not read")
        except _NotUnderstood as reason:
            if says_split(stem) or isinstance(reason, _Unclear):
                found.not_understood[path] = str(reason)
        except RecursionError:
            raise UserError(f"{path} (in data.raw) cannot be read: it is nested too deep") from None
    loose = {path: split or meaning(path) for path, split in texts.items() if split or not path.endswith(TABLES)}
    exact = len({*texts.values()} - {None}) > 1
    several = len({*loose.values()}) > 1  # autosplit_train.txt is of train, crash_test.txt alone of none
    paths = {path: split for path, split in (loose if several and not exact else texts).items() if split}
    paths = {path: split for path, split in paths.items() if "ImageSets/Segmentation/" in path} or paths
    found.lines |= {(path, split): _without_head(_lines(files, path)) for path, split in paths.items()}
    return found


def _candidates(files: Files, annotations: Set[str]) -> Iterator[str]:
    """The files that may be lists by their suffix, and are no annotations of one image, as YOLO's .txt are."""
    beside = {image.removesuffix(suffix_of(image)) for image in files.images}
    alike = {stem.rpartition("/")[2] for stem in beside}
    for path in files.names:
        if path in annotations or suffix_of(path).lower() not in (*TEXTS, *TABLES, *VALUES, *UNREAD):
            continue
        place = PurePosixPath(path)
        if stem_of(path) in beside or (place.stem in alike and not split_of(place.stem)):
            continue
        if place.suffix.lower() not in TEXTS or "labels" not in PurePosixPath(path.lower()).parts:
            yield path


def _lines(files: Files, path: str) -> list[str]:
    try:
        return [*filter(None, map(str.strip, read_text(files.folder / path).splitlines()))]
    except BadRecord as bad:
        raise UserError(f"{files.folder}: {bad}") from None


def _without_head(lines: list[str]) -> list[str]:
    named = lines and any(cell.lower() in (*IMAGE_KEYS, *ID_KEYS) for cell in columns(lines[0]))
    return lines[1:] if named else lines


def _table(files: Files, path: str, raw: RawData) -> dict[tuple[str, str], list[str]]:
    """The lines of a table by the split in its column called split, set, fold or the like; none if it has no such
    column."""
    with (files.folder / path).open("rb") as file:
        start = [file.readline(1 << 16) for _ in range(2)]
    head, first = (
        columns(line.replace(b"\0", b"").decode(errors="replace")) for line in start
    )  # without UTF-16's zeros
    flags = of_flags(dict(zip(head, first, strict=False)))
    if not (flags or any(map(names_splits, head)) or (any(map(split_of, first)) and not any(map(split_of, head)))):
        return {}
    names, *rows = _rows(_lines(files, path))
    return _of_records(path, [dict(zip(names, row, strict=False)) for row in rows], raw)


def _headless(files: Files, path: str) -> dict[tuple[str, str], list[str]]:
    """The lines of a table without a header by the first column that has a split in each of them."""
    lines = _lines(files, path)
    for separator in (None, *SEPARATORS):
        rows = [line.split() for line in lines] if separator is None else _rows(lines, separator)
        for place in range(1, min(map(len, rows), default=0)):
            if all(split_of(row[place]) for row in rows):
                return _grouped(path, [split_of(row[place]) for row in rows], [" ".join(row[:place]) for row in rows])
    like = f", such as {quoted(lines[0])}" if lines else ""
    raise _NotUnderstood(f"none of its columns has a split in each line{like}")


def _rows(lines: Sequence[str], separator: str | None = None) -> list[list[str]]:
    separator = separator or max(SEPARATORS, key=lines[0].count)
    return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator, skipinitialspace=True)]


def _by_split(
    path: str, raw: RawData, columns: Mapping[str, Sequence[Any]], lines: Sequence[str]
) -> dict[tuple[str, str], list[str]]:
    """The lines by the split that they have in the first of the columns that has splits. If no column has any, this is
    noted or, in a file whose name says that it is a list of splits, raised as _NotUnderstood. Raises UserError if some
    lines have one and others not."""
    for name, values in columns.items():
        splits = [split_of(str(value)) for value in values]
        if None not in splits:
            return _grouped(path, splits, lines)
        if any(splits):
            first = splits.index(None)
            raise UserError(
                f"{path} (in data.raw): {quoted(lines[first])} has no split, unlike others: {name} is "
                f"{quoted(values[first])}, expected train, val or test"
            )
    for name, values in columns.items():
        stem = PurePosixPath(path).stem
        if says_split(stem) and not split_of(stem):
            like = f", such as {quoted(values[0])}" if lines else ""
            raise _NotUnderstood(f"its {name} is not train, val or test{like}")
        if len({*map(str, values)}) > 1 and divides(name):
            raise _Unclear(f"its column {name} is not train, val or test, such as {quoted(values[0])}")
        raw.note(f"lines of {path} whose column {name} has no split (train, val or test) and is not used", len(lines))
    return {}


def _grouped(path: str, splits: Iterable[str], lines: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for line, split in zip(lines, splits, strict=True):
        found.setdefault((path, split), []).append(line)
    return found


def _may_list(files: Files, path: str) -> bool:
    """Whether a file of any name starts like a list of splits: a look at a file that may be large."""
    with (files.folder / path).open("rb") as file:
        start = file.read(1 << 16).lstrip(b"\xef\xbb\xbf \t\r\n").decode(errors="replace")
    if path.endswith((".yaml", ".yml")):
        if "names" in re.findall(r"^(\w+)\s*:", start, re.M):  # a description of YOLO
            return False
        if len({*map(split_of, re.findall(r"^(\w+)\s*:.*\.(?:txt|csv|json)\s*$", start, re.M))} - {None}) > 1:
            raise _Unclear("it names lists in other files, which is not read")
        return len({*map(split_of, re.findall(r"^(\w+)\s*:(?:[ ]*\[|\s*\n\s*- )", start, re.M))} - {None}) > 1
    if len({*map(split_of, re.findall(r'"(\w+)"\s*:\s*[\[{]', start))} - {None}) > 1:
        return True
    pairs = re.findall(r'"([^"\\]{1,300})"\s*:\s*(?:"([^"\\]{0,40})|[^\s"])', start)
    if sum(states(key, value) for key, value in pairs) > 1:
        return True
    if len({split_of(value) for _, value in pairs}) > 1 and all(split_of(value) for _, value in pairs):
        return True
    if not looks_split(PurePosixPath(path).stem):
        return False
    if re.match(r'\[\s*["\d]', start):
        return True
    keys = re.findall(r'"(\w+)"\s*:', start)
    if start.startswith("{"):
        return bool(re.match(r'\{\s*"\w+"\s*:\s*\[\s*["\d]', start)) and any(map(split_of, keys))
    return any(map(names_splits, keys))


def _value(files: Files, path: str) -> Any:
    try:
        if path.endswith(".jsonl"):
            return [json.loads(line) for line in _lines(files, path)]
        if path.endswith(".json"):
            return read_value(files.folder / path)
        return yaml.parse(read_text(files.folder / path), "base")
    except BadRecord as bad:
        raise UserError(f"{path} (in data.raw): {bad}") from None
    except ValueError as error:
        raise UserError(f"{path} (in data.raw) cannot be read: {' '.join(str(error).split())}") from None


def _of_value(path: str, value: Any, raw: RawData) -> dict[tuple[str, str], list[str]]:
    """The images of each split by the value of a file; see the top of this module. Raises _NotUnderstood."""
    own = split_of(PurePosixPath(path).stem)
    if isinstance(value, dict):
        if "names" in value and own is None:  # a description of YOLO
            return {}
        splits = {key: split_of(str(key)) for key in value}
        if any(isinstance(value[key], list | dict) for key in splits if splits[key]):
            found: dict[tuple[str, str], list[str]] = {}
            for key, split in splits.items():
                if split:
                    found.setdefault((path, split), []).extend(_entries(value[key]))
            return found
        values = [*value.values()]
        if values and all(isinstance(one, str) and split_of(one) for one in values):
            return _grouped(path, map(split_of, values), map(str, value))
        if values and all(isinstance(one, dict) for one in values) and _stating(values):
            return _of_records(path, [{"image": key, **one} for key, one in value.items()], raw)
        if own is None:
            return _of_parts(path, [one for one in values if isinstance(one, list | dict)], raw)
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        if _stating(value):
            return _of_records(path, value, raw)
        if own is None:
            return _of_parts(path, value, raw)
    elif isinstance(value, list) and all(isinstance(one, list) for one in value) and own is None:
        return _of_records(path, [{"image": row[0], "split": row[-1]} for row in value if len(row) > 1], raw)
    if (own or meaning(path)) and isinstance(value, list | dict):
        return {(path, own or meaning(path)): _entries(value)}
    raise _NotUnderstood(NO_SPLITS)


def _of_parts(path: str, parts: Sequence[Any], raw: RawData) -> dict[tuple[str, str], list[str]]:
    """The only one of some values that has splits. Several are folds."""
    found = []
    for part in parts:
        try:
            found.append(_of_value(path, part, raw))
        except _NotUnderstood:
            continue
    found = [lines for lines in found if lines]
    if len(found) == 1:
        return found[0]
    raise _NotUnderstood(f"it has {len(found)} splits, as of folds, and one is needed" if found else NO_SPLITS)


def _of_records(path: str, records: Sequence[dict[str, Any]], raw: RawData) -> dict[tuple[str, str], list[str]]:
    """The texts of each record, by the split that it has."""
    found = _stating(records)
    lines = [_entry({key: value for key, value in record.items() if key not in found}) for record in records]
    return _by_split(path, raw, found, lines)


def _stating(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The values under each key that states splits, by its name or because all its values are splits; else the splits
    by flags such as is_train."""
    found = {}
    for key in dict.fromkeys(key for record in records for key in record):
        values = [record.get(key, "") for record in records]
        if names_splits(key) or (
            all(split_of(str(one)) for one in values) and len({*map(split_of, map(str, values))}) > 1
        ):
            found[key] = values
    if not found and all(flags := [of_flags(record) for record in records]) and len({*flags}) > 1:
        keys = [key for key in records[0] if of_flags({"is_train": 0, "is_val": 0, "is_test": 0} | {key: 1})]
        found = {key: flags for key in keys}
    return found


def _entries(value: Any) -> list[str]:
    """The images of a list, of records with a name (as in COCO), of lists by class, or the keys of a mapping."""
    if isinstance(value, dict):
        images = next((value[key] for key in ("images", "files", "data") if isinstance(value.get(key), list)), None)
        if images is None and value and all(isinstance(one, list) for one in value.values()):  # images by class
            images = [image for own in value.values() for image in own]
        return [*map(str, value)] if images is None else _entries(images)
    if not isinstance(value, list):
        raise _NotUnderstood(f"{quoted(value)} is no list of images")
    return [_entry(one) for one in value]


def _entry(value: Any) -> str:
    """The text of a list's entry; of a record what names the image or, if that is not known, all its values."""
    if isinstance(value, dict):
        by_key = {str(key).strip().lower(): one for key, one in value.items() if isinstance(one, str | int)}
        others = {*by_key} - {*IMAGE_KEYS, *ID_KEYS}
        keys = IMAGE_KEYS if others else (*IMAGE_KEYS, *ID_KEYS)
        value = [by_key[key] for key in keys if key in by_key][:1] or [*by_key.values()]
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def stem_of(path: str) -> str:
    return str(PurePosixPath(path).with_suffix("")) if PurePosixPath(path).name else path


def meaning(path: str) -> str | None:
    """The split that a file's name means, or has among other words."""
    stem = PurePosixPath(path).stem
    return split_of(stem) or split_in(stem)


def columns(line: str) -> list[str]:
    return [text.strip().strip("\"'") for text in re.split(r"[,;\t]", line)]
