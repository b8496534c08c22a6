"""Run the whole diagnosis of a trained model. Findings that follow from others are not reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mtseg.checks.findings import Finding
from mtseg.core.params import Model, Solver, Task, Test
from mtseg.core.tables import Images, Predictions
from mtseg.diagnosis import classes, curves, detections, evaluator, label_alignment, masks, ranking
from mtseg.diagnosis.split import Split
from mtseg.evaluation.ap.evaluation import Evaluation

SEVERITIES = ("error", "warning", "note")
OF_BATCH = {"answer_depends_on_batch", "labels_of_other_image", "prediction_differs"}
FALLEN = {"label_noise", "annotations_missing", "miscalibrated", "overtrained"}  # as in worse predictions


@dataclass(frozen=True)
class Sample:
    """Images of a split, the model's predictions of them, and those of some of them with red and blue swapped."""

    images: Images
    predictions: Predictions
    swapped: Predictions


@dataclass
class Diagnosis:
    """findings: errors first. metrics: few flat numbers. details: all of them, by question."""

    findings: list[Finding]
    metrics: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)


def diagnose(
    evaluation: Evaluation, *, train: Sample, val: Sample, known: Sequence[Finding], curve: pd.DataFrame,
    validated: pd.DataFrame, health: pd.DataFrame, model: Model, solver: Solver, test: Test, images: int,
) -> Diagnosis:  # fmt: skip
    """evaluation: of the val split. train, val: fresh predictions of a sample of each split. known: findings of the
    network itself. curve, validated, health: plots/train.tsv, val.tsv and health.tsv. images: of the train split."""
    tasks, details = evaluation.tasks, {}
    faulty, details["evaluator"] = evaluator.check(evaluation.images, tasks=tasks, ranking=evaluation.ranking)
    if faulty:  # all further figures come from the evaluator
        return Diagnosis(faulty, metrics(faulty, details), details)

    split, trained = Split(evaluation), _split(train.images, train.predictions, tasks)
    combined = model.unseen_combinations < 1 and len(tasks) > 1
    misaligned, details["labels"] = label_alignment.check(split, combined=combined)
    causes = {finding.cause for finding in misaligned}
    if "labels_of_other_image" in causes:  # then a prediction depends on its batch
        known = [finding for finding in known if finding.cause not in OF_BATCH]
    elif "labels_of_other_query" in causes:  # and a batch's rounding changes the queries' order
        known = [finding for finding in known if finding.cause not in OF_BATCH - {"labels_of_other_image"}]
    fed = [*known, *curves.starved(health, tasks), *masks.boxes(split), *colours(val, train, tasks)]
    moved, details["masks"] = masks.check(split)
    renamed = classes.permutations(split, trained)
    misaligned = [finding for finding in misaligned if finding.where not in {other.where for other in renamed}]
    placed = [*misaligned, *_of_one_split(moved, masks.check(trained)[0]), *renamed]

    learning, details["training"] = curves.check(
        trained, split, curve=curve, validated=validated, solver=solver, images=images, checkpoint=test.checkpoint
    )
    answers, details["answers"] = classes.collapses(split)
    counted, details["detections"] = detections.check(
        split, num_queries=model.num_queries, detections=test.detections, max_dets=evaluation.max_dets
    )
    calibrated, details["temperature"] = ranking.calibration(split)
    order, details["rankings"] = ranking.rankings(split)
    details["oracles"] = ranking.losses(split)
    if order or calibrated:  # of a wrong score also the confident ones are the wrong ones
        counted = [finding for finding in counted if finding.cause != "duplicates"]
    noisy = [*classes.noise(trained, split), *counted, *calibrated, *detections.unannotated(trained, split)]
    now = details["rankings"].get("product_quality", 0.0)
    fallen = curves.as_validated(validated, now, test.checkpoint, detections=test.detections)
    findings = settle(fed, placed, learning, [*order, *answers, *noisy], fallen)
    return Diagnosis(findings, metrics(findings, details), details)


def _split(images: Images, predictions: Predictions, tasks: Sequence[Task]) -> Split:
    """Of the predictions that are of these images."""
    own = predictions[images.rows(predictions.image_id) >= 0]
    return Split(Evaluation(images, own, tasks=tasks, ranking="product_quality"))


def settle(
    fed: list[Finding], placed: list[Finding], learning: list[Finding], answers: list[Finding], fallen: list[Finding]
) -> list[Finding]:
    """The findings without those that follow from another, errors first. What the network is and is fed with explains
    where labels and masks are; that, what it seems to have learnt; that, all else. A model that was good in training
    has learnt something: a fall of AP since then explains what follows from worse predictions (`FALLEN`)."""
    untrained = [finding for finding in learning if finding.severity == "error" and not fallen]
    rest = [*answers, *(finding for finding in learning if finding.severity != "error")]
    last = [finding for finding in rest if finding.cause in FALLEN]
    first = [finding for finding in rest if finding.cause not in FALLEN]
    kept: list[Finding] = []
    for tier in (fed, placed, untrained, first, fallen, last):
        explained = any(finding.severity != "note" for finding in kept)
        kept += [finding for finding in tier if not explained or finding.severity == "note"]
    return sorted(dict.fromkeys(kept), key=lambda finding: SEVERITIES.index(finding.severity))


def colours(val: Sample, train: Sample, tasks: Sequence[Task]) -> list[Finding]:
    """Whether the model does better on images whose red and blue are swapped."""
    gains, reached = [], []
    for sample in (val, train):
        images = sample.images[np.isin(sample.images.id, sample.swapped.image_id)]
        splits = [_split(images, predictions, tasks) for predictions in (sample.swapped, sample.predictions)]
        gains.append(curves.difference(*splits))
        reached.append([part.value if (part := curves.hits(split)) else 0.0 for split in splits])
    if gains[0] is None or gains[0].low <= 0.02 or reached[0][0] < max(reached[1]) / 2:  # that would explain nothing
        return []
    evidence = f"with red and blue swapped, {gains[0].text(0, 100)} points more of val's objects are detected with all "
    change = "red and blue are swapped in the image files of val but not of train"
    if gains[1] is not None and gains[1].low > 0.02:
        change = "prediction and training read different channel orders: both must be RGB"
    return [Finding("channels_swapped", "error", f"{evidence}labels correct", change)]


def _of_one_split(val: list[Finding], train: list[Finding]) -> list[Finding]:
    """The findings of val; where train lacks them, the annotations of one of the two are to blame."""
    same = {finding.cause for finding in train}
    change = "the annotations of train and val differ: compare annotations and images of both"
    return [
        finding if finding.cause in same
        else Finding(finding.cause, finding.severity, f"{finding.evidence}; this does not occur in train", change)
        for finding in val
    ]  # fmt: skip


def metrics(findings: Sequence[Finding], details: dict[str, Any]) -> dict[str, Any]:
    """Few, stable numbers for `dvc metrics diff`."""
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
    """For data/diagnosis.json: findings as records, errors first, and every figure, by question."""
    findings = [finding.as_record() for finding in diagnosis.findings]
    return {"findings": findings, "figures": _plain(diagnosis.details)}


def _plain(value: Any) -> Any:
    """JSON's types, floats with 5 digits, NaN as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def text(diagnosis: Diagnosis) -> str:
    """A line for each finding, then where AP is lost."""
    lines, oracles = [finding.line() for finding in diagnosis.findings], diagnosis.details.get("oracles")
    if oracles:
        gains = {name: value - oracles["AP"] for name, value in oracles.items() if name != "AP"}
        words = {"labels": "correct labels", "ranking": "the best ranking", "masks": "perfect masks",
                 "all_found": "no missed object"}  # fmt: skip
        named = ", ".join(f"{words[name]} +{gains[name]:.1f}" for name in sorted(gains, key=gains.get, reverse=True))
        lines.append(f"joint AP is {oracles['AP']:.1f}; potential gain: {named}")
    found = any(finding.severity in ("error", "warning") for finding in diagnosis.findings)
    return "\n".join([*lines, "docs/diagnosis.md explains each cause and its fix." if found else "No issues found."])
