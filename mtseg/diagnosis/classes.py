"""Does each task answer what it sees: collapse to background or to one class (F10), classes in another order, labels
that were wrong to begin with. All on the objects found, M pairs of a prediction and an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from mtseg.checks.findings import Finding
from mtseg.core.params import Task
from mtseg.diagnosis.case import Case
from mtseg.diagnosis.intervals import Interval, mean

FEWEST = 20  # objects with a label below which nothing is said
GAIN = 0.1  # of accuracy, with confidence, that other names of the classes must bring
NOISE = 0.1  # share of labels that contradict the model, with confidence, below which nothing is said
LEARNT = 0.8  # accuracy, surely above which another task is learnt well
APART = 0.8  # AUC of a task's logits, surely above which they tell train's classes apart, but for wrong labels
BOLD = 0.1  # share of the contradictions where it is surer than of most, surely above which they are not its own errors
BOLDER = 0.2  # the same of val alone and of two classes, where no second choice tells


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
        elif found_top.low > max(0.9, true_top.high) and of_independent((label == top)[true != top]).low > 0.5:
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
            "set match_weight: 1", where,
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


def noise(train: Case, val: Case) -> list[Finding]:
    """Tasks whose labels were wrong to begin with. Either train, which was learnt, contradicts the model more than
    val does; or labels that contradict it have nothing to do with it: it is often as sure there as elsewhere, and the
    label is seldom its second choice. That says something of a task that was learnt, or of one of which nothing
    was while others were. A task still guessed whose logits tell val's classes apart has begun to be learnt: it was
    trained for too few steps. (The idea of Northcutt et al., Confident Learning, JAIR 2021.)"""
    findings = []
    well = {task.name for task in train.trained if (right := _accuracy(train, task)) and right.low > LEARNT}
    for task in train.trained:
        seen = [_contradictions(case, task) for case in (train, val)]
        if min(len(part.wrong) for part in seen) < FEWEST:
            continue
        where, begun = f"task '{task.name}'", _separation(val, task)
        rates = [mean(part.wrong.astype(float), part.picture, int(part.picture.max()) + 1) for part in seen]
        known, elsewhere, telling = learnt(train, task), bool(well - {task.name}), begun is not None and begun.low > 0.5
        if elsewhere and telling and not learnt(train, task, by=0):
            right = [f"{1 - rate.value:.0%}" for rate in rates]
            evidence = f"{right[0]} of the labels are right in train, {right[1]} in val, no more than of its commonest "
            evidence += f"class alone; but its logits tell val's classes apart with an AUC of {begun.text()}"
            change = f"raise solver.max_iter, or the task's loss_weight ({task.loss_weight:g})"
            findings.append(Finding("too_few_steps", "warning", evidence, change, where))
            continue
        alien, words = _alien(seen, task, BOLD)
        apart = _separation(train, task)
        alien = alien and (known and apart is not None and apart.low > APART or elsewhere and not telling)
        change = "look at the task's labels: report/index.html lists the surest contradictions"
        carried = known and learnt(val, task, by=0)  # or else pictures differ, not labels
        if carried and rates[1].low > max(rates[0].high, NOISE):
            alien, words = _alien(seen[1:], task, BOLD if task.num_classes > 2 else BOLDER)
            change = "val's labels are not as train's: report/index.html lists the surest contradictions"
        else:
            alien = alien and min(rate.low for rate in rates) > NOISE or rates[0].low > max(rates[1].high, NOISE)
        if alien:
            evidence = f"labels contradict the model for {rates[0].text(0, 100)} % of the objects found in train, "
            evidence += f"{rates[1].text(0, 100)} % in val"
            findings.append(Finding("label_noise", "warning", evidence + words, change, where))
    return findings


def _separation(case: Case, task: Task) -> Interval | None:
    """AUC of the logits that an object is of a class, over all pairs of one: 0.5 where they tell nothing. Each class's
    logit less its mean over the objects, so that being common does not count."""
    pairs = case.labelled(task)
    logits = case.logits[task.name][pairs.found][:, : task.num_classes]
    logits = logits - logits.mean(axis=1, keepdims=True)
    logits -= logits.mean(axis=0)
    of_class = case.true_labels[task.name][pairs.true][:, None] == np.arange(task.num_classes)
    return auc(logits.ravel(), of_class.ravel())


def _alien(seen: Sequence[_Contradictions], task: Task, least: float) -> tuple[bool, str]:
    """Whether the contradictions have nothing to do with the model; in words."""
    wrong = np.concatenate([part.wrong for part in seen])
    if not wrong.any():
        return False, ""
    sure = np.concatenate([part.sure for part in seen])
    bold = of_independent(sure[wrong] > np.median(sure))
    second = of_independent(np.concatenate([part.second for part in seen])[wrong])
    by_chance = 1 / max(task.num_classes - 1, 1)
    words = f"; of {bold.text(0, 100)} % of these it is surer than of most answers, "
    words += f"{second.value:.0%} are its second choice, {by_chance:.0%} by chance"
    return bold.low > least and (task.num_classes < 3 or second.high < (1 + by_chance) / 2), words


def _accuracy(case: Case, task: Task) -> Interval | None:
    pairs = case.labelled(task)
    right = case.labels[task.name][pairs.found] == case.true_labels[task.name][pairs.true]
    return mean(right.astype(float), pairs.picture, len(case.images)) if len(pairs) >= FEWEST else None


def learnt(case: Case, task: Task, by: float = GAIN) -> bool:
    """Whether the task's labels are right surely more often than its commonest class would be, by that much."""
    right = _accuracy(case, task)
    true = case.true_labels[task.name][case.labelled(task).true]
    return right is not None and right.low > np.bincount(true).max() / len(true) + by


@dataclass(frozen=True)
class _Contradictions:
    """Of each object found with a label: whether the answer is another, how sure it is, whether the label is the second
    choice, and the picture. [M] each"""

    wrong: np.ndarray
    sure: np.ndarray
    second: np.ndarray
    picture: np.ndarray


def _contradictions(case: Case, task: Task) -> _Contradictions:
    pairs = case.labelled(task)
    label, true = case.labels[task.name][pairs.found], case.true_labels[task.name][pairs.true]
    others = case.logits[task.name][pairs.found][:, : task.num_classes].copy()
    others[np.arange(len(others)), label] = -np.inf
    sure = case.probability(task)[pairs.found, label]
    return _Contradictions(label != true, sure, others.argmax(1) == true, pairs.picture)


def of_independent(hits: np.ndarray) -> Interval:
    """Share of independent hits, by Wilson's interval at 99 %."""
    count, z = max(len(hits), 1), 2.576
    value = hits.sum() / count
    middle, half = value + z * z / (2 * count), z * np.sqrt(value * (1 - value) / count + z * z / (4 * count * count))
    return Interval(float(value), *(float((middle + sign * half) / (1 + z * z / count)) for sign in (-1, 1)))


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
