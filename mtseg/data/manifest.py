"""The manifest: contents of the data set and hashes of its files. All later stages find the data through it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.core.errors import UserError, is_pipe, one_line
from mtseg.core.files import read_json
from mtseg.core.masks import AREA_RANGES
from mtseg.core.params import Task
from mtseg.core.tables import UNLABELLED, Classes, Images
from mtseg.data import coco, flatten
from mtseg.data.splits import SPLITS

WIDEST = 60  # characters of the first column of the table
COUNTED = ("images", "empty_images", "crowds", "instances")


@dataclass(frozen=True)
class Manifest:
    """classes: (name, classes) of every task, the main task first. splits: counts and files of train, val
    and, if the data have it, test (`build`)."""

    classes: Classes
    splits: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, built: dict[str, Any]) -> Manifest:
        """Make a manifest from the result of `build`. Raises KeyError, TypeError or ValueError."""
        given = {"train", "val", *built["splits"]}
        splits = {name: dict(built["splits"][name]) for name in SPLITS if name in given}
        if missing := [key for split in splits.values() for key in ("table", "combinations") if key not in split]:
            raise KeyError(missing[0])
        return cls(tuple((task["name"], tuple(task["classes"])) for task in built["tasks"]), splits)

    def images(self, split: str, *, outlines: bool = True) -> Images:
        """The images of a split; see `Images.read`. Raises UserError if its table has changed since `register`."""
        path = Path(self.splits[split]["table"])
        if path.exists() and _sha256(path) != self.splits[split]["table_sha256"]:
            raise UserError(f"{path} has changed since it was registered: run `dvc repro register`")
        return Images.read(path, outlines=outlines)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Of each split the SHA-256 of its annotations and what it counts, as a checkpoint records them."""
        return {
            name: {key: split[key] for key in ("sha256", "images", "instances")} for name, split in self.splits.items()
        }

    def combinations(self, split: str) -> dict[tuple[int, ...], int]:
        """Number of instances of each combination of labels in a split. A combination is a tuple of class indices in
        the order of the tasks. Mirror images are not added; crowds and partly labelled instances are not counted."""
        return {
            tuple(own.index(name) for (_, own), name in zip(self.classes, each["labels"], strict=True)): each["count"]
            for each in self.splits[split]["combinations"]
        }

    def tasks(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """The tasks of params.yaml with classes and class weights filled in, or the flat task if the data are
        flattened. Raises UserError when the data have other tasks."""
        if len(tasks) > 1 and [name for name, _ in self.classes] == [flatten.name(tasks)]:
            tasks = (flatten.task(tasks, self.classes[0][1]),)
        wanted, found = [task.name for task in tasks], [name for name, _ in self.classes]
        if wanted != found:
            raise UserError(f"params.yaml has tasks {wanted}, the data {found}: run `dvc repro register`")
        for task, (name, classes) in zip(tasks, self.classes, strict=True):
            if task.classes not in ("auto", classes):
                both = f"params.yaml has {list(task.classes)}, the data {list(classes)}"
                raise UserError(f"classes of task '{name}': {both}: run `dvc repro register`")
        resolved = coco.resolve(tasks, dict(self.classes))
        return tuple(
            task.model_copy(update={"class_weights": self._balance(task)}) if task.class_weights == "auto" else task
            for task in resolved
        )

    def _balance(self, task: Task) -> dict[str, float]:
        """Weights inversely proportional to the frequency in train: the weights of each class have the same sum, and
        the mean weight of an instance is 1. A class that does not occur in train has weight 1."""
        counts = {name: self.splits["train"]["labels"][task.name][name] for name in task.classes}
        shown = sum(count > 0 for count in counts.values())
        return {name: sum(counts.values()) / (shown * n) if n else 1.0 for name, n in counts.items()}


def build(folder: Path) -> dict[str, Any]:
    """The manifest of a folder with {train,val}.{json,parquet} and, if there is one, test's, as JSON values.

    For each split: json, sha256 (of the JSON), table (the Parquet file), table_sha256, images, empty_images, instances
    and crowds (counted separately). Counts of instances: labels {task: {class: count}}, unlabelled {task: count},
    combinations [{labels: [one class per task], count}] of fully labelled instances, instances_per_image {count:
    images}, areas {size: count}.
    """
    splits, tasks = {}, []
    for name in SPLITS:
        json, table = folder / f"{name}.json", folder / f"{name}.parquet"
        if name == "test" and not table.exists():
            continue
        images = Images.read(table, outlines=False)
        files = {"json": json.as_posix(), "sha256": _sha256(json)}
        files |= {"table": table.as_posix(), "table_sha256": _sha256(table)}
        splits[name], tasks = files | counts(images), images.classes
    return {"tasks": [{"name": name, "classes": list(classes)} for name, classes in tasks], "splits": splits}


def load(path: Path) -> Manifest:
    """Read a manifest. Raises UserError."""
    raw = read_json(path, made_by="register")
    try:
        return Manifest.of(raw)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a manifest of this version: run `dvc repro register`") from None


def table(manifest: dict[str, Any]) -> str:
    """The counts of every split and class as text, with a warning for classes that do not occur in a split."""
    names = [name for name in SPLITS if name in manifest["splits"]]
    splits = [manifest["splits"][name] for name in names]
    rows = [("", names)]
    rows += [(key.replace("_", " "), [split[key] for split in splits]) for key in COUNTED]
    rows.append(("  per image", [f"{split['instances'] / max(split['images'], 1):.2f}" for split in splits]))
    rows += [(f"  {size}", [split["areas"][size] for split in splits]) for size in AREA_RANGES]
    absent = {split: [] for split in names}
    for task in manifest["tasks"]:
        rows.append((task["name"], [""] * len(splits)))
        counts = [split["labels"][task["name"]] for split in splits]
        rows += [(f"  {name}", [count[name] for count in counts]) for name in task["classes"]]
        if any(unlabelled := [split["unlabelled"][task["name"]] for split in splits]):
            rows.append(("  (unlabelled)", unlabelled))
        for split, count in zip(names, counts, strict=True):
            absent[split] += [f"{task['name']} {name}" for name in task["classes"] if not count[name]]
    first = min(max(len(name) for name, _ in rows), WIDEST)
    lines = [f"{name:{first}}" + "".join(f"{cell:>9}" for cell in cells) for name, cells in rows]
    lines += [f"warning: {split} has no example of {', '.join(names)}" for split, names in absent.items() if names]
    return "\n".join(one_line(line.rstrip()) for line in lines)


def counts(images: Images) -> dict[str, Any]:
    """What the manifest counts of a split; see `build`."""
    rows = np.flatnonzero(~images.instances.crowd)
    instances = images.instances[rows]
    per_image = np.bincount(instances.image, minlength=len(images))
    columns = {task: instances.labels[task].tolist() for task, _ in images.classes}
    labels = {task: Counter(column) for task, column in columns.items()}
    combinations = Counter(zip(*columns.values(), strict=True))
    whole = sorted((own, count) for own, count in combinations.items() if UNLABELLED not in own)
    sizes = Counter(
        next(size for size, (_, end) in AREA_RANGES.items() if area < end) for area in instances.area.tolist()
    )
    return {
        "images": len(images),
        "empty_images": len(images) - len(np.unique(images.instances.image)),
        "instances": len(instances),
        "crowds": len(images.instances) - len(instances),
        "labels": {task: {name: labels[task][i] for i, name in enumerate(own)} for task, own in images.classes},
        "unlabelled": {task: count[UNLABELLED] for task, count in labels.items()},
        "combinations": [{"labels": _named(own, images.classes), "count": count} for own, count in whole],
        "instances_per_image": {str(number): count for number, count in sorted(Counter(per_image.tolist()).items())},
        "areas": {size: sizes[size] for size in AREA_RANGES},
    }


def _named(labels: Sequence[int], tasks: Classes) -> list[str]:
    return [classes[label] for label, (_, classes) in zip(labels, tasks, strict=True)]


def _sha256(path: Path) -> str:
    if is_pipe(path):
        raise UserError(f"{path} is a pipe or a device, not a file: run `dvc repro convert` again")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro convert` first") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): run `dvc repro convert` again") from None
