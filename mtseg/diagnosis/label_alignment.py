"""Do the labels belong to the picture and to the mask they stand beside (F11, F12)?

Three kinds of evidence, the hardest first: what the file itself rules out (one query has one answer, and no two queries
or pictures share one to the last digit); whether answers vary with the picture beyond what queries alone explain; and
whether the labels of another query or picture fit the ground truth better than a prediction's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtseg.checks.findings import Finding
from mtseg.core.params import Task
from mtseg.diagnosis.case import Case, Pairs
from mtseg.diagnosis.intervals import mean

REACH = 16  # pictures or queries away, at most, that a label is looked for
SAME = 1e-3  # share of a head's variance that lies between pictures, below which the picture does not matter
GAIN = 0.1  # of accuracy, with confidence, that another place's labels must bring

MEND = {
    "labels_ignore_image": "feed the head the decoder's output, not the learnt queries (QueryDecoder.forward)",
    "labels_of_other_query": "slice masks, scores and labels of all tasks by one index (Mask2Former.detect)",
    "labels_of_other_task": "take each task's logits by its name, in the order of tasks (QueryDecoder, detect, encode)",
    "labels_off_by_one": "count classes from 0 in memory, from 1 in COCO's category_id alone",
    "labels_permuted": "index the heads' outputs by the task's own list of classes",
    "labels_of_other_image": "take each picture's own logits [-1, b], never the batch's last (Mask2Former.detect)",
}


def check(case: Case) -> tuple[list[Finding], dict[str, dict[str, float]]]:
    """Findings, and for each task: picture_share (of the variance of its logits), accuracy (of labels on the objects
    found), by_chance (the same, labels shuffled among the picture's objects)."""
    findings, numbers = [], {}
    for task in case.tasks:
        pairs = case.labelled(task)
        right = case.labels[task.name][pairs.found] == case.true_labels[task.name][pairs.true]
        share = picture_share(case, task)
        numbers[task.name] = {
            "picture_share": share,
            "accuracy": float(right.mean()) if len(pairs) else None,
            "by_chance": by_chance(case, task, pairs),
        }
        found = (
            next(_faults(case, task, pairs, right, share), None)
            if task in case.trained and not case.collapsed
            else None
        )
        if found:
            cause, evidence = found
            findings.append(Finding(cause, "error", evidence, MEND[cause], where=f"task '{task.name}'"))
    return findings, numbers


def _faults(case: Case, task: Task, pairs: Pairs, right: np.ndarray, share: float | None) -> Iterator[tuple[str, str]]:
    """(cause, evidence), the surest first."""
    if share is not None and share < SAME:
        yield (
            "labels_ignore_image",
            f"{share:.2g} of the variance of the logits lies between pictures, the rest between queries: "
            "a query says the same of every picture",
        )
    yield from _of_other_task(case, task, pairs, right)
    yield from _of_the_file(case, task)
    yield from _elsewhere(case, task, pairs, right)
    yield from _nowhere(case, task, pairs, right)


def _of_other_task(case: Case, task: Task, pairs: Pairs, right: np.ndarray) -> Iterator[tuple[str, str]]:
    """Whether what another task says of the same mask fits better, and better than that task's truth would: tasks that
    go together are not mixed up."""
    for other in case.tasks:
        if other is task or other.num_classes != task.num_classes or len(pairs) < 20:
            continue
        truth = case.true_labels[task.name][pairs.true]
        moved = case.labels[other.name][pairs.found] == truth
        alike = case.true_labels[other.name][pairs.true] == truth
        gain, beyond, fit = (
            mean(values.astype(float), pairs.picture, len(case.images))
            for values in (moved * 1.0 - right, moved * 1.0 - alike, moved)
        )
        if gain.low > GAIN and beyond.low > GAIN and fit.low > 0.5:
            yield (
                "labels_of_other_task",
                f"{right.mean():.0%} of the labels are right on the objects found, {moved.mean():.0%} if taken from "
                f"task '{other.name}' (gain {gain.text(0, 100)} points)",
            )


def picture_share(case: Case, task: Task) -> float | None:
    """Share of the variance of a head's logits that the query does not explain; None when no query is seen twice, or
    the head has one output, which says nothing."""
    logits = case.logits[task.name][case.lead]
    logits = logits - logits.mean(1, keepdims=True)  # softmax does not see what all share
    _, query, seen = np.unique(case.query[case.lead], return_inverse=True, return_counts=True)
    logits, query = logits[seen[query] > 1], query[seen[query] > 1]
    if not len(logits) or task.num_outputs == 1:
        return None
    sums = np.stack([np.bincount(query, column, minlength=len(seen)) for column in logits.T], axis=1)
    within = ((logits - (sums / np.maximum(seen, 1)[:, None])[query]) ** 2).sum()
    whole = ((logits - logits.mean(0)) ** 2).sum()
    return float(within / whole) if whole > 0 else 0.0


def by_chance(case: Case, task: Task, pairs: Pairs) -> float | None:
    """Expected accuracy when the labels of a picture's found objects are shuffled among them."""
    if not len(pairs):
        return None
    counts = np.zeros((2, len(case.images), task.num_classes))
    np.add.at(counts[0], (pairs.picture, case.labels[task.name][pairs.found]), 1)
    np.add.at(counts[1], (pairs.picture, case.true_labels[task.name][pairs.true]), 1)
    return float(((counts[0] * counts[1]).sum(1) / np.maximum(counts[0].sum(1), 1)).sum() / len(pairs))


def _of_the_file(case: Case, task: Task) -> Iterator[tuple[str, str]]:
    """What cannot be in a sound file, whatever the model has learnt."""
    logits = case.logits[task.name]
    if not len(logits):
        return
    vectors, vector = np.unique(logits, axis=0, return_inverse=True)
    vector = vector.ravel()
    answers = np.unique(np.column_stack([case.picture, case.query, vector]), axis=0)
    _, several = np.unique(answers[:, :2], axis=0, return_counts=True)
    if (several > 1).any():
        yield (
            "labels_of_other_query",
            f"{(several > 1).mean():.0%} of the queries have different logits beside one and the same mask",
        )
    yield from _argmax(case, task)
    free = task.num_outputs - case.combined  # those of a softmax over combinations have mean 0
    if logits.std() < 1e-4 or free < 2:  # what says nothing says it everywhere; single numbers coincide by chance
        return
    by_picture = np.unique(np.column_stack([vector, case.picture]), axis=0)
    shared = np.bincount(by_picture[:, 0], minlength=len(vectors))[vector] > 1
    if shared.mean() > 0.01:
        yield (
            "labels_of_other_image",
            f"{shared.mean():.0%} of the logits are those of another picture to the last digit",
        )
    # copies of a prediction, mask and all, are duplicates: another question
    masks = np.unique(np.column_stack([case.picture, case.boxes]), axis=0, return_inverse=True)[1].ravel()
    by_query = np.unique(np.column_stack([case.picture, vector, masks]), axis=0)
    _, queries = np.unique(by_query[:, :2], axis=0, return_counts=True)
    if (queries > 1).mean() > 0.01:
        yield (
            "labels_of_other_query",
            f"{(queries > 1).mean():.0%} of the logits are those of another query of the picture to the last digit",
        )


def _argmax(case: Case, task: Task) -> Iterator[tuple[str, str]]:
    """A query's first label in the file is the one with its highest logit: under a softmax over combinations where
    these labels are likelier than all others together."""
    first = np.sort(np.unique(np.column_stack([case.picture, case.query]), axis=0, return_index=True)[1])
    likely = case.probability(task)[first, : task.num_classes].max(1)
    first = first[likely > 1e-4]  # the others are all equally unlikely
    if case.combined:
        main = case.tasks[0]
        objects = case.probability(main)[first, : main.num_classes].sum(1)
        first = first[case.certainty[first] > 0.5 * objects]
    if not len(first):
        return
    said = case.logits[task.name][first, : task.num_classes].argmax(1)
    label = case.labels[task.name][first]
    other = (said != label).mean()
    if other <= 0.01:
        return
    counts = np.zeros((task.num_classes, task.num_classes))
    np.add.at(counts, (said, label), 1)
    evidence = f"{other:.0%} of the labels are not what their own logits say"
    if counts.max(1).sum() < 0.95 * len(first):
        yield "labels_of_other_query", evidence
        return
    seen = np.flatnonzero(counts.sum(1))
    shift = {int(step) for step in (counts.argmax(1)[seen] - seen) % task.num_classes}
    names = ", ".join(f"{task.classes[c]} is called {task.classes[counts[c].argmax()]}" for c in seen[:4])
    yield "labels_off_by_one" if len(shift) == 1 else "labels_permuted", f"{evidence}: {names}"


def _elsewhere(case: Case, task: Task, pairs: Pairs, right: np.ndarray) -> Iterator[tuple[str, str]]:
    """Whether labels from elsewhere, always the same way away, fit the objects better than their own."""
    if not len(pairs):
        return
    best, gain = None, 0.0
    for cause, way, rows in _ways(case, pairs):
        known = rows >= 0
        if known.sum() < max(20, len(pairs) / 4):
            continue
        truth = case.true_labels[task.name][pairs.true[known]]
        moved = (case.labels[task.name][rows[known]] == truth).astype(float)
        if moved.mean() - right[known].mean() > gain:
            gain = moved.mean() - right[known].mean()
            best = cause, way, moved, known
    if best is None:
        return
    cause, way, moved, known = best
    sure = mean(moved - right[known], pairs.picture[known], len(case.images))
    if sure.low > GAIN:
        yield (
            cause,
            f"{right[known].mean():.0%} of the labels are right on the objects found, {moved.mean():.0%} "
            f"if taken {way} (gain {sure.text(0, 100)} points)",
        )


def _ways(case: Case, pairs: Pairs) -> Iterator[tuple[str, str, np.ndarray]]:
    """(cause, in words, int [M]: the row to take the label from, -1 where there is none) of every other place."""
    lead, queries = case.lead, int(case.query.max()) + 1
    row_of = np.full((len(case.images), queries), -1)
    row_of[case.picture[lead], case.query[lead]] = lead
    # a picture's places, by score: the order of the file
    order = lead[np.argsort(case.picture[lead], kind="stable")]
    starts = np.searchsorted(case.picture[order], np.arange(len(case.images)))
    place = np.full(len(case.predictions), -1)
    place[order] = np.arange(len(order)) - starts[case.picture[order]]
    at_place = np.full((len(case.images), queries), -1)
    at_place[case.picture[order], place[order]] = order

    query, placed, picture = case.query[pairs.found], place[pairs.found], pairs.picture
    yield "labels_of_other_query", "in query order", at_place[picture, np.minimum(query, queries - 1)]
    yield "labels_of_other_query", "in order of score", row_of[picture, placed]
    for step in range(1, min(REACH, queries)):
        for sign in (1, -1):
            yield (
                "labels_of_other_query",
                f"{step} queries {'on' if sign > 0 else 'back'}",
                row_of[picture, (query + sign * step) % queries],
            )
            yield (
                "labels_of_other_query",
                f"{step} places {'down' if sign > 0 else 'up'} the ranking",
                np.where(
                    (placed + sign * step >= 0) & (placed + sign * step < queries),
                    at_place[picture, np.clip(placed + sign * step, 0, queries - 1)],
                    -1,
                ),
            )
    for step in range(1, min(REACH, len(case.images))):
        for sign in (1, -1):
            other = (picture + sign * step) % len(case.images)
            way = f"{step} pictures {'on' if sign > 0 else 'back'}"
            yield "labels_of_other_image", way, row_of[other, query]
            yield "labels_of_other_image", f"{way}, by rank", at_place[other, placed]


def _nowhere(case: Case, task: Task, pairs: Pairs, right: np.ndarray) -> Iterator[tuple[str, str]]:
    """A head that is sure of its labels and right by chance alone: they are of other objects, which cannot be said."""
    if len(pairs) < 20:
        return
    sure = case.probability(task)[pairs.found].max(1)
    chance = by_chance(case, task, pairs)
    tie = mean(right - chance, pairs.picture, len(case.images))
    boast = mean(sure - right, pairs.picture, len(case.images))
    if tie.high > GAIN or boast.low < 2 * GAIN:
        return
    overlap, shuffled = _same_mixture(case, task, pairs)
    cause = "labels_of_other_query" if overlap > shuffled.max() else "labels_of_other_image"
    yield (
        cause,
        f"{right.mean():.0%} of the labels are right on the objects found, {chance:.0%} by chance, though the head is "
        f"{sure.mean():.0%} sure; in any order the labels of a picture fit its objects to {overlap:.0%}, others' "
        f"to {shuffled.mean():.0%}",
    )


def _same_mixture(case: Case, task: Task, pairs: Pairs, draws: int = 200) -> tuple[float, np.ndarray]:
    """Share of the labels of a picture that its objects have too, in whatever order; and the same, [draws], with the
    pictures shuffled."""
    mixture = np.zeros((2, len(case.images), task.num_classes))
    np.add.at(mixture[0], (pairs.picture, case.labels[task.name][pairs.found]), 1)
    np.add.at(mixture[1], (pairs.picture, case.true_labels[task.name][pairs.true]), 1)
    mixture = mixture[:, mixture[0].sum(1) > 0]
    found, true = mixture / mixture.sum(2, keepdims=True)
    rng = np.random.default_rng(0)
    shuffled = [np.minimum(rng.permutation(found), true).sum(1).mean() for _ in range(draws)]
    return float(np.minimum(found, true).sum(1).mean()), np.array(shuffled)
