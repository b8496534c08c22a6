"""Diagnose the labels of each task on matched objects: collapse to background or to one class, permuted classes, and
label noise in the annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.stats import binom, fisher_exact, poisson

from mtseg.checks.findings import Finding
from mtseg.checks.strays import a_part, described, more, named
from mtseg.core.params import Task
from mtseg.core.tables import Pairs
from mtseg.diagnosis.split import Split, by_image
from mtseg.evaluation.bootstrap import Interval, auc, mean, proportion

# "surely" above or below: the 99 % interval is
FEWEST = 20  # labelled matches below which a task is not judged
GAIN = 0.1  # gain in accuracy that renamed classes must surely exceed
NOISE = 0.1  # share of labels that contradict the model, which must surely be exceeded
FEW = 5  # contradictions of a class, below which more than expected are none
OTHERS = "others"
FREQUENT = 1.5  # times as many objects as of any other class, of a class that may be a default
FEW_WRONG, UPPER = 2, 0.75  # errors that are added to those found and expected; quantile of the others' ratios
ONE_CLASS = 0.15  # share of one class's objects that surely look like another
LEARNT = 0.8  # accuracy that a well learnt task surely exceeds
APART = 0.8  # AUC that the logits surely exceed if they separate the classes of train in spite of wrong labels
CONFIDENT = 0.1  # share of contradictions with above-median probability; genuine errors of the model stay below
SURPRISING = 2.0  # of `_surprise`, from which the labels of an image are taken for wrong
BY_CHANCE = 0.1  # share of such images in a split that the model does not know, by its own errors
UNLEARNT = 0.25  # the same in the other split, from which the model is wrong rather than the labels
SURELY_WRONG = 0.05  # share of the objects whose labels the model surely contradicts, from which it matters
LEVEL = 0.001  # chance that such a share differs from that of the other split
LESS_CERTAIN = 0.55  # AUC of the probabilities in train against val, which is surely above if val looks different
CONFIDENT_ALONE = 0.2  # the same for val alone with two classes, where the second choice is no evidence
SECOND = 0.7  # share of a model's errors in which the label is its second choice


def collapses(split: Split) -> tuple[list[Finding], dict[str, dict[str, float | None]]]:
    """Findings, and for each task: background_share and top_share (of its most frequent class) among the predictions of
    matched objects, true_top_share of the same class in the ground truth."""
    findings, numbers = [], {}
    for task in split.trained:
        own, where = split.labelled(task), f"task '{task.name}'"
        numbers[task.name] = {"background_share": None, "top_share": None, "true_top_share": None}
        if len(own) < FEWEST:
            continue
        output = split.predictions.logits[task.name][own.prediction].argmax(1)
        nothing = split.mean(output >= task.num_classes, own)
        top = int(np.bincount(own.label, minlength=task.num_classes).argmax())
        predicted_top, true_top = split.mean(own.label == top, own), split.mean(own.true == top, own)
        numbers[task.name] = {
            "background_share": nothing.value, "top_share": predicted_top.value, "true_top_share": true_top.value
        }  # fmt: skip
        if nothing.low > 0.5:
            findings.append(_background(task, nothing, where, main=task is split.tasks[0]))
        elif predicted_top.low > max(0.9, true_top.high) and proportion((own.label == top)[own.true != top]).low > 0.5:
            evidence = f"{predicted_top.text(0, 100)} % of the matched objects are predicted as {task.classes[top]}, "
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


def permutations(split: Split, train: Split | None = None) -> list[Finding]:
    """Tasks whose predicted labels are correct after renaming the classes. train: if given, shows whether the
    annotations of `split` or the classes of the model are renamed."""
    findings = []
    for task in split.trained:
        if (better := _renamed(split, task)) is None:
            continue
        order, gain, before = better
        changed = [c for c in range(task.num_classes) if order[c] != c]
        shift = {(int(order[c]) - c) % task.num_classes for c in range(task.num_classes)}
        cause = "labels_off_by_one" if len(shift) == 1 and task.num_classes > 2 else "labels_permuted"
        named = ", ".join(f"{task.classes[c]} as {task.classes[order[c]]}" for c in changed[:6])
        evidence = f"{before:.0%} of the labels are right, {gain.text(0, 100)} points more with renamed classes: "
        evidence += named + " ..." * (len(changed) > 6)
        change = "the model has another order of classes than the task: train again, or set the task's `classes`"
        if train is not None and _renamed(train, task) is None:
            change = "train and val number classes differently: correct the annotations of val"
        findings.append(Finding(cause, "error", evidence, change, f"task '{task.name}'"))
    return findings


def _renamed(split: Split, task: Task) -> tuple[np.ndarray, Interval, float] | None:
    """(predicted class [K] of each true class, gain in accuracy, accuracy before) if other names fit surely better."""
    own = split.labelled(task)
    if len(own) < FEWEST or task.num_classes < 2:
        return None
    counts = np.zeros((task.num_classes, task.num_classes))
    np.add.at(counts, (own.true, own.label), 1)
    counts += 0.01 * np.eye(task.num_classes)  # a class without a match keeps its name
    order = linear_sum_assignment(-counts)[1]
    right, before = order[own.true] == own.label, own.true == own.label
    gain = split.mean(right * 1.0 - before, own)
    # the best of many orders is better by chance: it must be right for more than half of the objects as well, or the
    # labels as they are for fewer than shuffled ones
    shuffled = counts.sum(0) @ counts.sum(1) / len(own) ** 2
    many = len(np.unique(own.image)) >= FEWEST  # intervals of fewer are too narrow
    likeliest = split.predictions.logits[task.name][own.prediction][:, : task.num_classes].argmax(1) == own.label
    below = many and likeliest.mean() > 0.5 and split.mean(before, own).high < shuffled  # not a query's worst labels
    systematic = split.mean(right, own).low > 0.5 or below
    return (order, gain, float(before.mean())) if gain.low > GAIN and systematic else None


def renaming(split: Split) -> dict[str, np.ndarray]:
    """{task: int [K], the true class of each predicted one}, for the tasks of `permutations`."""
    better = {task.name: _renamed(split, task) for task in split.trained}
    return {name: np.argsort(found[0]) for name, found in better.items() if found is not None}


def noise(train: Split, val: Split) -> list[Finding]:
    """Warnings label_noise and too_few_steps. The labels of a task count as noisy in two cases:

    - They contradict the model more often in train, to which it was fitted, than in val.
    - The contradictions are unrelated to the model's uncertainty: its probability is often above the median, and the
      label is seldom its second choice. This is evidence only if the task was learnt, or if nothing of it was learnt
      while other tasks were.

    If only the most frequent class is right, but the logits separate the classes of val, training was too short.
    (Idea: Northcutt et al., Confident Learning, JAIR 2021.)"""
    findings = []
    well = {task.name for task in train.trained if (right := _accuracy(train, task)) and right.low > LEARNT}
    for task in train.trained:
        both = [_contradictions(split, task) for split in (train, val)]
        if min(len(part.wrong) for part in both) < FEWEST:
            continue
        where, begun = f"task '{task.name}'", _separation(val, task)
        rates = [mean(part.wrong, part.image, int(part.image.max()) + 1) for part in both]
        known, others, separates = learnt(train, task), bool(well - {task.name}), bool(begun and begun.low > 0.5)
        if others and separates and not learnt(train, task, by=0):
            right = [f"{1 - rate.value:.0%}" for rate in rates]
            evidence = f"{right[0]} of the labels are right in train, {right[1]} in val, no more than by always "
            evidence += f"predicting the most frequent class; but the logits separate the classes, AUC {begun.text()}"
            change = f"raise solver.max_iter, or the task's loss_weight ({task.loss_weight:g})"
            findings.append(Finding("too_few_steps", "warning", evidence, change, where))
            continue
        unrelated, text = _unrelated(both, task, CONFIDENT)
        apart = _separation(train, task)
        unrelated = unrelated and (known and apart is not None and apart.low > APART or others and not separates)
        change = "check the task's labels: report/index.html lists the most certain contradictions"
        generalises = known and learnt(val, task, by=0) and as_certain(train, val, task)
        if generalises and rates[1].low > max(rates[0].high, NOISE):
            unrelated, text = _unrelated(both[1:], task, CONFIDENT if task.num_classes > 2 else CONFIDENT_ALONE)
            change = "val's labels differ from train's: report/index.html lists the most certain contradictions"
        else:
            certain = min(rate.low for rate in rates) > NOISE
            unrelated = unrelated and certain or rates[0].low > max(rates[1].high, NOISE)
        if unrelated:
            evidence = f"labels contradict the model for {rates[0].text(0, 100)} % of the matched objects in train, "
            evidence += f"{rates[1].text(0, 100)} % in val"
            findings.append(Finding("label_noise", "warning", evidence + text, change, where))
    return findings


def mislabelled(train: Split, val: Split) -> list[Finding]:
    """Warnings label_noise for one class of which many objects look like another: the model predicts the other with
    more probability than for most of that class's own objects, in one split much more often than in the other. A class
    that is only hard, or rare, is confused with low probability."""
    findings: list[Finding] = []
    for task in train.trained:
        if task.num_classes < 2 or not learnt(train, task):
            continue
        sure = {name: _sure(split, task) for name, split in (("train", train), ("val", val))}
        alike = as_certain(train, val, task)
        for one in range(task.num_classes):
            for name, other in (("val", "train"), ("train", "val")):
                here, there = sure[name], sure[other]
                own, its = here[here.true == one], there[there.true == one]
                if min(len(own), len(its)) < FEWEST or not own.sure.any() or name == "val" and not alike:
                    continue
                looks = int(np.bincount(own.label[own.sure]).argmax())
                rates = [proportion(part.sure & (part.label == looks)) for part in (own, its)]
                back = here.sure & (here.true == looks) & (here.label == one)  # confusion goes both ways
                one_way = rates[0].value > 3 * back.sum() / max((here.true == looks).sum(), 1)
                if one_way and rates[0].value > ONE_CLASS and rates[0].low > rates[1].high:
                    evidence = (
                        f"{rates[0].text(0, 100)} % of the objects that are annotated as {task.classes[one]} in {name} "
                    )
                    evidence += (
                        f"surely look like {task.classes[looks]} to the model, {rates[1].text(0, 100)} % in {other}"
                    )
                    change = f"check the labels {task.classes[one]} in {name}: report/index.html lists contradictions"
                    findings.append(Finding("label_noise", "warning", evidence, change, f"task '{task.name}'"))
    return findings


def unexpected(train: Split, val: Split) -> list[Finding]:
    """Warnings label_noise, at most one a task, for classes of one split, of which the model takes more objects for
    others, or for one other class: many of these as surely as where it is right, since classes that are truly alike are
    confused as well. In train, to which it was fitted: than in val. In val: than its own probabilities let expect. A
    model that is too sure makes more errors than it expects in all classes, in many, or also in train: the largest of
    these factors is allowed."""
    findings = []
    for task in train.trained:
        if task.num_classes < 3 or not learnt(train, task):
            continue
        (wrong, sure, expected, counts), (known, in_sure, usual, in_train) = (
            _confused(split, task) for split in (val, train)
        )
        certain = as_certain(train, val, task)
        for of_cells, of_classes, texts in _confusions(task):
            own, likely, its, of_its = map(of_cells, (wrong, expected, known, usual))
            here, there, level = of_classes(counts), of_classes(in_train), LEVEL / len(own)
            more = own / np.maximum(here, 1) - its / np.maximum(there, 1)
            ratios, found = (own + FEW_WRONG) / (likely + FEW_WRONG), {}
            enough = (np.abs(more) > ONE_CLASS) & (np.where(more > 0, own, its) >= FEW)
            for row in np.flatnonzero(enough).tolist():
                annotated, looks = texts(row)
                if more[row] > 0:
                    rest = (wrong.sum() - own[row]) / max(expected.sum() - likely[row], 1)
                    factor = max(rest, its[row] / max(of_its[row], 1), 1)
                    chance = poisson.sf(own[row] - 1, likely[row] * factor) if certain else 1.0
                    if chance < level:  # a quantile of all pairs of many classes takes long
                        factor = max(factor, np.quantile(np.delete(ratios, row), UPPER))
                        chance = poisson.sf(own[row] - 1, likely[row] * factor)
                    name, count, of = "val", own[row], here[row]
                    beside = f"which expects {likely[row]:.1f} by its probabilities"
                else:
                    table = [[its[row], there[row] - its[row]], [own[row], here[row] - own[row]]]
                    chance = fisher_exact(table, alternative="greater").pvalue
                    name, count, of, beside = "train", its[row], there[row], f"{own[row]:.0f} of {here[row]:.0f} in val"
                part = of_cells(sure if name == "val" else in_sure)[row]
                surely = looks == OTHERS or proportion(np.arange(count) < part).low > CONFIDENT
                if chance < level and surely:
                    evidence = f"{count:.0f} of the {of:.0f} objects that are annotated as {annotated} in {name} look "
                    evidence += f"like {looks} to the model, {beside}"
                    change = f"check the labels {annotated} in {name}: report/index.html lists contradictions"
                    found[chance] = Finding("label_noise", "warning", evidence, change, f"task '{task.name}'")
            if found:
                findings.append(found[min(found)])
                break
    return findings


def defaulted(train: Split, val: Split) -> list[Finding]:
    """Warnings label_noise for the most frequent class of a task, if many of its objects look like others to the model,
    in both splits, and surely fewer of the others look like it: an annotation tool's default was left. A model errs the
    other way, towards frequent classes, unless the loss weighs them less."""
    findings = []
    for task in train.trained:
        if task.num_classes < 3 or task.class_weights is not None or not learnt(train, task):
            continue
        parts = [_confused(split, task) for split in (train, val)]
        total = sum(counts for *_, counts in parts)
        one, second = np.argsort(-total)[:2].tolist()
        away, back = (sum(wrong.sum(axis)[one] for wrong, *_ in parts) for axis in (1, 0))
        shares = [wrong[one].sum() / max(counts[one], 1) for wrong, *_, counts in parts]
        frequent = total[one] > FREQUENT * total[second] and all(
            wrong[one].sum() > wrong[:, one].sum() for wrong, *_ in parts
        )
        if frequent and min(shares) > ONE_CLASS and binom.sf(away - 1, away + back, 0.5) < LEVEL:
            evidence = f"{shares[0]:.0%} of the objects that are annotated as {task.classes[one]} in train and "
            evidence += (
                f"{shares[1]:.0%} in val look like others to the model, {away:.0f} in all, and {back:.0f} of the "
            )
            evidence += "others look like it"
            change = f"check the labels {task.classes[one]}: is it the default of the annotation tool?"
            findings.append(Finding("label_noise", "warning", evidence, change, f"task '{task.name}'"))
    return findings


def _confusions(task: Task) -> Iterator[tuple[Callable, Callable, Callable]]:
    """Kinds of errors: of a class for any other one, of two classes for each other, of a class for one other. Of each,
    functions that give the sums of a table [annotated, predicted] of errors, [n]; the numbers of objects of these
    classes, from those of each class; and of one of n, what is annotated and what it looks like."""
    names = task.classes
    a, b = np.triu_indices(task.num_classes, 1)
    own, other = np.nonzero(~np.eye(task.num_classes, dtype=bool))
    yield lambda errors: errors.sum(1), lambda counts: counts, lambda row: (names[row], OTHERS)
    yield (
        lambda errors: (errors + errors.T)[a, b],
        lambda counts: counts[a] + counts[b],
        lambda row: (f"{names[a[row]]} or {names[b[row]]}", "the other of the two"),
    )
    yield (
        lambda errors: errors[own, other],
        lambda counts: counts[own],
        lambda row: (names[own[row]], names[other[row]]),
    )


def _confused(split: Split, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of the labelled matches, number by annotated and wrongly predicted class [K, K]; of these, how many the model is
    sure of; the number if the annotated labels followed the model's probabilities; number by annotated class
    [K]."""
    own, count = split.labelled(task), task.num_classes
    likely = split.predictions.probabilities[task.name][own.prediction][:, :count]
    likely = likely / np.maximum(likely.sum(1, keepdims=True), 1e-9)
    found, sure = np.zeros((2, count, count))
    np.add.at(found, (own.true, own.label), 1)
    np.add.at(sure, (own.true, own.label), _sure(split, task).sure)
    expected = (csr_array((np.ones(len(own)), (own.label, np.arange(len(own)))), shape=(count, len(own))) @ likely).T
    others = ~np.eye(count, dtype=bool)
    return found * others, sure, expected * others, np.bincount(own.true, minlength=count)


def contradicted(train: Split, val: Split) -> list[Finding]:
    """A warning label_noise for a part of the images of one split, whose labels the model surely contradicts, all tasks
    together, and more often than in the other split; or, if there are none, for objects whose label it does."""
    tasks = [task for task in train.trained if task.num_classes > 1 and learnt(train, task)]
    tasks = [task for task in tasks if as_certain(train, val, task)]
    surprise = {"train": _surprise(train, tasks), "val": _surprise(val, tasks)}
    for name, split, other in (("val", val, "train"), ("train", train, "val")):
        own, others = surprise[name], surprise[other]
        rows = np.flatnonzero(own > SURPRISING)
        seen, known = int(np.isfinite(own).sum()), int(np.isfinite(others).sum())
        there = int((others > SURPRISING).sum())
        chance = (there + 1) / (known + 1)
        if name == "val":
            surely = a_part(len(rows), seen, max(chance, BY_CHANCE))
        else:
            surely = more(len(rows), seen, there, known)  # a small val says little about the model's own errors
        if known >= FEWEST and chance < UNLEARNT and surely:
            files = split.images.file_name[rows].tolist()
            part = described(files, seen, name)
            evidence = f"the model surely contradicts the labels of {part}, and of {there} of "
            change = "compare the labels of these images with the images"
            return [Finding("label_noise", "warning", f"{evidence}{known} in {other}", change, name, files)]
    return [finding for task in tasks for finding in _surely_wrong(train, val, task)]


def _surely_wrong(train: Split, val: Split, task: Task) -> Iterator[Finding]:
    """A warning label_noise if the model surely contradicts more labels of one split than of the other."""
    sure = {name: _sure(split, task) for name, split in (("train", train), ("val", val))}
    for pairs in ((("val", val), ("train", train)), (("train", train), ("val", val))):
        (name, split), (other, _) = pairs
        here, there = sure[name].sure, sure[other].sure
        if min(len(here), len(there)) < FEWEST or here.mean() < SURELY_WRONG:
            continue
        table = [[here.sum(), (~here).sum()], [there.sum(), (~there).sum()]]
        second, by_chance = sure[name].second[here].mean(), 1 / max(task.num_classes - 1, 1)
        genuine = task.num_classes > 2 and second > (by_chance + SECOND) / 2  # then the model errs
        own, others = (mean(sure[one].sure, sure[one].image, len(two.images)) for one, two in pairs)
        apart = own.low > others.high  # objects of an image err together, which the exact test does not know
        if apart and fisher_exact(table, alternative="greater").pvalue < LEVEL and not genuine:
            images = np.unique(sure[name].image[here])
            files = split.images.file_name[images].tolist()
            evidence = f"the model surely contradicts {here.mean():.0%} of the labels in {name}, {there.mean():.0%} in "
            evidence += f"{other} ({named(files)})"
            change = "compare the labels of these images with the images"
            yield Finding("label_noise", "warning", evidence, change, f"task '{task.name}'", files)


def exchanged(train: Split, val: Split) -> list[Finding]:
    """A warning labels_of_other_query for a part of the images in which the labels of the objects surely fit better in
    another order, and which has surely more such images than the other split."""
    gains = [_reordered(split) for split in (train, val)]
    for here, there, name in ((1, 0, "val"), (0, 1, "train")):
        rows, seen, known = (
            np.flatnonzero(gains[here] > SURPRISING),
            *(np.isfinite(gains[i]).sum() for i in (here, there)),
        )
        its = int((gains[there] > SURPRISING).sum())
        if name == "val":
            surely = a_part(len(rows), seen, (its + 1) / (known + 1))
        else:
            surely = more(len(rows), seen, its, known)
        if known >= FEWEST and surely:
            files = (train, val)[here].images.file_name[rows].tolist()
            part = described(files, int(seen), name)
            evidence = f"the labels of {part} surely fit the model better in another order of the objects"
            change = "compare the order of labels and outlines in the annotations of these images"
            return [Finding("labels_of_other_query", "warning", evidence, change, name, files)]
    return []


def _reordered(split: Split) -> np.ndarray:
    """[I]: gain, as in `_surprise`, by the best exchange of the annotated labels among the matched objects of an image.
    NaN with fewer than two."""
    fits: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # image, log-probabilities, annotated label
    for task in split.trained:
        own, logs, usual = _logs(split, task)
        fits[task.name] = own.image, logs / usual, own.true
    gain = np.full(len(split.images), np.nan)
    groups = {name: by_image(image, len(split.images)) for name, (image, _, _) in fits.items()}
    for row in range(len(split.images)):
        sizes = {len(own[row]) for own in groups.values()}
        if len(sizes) == 1 and (count := sizes.pop()) > 1:  # every object has all labels
            table = sum(fits[name][1][own[row]][:, fits[name][2][own[row]]] for name, own in groups.items())
            order = linear_sum_assignment(-table)[1]
            gain[row] = table[np.arange(count), order].sum() - np.trace(table)
    return gain


def _logs(split: Split, task: Task) -> tuple[Pairs, np.ndarray, float]:
    """The labelled matches, the logarithms of their probabilities of each class [M, K], and how far a right label is
    usually ahead of the second choice."""
    own = split.labelled(task)
    rows, right = np.arange(len(own)), own.label == own.true
    logs = np.log(split.predictions.probabilities[task.name][own.prediction][:, : task.num_classes] + 1e-6)
    others = logs.copy()
    others[rows, own.label] = -np.inf
    ahead = (logs[rows, own.label] - others.max(1))[right] if task.num_classes > 1 else np.ones(0)
    return own, logs, max(float(np.median(ahead)), 0.1) if len(ahead) else 1.0


def _surprise(split: Split, tasks: Sequence[Task]) -> np.ndarray:
    """[I]: by how much the model prefers its own labels to those annotated, summed over the matched objects and the
    tasks: the difference of the logarithms of their probabilities, over how far a right label is usually ahead of the
    second choice. NaN without matches."""
    total = np.full(len(split.images), np.nan)
    total[np.unique(split.matches.image)] = 0.0
    for task in tasks:
        own, logs, usual = _logs(split, task)
        rows = np.arange(len(own))
        np.add.at(total, own.image, (logs[rows, own.label] - logs[rows, own.true]) / usual)
    return total


def _sure(split: Split, task: Task) -> Pairs:
    """`_contradictions` with a column `sure`: wrong, with a probability above the median of the right ones of the
    predicted class."""
    own = _contradictions(split, task)
    median = np.full(task.num_classes, np.inf)
    for label in np.unique(own.label[~own.wrong]):
        median[label] = np.median(own.probability[~own.wrong & (own.label == label)])
    return own.replace(sure=own.wrong & (own.probability >= median[own.label]))


def _separation(split: Split, task: Task) -> Interval | None:
    """AUC of the logits for "the object has this class", over all pairs of an object and a class: 0.5 if they are
    unrelated. The mean of each class over the objects is subtracted, so that class frequency has no influence."""
    own = split.labelled(task)
    logits = split.predictions.logits[task.name][own.prediction][:, : task.num_classes]
    logits = logits - logits.mean(axis=1, keepdims=True)
    logits -= logits.mean(axis=0)
    return auc(logits.ravel(), (own.true[:, None] == np.arange(task.num_classes)).ravel())


def _unrelated(splits: Sequence[Pairs], task: Task, least: float) -> tuple[bool, str]:
    """Whether the contradictions are unrelated to the model's uncertainty, and the evidence as text. splits: results of
    `_contradictions`. least: share of contradictions with above-median probability that must surely be exceeded."""
    matches = Pairs.concatenate(splits)
    if not matches.wrong.any():
        return False, ""
    confident = proportion(matches.probability[matches.wrong] > np.median(matches.probability))
    second = proportion(matches.second[matches.wrong])
    by_chance = 1 / max(task.num_classes - 1, 1)
    text = f"; for {confident.text(0, 100)} % of these the model is more certain than for most objects, "
    text += f"for {second.value:.0%} the label is its second choice ({by_chance:.0%} by chance)"
    return confident.low > least and (task.num_classes < 3 or second.high < (1 + by_chance) / 2), text


def _accuracy(split: Split, task: Task) -> Interval | None:
    own = split.labelled(task)
    return split.mean(own.label == own.true, own) if len(own) >= FEWEST else None


def learnt(split: Split, task: Task, by: float = GAIN) -> bool:
    """Whether the accuracy surely exceeds that of always predicting the most frequent class, by more than `by`."""
    right, true = _accuracy(split, task), split.labelled(task).true
    return right is not None and right.low > np.bincount(true).max() / len(true) + by


def as_certain(train: Split, val: Split, task: Task) -> bool:
    """Whether the model is about as certain of its labels in val as in train. Otherwise the images differ, rather than
    the labels, which have no influence on this."""
    sure = [_contradictions(split, task).probability for split in (train, val)]
    lead = auc(np.concatenate(sure), np.arange(sum(map(len, sure))) < len(sure[0]))
    return lead is None or lead.low < LESS_CERTAIN


def _contradictions(split: Split, task: Task) -> Pairs:
    """The labelled matches, with columns `wrong` (whether the predicted label differs from the annotated one),
    `probability` (of the predicted label) and `second` (whether the annotated label is the second choice)."""
    own = split.labelled(task)
    others = split.predictions.logits[task.name][own.prediction][:, : task.num_classes].copy()
    others[np.arange(len(others)), own.label] = -np.inf
    probability = split.predictions.probabilities[task.name][own.prediction, own.label]
    return own.replace(wrong=own.label != own.true, probability=probability, second=others.argmax(1) == own.true)
