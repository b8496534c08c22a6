"""The manifest: what the data set holds and the hashes of its files, from which any process takes it up."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtseg.core.errors import UserError
from mtseg.core.files import read_json
from mtseg.core.params import Task
from mtseg.core.tables import Image
from mtseg.data import coco, flatten

SPLITS = ("train", "val")
SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}  # COCO's size ranges: upper ends, square pixels
COUNTED = ("images", "empty_images", "crowds", "instances")


@dataclass(frozen=True)
class Manifest:
    """classes: (name, classes) of every task, the main one first. splits: what `build` says of each split."""

    classes: tuple[tuple[str, tuple[str, ...]], ...]
    splits: dict[str, dict[str, Any]]

    def images(self, split: str) -> list[Image]:
        """The pictures of a split. Raises UserError when its file has changed since `register`."""
        path = Path(self.splits[split]["json"])
        if path.exists() and _sha256(path) != self.splits[split]["sha256"]:
            raise UserError(f"{path} has changed since it was registered: run `dvc repro register`")
        return coco.read(path)[0]

    def combinations(self, split: str) -> dict[tuple[int, ...], int]:
        """How many instances of a split carry each combination of labels: class indices of all tasks, in their order.
        Those that occur, as they stand in the pictures: no mirror image is added. Crowds and instances that lack a
        label are not counted. Raises UserError for a manifest that does not say."""
        if "combinations" not in self.splits[split]:
            raise UserError("the manifest does not count combinations of labels: run `dvc repro register`")
        index = [{name: i for i, name in enumerate(classes)} for _, classes in self.classes]
        return {
            tuple(of[name] for of, name in zip(index, each["labels"], strict=True)): each["count"]
            for each in self.splits[split]["combinations"]
        }

    def tasks(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """The tasks of params.yaml with their classes and class weights filled in; the one task made of them where the
        data are flattened. Raises UserError when the data are of other tasks."""
        if len(tasks) > 1 and [name for name, _ in self.classes] == [flatten.name(tasks)]:
            tasks = (flatten.task(tasks, self.classes[0][1]),)
        wanted, found = [task.name for task in tasks], [name for name, _ in self.classes]
        if wanted != found:
            raise UserError(f"params.yaml has the tasks {wanted}, the data {found}: run `dvc repro register`")
        for task, (name, classes) in zip(tasks, self.classes, strict=True):
            if task.classes not in ("auto", classes):
                told = f"params.yaml has {list(task.classes)}, the data {list(classes)}"
                raise UserError(f"classes of task '{name}': {told}: run `dvc repro register`")
        resolved = coco.resolve(tasks, dict(self.classes))
        return tuple(
            task.model_copy(update={"class_weights": self._balance(task)}) if task.class_weights == "auto" else task
            for task in resolved
        )

    def _balance(self, task: Task) -> dict[str, float]:
        """Weights inverse to the frequency in train: each class has the same sum, and an instance's mean weight is 1.
        1 for a class that train never shows."""
        counts = {name: self.splits["train"]["labels"][task.name][name] for name in task.classes}
        shown = sum(count > 0 for count in counts.values())
        return {name: sum(counts.values()) / (shown * n) if n else 1.0 for name, n in counts.items()}


def build(folder: Path) -> dict[str, Any]:
    """The manifest of a folder with {train,val}.json, ready for `write_json`.

    Of each split: json, sha256, images, empty_images, instances and crowds (counted apart); and over the instances
    labels {task: {class: count}}, unlabelled {task: count}, combinations [{labels: [a class of each task], count}] of
    those that lack no label, instances_per_image {count: images}, areas {size: count}.
    """
    splits, tasks = {}, []
    for name in SPLITS:
        path = folder / f"{name}.json"
        images, tasks = coco.read(path)
        splits[name] = {"json": path.as_posix(), "sha256": _sha256(path), **_counts(images, tasks)}
    return {"tasks": [{"name": name, "classes": list(classes)} for name, classes in tasks], "splits": splits}


def load(path: Path) -> Manifest:
    """Read a manifest. Raises UserError."""
    raw = read_json(path, made_by="register")
    try:
        splits = {name: dict(raw["splits"][name]) for name in SPLITS}
        return Manifest(tuple((task["name"], tuple(task["classes"])) for task in raw["tasks"]), splits)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no manifest ({type(error).__name__}: {error}): run `dvc repro register`") from None


def table(manifest: dict[str, Any]) -> str:
    """The counts of every split and class as text, and a warning for the classes that a split never shows."""
    splits = list(manifest["splits"].values())
    rows = [("", SPLITS)]
    rows += [(key.replace("_", " "), [split[key] for split in splits]) for key in COUNTED]
    rows.append(("  a picture", [f"{split['instances'] / max(split['images'], 1):.2f}" for split in splits]))
    rows += [(f"  {size}", [split["areas"][size] for split in splits]) for size in SIZES]
    absent = {split: [] for split in SPLITS}
    for task in manifest["tasks"]:
        rows.append((task["name"], [""] * len(splits)))
        counts = [split["labels"][task["name"]] for split in splits]
        rows += [(f"  {name}", [count[name] for count in counts]) for name in task["classes"]]
        if any(unlabelled := [split["unlabelled"][task["name"]] for split in splits]):
            rows.append(("  (no label)", unlabelled))
        for split, count in zip(SPLITS, counts, strict=True):
            absent[split] += [f"{task['name']} {name}" for name in task["classes"] if not count[name]]
    first = max(len(name) for name, _ in rows)
    lines = [f"{name:{first}}" + "".join(f"{cell:>9}" for cell in cells) for name, cells in rows]
    lines += [f"warning: {split} has no example of {', '.join(names)}" for split, names in absent.items() if names]
    return "\n".join(line.rstrip() for line in lines)


def _counts(images: Sequence[Image], tasks: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, Any]:
    instances = [instance for image in images for instance in image.instances if not instance.crowd]
    counts = {name: Counter(instance.labels[name] for instance in instances) for name, _ in tasks}
    per_image = Counter(sum(not instance.crowd for instance in image.instances) for image in images)
    whole = Counter(labels for i in instances if None not in (labels := tuple(i.labels[name] for name, _ in tasks)))
    sizes = Counter(next(size for size, end in SIZES.items() if instance.area < end) for instance in instances)
    return {
        "images": len(images),
        "empty_images": sum(not image.instances for image in images),
        "instances": len(instances),
        "crowds": sum(instance.crowd for image in images for instance in image.instances),
        "labels": {task: {name: counts[task][i] for i, name in enumerate(classes)} for task, classes in tasks},
        "unlabelled": {task: counts[task][None] for task, _ in tasks},
        "combinations": [{"labels": _named(labels, tasks), "count": whole[labels]} for labels in sorted(whole)],
        "instances_per_image": {str(number): per_image[number] for number in sorted(per_image)},
        "areas": {size: sizes[size] for size in SIZES},
    }


def _named(labels: Sequence[int], tasks: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    return [classes[label] for label, (_, classes) in zip(labels, tasks, strict=True)]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
