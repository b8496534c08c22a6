"""What the report is held against: the params and the scores of the commit that it was made on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtseg.core.errors import UserError
from mtseg.report import revision

VAL = "data/coco/val.json"  # annotations, classes and tasks: scores on another one are of something else


@dataclass(frozen=True)
class Baseline:
    """commit: its hash, None without one. params: as written, None where it holds no results. evaluate, filter: its
    metrics, empty where they are no measure for those of here. why: the reason for what is missing, "" without."""

    commit: str | None = None
    params: Mapping[str, Any] | None = None
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    filter: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


def read(rev: str = "HEAD") -> Baseline:
    """The baseline that a revision is for the files as they are."""
    if (commit := revision.resolve(rev)) is None:
        return Baseline(why="There is no commit to compare with.")
    try:
        held = revision.read(rev)
    except UserError as error:  # no reason to show no report: the commit that mends it is still to come
        return Baseline(commit, why=f"Nothing is compared: {error}.")
    if held is None:
        return Baseline(commit, why="The commit this was made on holds no results to compare with.")
    if why := _other_data(revision.locked(commit, VAL)):
        return Baseline(commit, held["params"], why=f"Scores are not compared with those of that commit: {why}.")
    return Baseline(commit, held["params"], held["evaluate"], held["filter"])


def _other_data(then: str | None) -> str:
    """Why scores of a val split with that MD5 are of other data, "" where they are not."""
    if then is None:
        return f"its dvc.lock does not say on which {VAL} they were made"
    now = hashlib.md5(Path(VAL).read_bytes(), usedforsecurity=False).hexdigest() if Path(VAL).exists() else None
    return "" if now == then else f"its val split had other pictures, annotations or tasks ({VAL} differs)"
