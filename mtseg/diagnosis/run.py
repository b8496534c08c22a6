"""All questions put to one trained model, and the answers in order: what explains the rest comes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mtseg.checks.findings import Finding
from mtseg.core.params import Model, Solver, Task, Test
from mtseg.core.tables import Image, Prediction
from mtseg.diagnosis import classes, detections, evaluator, ranking
from mtseg.diagnosis import curves as training
from mtseg.diagnosis import label_alignment as ties
from mtseg.diagnosis import masks as geometry
from mtseg.diagnosis.case import Case
from mtseg.evaluation import scores

SEVERITIES = ("error", "warning", "note")
OF_BATCH = {"answer_depends_on_batch", "labels_of_other_image", "prediction_differs"}
FALLEN = {"label_noise", "annotations_missing", "miscalibrated", "overtrained"}  # as in worse predictions


@dataclass(frozen=True)
class Sample:
    """Pictures of a split, what the model says of them, and of some of them with red and blue swapped."""

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
    health: pd.DataFrame,
    model: Model,
    solver: Solver,
    test: Test,
    pictures: int,
    known: Sequence[Finding] = (),
) -> Diagnosis:
    """images, predictions: the val split. train, val: what the model says afresh of a sample of each split. curve,
    validated, health: plots/train.tsv, val.tsv and health.tsv. pictures: of the train split. known: findings of the
    network itself."""
    case, trained = Case(images, predictions, tasks), Case(train.images, train.predictions, tasks)
    ranked = {"ranking": test.ranking, "max_dets": test.max_dets}
    details: dict[str, Any] = {}
    faulty, details["evaluator"] = evaluator.check(scores.evaluate, images, tasks=tasks, ranking=test.ranking)

    tied, details["labels"] = ties.check(case)
    if any(finding.cause == "labels_of_other_image" for finding in tied):  # then an answer depends on its batch
        known = [finding for finding in known if finding.cause not in OF_BATCH]
    elif any(finding.cause == "labels_of_other_query" for finding in tied):  # whose order a batch's rounding changes
        known = [finding for finding in known if finding.cause not in OF_BATCH - {"labels_of_other_image"}]
    fed = [*known, *training.starved(health, tasks), *geometry.boxes(case), *colours(val, train, tasks)]
    moved, details["masks"] = geometry.check(case)
    renamed = classes.permutations(case, trained)
    tied = [finding for finding in tied if finding.where not in {other.where for other in renamed}]
    placed = [*tied, *_told_apart(moved, geometry.check(trained)[0]), *renamed]

    learning, details["training"] = training.check(
        trained, case, curve=curve, validated=validated, solver=solver, pictures=pictures, checkpoint=test.checkpoint
    )
    answers, details["answers"] = classes.collapses(case)
    counted, details["detections"] = detections.check(
        case, num_queries=model.num_queries, detections=test.detections, max_dets=test.max_dets
    )
    calibrated, details["temperature"] = ranking.calibration(case)
    answers += classes.noise(trained, case)
    answers += [*counted, *calibrated, *detections.unannotated(trained, case)]
    fallen: list[Finding] = []
    details["rankings"], details["oracles"] = {}, {}
    if faulty:  # an evaluator that is wrong judges no ranking, and has not judged the training
        learning = []
    else:
        order, details["rankings"] = ranking.rankings(case, **ranked)
        details["oracles"] = ranking.losses(case, **ranked)
        if order or calibrated:  # of a wrong score also the confident ones are the wrong ones
            answers = [finding for finding in answers if finding.cause != "duplicates"]
        answers = [*order, *answers]
        now = details["rankings"].get("product_quality", 0.0)
        fallen = training.as_validated(validated, now, test.checkpoint, detections=test.detections)
    findings = [*faulty, *settle(fed, placed, learning, answers, fallen)]
    return Diagnosis(findings, metrics(findings, details), details)


def settle(
    fed: list[Finding], placed: list[Finding], learning: list[Finding], answers: list[Finding], fallen: list[Finding]
) -> list[Finding]:
    """The findings without those that follow from another, errors first. What the network is and is fed with explains
    where labels and masks are; that, what it seems to have learnt; that, all else. A model that was good in training
    has learnt something: a fall of AP since then explains what follows from a worse prediction (`FALLEN`)."""
    untrained = [finding for finding in learning if finding.severity == "error" and not fallen]
    past = [finding for finding in learning if finding.severity != "error"]
    kept: list[Finding] = []
    rest = [*answers, *past]
    last = [finding for finding in rest if finding.cause in FALLEN]
    first = [finding for finding in rest if finding.cause not in FALLEN]
    for tier in (fed, placed, untrained, first, fallen, last):
        explained = any(finding.severity != "note" for finding in kept)
        kept += [finding for finding in tier if not explained or finding.severity == "note"]
    return sorted(dict.fromkeys(kept), key=lambda finding: SEVERITIES.index(finding.severity))


def colours(val: Sample, train: Sample, tasks: Sequence[Task]) -> list[Finding]:
    """Whether the model does better on pictures whose red and blue are swapped."""
    gains, reached = [], []
    for sample in (val, train):
        both = {p.image_id for p in sample.swapped}
        images = [image for image in sample.images if image.id in both]
        one, other = Case(images, sample.swapped, tasks), Case(images, sample.predictions, tasks)
        gains.append(training.difference(one, other))
        reached.append([part.value if (part := training.hits(case)) else 0.0 for case in (one, other)])
    if gains[0] is None or gains[0].low <= 0.02 or reached[0][0] < max(reached[1]) / 2:  # that would explain nothing
        return []
    train_too = gains[1] is not None and gains[1].low > 0.02
    return [
        Finding(
            "channels_swapped", "error",
            f"with red and blue swapped, {gains[0].text(0, 100)} points more of val's objects are found and all "
            "labels right",
            "prediction reads pictures otherwise than training did: RGB is what read_image gives" if train_too
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
    """Few, stable numbers for `dvc metrics diff`."""
    counts = {f"{severity}s": sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    groups = {
        "masks": {name: details["masks"].get(name) for name in ("dx", "dy", "scale")},
        "detections": {name: details["detections"].get(name) for name in ("duplicates", "missed")},
        "training": {name: details["training"].get(name) for name in ("train_hits", "val_hits")},
        "oracles": {name: value for name, value in details["oracles"].items() if name != "AP"},
        "picture_share": {name: numbers["picture_share"] for name, numbers in details["labels"].items()},
    }
    return counts | {
        group: {name: round(value, 4) for name, value in numbers.items() if value is not None}
        for group, numbers in groups.items()
    }
