"""What the annotations say against what the tasks say: counts and ranges of every task. Reads no picture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from mtseg.checks.findings import Finding
from mtseg.core.params import Input, Task
from mtseg.core.tables import Image, Instance
from mtseg.data import coco

TWIN = 0.95  # mask IoU of two instances that are one object
MANY = 0.01  # share of the instances that this is worth a warning for
SIDES = (("left", "right"), ("l", "r"), ("lhs", "rhs"))
SIDE = re.compile(
    r"left|right|(?<![a-z0-9])(?:l|r|lhs|rhs)(?![a-z0-9])", re.IGNORECASE
)  # the short ones as whole words
RARE = 10  # examples below which a class is hardly learnt, let alone scored


def check(train: Sequence[Image], val: Sequence[Image], *, tasks: Sequence[Task], input: Input) -> list[Finding]:
    """The findings of all checks here; errors: an empty split, a label out of range, a task without labels."""
    found = list(empty_splits(train, val))
    for task in tasks:
        found += out_of_range([*train, *val], task)
        found += unlabelled(train, task)
        found += missing(train, val, task)
        found += rare(train, task)
        found += unswapped(task, input)
    return [*found, *twice(train, "train"), *twice(val, "val")]


def empty_splits(train: Sequence[Image], val: Sequence[Image]) -> Iterator[Finding]:
    for name, images in (("train", train), ("val", val)):
        if not any(True for _ in instances(images)):
            what = "no instance to learn from or to score" if images else "no pictures"
            yield Finding("split_empty", "error", f"the {name} split has {what}", "see data.split, or add some", name)


def out_of_range(images: Sequence[Image], task: Task) -> Iterator[Finding]:
    """F8: on CUDA such a target is an assert without a name."""
    bad = [
        (image, instance)
        for image, instance in instances(images)
        if (label := instance.labels[task.name]) is not None and not 0 <= label < len(task.classes)
    ]
    if bad:
        image, first = bad[0]
        evidence = (
            f"{len(bad)} instances have a label outside 0..{len(task.classes) - 1}, the first in {image.file_name}, "
            f"annotation {first.id}: {first.labels[task.name]}"
        )
        yield Finding("label_range", "error", evidence, "run `dvc repro convert register`", f"task '{task.name}'")


def unlabelled(train: Sequence[Image], task: Task) -> Iterator[Finding]:
    counts = count(train, task)
    where = f"task '{task.name}'"
    if not counts:
        evidence = "no labelled instance in train"
        yield Finding("task_unlabelled", "error", evidence, "remove the task from `tasks` or label some", where)
    elif len(counts) == 1 < len(task.classes):
        evidence = f"all {counts.total()} labelled instances in train are '{task.classes[next(iter(counts))]}'"
        change = "a task of one class is learnt by answering it always: look at the raw labels or the mapping"
        yield Finding("task_unlabelled", "warning", evidence, change, where)


def missing(train: Sequence[Image], val: Sequence[Image], task: Task) -> Iterator[Finding]:
    seen, wanted = count(train, task), count(val, task)
    absent = sorted(task.classes[label] for label in wanted.keys() - seen.keys() if 0 <= label < len(task.classes))
    if seen and absent:
        share = sum(wanted[task.index(name)] for name in absent) / wanted.total()
        evidence = f"in val but not in train: {', '.join(absent)} ({share:.1%} of val's labels)"
        change = "move examples into train, or split by another data.seed"
        yield Finding("class_missing_in_train", "warning", evidence, change, f"task '{task.name}'")


def rare(train: Sequence[Image], task: Task) -> Iterator[Finding]:
    counts = count(train, task)
    few = {task.classes[label]: n for label, n in sorted(counts.items()) if n < RARE and 0 <= label < len(task.classes)}
    if few:
        listed = ", ".join(f"{name} {n}" for name, n in few.items())
        evidence = f"fewer than {RARE} examples in train: {listed}"
        change = "label more, merge classes in the mapping, or expect an AP near 0 for them"
        yield Finding("class_too_rare", "warning", evidence, change, f"task '{task.name}'")


def unswapped(task: Task, input: Input) -> Iterator[Finding]:
    """A horizontal flip makes a wrong label of left and of right unless flip_pairs swaps them."""
    if not input.flip:
        return
    other = {a: b for pair in SIDES for a, b in (pair, pair[::-1])}
    known = {name.lower(): name for name in task.classes}
    mirrored = {name: known.get(SIDE.sub(lambda side: other[side[0].lower()], name).lower()) for name in task.classes}
    swapped = {name for pair in task.flip_pairs for name in pair}
    pairs = sorted({tuple(sorted(pair)) for pair in mirrored.items() if pair[1] not in (None, pair[0])})
    if forgotten := [pair for pair in pairs if not swapped.intersection(pair)]:
        named = ", ".join(f"[{a}, {b}]" for a, b in forgotten)
        evidence = f"pictures are flipped (input.flip {input.flip:g}) but flip_pairs lacks {named}"
        change = "add the pairs to the task's flip_pairs, or set input.flip: 0"
        yield Finding("flip_without_pairs", "warning", evidence, change, f"task '{task.name}'")


def twice(images: Sequence[Image], split: str) -> Iterator[Finding]:
    """Objects of one picture whose boxes are the same and whose masks nearly are."""
    pairs, example, total = 0, "", 0
    for image in images:
        own = [instance for instance in image.instances if not instance.crowd]
        total += len(own)
        boxes = np.array([instance.bbox for instance in own]).reshape(-1, 4)
        near = np.abs(boxes[:, None] - boxes[None]).max(-1) <= np.maximum(0.02 * boxes[:, 2:].max(-1), 1)[:, None]
        for i, j in np.argwhere(np.triu(near, 1)):
            rles = [coco.rle(own[k].segmentation, image.height, image.width) for k in (i, j)]
            if coco_mask.iou(rles[:1], rles[1:], [0])[0, 0] > TWIN:
                pairs += 1
                example = example or f"{image.file_name}, annotations {own[i].id} and {own[j].id}"
    if pairs:
        evidence = f"{pairs} of {total} instances in {split} lie on another one (mask IoU above {TWIN}): {example}"
        severity = "warning" if pairs > total * MANY else "note"
        yield Finding("annotated_twice", severity, evidence, "remove the copies from the raw annotations", split)


def instances(images: Sequence[Image]) -> Iterator[tuple[Image, Instance]]:
    """Those that are trained on: no crowds."""
    return ((image, instance) for image in images for instance in image.instances if not instance.crowd)


def count(images: Sequence[Image], task: Task) -> Counter[int]:
    labels = (instance.labels[task.name] for _, instance in instances(images))
    return Counter(label for label in labels if label is not None)
