"""Diagnose the labels of each task on matched objects: collapse to background or to one class, permuted classes, and
label noise in the annotations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from mtseg.checks.findings import Finding
from mtseg.core.params import Task
from mtseg.core.tables import Pairs
from mtseg.diagnosis.split import Split
from mtseg.evaluation.bootstrap import Interval, auc, mean, proportion

FEWEST = 20  # labelled objects, below which a task is not judged
GAIN = 0.1  # of accuracy, with confidence, that other names of the classes must bring
NOISE = 0.1  # share of labels that contradict the model, with confidence, below which they are no finding
LEARNT = 0.8  # accuracy, surely above which another task is learnt well
APART = 0.8  # AUC of a task's logits, surely above which they separate train's classes, but for wrong labels
BOLD = 0.1  # share of the contradictions where it is surer than of most, surely above which they are not its own errors
BOLDER = 0.2  # the same of val alone and of two classes, where the second choice is no evidence


def collapses(split: Split) -> tuple[list[Finding], dict[str, dict[str, float | None]]]:
    """Findings, and for each task background_share and top_share (of its commonest class) among the predictions of
    objects that were found, true_top_share of the same class in the ground truth."""
    findings, numbers = [], {}
    for task in split.trained:
        own, where = split.labelled(task), f"task '{task.name}'"
        numbers[task.name] = {"background_share": None, "top_share": None, "true_top_share": None}
        if len(own) < FEWEST:
            continue
        output = split.predictions.logits[task.name][own.prediction].argmax(1)
        nothing = split.mean(output >= task.num_classes, own)
        top = int(np.bincount(own.label, minlength=task.num_classes).argmax())
        found_top, true_top = split.mean(own.label == top, own), split.mean(own.true == top, own)
        numbers[task.name] = {
            "background_share": nothing.value, "top_share": found_top.value, "true_top_share": true_top.value
        }  # fmt: skip
        if nothing.low > 0.5:
            findings.append(_background(task, nothing, where, main=task is split.tasks[0]))
        elif found_top.low > max(0.9, true_top.high) and proportion((own.label == top)[own.true != top]).low > 0.5:
            evidence = f"{found_top.text(0, 100)} % of the matched objects are predicted as {task.classes[top]}, "
            evidence += f"{true_top.text(0, 100)} % are annotated as this class"
            change = f"set class_weights: auto for this task, or raise its loss_weight ({task.loss_weight:g})"
            findings.append(Finding("collapse_to_class", "error", evidence, change, where))
    return findings, numbers


def _background(task: Task, share: Interval, where: str, *, main: bool) -> Finding:
    evidence = f"{share.text(0, 100)} % of the matched objects are predicted as background"
    if not task.match_weight and not main:
        cause, change = "task_untrained_in_matching", "set match_weight: 1"
        return Finding(cause, "error", f"{evidence}, and match_weight is 0", change, where)
    change = "lower loss.no_object (0.1 is usual)"
    if not main:
        change += f", raise the task's loss_weight ({task.loss_weight:g}), or set its background: false"
    return Finding("collapse_to_background", "error", evidence, change, where)


def permutations(split: Split, elsewhere: Split | None = None) -> list[Finding]:
    """Tasks whose labels fit the objects under other names of the classes. `elsewhere`: the train split, which shows
    whether the split's annotations or the model's classes are renamed."""
    findings = []
    for task in split.trained:
        if (new := _renamed(split, task)) is None:
            continue
        order, gain, before = new
        changed = [c for c in range(task.num_classes) if order[c] != c]
        shift = {(int(order[c]) - c) % task.num_classes for c in range(task.num_classes)}
        cause = "labels_off_by_one" if len(shift) == 1 and task.num_classes > 2 else "labels_permuted"
        named = ", ".join(f"{task.classes[c]} as {task.classes[order[c]]}" for c in changed[:6])
        evidence = f"{before:.0%} of the labels are right, {gain.text(0, 100)} points more with renamed classes: "
        evidence += named + " ..." * (len(changed) > 6)
        change = "the model has another order of classes than the task: train again, or set the task's `classes`"
        if elsewhere is not None and _renamed(elsewhere, task) is None:
            change = "train and val number classes differently: correct the annotations of val"
        findings.append(Finding(cause, "error", evidence, change, f"task '{task.name}'"))
    return findings


def _renamed(split: Split, task: Task) -> tuple[np.ndarray, Interval, float] | None:
    """(what each true class is predicted as, gain in accuracy, accuracy before), when that beats the classes' names."""
    own = split.labelled(task)
    if len(own) < FEWEST or task.num_classes < 2:
        return None
    counts = np.zeros((task.num_classes, task.num_classes))
    np.add.at(counts, (own.true, own.label), 1)
    counts += 0.01 * np.eye(task.num_classes)  # a class that was not found keeps its name
    order = linear_sum_assignment(-counts)[1]
    right, before = order[own.true] == own.label, own.true == own.label
    gain = split.mean(right * 1.0 - before, own)
    # the best of many orders is better than chance by itself: it has to be right more often than not, too
    return (order, gain, float(before.mean())) if gain.low > GAIN and split.mean(right, own).low > 0.5 else None


def noise(train: Split, val: Split) -> list[Finding]:
    """Tasks whose labels were wrong to begin with. Either train, which was learnt, contradicts the model more than
    val does; or labels that contradict it are unrelated to it: it is often as sure there as elsewhere, and the label is
    seldom its second choice. That is evidence on a task that was learnt, or on one of which nothing was learnt while
    others were. A task still guessed whose logits separate val's classes has begun to be learnt: it was trained for too
    few steps. (The idea of Northcutt et al., Confident Learning, JAIR 2021.)"""
    findings = []
    well = {task.name for task in train.trained if (right := _accuracy(train, task)) and right.low > LEARNT}
    for task in train.trained:
        seen = [_contradictions(split, task) for split in (train, val)]
        if min(len(part.wrong) for part in seen) < FEWEST:
            continue
        where, begun = f"task '{task.name}'", _separation(val, task)
        rates = [mean(part.wrong, part.image, int(part.image.max()) + 1) for part in seen]
        known, elsewhere, separates = learnt(train, task), bool(well - {task.name}), bool(begun and begun.low > 0.5)
        if elsewhere and separates and not learnt(train, task, by=0):
            right = [f"{1 - rate.value:.0%}" for rate in rates]
            evidence = f"{right[0]} of the labels are right in train, {right[1]} in val, no more than by always "
            evidence += f"predicting the most frequent class; but the logits separate the classes, AUC {begun.text()}"
            change = f"raise solver.max_iter, or the task's loss_weight ({task.loss_weight:g})"
            findings.append(Finding("too_few_steps", "warning", evidence, change, where))
            continue
        unrelated, words = _unrelated(seen, task, BOLD)
        apart = _separation(train, task)
        unrelated = unrelated and (known and apart is not None and apart.low > APART or elsewhere and not separates)
        change = "check the task's labels: report/index.html lists the most certain contradictions"
        carried = known and learnt(val, task, by=0)  # else the images differ, not the labels
        if carried and rates[1].low > max(rates[0].high, NOISE):
            unrelated, words = _unrelated(seen[1:], task, BOLD if task.num_classes > 2 else BOLDER)
            change = "val's labels differ from train's: report/index.html lists the most certain contradictions"
        else:
            certain = min(rate.low for rate in rates) > NOISE
            unrelated = unrelated and certain or rates[0].low > max(rates[1].high, NOISE)
        if unrelated:
            evidence = f"labels contradict the model for {rates[0].text(0, 100)} % of the matched objects in train, "
            evidence += f"{rates[1].text(0, 100)} % in val"
            findings.append(Finding("label_noise", "warning", evidence + words, change, where))
    return findings


def _separation(split: Split, task: Task) -> Interval | None:
    """AUC of the logits that an object is of a class, over all pairs of both: 0.5 where they are unrelated to it. Each
    class's logit less its mean over the objects, so that being common does not count."""
    own = split.labelled(task)
    logits = split.predictions.logits[task.name][own.prediction][:, : task.num_classes]
    logits = logits - logits.mean(axis=1, keepdims=True)
    logits -= logits.mean(axis=0)
    return auc(logits.ravel(), (own.true[:, None] == np.arange(task.num_classes)).ravel())


def _unrelated(seen: Sequence[Pairs], task: Task, least: float) -> tuple[bool, str]:
    """Whether the contradictions are unrelated to the model's uncertainty, and the evidence as text."""
    found = Pairs.concatenate(seen)
    if not found.wrong.any():
        return False, ""
    bold = proportion(found.sure[found.wrong] > np.median(found.sure))
    second = proportion(found.second[found.wrong])
    by_chance = 1 / max(task.num_classes - 1, 1)
    words = f"; for {bold.text(0, 100)} % of these the model is more certain than for most objects, "
    words += f"for {second.value:.0%} the label is its second choice ({by_chance:.0%} by chance)"
    return bold.low > least and (task.num_classes < 3 or second.high < (1 + by_chance) / 2), words


def _accuracy(split: Split, task: Task) -> Interval | None:
    own = split.labelled(task)
    return split.mean(own.label == own.true, own) if len(own) >= FEWEST else None


def learnt(split: Split, task: Task, by: float = GAIN) -> bool:
    """Whether the task's labels are right surely more often, by that much, than its commonest class alone would be."""
    right, true = _accuracy(split, task), split.labelled(task).true
    return right is not None and right.low > np.bincount(true).max() / len(true) + by


def _contradictions(split: Split, task: Task) -> Pairs:
    """The labelled objects found, with columns `wrong` (whether the predicted label is another), `sure` (its
    probability) and `second` (whether the true label is the second choice)."""
    own = split.labelled(task)
    others = split.predictions.logits[task.name][own.prediction][:, : task.num_classes].copy()
    others[np.arange(len(others)), own.label] = -np.inf
    sure = split.predictions.probabilities[task.name][own.prediction, own.label]
    return own.replace(wrong=own.label != own.true, sure=sure, second=others.argmax(1) == own.true)
