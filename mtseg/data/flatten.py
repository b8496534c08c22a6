"""Merge all labels of an object into one class, such as `circle,red,striped`: a common single-task baseline.

The classes are the combinations that occur in the data and, with flip_pairs, their mirror images. The stages after
`convert` have a single task, whose AP is the joint AP. A flat class cannot express a missing label: a partly labelled
object becomes a crowd of every class that it may have, so it is not trained on and is ignored in evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from mtseg.core.errors import UserError, quoted
from mtseg.core.params import Task, with_flips
from mtseg.core.tables import Image, Instance
from mtseg.data import coco

SEPARATOR = ","  # the same as in labels of raw data


def name(tasks: Sequence[Task]) -> str:
    """Name of the flat task."""
    return "_".join(task.name for task in tasks)


def task(tasks: Sequence[Task], classes: Sequence[str]) -> Task:
    """The flat task with these classes. It has the loss weights of the main task; a class has the weight of its main
    label; flip_pairs of all tasks are combined. Raises UserError when `classes` do not fit the tasks."""
    main, *_ = tasks
    for flat in classes:
        parts = flat.split(SEPARATOR)
        listed = [task.classes == "auto" or part in task.classes for task, part in zip(tasks, parts, strict=False)]
        if len(parts) != len(tasks) or not all(listed):
            ours = [task.name for task in tasks]
            raise UserError(
                f"the data have the class {quoted(flat)}, which does not fit the tasks {ours} of params.yaml: run `dvc "
                "repro register`"
            )
    weights = main.class_weights
    if isinstance(weights, dict):
        weights = {flat: weights[own] for flat in classes if (own := flat.split(SEPARATOR)[0]) in weights}
    flipped = {
        flat: SEPARATOR.join(task.flip(part) for task, part in zip(tasks, flat.split(SEPARATOR), strict=True))
        for flat in classes
    }
    pairs = {tuple(sorted(pair)) for pair in flipped.items() if pair[0] != pair[1]}
    update = {"classes": "auto", "class_weights": weights, "flip_pairs": tuple(sorted(pairs))}
    return main.model_copy(update={"name": name(tasks), **update})


def flatten(
    splits: Mapping[str, Sequence[Image]], tasks: Sequence[Task]
) -> tuple[dict[str, list[Image]], Task, dict[str, Any]]:
    """The splits, the flat task, and a report: classes, number of objects `ignored` because a label is missing, and
    `left_out` because no flat class fits. Raises UserError."""
    for own in tasks:
        if parted := [label for label in own.classes if SEPARATOR in label]:
            message = f"class {quoted(parted[0])} of task '{own.name}' has a comma, the separator of data.flatten"
            raise UserError(f"{message}: rename it in data.mapping, or set data.flatten: false")
    every = [instance for images in splits.values() for image in images for instance in image.instances]
    found = {_labels(instance, tasks) for instance in every}
    found = {labels for labels in found if None not in labels}
    if not found:
        raise UserError("data.flatten requires an object with labels of all tasks; there is none")
    ordered = sorted(with_flips(found, tasks))
    classes = [SEPARATOR.join(t.classes[i] for t, i in zip(tasks, labels, strict=True)) for labels in ordered]
    (flat,) = coco.resolve([task(tasks, classes)], {name(tasks): classes})
    report = {"classes": classes, "ignored": 0, "left_out": 0}

    @cache
    def fitting(known: tuple[int | None, ...]) -> list[int]:
        return [index for index, labels in enumerate(ordered) if _fit(known, labels)]

    def renamed(instance: Instance) -> list[Instance]:
        known = _labels(instance, tasks)
        fits, lacks = fitting(known), None in known
        report["ignored"] += lacks and bool(fits)
        report["left_out"] += not fits
        return [replace(instance, labels={flat.name: index}, crowd=instance.crowd or lacks) for index in fits]

    flattened = {
        split: [
            replace(image, instances=tuple(i for each in image.instances for i in renamed(each))) for image in images
        ]
        for split, images in splits.items()
    }
    return flattened, flat, report


def _labels(instance: Instance, tasks: Sequence[Task]) -> tuple[int | None, ...]:
    return tuple(instance.labels[task.name] for task in tasks)


def _fit(known: Sequence[int | None], labels: Sequence[int]) -> bool:
    return all(a in (None, b) for a, b in zip(known, labels, strict=True))
