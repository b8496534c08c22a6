"""Diagnose whether labels belong to their image and mask.

Kinds of evidence: logits that do not depend on the image; contradictions in the file of predictions (a query has one
set of logits, and no two queries or images have identical logits); and labels of another task, query or image that fit
the ground truth better than a prediction's own.

I images, M matches of a prediction and an object; rows are those of the predictions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtseg.checks.findings import Finding
from mtseg.core.params import Task
from mtseg.core.tables import Pairs
from mtseg.diagnosis.split import Split, several

REACH = 16  # largest distance, in images or queries, at which a label is looked for
SAME = 1e-3  # share of the variance of logits between images, below which they do not depend on the image
EVERY = 0.95  # share of the images of a query in which its logits are the same, if the image has no influence on them
GAIN = 0.1  # gain in accuracy that labels from another place must exceed (99 % interval)
DRAWS = 200  # number of random orders of the images

CHANGES = {
    "labels_ignore_image": "feed the head the decoder's output, not the learnt queries (QueryDecoder.forward)",
    "labels_of_other_query": "index masks, scores and labels of all tasks by one index (Mask2Former.detect)",
    "labels_of_other_task": "take each task's logits by its name, in the order of tasks (QueryDecoder, detect, encode)",
    "labels_off_by_one": "count classes from 0 in memory, from 1 only in COCO's category_id",
    "labels_permuted": "index the heads' outputs by the task's own list of classes",
    "labels_of_other_image": "take each image's own logits, never those of the batch's last (Mask2Former.detect)",
}

Evidence = Iterator[tuple[str, str]]  # (cause, evidence as text)


def check(split: Split, *, combined: bool = False) -> tuple[list[Finding], dict[str, dict[str, float]]]:
    """Errors, at most one per task, and for each task: image_share (share of the variance of its logits between
    images), accuracy (of the labels of matches), by_chance (the same with the labels of each image shuffled). combined:
    whether the network has one softmax over combinations of labels."""
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
        for cause, evidence in _evidence(split, task, own, share, combined):
            findings.append(Finding(cause, "error", evidence, CHANGES[cause], where=f"task '{task.name}'"))
            break
    return findings, numbers


def _evidence(split: Split, task: Task, own: Pairs, share: float | None, combined: bool) -> Evidence:
    """The strongest first."""
    if share is not None and share < SAME:
        evidence = f"only {share:.2g} of the variance of the logits is between images, the rest between queries: "
        yield "labels_ignore_image", evidence + "a query gives the same logits for every image"
    yield from _other_task(split, task, own)
    yield from _inconsistent_logits(split, task, combined)
    yield from _other_place(split, own, split.predictions.labels[task.name])
    yield from _unknown_order(split, task, own)


def _other_task(split: Split, task: Task, own: Pairs) -> Evidence:
    """Another task's predicted label fits better, and also better than that task's annotated label does: correlation of
    the tasks does not explain it."""
    right = own.label == own.true
    for other in split.tasks:
        if other is task or other.num_classes != task.num_classes or len(own) < 20:
            continue
        moved = split.predictions.labels[other.name][own.prediction] == own.true
        annotated = split.images.instances.labels[other.name][own.instance] == own.true
        gain, beyond, fit = (
            split.mean(values, own) for values in (moved * 1.0 - right, moved * 1.0 - annotated, moved)
        )
        if gain.low > GAIN and beyond.low > GAIN and fit.low > 0.5:
            evidence = f"{right.mean():.0%} of the labels are correct on matched objects, {moved.mean():.0%} if taken "
            yield "labels_of_other_task", f"{evidence}from task '{other.name}' (gain {gain.text(0, 100)} points)"


def image_share(split: Split, task: Task) -> float | None:
    """Share of the variance of a head's logits within each query, over the images. None if no query occurs in two
    images, or the head has one output, whose softmax is constant."""
    logits = split.predictions.logits[task.name][split.best]
    logits = logits - logits.mean(1, keepdims=True)  # softmax ignores a constant
    _, query, count = np.unique(split.predictions.query[split.best], return_inverse=True, return_counts=True)
    logits, query = logits[count[query] > 1], query[count[query] > 1]
    if not len(logits) or task.num_outputs == 1:
        return None
    sums = np.stack([np.bincount(query, column, minlength=len(count)) for column in logits.T], axis=1)
    within = ((logits - (sums / np.maximum(count, 1)[:, None])[query]) ** 2).sum()
    whole = ((logits - logits.mean(0)) ** 2).sum()
    return float(within / whole) if whole > 0 else 0.0


def _counts(split: Split, task: Task, own: Pairs) -> np.ndarray:
    """[2, I, classes]: number of matches of each image with each label, predicted and annotated."""
    counts = np.zeros((2, len(split.images), task.num_classes))
    np.add.at(counts[0], (own.image, own.label), 1)
    np.add.at(counts[1], (own.image, own.true), 1)
    return counts


def by_chance(split: Split, task: Task, own: Pairs) -> float | None:
    """Expected accuracy if the predicted labels of an image's matches are shuffled."""
    if not len(own):
        return None
    predicted, true = _counts(split, task, own)
    return float(((predicted * true).sum(1) / np.maximum(predicted.sum(1), 1)).sum() / len(own))


def _inconsistent_logits(split: Split, task: Task, combined: bool) -> Evidence:
    """Contradictions in the file of predictions, which do not depend on how well the model was trained."""
    logits, image, query = split.predictions.logits[task.name], split.image, split.predictions.query
    if not len(logits):
        return
    vectors, vector = np.unique(logits, axis=0, return_inverse=True)
    vector = vector.ravel()
    ambiguous = several(image, query, of=vector)
    if ambiguous.any():
        evidence = f"{ambiguous.mean():.0%} of the queries have different logits for the same mask"
        yield "labels_of_other_query", evidence
    yield from _argmax(split, task, combined)
    free = task.num_outputs - combined  # degrees of freedom: logits made from combinations have mean 0
    if logits.std() < 1e-4 or free < 2:  # constant logits coincide everywhere, single numbers by chance
        return
    alike, same_box = split.shared(task)
    # with the same masks, the whole prediction is that of another image, see masks.py; a query that has the same logits
    # in every image, such as those before the decoder's first layer, has not those of another image
    alike &= ~_constant(query, vector, image, len(split.images))
    shared = alike & ~same_box
    if shared.mean() > 0.01 and shared.sum() > alike.sum() / 2:
        evidence = f"{shared.mean():.0%} of the logits are identical to those of another image"
        yield "labels_of_other_image", evidence
    # predictions that also have the same mask are duplicates, which mtseg/diagnosis/detections.py reports
    masks = np.unique(np.column_stack([image, split.predictions.box]), axis=0, return_inverse=True)[1].ravel()
    queries = several(image, vector, of=masks)
    if queries.mean() > 0.01:
        evidence = f"{queries.mean():.0%} of the logits are identical to those of another query of the image"
        yield "labels_of_other_query", evidence


def _constant(query: np.ndarray, vector: np.ndarray, image: np.ndarray, images: int) -> np.ndarray:
    """bool [N]: whether the query has the same logits, numbered by `vector`, in nearly all images that it is in, which
    are a fourth of `images` or more."""
    own, of = np.unique(np.column_stack([query, vector]), axis=0, return_inverse=True)
    in_images = np.unique(np.column_stack([of.ravel(), image]), axis=0)[:, 0]
    of_query = np.unique(np.column_stack([query, image]), axis=0)[:, 0]
    same = np.bincount(in_images, minlength=len(own))
    whole = np.bincount(of_query, minlength=query.max() + 1)[own[:, 0]]
    return ((same > EVERY * whole) & (same > images / 4))[of.ravel()]


def _argmax(split: Split, task: Task, combined: bool) -> Evidence:
    """The first label of a query in the file must have its highest logit. With a softmax over combinations this holds
    only where these labels are more probable than all others together."""
    predictions = split.predictions
    first = np.sort(np.unique(np.column_stack([split.image, predictions.query]), axis=0, return_index=True)[1])
    likely = predictions.probabilities[task.name][first, : task.num_classes].max(1)
    first = first[likely > 1e-4]  # of no-object queries all classes have about the same probability
    if combined:
        main = split.tasks[0]
        objects = predictions.probabilities[main.name][first, : main.num_classes].sum(1)
        first = first[split.evaluation.scores_by("product")[first] > 0.5 * objects]
    logits, label = predictions.logits[task.name][first, : task.num_classes], predictions.labels[task.name][first]
    highest = logits.argmax(1)
    if not len(first) or (highest != label).mean() <= 0.01:
        return
    counts = np.zeros((task.num_classes, task.num_classes))
    np.add.at(counts, (highest, label), 1)
    evidence = f"{(highest != label).mean():.0%} of the labels do not have the highest logit"
    if counts.max(1).sum() < 0.95 * len(first):
        yield "labels_of_other_query", evidence
        return
    used = np.flatnonzero(counts.sum(1))
    shift = {int(step) for step in (counts.argmax(1)[used] - used) % task.num_classes}
    names = ", ".join(f"{task.classes[c]} is predicted as {task.classes[counts[c].argmax()]}" for c in used[:4])
    yield "labels_off_by_one" if len(shift) == 1 else "labels_permuted", f"{evidence}: {names}"


def _other_place(split: Split, own: Pairs, labels: np.ndarray) -> Evidence:
    """Labels from another query or image, always at the same distance, fit the objects better. labels: int [N],
    predicted labels of the task."""
    best, most, right = None, 0.0, own.label == own.true
    for cause, place, rows in _places(split, own) if len(own) else ():
        known = rows >= 0
        if known.sum() < max(20, len(own) / 4):
            continue
        moved = (labels[rows[known]] == own.true[known]).astype(float)
        if moved.mean() - right[known].mean() > most:
            most = moved.mean() - right[known].mean()
            best = cause, place, moved, known
    if best is None:
        return
    cause, place, moved, known = best
    gain = split.mean(moved - right[known], own[known])
    if gain.low > GAIN:
        evidence = f"{right[known].mean():.0%} of the labels are correct on matched objects, {moved.mean():.0%} if "
        yield cause, f"{evidence}taken {place} (gain {gain.text(0, 100)} points)"


def _places(split: Split, own: Pairs) -> Iterator[tuple[str, str, np.ndarray]]:
    """For each other place: (cause, description, int [M]: row whose label is taken, or -1)."""
    best, image_of, query_of = split.best, split.image, split.predictions.query
    count, queries = len(split.images), int(query_of.max()) + 1
    row_of, at_rank = np.full((2, count, queries), -1)
    row_of[image_of[best], query_of[best]] = best
    # the rank of each query in its image, by score: the order of the file
    order = best[np.argsort(image_of[best], kind="stable")]
    starts = np.searchsorted(image_of[order], np.arange(count))
    rank_of = np.full(len(image_of), -1)
    rank_of[order] = np.arange(len(order)) - starts[image_of[order]]
    at_rank[image_of[order], rank_of[order]] = order

    query, rank, image = query_of[own.prediction], rank_of[own.prediction], own.image
    yield "labels_of_other_query", "in query order", at_rank[image, np.minimum(query, queries - 1)]
    yield "labels_of_other_query", "in order of score", row_of[image, rank]
    for step in range(1, min(REACH, queries)):
        for sign in (1, -1):
            place = f"from {step} queries {'further on' if sign > 0 else 'before'}"
            yield "labels_of_other_query", place, row_of[image, (query + sign * step) % queries]
            there = rank + sign * step
            place = f"from {step} places {'down' if sign > 0 else 'up'} the ranking"
            rows = at_rank[image, np.clip(there, 0, queries - 1)]
            yield "labels_of_other_query", place, np.where((there >= 0) & (there < queries), rows, -1)
    for step in range(1, min(REACH, count)):
        for sign in (1, -1):
            other = (image + sign * step) % count
            place = f"from {step} images {'further on' if sign > 0 else 'before'}"
            yield "labels_of_other_image", place, row_of[other, query]
            yield "labels_of_other_image", f"{place}, by rank", at_rank[other, rank]


def _unknown_order(split: Split, task: Task, own: Pairs) -> Evidence:
    """Labels are predicted with certainty but correct only by chance: they belong to other objects, in no fixed
    order."""
    if len(own) < 20:
        return
    right, chance = own.label == own.true, by_chance(split, task, own)
    probability = split.predictions.probabilities[task.name][own.prediction].max(1)
    if split.mean(right - chance, own).high > GAIN or split.mean(probability - right, own).low < 2 * GAIN:
        return
    overlap, shuffled = _overlap(_counts(split, task, own))
    evidence = f"{right.mean():.0%} of the labels are correct on matched objects, {chance:.0%} by chance, but their "
    evidence += (
        f"mean probability is {probability.mean():.0%}; in any order, the labels of an image agree with its objects by "
    )
    evidence += f"{overlap:.0%}, those of other images by {shuffled.mean():.0%}"
    yield "labels_of_other_query" if overlap > shuffled.max() else "labels_of_other_image", evidence


def _overlap(counts: np.ndarray) -> tuple[float, np.ndarray]:
    """Share of the predicted labels of an image that its objects have as well, in any order; and the same, [DRAWS],
    with the images shuffled. counts: [2, I, classes]."""
    counts = counts[:, counts[0].sum(1) > 0]
    predicted, true = counts / counts.sum(2, keepdims=True)
    rng = np.random.default_rng(0)
    shuffled = [np.minimum(rng.permutation(predicted), true).sum(1).mean() for _ in range(DRAWS)]
    return float(np.minimum(predicted, true).sum(1).mean()), np.array(shuffled)
