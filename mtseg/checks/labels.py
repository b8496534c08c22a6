"""Check the annotations of every task: label ranges and counts. No image is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import permutations

import numpy as np
from scipy.stats import betabinom

from mtseg.checks.findings import Finding, of_severity
from mtseg.core.masks import iou
from mtseg.core.params import Input, Task, with_flips
from mtseg.core.tables import UNLABELLED, Images
from mtseg.evaluation.bootstrap import proportion

COPY_IOU = 0.95  # mask IoU above which two instances are copies
FILLED = 0.98  # share of its box that an object fills, which is then a box drawn round another one
MANY = 0.01  # share of duplicate instances above which the finding is a warning
SIDES = {"left": "right", "right": "left", "l": "r", "r": "l", "lhs": "rhs", "rhs": "lhs"}
# `l`, `r`, `lhs` and `rhs` only as whole words
SIDE = re.compile(r"left|right|(?<![a-z0-9])(?:l|r|lhs|rhs)(?![a-z0-9])", re.IGNORECASE)
RARE = 10  # smallest number of examples that a class needs to be learnt
FEW = 6  # images of a scored split, below which the best checkpoint is chosen by chance: AP 48 to 90 of 5 (see SMALL)
SMALL = 20  # images of a scored split: as many of the embedded data, at random, have AP 60 to 80 in 95 % of the draws
LIKELY, EXPECTED = 3, 20  # times a pair of labels that train lacks should be there; the same of all pairs of a class
ABSENT = 1e-3  # chance that no image drawn at random has a class, below which it is missing for another reason
COMMON = 0.02  # share of a split's objects with such pairs, from which they matter
OTHER_MIX, SURE = 0.15, 4.5  # difference of two shares of a class that matters; standard errors of one beyond chance


def check(train: Images, scored: Mapping[str, Images], *, tasks: Sequence[Task], input: Input) -> list[Finding]:
    """Errors for an empty split, a label out of range and a task without labels; otherwise warnings and notes. scored:
    val and, if the data have one, test."""
    splits = {"train": train, **scored}
    findings = [finding for name, images in splits.items() for finding in empty(images, name)]
    findings += [finding for name, images in scored.items() for finding in small(images, name)]
    for task in tasks:
        findings += [finding for images in splits.values() for finding in out_of_range(images, task)]
        findings += unlabelled(train, task)
        findings += [finding for name, images in scored.items() for finding in missing(train, images, task, name)]
        findings += [finding for name, images in scored.items() for finding in lost(train, images, task, name)]
        findings += [finding for name, images in scored.items() for finding in mixed(train, images, task, name)]
        findings += [*rare(train, task), *unpaired(task, input)]
    if not of_severity(findings, "error"):
        findings += [finding for name, images in scored.items() for finding in unseen(train, images, tasks, name)]
        findings += [finding for name, images in scored.items() for finding in without_joint_ap(images, tasks, name)]
    return findings + [finding for name, images in splits.items() for finding in duplicates(images, name)]


def empty(images: Images, split: str) -> Iterator[Finding]:
    if images.instances.crowd.all():
        what = "no instances" if len(images) else "no images"
        what = "crowds (iscrowd 1) and no other objects" if len(images.instances) else what
        yield Finding("split_empty", "error", f"the {split} split has {what}", "check data.split or add data", split)


def small(images: Images, split: str) -> Iterator[Finding]:
    """A split whose scores say little. One that is empty is an error of its own."""
    count, objects = len(images), int((~images.instances.crowd).sum())
    if objects and count < SMALL:
        evidence = (
            f"{count} image{'s' if count > 1 else ''} with {objects} object{'s' if objects > 1 else ''}: its scores "
            "are largely chance (embedded data: AP 60 to 80 of 20 images at random, 56 to 86 of 10, 26 to 100 of 1)"
        )
        change = f"move or annotate more images for {split}"
        if split == "val":
            change += "; until then the best checkpoint and tuned thresholds are chosen by chance"
        yield Finding("split_small", "warning" if count < FEW else "note", evidence, change, split)


def out_of_range(images: Images, task: Task) -> Iterator[Finding]:
    """Labels outside the classes. On CUDA they would cause a device-side assert without a cause."""
    instances = images.instances
    label = instances.labels[task.name]
    bad = np.flatnonzero(~instances.crowd & (label != UNLABELLED) & ((label < 0) | (label >= len(task.classes))))
    if len(bad):
        first = bad[0]
        example = f"{images.file_name[instances.image[first]]}, annotation {instances.id[first]}: {label[first]}"
        evidence = f"{len(bad)} instances have a label outside 0..{len(task.classes) - 1}, for example {example}"
        yield Finding("label_range", "error", evidence, "run `dvc repro convert register`", f"task '{task.name}'")


def unlabelled(train: Images, task: Task) -> Iterator[Finding]:
    counts, where = count(train, task), f"task '{task.name}'"
    if not counts.any():
        evidence = "no labelled instance in train"
        yield Finding("task_unlabelled", "error", evidence, "remove the task from `tasks` or label instances", where)
    elif (counts > 0).sum() == 1 < len(counts):
        evidence = f"all {counts.sum()} labelled instances in train are '{task.classes[counts.argmax()]}'"
        change = "a task with one class has nothing to learn: check the raw labels or the mapping"
        yield Finding("task_unlabelled", "warning", evidence, change, where)


def without_joint_ap(images: Images, tasks: Sequence[Task], split: str) -> Iterator[Finding]:
    """A split with objects, none of which has the labels of all tasks."""
    counts = {task.name: int(count(images, task).sum()) for task in tasks}
    if combinations(images, tasks):
        return
    least = min(counts, key=counts.__getitem__)
    evidence = f"no object of {split} has the labels of all tasks (fewest: {counts[least]} of task '{least}')"
    change = f"joint AP is undefined, the best weights are those of the highest AP: label objects of {split} completely"
    yield Finding("task_unlabelled", "warning", evidence, change, split)


def missing(train: Images, images: Images, task: Task, split: str) -> Iterator[Finding]:
    """Classes of val or test that train lacks."""
    in_train, own = count(train, task), count(images, task)
    absent = np.flatnonzero((in_train == 0) & (own > 0))
    if in_train.any() and len(absent):
        names = ", ".join(sorted(task.classes[label] for label in absent))
        evidence = f"in {split} but not in train: {names} ({own[absent].sum() / own.sum():.1%} of {split}'s labels)"
        change = "move examples into train, or split with another data.seed"
        yield Finding("class_missing_in_train", "warning", evidence, change, f"task '{task.name}'")


def lost(train: Images, images: Images, task: Task, split: str) -> Iterator[Finding]:
    """Classes that many of train's images have, and none of val or test: if that has as many labels, they have another
    name there; if it has fewer, they were left out. If most classes are lost, labels are wrong in another way."""
    ours, theirs = _shares(train, task), _shares(images, task)
    have = (ours > 0).sum(0)
    chance = betabinom.pmf(0, len(theirs), have + 1, len(ours) - have + 1)  # few images of train say little
    absent = np.flatnonzero(~theirs.any(0) & (have > 0) & (chance < ABSENT))
    if not len(absent) or len(absent) > (have > 0).sum() / 2:
        return
    usual, seen = count(train, task), count(images, task)
    share = usual[absent].sum() / usual.sum()
    fewer = (seen.sum() / len(images)) / (usual.sum() / len(train)) < 1 - share / 2
    names = ", ".join(f"'{task.classes[label]}' ({have[label] / len(ours):.0%} of train's)" for label in absent)
    evidence = f"none of {split}'s {len(theirs)} images with labels have {names}"
    cause, reasons = "class_mix_differs", ["has other names for them", "leaves them out"]
    if fewer:
        cause, reasons = "annotations_missing", reasons[::-1]
    change = f"check whether {split} {' or '.join(reasons)}; else it shows other scenes"
    yield Finding(cause, "warning", evidence, change, f"task '{task.name}'")


def mixed(train: Images, images: Images, task: Task, split: str, *, least: float = OTHER_MIX) -> Iterator[Finding]:
    """A note of the class whose share of an image's objects differs most between a split and train, if that is no
    chance, and `least` or more."""
    ours, theirs = _shares(train, task), _shares(images, task)
    if min(len(ours), len(theirs)) < SMALL:
        return
    difference = theirs.mean(0) - ours.mean(0)
    error = np.sqrt(ours.var(0) / len(ours) + theirs.var(0) / len(theirs))
    most = int(np.abs(difference).argmax())
    if abs(difference[most]) > max(least, SURE * error[most]):
        evidence = f"'{task.classes[most]}' is {theirs.mean(0)[most]:.0%} of an image's objects in {split} (mean), "
        evidence += f"{ours.mean(0)[most]:.0%} in train"
        change = f"check whether {split} lacks objects or has wrong labels, or split with another data.seed"
        yield Finding("class_mix_differs", "note", evidence, change, f"task '{task.name}'")


def _shares(images: Images, task: Task) -> np.ndarray:
    """Share of each class [n, classes] among the labelled objects of each image that has some."""
    instances = images.instances
    label = instances.labels[task.name]
    own = ~instances.crowd & (label >= 0) & (label < len(task.classes))
    table = np.zeros((len(images), len(task.classes)))
    np.add.at(table, (instances.image[own], label[own]), 1)
    table = table[table.any(1)]
    return table / table.sum(1, keepdims=True)


def unseen(train: Images, images: Images, tasks: Sequence[Task], split: str) -> Iterator[Finding]:
    """Combinations of labels of val or test that neither train nor its mirror images have, though train has each of
    their labels."""
    in_train, own = with_flips(combinations(train, tasks), tasks), combinations(images, tasks)
    classes = [{labels[place] for labels in in_train} for place in range(len(tasks))]
    absent = {
        labels: count
        for labels, count in own.items()
        if labels not in in_train and all(label in known for label, known in zip(labels, classes, strict=True))
    }
    if absent:
        most = max(absent, key=lambda labels: (absent[labels], labels))
        example = ", ".join(task.classes[label] for task, label in zip(tasks, most, strict=True))
        evidence = (
            f"{len(absent)} of {len(own)} combinations of labels in {split} are not in train, such as {example} "
            f"({sum(absent.values()) / own.total():.1%} of {split}'s instances)"
        )
        change = "expect lower scores of these (joint.unseen_AP), or move examples into train"
        severity = "note"
        if pair := excluded(combinations(train, tasks), in_train, own, tasks):
            severity, evidence = "warning", f"{evidence}; {pair}"
        yield Finding("combination_missing_in_train", severity, evidence, change, split)


def excluded(
    train: Counter[tuple[int, ...]], known: Collection[tuple[int, ...]], own: Counter[tuple[int, ...]],
    tasks: Sequence[Task],
) -> str | None:  # fmt: skip
    """A line if a class occurs in train without labels of another task that it should often have if the tasks were
    independent, and with them in the split. train, own: counts of combinations in train and the split; known: those of
    train and its mirror images."""
    total, lacking, example = train.total(), set(), ""
    for a, b in permutations(range(len(tasks)), 2):
        present = {(labels[a], labels[b]) for labels in known}
        counts = [np.zeros(task.num_classes) for task in tasks]
        for labels, n in train.items():
            counts[a][labels[a]] += n
            counts[b][labels[b]] += n
        expected = np.outer(counts[a], counts[b]) / total
        expected[tuple(np.array([*present]).T)] = 0
        expected[expected < LIKELY] = 0
        for one in np.flatnonzero(expected.sum(1) >= EXPECTED).tolist():
            here = {labels for labels in own if labels[a] == one and expected[one, labels[b]]}
            lacking |= here
            if here and not example:
                others = sorted({tasks[b].classes[labels[b]] for labels in here})
                names = " or ".join(f"'{other}'" for other in others[:3])
                count = f"{expected[one].sum():.0f}"
                example = f"train has no '{tasks[a].classes[one]}' with {names}, expected {count} such pairs"
    share = proportion(np.arange(own.total()) < sum(own[labels] for labels in lacking))
    return f"{example} ({share.text(0, 100)} % of the objects have such pairs)" if share.low > COMMON else None


def combinations(images: Images, tasks: Sequence[Task]) -> Counter[tuple[int, ...]]:
    """Number of instances of each combination of class indices, without crowds and instances that lack a label."""
    labels = [images.instances.labels[task.name][~images.instances.crowd].tolist() for task in tasks]
    return Counter(own for own in zip(*labels, strict=True) if UNLABELLED not in own)


def rare(train: Images, task: Task) -> Iterator[Finding]:
    few = [f"{name} {n}" for name, n in zip(task.classes, count(train, task), strict=True) if 0 < n < RARE]
    if few:
        evidence = f"fewer than {RARE} examples in train: {', '.join(few)}"
        change = "label more, merge classes in the mapping, or expect an AP near 0 for them"
        yield Finding("class_too_rare", "warning", evidence, change, f"task '{task.name}'")


def unpaired(task: Task, input: Input) -> Iterator[Finding]:
    """Labels such as left and right are wrong after a horizontal flip unless flip_pairs swaps them."""
    known = {name.lower(): name for name in task.classes}
    sided = [name for name in task.classes if SIDE.search(name)]
    mirrored = {name: SIDE.sub(lambda side: SIDES[side[0].lower()], name).lower() for name in sided}
    pairs = {tuple(sorted((name, known[other]))) for name, other in mirrored.items() if other in known}
    swapped = {name for pair in task.flip_pairs for name in pair}
    unlisted = [f"[{a}, {b}]" for a, b in sorted(pairs) if a != b and not swapped & {a, b}]
    if input.flip and unlisted:
        evidence = f"images are flipped (input.flip {input.flip:g}) but flip_pairs does not list {', '.join(unlisted)}"
        change = "add the pairs to the task's flip_pairs, or set input.flip: 0"
        yield Finding("flip_without_pairs", "warning", evidence, change, f"task '{task.name}'")


def duplicates(images: Images, split: str) -> Iterator[Finding]:
    """Instances of one image with the same box and nearly the same mask, or of which one is the box of the other."""
    instances = images.instances[~images.instances.crowd]
    filled = instances.area / np.maximum(instances.box[:, 2:].prod(1), 1)
    alike = instances.labels[images.classes[0][0]]
    original: dict[int, int] = {}  # row of a copy -> row of the first instance of the same object
    for rows in np.split(np.arange(len(instances)), np.flatnonzero(np.diff(instances.image)) + 1):
        box = instances.box[rows]
        tolerance = np.maximum(0.02 * box[:, 2:].max(-1), 1)
        for i, row in enumerate(rows.tolist()):  # not all pairs at once: memory for images with thousands of objects
            if row in original:
                continue
            near = rows[i + 1 :][np.abs(box[i + 1 :] - box[i]).max(-1) <= tolerance[i]]
            near = [other for other in near.tolist() if other not in original]
            if near:
                overlap = iou(instances[near].rles(), instances[[row]].rles())[:, 0]
                for other, value in zip(near, overlap, strict=True):
                    low, high = sorted((filled[row], filled[other]))
                    if value > COPY_IOU or alike[row] == alike[other] and low < FILLED < high:
                        original[other] = row
    if original:
        copy, first = next(iter(original.items()))
        files = np.unique(images.file_name[instances.image[[*original]]]).tolist()
        name = images.file_name[instances.image[first]]
        example = f"{name}, annotations {instances.id[first]} and {instances.id[copy]}"
        count = f"{len(original)} of {len(instances)} instances in {split}"
        evidence = f"{count} are duplicates (mask IoU above {COPY_IOU}, or one is the box of the other): {example}"
        severity = "warning" if len(original) > len(instances) * MANY else "note"
        change = "remove the copies from the raw annotations"
        yield Finding("annotated_twice", severity, evidence, change, split, files)


def count(images: Images, task: Task) -> np.ndarray:
    """Number of instances of each class [classes], without crowds."""
    label = images.instances.labels[task.name][~images.instances.crowd]
    inside = label[(label >= 0) & (label < len(task.classes))]
    return np.bincount(inside, minlength=len(task.classes))
