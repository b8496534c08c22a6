"""All questions put to one trained model, and the answers in order: what explains the rest comes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mtseg.diagnosis import classes, detections, evaluator, geometry, ranking, ties, training
from mtseg.diagnosis.case import Case
from mtseg.findings import Finding
from mtseg.records import Image, Prediction
from mtseg.scoring import scores
from mtseg.sections import Model, Solver, Task, Test

# What a model that has learnt nothing shows as well. Structural faults are not among them.
FOLLOW = {
    "collapse_to_background", "collapse_to_class", "task_untrained_in_matching", "duplicates", "queries_saturated",
    "ranking", "miscalibrated", "label_noise", "annotations_missing", "labels_permuted", "channels_swapped",
    "overtrained",
}  # fmt: skip
# What a fault of labels or masks brings about.
MINOR = {"miscalibrated", "ranking", "duplicates", "label_noise", "annotations_missing", "queries_saturated",
         "weights_not_loaded", "overtrained"}  # fmt: skip
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Sample:
    """Pictures of a split, what the model says of them, and what it says with red and blue swapped."""

    images: Sequence[Image]
    predictions: Sequence[Prediction]
    swapped: Sequence[Prediction]


@dataclass
class Diagnosis:
    """findings: errors first. metrics: few flat numbers. details: all of them, by question."""

    findings: list[Finding]
    metrics: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)


def examine(
    images: Sequence[Image],
    predictions: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    train: Sample,
    val: Sample,
    curve: pd.DataFrame,
    validated: pd.DataFrame,
    model: Model,
    solver: Solver,
    test: Test,
    pictures: int,
    known: Sequence[Finding] = (),
) -> Diagnosis:
    """images, predictions: the val split. train, val: what the model says afresh of a sample of each split. curve,
    validated: plots/train.tsv and val.tsv. pictures: of the train split. known: findings of the network itself."""
    case, trained = Case(images, predictions, tasks), Case(train.images, train.predictions, tasks)
    ranked = {"ranking": test.ranking, "max_dets": test.max_dets}
    details: dict[str, Any] = {}
    faulty, details["evaluator"] = evaluator.check(scores.evaluate, images, tasks=tasks, ranking=test.ranking)

    structural = list(known)
    tied, details["labels"] = ties.check(case)
    structural += tied
    structural += classes.permutations(case, trained)
    structural += colours(val, train, tasks)
    moved, details["masks"] = geometry.check(case)
    structural += _told_apart(moved, geometry.check(trained)[0])

    collapsed, details["answers"] = classes.collapses(case)
    learning, details["training"] = training.check(
        trained, case, curve=curve, validated=validated, solver=solver, pictures=pictures, checkpoint=test.checkpoint
    )
    counted, details["detections"] = detections.check(
        case, num_queries=model.num_queries, detections=test.detections, max_dets=test.max_dets
    )
    order, details["rankings"] = ranking.rankings(case, **ranked)
    calibrated, details["temperature"] = ranking.calibration(case)
    details["oracles"] = ranking.losses(case, **ranked)
    minor = [*counted, *order, *calibrated, *detections.unannotated(trained, case)]
    minor += classes.noise(trained, case, split="train", trained=True)
    minor += classes.noise(case, trained, split="val", trained=False)
    now = details["rankings"].get("product_quality")
    if now is not None:
        minor += training.as_validated(validated, now, test.checkpoint, detections=test.detections)
    findings = settle(faulty, structural, collapsed, learning, minor)
    return Diagnosis(findings, metrics(findings, details), details)


def settle(
    faulty: list[Finding], structural: list[Finding], collapsed: list[Finding], learning: list[Finding],
    minor: list[Finding],
) -> list[Finding]:  # fmt: skip
    """The findings without those that follow from another, errors first."""
    findings = [*faulty, *structural, *collapsed, *learning, *minor]
    hard = [f for f in [*faulty, *structural] if f.cause not in FOLLOW]
    untrained = [f for f in learning if f.severity == "error"]
    if any(f.cause == "weights_not_loaded" for f in [*structural, *minor]):  # it was trained, to another score
        findings = [f for f in findings if f not in untrained and (f.cause not in FOLLOW or f in structural)]
        untrained = []
    if untrained and not hard:
        findings = [f for f in findings if f.cause not in FOLLOW or f.severity == "note"]
    elif hard or structural:
        findings = [f for f in findings if (f.cause not in MINOR and f not in untrained) or f.severity == "note"]
    unique = list(dict.fromkeys(findings))
    return sorted(unique, key=lambda f: SEVERITIES.index(f.severity))


def colours(val: Sample, train: Sample, tasks: Sequence[Task]) -> list[Finding]:
    """Whether the model does better on pictures whose red and blue are swapped."""
    gains = []
    for sample in (val, train):
        one, other = Case(sample.images, sample.swapped, tasks), Case(sample.images, sample.predictions, tasks)
        gains.append(training.difference(one, other))
    if gains[0] is None or gains[0].low <= 0.02:
        return []
    both = gains[1] is not None and gains[1].low > 0.02
    return [
        Finding(
            "channels_swapped", "error",
            f"with red and blue swapped, {gains[0].text(0, 100)} points more of val's objects are found and all "
            "labels right",
            "prediction reads pictures otherwise than training did: RGB is what read_picture gives" if both
            else "the picture files of val have red and blue swapped, those of train have not",
        )
    ]  # fmt: skip


def _told_apart(val: list[Finding], train: list[Finding]) -> list[Finding]:
    """The findings of val; where train lacks them, said to be of val's annotations or of train's."""
    same = {finding.cause for finding in train}
    return [
        finding if finding.cause in same
        else Finding(finding.cause, finding.severity, f"{finding.evidence}; in train there is no such fault",
                     "train and val were annotated otherwise: look at the annotations and pictures of both")
        for finding in val
    ]  # fmt: skip


def metrics(findings: Sequence[Finding], details: dict[str, Any]) -> dict[str, Any]:
    """Few, flat, stable numbers for `dvc metrics diff`."""
    flat: dict[str, Any] = {f"{severity}s": sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    flat |= {f"masks.{name}": details["masks"].get(name) for name in ("dx", "dy", "scale")}
    flat |= {f"detections.{name}": details["detections"].get(name) for name in ("duplicates", "missed")}
    flat |= {f"training.{name}": details["training"].get(name) for name in ("train_hits", "val_hits")}
    flat |= {f"oracles.{name}": value for name, value in details["oracles"].items() if name != "AP"}
    flat |= {f"picture_share.{name}": numbers["picture_share"] for name, numbers in details["labels"].items()}
    return {name: round(value, 4) for name, value in flat.items() if value is not None}
