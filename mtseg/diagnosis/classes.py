"""Does each task answer what it sees: collapse to background or to one class (F10), classes in another order, labels
that were wrong to begin with. All on the objects found, M pairs of a prediction and an object."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from mtseg.diagnosis.case import Case
from mtseg.diagnosis.intervals import Interval, mean
from mtseg.findings import Finding
from mtseg.sections import Task

FEWEST = 20  # objects with a label below which nothing is said
GAIN = 0.1  # of accuracy, with confidence, that other names of the classes must bring
NOISE = 0.05  # share of wrong labels, with confidence, from which they are reported
FORETOLD = 0.75  # AUC of errors by the lack of confidence, surely below which they are not the model's own


def collapses(case: Case) -> tuple[list[Finding], dict[str, dict[str, float | None]]]:
    """Findings, and for each task background_share and top_share (of its commonest class) among the answers for objects
    that were found, true_top_share of the same class in the ground truth."""
    findings, numbers = [], {}
    for task in case.trained:
        pairs, where = case.labelled(task), f"task '{task.name}'"
        numbers[task.name] = {"background_share": None, "top_share": None, "true_top_share": None}
        if len(pairs) < FEWEST:
            continue

        def share(hits: np.ndarray, pairs=pairs) -> Interval:
            return mean(hits.astype(float), pairs.picture, len(case.images))

        answer, true = case.answer(task)[pairs.found], case.true_labels[task.name][pairs.true]
        label = case.labels[task.name][pairs.found]
        nothing = share(answer >= task.num_classes)
        top = int(np.bincount(label, minlength=task.num_classes).argmax())
        found_top, true_top = share(label == top), share(true == top)
        numbers[task.name] = {
            "background_share": nothing.value, "top_share": found_top.value, "true_top_share": true_top.value
        }  # fmt: skip
        if nothing.low > 0.5:
            findings.append(_background(task, nothing, where, main=task is case.tasks[0]))
        elif found_top.low > max(0.9, true_top.high) and share(label == true).high < true_top.high + GAIN:
            findings.append(
                Finding(
                    "collapse_to_class", "error",
                    f"{found_top.text(0, 100)} % of the objects found are called {task.classes[top]}, "
                    f"{true_top.text(0, 100)} % are",
                    f"class_weights: auto for this task, or raise its loss_weight ({task.loss_weight:g})",
                    where,
                )
            )  # fmt: skip
    return findings, numbers


def _background(task: Task, share: Interval, where: str, *, main: bool) -> Finding:
    evidence = f"{share.text(0, 100)} % of the objects found are called background"
    if not task.match_weight and not main:
        return Finding(
            "task_untrained_in_matching", "error", f"{evidence}, and match_weight is 0",
            "give the task a match_weight, as large as its loss_weight", where,
        )  # fmt: skip
    remedy = "lower loss.no_object (0.1 is usual)"
    if not main:
        remedy += f", raise the task's loss_weight ({task.loss_weight:g}), or set its background: false"
    return Finding("collapse_to_background", "error", evidence, remedy, where)


def permutations(case: Case, elsewhere: Case | None = None) -> list[Finding]:
    """Tasks whose answers fit the objects under other names of the classes. `elsewhere`: the train split, which tells
    whether the split's annotations or the model's classes are renamed."""
    findings = []
    for task in case.trained:
        new = _renamed(case, task)
        if new is None:
            continue
        order, gain, before = new
        changed = [c for c in range(task.num_classes) if order[c] != c]
        shift = {(int(order[c]) - c) % task.num_classes for c in range(task.num_classes)}
        off = len(shift) == 1 and task.num_classes > 2
        named = ", ".join(f"{task.classes[c]} as {task.classes[order[c]]}" for c in changed[:6])
        fine = elsewhere is not None and _renamed(elsewhere, task) is None
        findings.append(
            Finding(
                "labels_off_by_one" if off else "labels_permuted", "error",
                f"{before:.0%} of the labels are right, {gain.text(0, 100)} points more with classes renamed: {named} "
                f"{'...' if len(changed) > 6 else ''}",
                "train and val count classes differently: look at val's annotations" if fine
                else f"the model's classes are in another order than the task's: train again, or set the order of "
                f"classes of task '{task.name}'",
                f"task '{task.name}'",
            )
        )  # fmt: skip
    return findings


def _renamed(case: Case, task: Task) -> tuple[np.ndarray, Interval, float] | None:
    """(what each true class is called, gain in accuracy, accuracy before), when that beats the classes' names."""
    pairs = case.labelled(task)
    if len(pairs) < FEWEST or task.num_classes < 2:
        return None
    label, true = case.labels[task.name][pairs.found], case.true_labels[task.name][pairs.true]
    counts = np.zeros((task.num_classes, task.num_classes))
    np.add.at(counts, (true, label), 1)
    counts += 0.01 * np.eye(task.num_classes)  # a class that was not found keeps its name
    order = linear_sum_assignment(-counts)[1]
    gain = mean((order[true] == label).astype(float) - (true == label), pairs.picture, len(case.images))
    # the best of many orders is better than chance by itself: it has to be right more often than not, too
    right = mean((order[true] == label).astype(float), pairs.picture, len(case.images))
    return (order, gain, float((true == label).mean())) if gain.low > GAIN and right.low > 0.5 else None


def noise(case: Case, elsewhere: Case | None, *, split: str, trained: bool) -> list[Finding]:
    """Tasks whose annotations contradict a model that is as sure there as anywhere: wrong labels are those whose errors
    confidence does not foretell. `elsewhere`: the other split; `trained`: whether `case` was trained on."""
    findings = []
    for task in case.trained:
        wrong = _errors(case, task)
        if wrong is None:
            continue
        rate, foretold = wrong
        other = _errors(elsewhere, task) if elsewhere is not None else None
        cleaner = other is not None and other[0].high < rate.low
        unforeseen = foretold is not None and foretold.high < FORETOLD
        # a split that was learnt is answered better than one that was not, unless its labels are wrong
        if rate.low > NOISE and (unforeseen or (cleaner and trained)):
            evidence = f"{rate.text(0, 100)} % of the labels of {split} contradict the model"
            if cleaner:
                evidence += f", {other[0].text(0, 100)} % in the other split"
            if foretold is not None:
                evidence += f"; its confidence foretells the errors with an AUC of {foretold.text()}, 0.5 being chance"
            change = f"look at the labels of {split}: report/index.html lists the surest contradictions"
            findings.append(Finding("label_noise", "warning", evidence, change, f"task '{task.name}'"))
    return findings


def _errors(case: Case, task: Task) -> tuple[Interval, Interval | None] | None:
    """(share of wrong labels, AUC of telling them by the head's confidence)"""
    pairs = case.labelled(task)
    if len(pairs) < FEWEST:
        return None
    wrong = case.labels[task.name][pairs.found] != case.true_labels[task.name][pairs.true]
    rate = mean(wrong.astype(float), pairs.picture, len(case.images))
    rows = pairs.found
    sure = case.probability(task)[rows, case.labels[task.name][rows]]
    return rate, auc(-sure, wrong)


def auc(scores: np.ndarray, hits: np.ndarray) -> Interval | None:
    """Probability that a hit scores above a miss, with the interval of Hanley & McNeil 1982. None without both."""
    above, below = int(hits.sum()), int((~hits).sum())
    if above < 5 or below < 5:
        return None
    order = np.argsort(scores, kind="stable")
    _, index, count = np.unique(scores[order], return_inverse=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = (np.cumsum(count) - (count - 1) / 2)[index]
    area = (ranks[hits].sum() - above * (above + 1) / 2) / (above * below)
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (above - 1) * (one - area**2) + (below - 1) * (two - area**2)) / (above * below)
    half = 2.576 * np.sqrt(max(variance, 0))
    return Interval(float(area), float(area - half), float(area + half))
