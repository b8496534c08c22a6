"""A revision with its pictures and predictions, and what of two revisions can be held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from mtseg.core.errors import UserError
from mtseg.core.params import Ranking, Task
from mtseg.core.tables import Image, Prediction
from mtseg.data import coco
from mtseg.evaluation import predictions
from mtseg.report import revision


@dataclass(frozen=True)
class Side:
    """A revision. held: of `revision.read`. lacks: why there are no pictures and predictions, None where there are."""

    rev: str
    commit: str | None
    held: Mapping[str, Any]
    lacks: str | None = None
    tasks: tuple[Task, ...] = ()
    images: tuple[Image, ...] = ()
    raw: tuple[Prediction, ...] = ()
    filtered: tuple[Prediction, ...] = ()

    @property
    def ranking(self) -> Ranking:
        own = self.held["params"].get("test", {}).get("ranking")
        return own if own in get_args(Ranking) else "product_quality"

    @property
    def root(self) -> Path:
        """The folder of its pictures: another revision's may be another."""
        return Path(self.held["params"].get("data", {}).get("raw") or ".")

    @property
    def max_dets(self) -> Sequence[int]:
        return self.held["params"].get("test", {}).get("max_dets") or (100,)


def load(rev: str, scratch: Path) -> Side:
    """A revision with its predictions on val, as far as DVC's cache has them. scratch: a folder for copies.

    Raises UserError where there is no such revision or it holds no results.
    """
    commit = None if rev == revision.WORKSPACE else revision.resolve(rev)
    if (held := revision.read(rev)) is None:
        what = "the files here hold no results: run `dvc repro`"
        if rev != revision.WORKSPACE:
            what = (
                "holds no params and metrics"
                if commit
                else "is no commit, branch, tag or experiment: see `dvc exp show -A`"
            )
        raise UserError(f"{rev}: {what}")
    try:
        images, classes = coco.read(revision.fetch(rev, "data/coco/val.json", scratch))
        tasks = _tasks(classes, held["params"])
        raw = predictions.read(revision.fetch(rev, "data/predictions/val.json", scratch), tasks)
        filtered = predictions.read(revision.fetch(rev, "data/filtered/val.json", scratch), tasks, made_by="filter")
    except UserError as error:
        return Side(rev, commit, held, str(error).replace(f"{scratch}/", ""))
    return Side(rev, commit, held, None, tasks, tuple(images), tuple(raw), tuple(filtered))


def common(a: Side, b: Side, notes: list[str]) -> tuple[Side, Side] | None:
    """Both sides with the tasks and the pictures that they share, under the ids of `a`; None where there are none."""
    theirs = {task.name: task.classes for task in b.tasks}
    shared = tuple(task for task in a.tasks if theirs.get(task.name) == task.classes)
    if not shared or shared[0] != a.tasks[0] or a.tasks[0].name != b.tasks[0].name:
        notes.append("The main task or its classes differ: neither AP nor pictures can be compared.")
        return None
    if len(shared) < max(len(a.tasks), len(b.tasks)):
        names = ", ".join(task.name for task in shared)
        notes.append(f"The tasks differ: what follows is scored with those that both have, {names}.")

    def known(image: Image) -> tuple:
        labels = [tuple(i.labels[task.name] for task in shared) for i in image.instances]
        return (
            image.height,
            image.width,
            [(i.segmentation, i.crowd, own) for i, own in zip(image.instances, labels, strict=True)],
        )

    same = {image.file_name: image for image in b.images}
    pairs = {
        i.id: same[i.file_name].id for i in a.images if i.file_name in same and known(i) == known(same[i.file_name])
    }
    if not pairs:
        notes.append(
            "The val splits have no picture with the same annotations in common: scores are of different data."
        )
        return None
    if len(pairs) < max(len(a.images), len(b.images)):
        notes.append(
            f"The val splits differ: {len(a.images)} and {len(b.images)} pictures, of which {len(pairs)} are in both "
            "with the same annotations. Changes with an interval, and the pictures, are of those; the metrics of all."
        )
    images = tuple(image for image in a.images if image.id in pairs)
    back = {theirs: own for own, theirs in pairs.items()}
    slots = {task.name: task for task in b.tasks}

    def kept(found: Sequence[Prediction], ids: Mapping[int, int]) -> tuple[Prediction, ...]:
        return tuple(replace(p, image_id=ids[p.image_id]) for p in found if p.image_id in ids)

    own = {key: key for key in pairs}
    return (
        replace(a, tasks=shared, images=images, raw=kept(a.raw, own), filtered=kept(a.filtered, own)),
        replace(
            b,
            tasks=tuple(slots[t.name] for t in shared),
            images=images,
            raw=kept(b.raw, back),
            filtered=kept(b.filtered, back),
        ),
    )


def _tasks(classes: Sequence[tuple[str, tuple[str, ...]]], params: Mapping[str, Any]) -> tuple[Task, ...]:
    """The tasks of the data, as far as predictions need them; what else params say of them may be of older code."""
    slots = {task["name"]: task.get("background", True) for task in params.get("tasks", ())}
    return tuple(Task.predicted(name=name, classes=own, background=slots.get(name, True)) for name, own in classes)
