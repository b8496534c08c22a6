"""Names of the splits: train, val and test."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

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
def looks_split(name: str) -> bool:
    """Whether a name is that of a part of a data set that is split already, also where its meaning is unknown."""
    return any(_meaning(word) or _PARTS.fullmatch(word) for word in _words(name))
