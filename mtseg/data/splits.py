"""Train, val and test: the names of the splits, and what names of files and folders state."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from mtseg.data.files import Files
from mtseg.data.raw import RawData

SPLITS = ("train", "val", "test")
_MEANINGS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NEUTRAL = {  # words beside a split's name that do not change its meaning
    *"annotation annotations coco data dataset image images img imgs instances json label labels mask masks".split(),
    *"file files id ids list lists names part set split subset yolo".split(),
}
_PARTITION = {"fold", "folds", "kfold", "partition", "partitions", "split", "splits"}
_SCORES = {"eval", "evaluation"}  # files of these names have results
_COLUMNS = {"fold", "folds", "partition", "set", "split", "subset"}
_WORD = re.compile(rf"({'|'.join(_MEANINGS)})(set|images?|imgs|data|labels?|split)?")  # train, trainset
# other words that name a part of a data set that is split, such as fold2, trainval or minival
_PARTS = re.compile("eval|evaluation|folds?|holdout|kfold|trn|tst|mini(train|val)|(train|val|test)(val|test|dev)")


def _words(name: str) -> list[str]:
    """The words of a name, in lower case, with numbers: trainImages_2017 -> train, images, 2017."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]


def _meaning(word: str) -> str | None:
    match = _WORD.fullmatch(word)
    return _MEANINGS[match[1]] if match else None


@cache
def split_of(name: str) -> str | None:
    """The split that a folder's or file's name means, without suffix: train, Training, train2017, instances_train2017;
    val, valid, validation, dev; test, testing; also with words such as images or set. None for any other name."""
    words = _significant(name)
    return _meaning(words[0]) if len(words) == 1 else None


def split_in(name: str) -> str | None:
    """The split that a name of several words has as its only one: lvis_v1_train. None if it has none, or several."""
    found = {*map(_meaning, _words(name))} - {None}
    return found.pop() if len(found) == 1 else None


def parts_of(names: Iterable[str]) -> dict[str, str] | None:
    """The split of the names that are numbered or lettered parts of one: train1 and train2, train_a and train_b. None
    if several splits have such parts: train1, val1, train2 and val2 may be folds, whose images overlap."""
    parts = {name: split for name in names if (split := _part(name))}
    if len({*parts.values()}) > 1:
        return None
    return parts if len(parts) > 1 else {}


def _part(name: str) -> str | None:
    words = _significant(name)
    return _meaning(words[0]) if len(words) == 2 and re.fullmatch(r"\d{1,3}|[a-z]", words[1]) else None


def _significant(name: str) -> list[str]:
    """The words of a name that are neither neutral nor a year."""
    return [word for word in _words(name) if word not in _NEUTRAL and not re.fullmatch(r"20\d\d", word)]


@cache
def names_splits(column: str) -> bool:
    """Whether a column or key of this name has splits or folds: split, data_split, image_set, subset, fold."""
    return not {*_words(column)}.isdisjoint(_COLUMNS)


@cache
def says_split(name: str, *, alone: bool = True) -> bool:
    """Whether a file's name, without suffix, has the word split, fold or partition or, `alone`, has names of splits and
    no words of another meaning: train_val, test1, but not train_log."""
    words = _words(name)
    if not {*words}.isdisjoint(_PARTITION):
        return True
    own = {word for word in _significant(name) if not re.fullmatch(r"\d+|[a-z]", word)}
    return alone and all(_meaning(word) or _PARTS.fullmatch(word) for word in own) and not own <= _SCORES


@cache
def looks_split(name: str) -> bool:
    """Whether a name is that of a part of a data set that is split already, also where its meaning is unknown."""
    return any(_meaning(word) or _PARTS.fullmatch(word) for word in _words(name))


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
