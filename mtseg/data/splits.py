"""Train, val and test: the names of the splits, and what names of files and folders state."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import PurePosixPath
from typing import Any

from mtseg.data.files import Files
from mtseg.data.raw import RawData

SPLITS = ("train", "val", "test")
_MEANINGS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NEUTRAL = {  # words beside a split's name that do not change its meaning
    *"annotation annotations coco data dataset image images img imgs instances json label labels mask masks".split(),
    *"file files id ids list lists names part set split subset yolo".split(),
}
_PARTITION = {"fold", "folds", "kfold", "partition", "partitions", "split", "splits"}
_MAY_STATE = {*"dataset mode phase purpose role stage type usage use".split()}  # if a split is their value
_SCORES = {"eval", "evaluation"}  # files of these names have results
_COLUMNS = {"fold", "folds", "kfold", "partition", "set", "split", "subset"}
_WORD = re.compile(rf"({'|'.join(_MEANINGS)})(set|images?|imgs|data|labels?|split)?")  # train, trainset
_SHORT = {"tr": "train", "va": "val", "te": "test", "ts": "test"}  # of names that differ in these alone: tr, va, te
_ALIKE = {**_MEANINGS, **_SHORT, "训练": "train", "验证": "val", "测试": "test"}
_FLAGS = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}
_REST = {
    ("train",): "val",
    ("val",): "train",
    ("train", "val"): "test",
    ("test", "val"): "train",
    ("test", "train"): "val",
}
_FOLD = re.compile(r"(?<![a-z])(k?folds?|cv|splits?)[ _-]*(\d+)(?!\d)")
# other words that name a part of a data set that is split, such as fold2, trainval or minival
_PARTS = re.compile(
    "eval|evaluation|folds?|holdout|kfold|trn|tst|mini(train|val)|(train|val|test)(val|test|dev)|"
    "(trainings|validierungs|test)daten|validierung|entrenamiento|validacion|pruebas?|apprentissage|treinamento|treino|"
    "validacao|addestramento|convalida"  # German, Spanish, French, Portuguese, Italian
)


@lru_cache(maxsize=2**12)  # of keys; names of files are many
def _words(name: str) -> list[str]:
    """The words of a name, in lower case, with numbers: trainImages_2017 -> train, images, 2017."""
    words: list[str] = []
    for run in re.findall(r"[A-Za-z]+|\d+", name):
        known = _meaning(run.lower()) or run.isdigit()  # TRAINset is one word
        words += [run] if known else re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", run)
    return [word.lower() for word in words]


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


def alike(names: Iterable[str]) -> dict[str, str]:
    """The split of names that differ in the name of the split alone, where train is among them: trains and vals,
    mytrain and myval, imagesTr and imagesTs. Numbers beside it may be those of folds: these names are left out."""
    forms: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        if any(map(_PARTS.fullmatch, _words(name))):
            continue
        lower = name.casefold()
        for word, split in _ALIKE.items():
            for match in re.finditer(word, lower):
                before, after = lower[: match.start()], lower[match.end() :]
                short = word in _SHORT and (after or before.rstrip("_- ") not in {"", *_NEUTRAL})
                if not short and not re.search(r"\d", before + after):
                    forms.setdefault((before, after), {})[name] = split
    found = [own for own in forms.values() if "train" in own.values() and len({*own.values()}) > 1]
    return {name: split for own in found for name, split in own.items()}


def folds(path: str) -> str | None:
    """The fold that a path names, beside a split: fold0/train/a.png, train_fold0.json. None if it names none."""
    match = _FOLD.search(path.lower())
    return f"{match[1]} {match[2]}" if match else None


def of_flags(record: Mapping[str, Any]) -> str | None:
    """The split by keys such as is_train, or train and val, whose values are yes or no. None if they state none, as
    `train` alone, which may be a class."""
    flags: dict[str, bool] = {}
    sure = False
    for key, value in record.items():
        every = _words(str(key))
        words = [word for word in every if word not in ("is", "in", "for", "use")]
        split, flag = _meaning(words[0]) if len(words) == 1 else None, _FLAGS.get(str(value).lower())
        if split and flag is not None:
            flags[split] = flag
            sure |= len(every) > 1
    if not sure and len(flags) < 2:
        return None
    return next((split for split, flag in flags.items() if flag), _REST.get(tuple(sorted(flags))))


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
def divides(key: str) -> bool:
    """Whether a column or key of this name divides the images even if its values mean no split: fold, split_id."""
    return not {*_words(key)}.isdisjoint(_PARTITION)


@cache
def may_state(key: str) -> bool:
    """Whether a key of this name states a split if its value is one."""
    return not {*_words(key)}.isdisjoint(_COLUMNS | _MAY_STATE)


def states(key: str, value: str) -> bool:
    """Whether a key has a split as its value, by the names of both: split: train, usage: Test."""
    return may_state(key) and split_of(value) is not None


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
        folders = {part for own in {*parents} for part in own}
        self._parts = alike(folders) | (parts_of(folders) or {})
        self._stated: dict[str, str] = {}

    def of_name(self, name: str) -> str | None:
        """The split that a file's name means, without its suffix."""
        return self._noted(name, split_of(name))

    def of_record(self, record: Mapping[str, Any], data: RawData) -> str | None:
        """The split that a record of an image has under a key such as split or data_split. Values of such keys that
        mean none, as numbers of folds, are noted."""
        named = {key: record[key] for key in filter(names_splits, record) if record[key] not in (None, "")}
        for value in named.values():
            if split := self.of_name(str(value)):
                return split
        if split := of_flags(record):
            return self._noted("is_train and the like", split)
        for key, value in record.items():
            if isinstance(value, str) and states(key, value):
                return self.of_name(value)
        for key, value in named.items():
            data.note(f"images whose `{key}` has no split (train, val or test) and is not used")
            if divides(key):
                data.unclear_splits.setdefault(key, set()).add(str(value))
        return None

    def of_files(self, paths: Sequence[str]) -> dict[str, str | None]:
        """The split of each annotation file, by its name or its folders. A name such as lvis_v1_train counts if those
        of other files are of other splits; a file called crash_test alone states none."""
        named = alike({PurePosixPath(path).stem for path in paths})
        meant = {path: split_of(stem := PurePosixPath(path).stem) or named.get(stem) for path in paths}
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
            if split := split_of(part) or self._parts.get(part):
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
