"""Run the whole diagnosis of a trained model. Findings that other findings explain are not reported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from mtseg.checks import labels
from mtseg.checks.findings import SEVERITIES, Finding
from mtseg.core.params import Filter, Input, Model, Solver, Task, Test
from mtseg.core.tables import Images, Predictions
from mtseg.diagnosis import (
    classes,
    curves,
    detections,
    evaluator,
    label_alignment,
    limits,
    masks,
    objects,
    ranking,
    validation,
)  # fmt: skip
from mtseg.diagnosis.split import Split
from mtseg.evaluation.ap.evaluation import Evaluation

BATCH_CAUSES = {"answer_depends_on_batch", "labels_of_other_image", "prediction_differs"}
DECLINE_CAUSES = {  # explained by a fall of AP
    "annotations_missing", "filter_too_strict", "label_noise", "miscalibrated", "overtrained",
}  # fmt: skip
WRONG_LABELS = {"collapse_to_background", "collapse_to_class", "task_untrained_in_matching"}
OTHER_SPLIT = 0.3  # difference of a class's shares in train and val, from which val is no random part of the data
FOUND = 0.5  # share of train's objects that must be found for wrong labels to explain why few are right
MOST_OF_IT = 0.5  # share of the images with other predictions than in training that a fault of a part must explain
CLEAR = 0.1  # share of the mean IoU that masks in another place must cost, if more differs from training than places
COMPARABLE = 0.5  # share of the most important finding's AP, from which another is as severe
LOOKED_AT = (
    "evaluator, weights and batches, position, size and pairing of masks (all and parts of them), labels, classes, "
    "annotations, detections, ranking, calibration, training curves"
)
NOT_VISIBLE = (
    "mistakes that the annotations of all splits share, or that the model learnt from train, objects that neither "
    "annotation nor model has, faults of a few images in which the model finds little, or of a part of fewer than 8 "
    "images, and images unlike those of val"
)


@dataclass(frozen=True)
class Sample:
    """Images of a split, predictions for all of them, and for some of them with red and blue swapped."""

    images: Images
    predictions: Predictions
    swapped: Predictions


@dataclass
class Diagnosis:
    """findings: errors first. metrics: the main numbers. details: all numbers, by part of the diagnosis."""

    findings: list[Finding]
    metrics: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)


def diagnose(
    evaluation: Evaluation, *, train: Sample, val: Sample, known: Sequence[Finding], curve: pd.DataFrame,
    validated: pd.DataFrame, summary: Sequence[Sequence[float]], health: pd.DataFrame, model: Model, input: Input,
    solver: Solver, test: Test, filter: Filter, images: int,
) -> Diagnosis:  # fmt: skip
    """evaluation: of the stored predictions of val. train, val: new predictions of a sample of each split. known:
    findings of `probe`. curve, validated, health: plots/train.tsv, val.tsv and health.tsv. summary: of the predictions
    of val in training, recorded with the weights. images: number of train images."""
    tasks, details = evaluation.tasks, {}
    wrong, details["evaluator"] = evaluator.check(evaluation.images, tasks=tasks, ranking=evaluation.ranking)
    if wrong:  # all further numbers depend on the evaluator
        return Diagnosis(wrong, metrics(wrong, details), details)

    split, trained = Split(evaluation), _split(train.images, train.predictions, tasks)
    combined = model.unseen_combinations < 1 and len(tasks) > 1
    misaligned, details["labels"] = label_alignment.check(split, combined=combined)
    differing, explained = validation.difference(split, summary, detections=test.detections), []
    if differing and differing.number < validation.FEWER:  # a query's best label may be among what is left out
        explained += [finding for finding in misaligned if finding.cause == "labels_of_other_query"]
    causes = {finding.cause for finding in misaligned if finding not in explained}
    if "labels_of_other_image" in causes:  # then predictions depend on the batch
        known = [finding for finding in known if finding.cause not in BATCH_CAUSES]
    elif "labels_of_other_query" in causes:  # then as well: rounding in another batch changes the order of the queries
        known = [finding for finding in known if finding.cause not in BATCH_CAUSES - {"labels_of_other_image"}]
    if shared := masks.shared(split):
        known = [finding for finding in known if finding.cause not in BATCH_CAUSES]
    swapped, renamed_instead = colours(val, train, tasks, classes.renaming(split))
    exact = [
        *(detections.twice(split) or masks.cut(split)), *masks.repeated(split), *masks.exclusive(split),
        *(ranking.constant(split) or ranking.inconsistent(split, combined=combined)),
    ]  # fmt: skip
    inputs = [*known, *shared, *exact, *curves.without_gradient(health, tasks), *masks.boxes(split), *swapped]
    displaced, details["masks"] = masks.check(split)
    displaced_in_train = masks.check(trained)[0]
    renamed = classes.permutations(split, trained)
    misaligned = [finding for finding in misaligned if finding.where not in {other.where for other in renamed}]
    if differing and differing.place:
        displaced = displaced or masks.moved(details["masks"])
    if not differing:
        displaced = _blame_annotations(displaced, displaced_in_train)
    alignment = [*misaligned, *displaced, *renamed]
    learning, details["training"] = curves.check(
        trained, split, curve=curve, validated=validated, solver=solver, images=images, checkpoint=test.checkpoint
    )
    # a part is no news otherwise, and of a model that has learnt nothing chance
    others = [finding for finding in alignment if finding not in explained]
    if not others and not any(finding.severity == "error" for finding in learning):
        least = MOST_OF_IT * differing.share if differing else 0.0
        of_val, of_train = objects.check(split, "val", least=least), objects.check(trained, "train")
        if differing:
            of_val = [replace(finding, change=validation.OF_A_PART) for finding in of_val]
            explained += of_train
        alignment += [*of_val, *of_train]
    collapsed, details["answers"] = classes.collapses(split)
    counted, details["detections"] = detections.check(
        split, num_queries=model.num_queries, detections=test.detections, max_dets=evaluation.max_dets
    )
    calibrated, details["temperature"] = ranking.calibration(split)
    order, details["rankings"] = ranking.rankings(split)
    details["oracles"] = oracles = ranking.losses(split)
    if order or calibrated:  # duplicates are counted among confident predictions, which a wrong score selects
        counted = [finding for finding in counted if finding.cause != "duplicates"]
    if not calibrated:  # else the filter's min_score stands for other probabilities
        counted += detections.filtered(split, filter)
    noisy = [
        *(
            classes.exchanged(trained, split)
            or classes.noise(trained, split) + classes.mislabelled(trained, split)
            or classes.unexpected(trained, split)
            or classes.contradicted(trained, split)
            or classes.defaulted(trained, split)
        ),
        *counted,
        *calibrated,
        *detections.unannotated(trained, split),
    ]
    now = details["rankings"].get("product_quality", 0.0)
    decline = validation.lower(validated, now, test.checkpoint, detections=test.detections)
    outputs = limits.by_gain([*order, *collapsed, *noisy], split, oracles)
    alignment += renamed_instead
    if differing:
        explained += [one.finding for one in outputs if differing.explains(one.finding)]
        little = details["masks"].get("gain", 0) < CLEAR and not differing.place
        explained += [finding for finding in displaced if little and differing.explains(finding)]
    findings = unexplained(
        inputs, alignment, learning, outputs, decline, found=1 - trained.missed, explained=explained,
        differing=[differing.finding] if differing else [],
    )  # fmt: skip
    details["raise_ap"] = limits.table(split, trained, oracles, validated=validated, input=input)
    if not any(finding.severity != "note" for finding in findings):
        findings += [*_other_split(train.images, evaluation), *limits.factor(oracles)]
    return Diagnosis(findings, metrics(findings, details), details)


def _other_split(train: Images, evaluation: Evaluation) -> Iterator[Finding]:
    """Warnings of classes that are far more or less frequent in val, and of which nothing else is wrong."""
    for task in evaluation.tasks:
        for finding in labels.mixed(train, evaluation.images, task, "val", least=OTHER_SPLIT):
            change = "scores of val say little about images as in train: split at random, with data.split"
            yield replace(finding, severity="warning", change=change)


def _split(images: Images, predictions: Predictions, tasks: Sequence[Task]) -> Split:
    """The images with those of the predictions that belong to them."""
    own = predictions[images.rows(predictions.image_id) >= 0]
    return Split(Evaluation(images, own, tasks=tasks, ranking="product_quality"))


def unexplained(
    inputs: list[Finding], alignment: list[Finding], learning: list[Finding], outputs: list[limits.Weighed],
    decline: list[Finding], *, found: float = 0.0, differing: Sequence[Finding] = (),
    explained: Collection[Finding] = (),
) -> list[Finding]:  # fmt: skip
    """All findings, errors first; those that others explain become notes. Each group explains all that follow: network
    and inputs; alignment of labels and masks; a model that has learnt nothing; its outputs; AP that is lower than in
    training (decline); consequences of that (`DECLINE_CAUSES`). With a decline, the model had learnt something. If it
    finds the objects (`found`, their share in train) and its labels collapsed, that is why few are right, and not the
    lr. outputs: with the AP that each costs; those that cost much less than the first become notes as well. differing:
    predictions are not those of training; it comes in place of decline, and before what it may explain (explained)."""
    worse = [*differing] or decline
    untrained = [finding for finding in learning if finding.severity == "error" and not worse]
    weak = [limits.Weighed(finding, 0.0) for finding in learning if finding.severity != "error"]
    wrong_labels = [
        one.finding for one in outputs if one.finding.cause in WRONG_LABELS and one.finding not in explained
    ]
    labels = wrong_labels if found >= FOUND else []
    rest = limits.by_weight([one for one in [*outputs, *weak] if one.finding not in labels])
    least = COMPARABLE * max((one.gain for one in rest), default=0.0)
    strong = [one.finding for one in rest if one.gain >= least or worse]
    minor = [one.finding for one in rest if one.finding not in strong]
    last = [finding for finding in alignment if finding in explained]
    alignment = [finding for finding in alignment if finding not in explained]
    last += [one for one in strong if one in explained or decline and one.cause in DECLINE_CAUSES]
    first = [finding for finding in strong if finding not in last]
    kept: list[Finding] = []
    for tier in (inputs, alignment, labels, untrained, first, worse, last, minor):
        cause = next((finding.cause for finding in kept if finding.severity != "note"), None)
        kept += [finding if cause is None else _runner_up(finding, cause) for finding in tier]
    return sorted(dict.fromkeys(kept), key=lambda finding: SEVERITIES.index(finding.severity))


def _runner_up(finding: Finding, cause: str) -> Finding:
    """A finding that another may explain, as a note."""
    if finding.severity == "note":
        return finding
    return replace(finding, severity="note", change=f"{cause} may explain it; if not: {finding.change}")


def colours(
    val: Sample, train: Sample, tasks: Sequence[Task], renaming: dict[str, np.ndarray] | None = None
) -> tuple[list[Finding], list[Finding]]:
    """An error if more objects are detected after red and blue of the images are swapped. If still more are after some
    classes are renamed, or as many, and the model is more certain of the images as they are: a note, as the second.
    renaming: of `classes.renaming`."""
    gains, reached, instead, surer = [], [], None, 0.0
    for sample in (val, train):
        images = sample.images[np.isin(sample.images.id, sample.swapped.image_id)]
        swapped, as_is = (_split(images, predictions, tasks) for predictions in (sample.swapped, sample.predictions))
        gains.append(curves.difference(swapped, as_is))
        reached.append([part.value if (part := curves.hits(split)) else 0.0 for split in (swapped, as_is)])
        if renaming and sample is val:
            labels = {f"labels.{name}": to[as_is.predictions.labels[name]] for name, to in renaming.items()}
            instead = curves.difference(_split(images, as_is.predictions.replace(**labels), tasks), swapped)
            surer = _certainty(as_is) - _certainty(swapped)
    if gains[0] is None or gains[0].low <= 0.02 or reached[0][0] < max(reached[1]) / 2:  # not the main problem
        return [], []
    evidence = f"with red and blue swapped, {gains[0].text(0, 100)} points more of val's objects are detected with all "
    change = "red and blue are swapped in the image files of val but not of train"
    if gains[1] is not None and gains[1].low > 0.02:
        change = "prediction and training read different channel orders: both must be RGB"
    finding = Finding("channels_swapped", "error", f"{evidence}labels correct", change)
    if instead is None or instead.high < 0 or (instead.low <= 0 and surer < 0):
        return [finding], []
    note = f"labels_permuted explains {instead.text(0, 100)} points more; if not: {change}"
    return [], [replace(finding, severity="note", change=note)]


def _certainty(split: Split) -> float:
    """Mean probability of the predicted labels of the matches."""
    rows = split.matches.prediction
    return (
        float(np.mean([split.predictions.probability[task.name][rows] for task in split.trained])) if len(rows) else 0.0
    )


def _blame_annotations(val: list[Finding], train: list[Finding]) -> list[Finding]:
    """The findings of val about masks. For those that do not occur in train, the change names the annotations."""
    same = {finding.cause for finding in train}
    change = "the annotations of train and val differ: compare annotations and images of both"
    return [
        finding if finding.cause in same
        else Finding(finding.cause, finding.severity, f"{finding.evidence}; this does not occur in train", change)
        for finding in val
    ]  # fmt: skip


def metrics(findings: Sequence[Finding], details: dict[str, Any]) -> dict[str, Any]:
    """The main numbers, with the same keys in every run, for `dvc metrics diff`."""
    counts = {f"{severity}s": sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    kept = {"masks": ("dx", "dy", "scale"), "detections": ("duplicates", "missed"),
            "training": ("train_hits", "val_hits")}  # fmt: skip
    groups = {group: {name: details.get(group, {}).get(name) for name in names} for group, names in kept.items()}
    groups["oracles"] = {name: value for name, value in details.get("oracles", {}).items() if name != "AP"}
    groups["image_share"] = {name: numbers["image_share"] for name, numbers in details.get("labels", {}).items()}
    return counts | {
        group: {name: round(value, 4) for name, value in numbers.items() if value is not None}
        for group, numbers in groups.items()
    }


def record(diagnosis: Diagnosis) -> dict[str, Any]:
    """For data/diagnosis.json: findings as records, errors first; all numbers, by part of the diagnosis; what was and
    what could not be looked at; and the verdict, which is None if there are errors or warnings."""
    findings = [finding.as_record() for finding in diagnosis.findings]
    known = {"verdict": verdict(diagnosis.findings), "looked_at": LOOKED_AT, "not_visible": NOT_VISIBLE}
    return {"findings": findings, "figures": _plain(diagnosis.details), **known}


def _plain(value: Any) -> Any:
    """As JSON types: floats rounded to 5 significant digits, NaN as None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def text(diagnosis: Diagnosis) -> str:
    """A line for each finding, the table of what would raise AP, and what was looked at if nothing was found."""
    lines = [finding.line() for finding in diagnosis.findings]
    if "oracles" in diagnosis.details:
        lines += limits.lines(diagnosis.details["oracles"], diagnosis.details["raise_ap"])
    last = verdict(diagnosis.findings)
    if last is None:
        return "\n".join([*lines, "docs/diagnosis.md explains each cause and its fix."])
    return "\n".join([*lines, f"{last} Looked at: {LOOKED_AT}.", f"Not visible here: {NOT_VISIBLE}."])


def verdict(findings: Sequence[Finding]) -> str | None:
    """A sentence on findings without errors and warnings, else None."""
    if any(finding.severity in ("error", "warning") for finding in findings):
        return None
    limited = any(finding.cause == "limiting_factor" for finding in findings)
    return (
        "No faults found, but one kind of error costs much AP: see limiting_factor." if limited else "No issues found."
    )
