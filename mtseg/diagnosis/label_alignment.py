"""Diagnose whether labels belong to their image and mask.

Three kinds of evidence, the strongest first: contradictions in the file (a query has one set of logits, and no two
queries or images have identical logits); whether logits vary between images beyond what queries explain; and whether
the labels of another query or image fit the ground truth better than a prediction's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtseg.checks.findings import Finding
from mtseg.core.params import Task
from mtseg.core.tables import Pairs
from mtseg.diagnosis.split import Split

REACH = 16  # images or queries away, at most, that a label is looked for
SAME = 1e-3  # share of a head's variance that lies between images, below which the image does not matter
GAIN = 0.1  # of accuracy, with confidence, that another place's labels must bring
DRAWS = 200  # shuffles of the images

CHANGES = {
    "labels_ignore_image": "feed the head the decoder's output, not the learnt queries (QueryDecoder.forward)",
    "labels_of_other_query": "index masks, scores and labels of all tasks by one index (Mask2Former.detect)",
    "labels_of_other_task": "take each task's logits by its name, in the order of tasks (QueryDecoder, detect, encode)",
    "labels_off_by_one": "count classes from 0 in memory, from 1 only in COCO's category_id",
    "labels_permuted": "index the heads' outputs by the task's own list of classes",
    "labels_of_other_image": "take each image's own logits, never those of the batch's last (Mask2Former.detect)",
}

Faults = Iterator[tuple[str, str]]  # (cause, evidence)


def check(split: Split, *, combined: bool = False) -> tuple[list[Finding], dict[str, dict[str, float]]]:
    """Findings, and for each task: image_share (of the variance of its logits), accuracy (of labels on the objects
    found), by_chance (the same, labels shuffled among the image's objects). combined: whether the network has one
    softmax over combinations of labels."""
    findings, numbers = [], {}
    for task in split.tasks:
        own, share = split.labelled(task), image_share(split, task)
        numbers[task.name] = {
            "image_share": share,
            "accuracy": float((own.label == own.true).mean()) if len(own) else None,
            "by_chance": by_chance(split, task, own),
        }
        if task not in split.trained or split.collapsed:
            continue
        for cause, evidence in _faults(split, task, own, share, combined):
            findings.append(Finding(cause, "error", evidence, CHANGES[cause], where=f"task '{task.name}'"))
            break
    return findings, numbers


def _faults(split: Split, task: Task, own: Pairs, share: float | None, combined: bool) -> Faults:
    """The surest first."""
    if share is not None and share < SAME:
        evidence = f"only {share:.2g} of the variance of the logits is between images, the rest between queries: "
        yield "labels_ignore_image", evidence + "a query gives the same logits for every image"
    yield from _of_other_task(split, task, own)
    yield from _of_the_file(split, task, combined)
    yield from _elsewhere(split, own, split.predictions.labels[task.name])
    yield from _nowhere(split, task, own)


def _of_other_task(split: Split, task: Task, own: Pairs) -> Faults:
    """Whether another task's label of the same mask fits better, and better than that task's truth would: tasks that
    go together are not mixed up."""
    right = own.label == own.true
    for other in split.tasks:
        if other is task or other.num_classes != task.num_classes or len(own) < 20:
            continue
        moved = split.predictions.labels[other.name][own.prediction] == own.true
        alike = split.images.instances.labels[other.name][own.instance] == own.true
        gain, beyond, fit = (split.mean(values, own) for values in (moved * 1.0 - right, moved * 1.0 - alike, moved))
        if gain.low > GAIN and beyond.low > GAIN and fit.low > 0.5:
            evidence = f"{right.mean():.0%} of the labels are correct on matched objects, {moved.mean():.0%} if taken "
            yield "labels_of_other_task", f"{evidence}from task '{other.name}' (gain {gain.text(0, 100)} points)"


def image_share(split: Split, task: Task) -> float | None:
    """Share of the variance of a head's logits that the query does not explain; None when no query is seen twice, or
    the head has one output, whose softmax is constant."""
    logits = split.predictions.logits[task.name][split.best]
    logits = logits - logits.mean(1, keepdims=True)  # softmax does not see what all share
    _, query, seen = np.unique(split.predictions.query[split.best], return_inverse=True, return_counts=True)
    logits, query = logits[seen[query] > 1], query[seen[query] > 1]
    if not len(logits) or task.num_outputs == 1:
        return None
    sums = np.stack([np.bincount(query, column, minlength=len(seen)) for column in logits.T], axis=1)
    within = ((logits - (sums / np.maximum(seen, 1)[:, None])[query]) ** 2).sum()
    whole = ((logits - logits.mean(0)) ** 2).sum()
    return float(within / whole) if whole > 0 else 0.0


def _counts(split: Split, task: Task, own: Pairs) -> np.ndarray:
    """[2, I, classes]: how often each image's matches have each label, predicted and true."""
    counts = np.zeros((2, len(split.images), task.num_classes))
    np.add.at(counts[0], (own.image, own.label), 1)
    np.add.at(counts[1], (own.image, own.true), 1)
    return counts


def by_chance(split: Split, task: Task, own: Pairs) -> float | None:
    """Expected accuracy when the labels of an image's found objects are shuffled among them."""
    if not len(own):
        return None
    found, true = _counts(split, task, own)
    return float(((found * true).sum(1) / np.maximum(found.sum(1), 1)).sum() / len(own))


def _of_the_file(split: Split, task: Task, combined: bool) -> Faults:
    """What cannot be in a sound file, however well the model was trained."""
    logits, image, query = split.predictions.logits[task.name], split.image, split.predictions.query
    if not len(logits):
        return
    vectors, vector = np.unique(logits, axis=0, return_inverse=True)
    vector = vector.ravel()
    several = _repeated(image, query, beside=vector)
    if several.any():
        evidence = f"{several.mean():.0%} of the queries have different logits for the same mask"
        yield "labels_of_other_query", evidence
    yield from _argmax(split, task, combined)
    free = task.num_outputs - combined  # those of a softmax over combinations have mean 0
    if logits.std() < 1e-4 or free < 2:  # constant logits coincide everywhere, single numbers by chance
        return
    shared = _repeated(vector, beside=image)[vector]
    if shared.mean() > 0.01:
        evidence = f"{shared.mean():.0%} of the logits are identical to those of another image"
        yield "labels_of_other_image", evidence
    # copies of a prediction, mask and all, are duplicates: another question
    masks = np.unique(np.column_stack([image, split.predictions.box]), axis=0, return_inverse=True)[1].ravel()
    queries = _repeated(image, vector, beside=masks)
    if queries.mean() > 0.01:
        evidence = f"{queries.mean():.0%} of the logits are identical to those of another query of the image"
        yield "labels_of_other_query", evidence


def _repeated(*columns: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """bool: which of the distinct values of the columns, sorted, stand beside more than one of `beside`."""
    distinct = np.unique(np.column_stack([*columns, beside]), axis=0)
    return np.unique(distinct[:, :-1], axis=0, return_counts=True)[1] > 1


def _argmax(split: Split, task: Task, combined: bool) -> Faults:
    """A query's first label in the file is the one with its highest logit: under a softmax over combinations where
    these labels are likelier than all others together."""
    predictions = split.predictions
    first = np.sort(np.unique(np.column_stack([split.image, predictions.query]), axis=0, return_index=True)[1])
    likely = predictions.probabilities[task.name][first, : task.num_classes].max(1)
    first = first[likely > 1e-4]  # the others are all equally unlikely
    if combined:
        main = split.tasks[0]
        objects = predictions.probabilities[main.name][first, : main.num_classes].sum(1)
        first = first[split.evaluation.all_scores["product"][first] > 0.5 * objects]
    highest = predictions.logits[task.name][first, : task.num_classes].argmax(1)
    label = predictions.labels[task.name][first]
    if not len(first) or (highest != label).mean() <= 0.01:
        return
    counts = np.zeros((task.num_classes, task.num_classes))
    np.add.at(counts, (highest, label), 1)
    evidence = f"{(highest != label).mean():.0%} of the labels do not have the highest logit"
    if counts.max(1).sum() < 0.95 * len(first):
        yield "labels_of_other_query", evidence
        return
    seen = np.flatnonzero(counts.sum(1))
    shift = {int(step) for step in (counts.argmax(1)[seen] - seen) % task.num_classes}
    names = ", ".join(f"{task.classes[c]} is predicted as {task.classes[counts[c].argmax()]}" for c in seen[:4])
    yield "labels_off_by_one" if len(shift) == 1 else "labels_permuted", f"{evidence}: {names}"


def _elsewhere(split: Split, own: Pairs, labels: np.ndarray) -> Faults:
    """Whether labels from elsewhere, always the same way away, fit the objects better than their own. labels: int [N],
    of the task."""
    best, most, right = None, 0.0, own.label == own.true
    for cause, way, rows in _ways(split, own) if len(own) else ():
        known = rows >= 0
        if known.sum() < max(20, len(own) / 4):
            continue
        moved = (labels[rows[known]] == own.true[known]).astype(float)
        if moved.mean() - right[known].mean() > most:
            most = moved.mean() - right[known].mean()
            best = cause, way, moved, known
    if best is None:
        return
    cause, way, moved, known = best
    gain = split.mean(moved - right[known], own[known])
    if gain.low > GAIN:
        evidence = f"{right[known].mean():.0%} of the labels are correct on matched objects, {moved.mean():.0%} if "
        yield cause, f"{evidence}taken {way} (gain {gain.text(0, 100)} points)"


def _ways(split: Split, own: Pairs) -> Iterator[tuple[str, str, np.ndarray]]:
    """For each other place: (cause, description, int [M]: row whose label is taken, or -1)."""
    best, image_of, query_of = split.best, split.image, split.predictions.query
    count, queries = len(split.images), int(query_of.max()) + 1
    row_of, at_place = np.full((2, count, queries), -1)
    row_of[image_of[best], query_of[best]] = best
    # an image's places, by score: the order of the file
    order = best[np.argsort(image_of[best], kind="stable")]
    starts = np.searchsorted(image_of[order], np.arange(count))
    place = np.full(len(image_of), -1)
    place[order] = np.arange(len(order)) - starts[image_of[order]]
    at_place[image_of[order], place[order]] = order

    query, placed, image = query_of[own.prediction], place[own.prediction], own.image
    yield "labels_of_other_query", "in query order", at_place[image, np.minimum(query, queries - 1)]
    yield "labels_of_other_query", "in order of score", row_of[image, placed]
    for step in range(1, min(REACH, queries)):
        for sign in (1, -1):
            way = f"from {step} queries {'further on' if sign > 0 else 'before'}"
            yield "labels_of_other_query", way, row_of[image, (query + sign * step) % queries]
            there = placed + sign * step
            way = f"from {step} places {'down' if sign > 0 else 'up'} the ranking"
            rows = at_place[image, np.clip(there, 0, queries - 1)]
            yield "labels_of_other_query", way, np.where((there >= 0) & (there < queries), rows, -1)
    for step in range(1, min(REACH, count)):
        for sign in (1, -1):
            other = (image + sign * step) % count
            way = f"from {step} images {'further on' if sign > 0 else 'before'}"
            yield "labels_of_other_image", way, row_of[other, query]
            yield "labels_of_other_image", f"{way}, by rank", at_place[other, placed]


def _nowhere(split: Split, task: Task, own: Pairs) -> Faults:
    """A head that is certain of its labels but correct only by chance: they belong to other, unknown objects."""
    if len(own) < 20:
        return
    right, chance = own.label == own.true, by_chance(split, task, own)
    sure = split.predictions.probabilities[task.name][own.prediction].max(1)
    if split.mean(right - chance, own).high > GAIN or split.mean(sure - right, own).low < 2 * GAIN:
        return
    overlap, shuffled = _same_mixture(_counts(split, task, own))
    evidence = f"{right.mean():.0%} of the labels are correct on matched objects, {chance:.0%} by chance, but their "
    evidence += (
        f"mean probability is {sure.mean():.0%}; in any order, the labels of an image agree with its objects by "
    )
    evidence += f"{overlap:.0%}, those of other images by {shuffled.mean():.0%}"
    yield "labels_of_other_query" if overlap > shuffled.max() else "labels_of_other_image", evidence


def _same_mixture(counts: np.ndarray) -> tuple[float, np.ndarray]:
    """Share of the labels of an image that its objects have too, in any order; and the same, [DRAWS], with the images
    shuffled. counts: [2, I, classes]."""
    counts = counts[:, counts[0].sum(1) > 0]
    found, true = counts / counts.sum(2, keepdims=True)
    rng = np.random.default_rng(0)
    shuffled = [np.minimum(rng.permutation(found), true).sum(1).mean() for _ in range(DRAWS)]
    return float(np.minimum(found, true).sum(1).mean()), np.array(shuffled)
