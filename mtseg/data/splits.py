"""Names of the splits: train, val and test."""

from __future__ import annotations

import re

_WORDS = {"train": "train|training", "val": "val|valid|validation|dev", "test": "test|testing"}
_NAMES = {
    split: re.compile(rf"(?:instances_|annotations_)?(?:{words})(?:20\d\d)?(?:[_-]annotations)?", re.IGNORECASE)
    for split, words in _WORDS.items()
}


def split_of(name: str) -> str | None:
    """The split that a folder's or file's name means, without suffix: train, Training, train2017, instances_train2017;
    val, valid, validation, dev; test, testing. None for any other name."""
    return next((split for split, pattern in _NAMES.items() if pattern.fullmatch(name)), None)
