"""Diagnose queries and detections: duplicates, too few or unused queries, missing annotations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import fisher_exact

from mtseg.checks.findings import Finding
from mtseg.diagnosis.split import Split
from mtseg.evaluation.ap.matching import HIT
from mtseg.evaluation.bootstrap import Interval, auc, ratio

TWICE = 0.8  # of the objects found, with confidence, from which they are reported: a short training leaves 0.4 to 0.7
FULL = 0.5  # share of the queries above which DETR starts to lose objects (its section 4.3)
BESIDE = 0.1  # mask IoU, below which a prediction is of none of the objects
SEPARATE = 0.8  # AUC of hits by the score, surely below which those beside all objects are as confident
LEVEL = 0.001  # of the test that crowded images lose more


def check(
    split: Split, *, num_queries: int, detections: int, max_dets: Sequence[int]
) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and numbers: duplicates (further predictions for each object found), missed (share of objects no mask
    fits), active_queries (share that finds an object in any image), most_objects (in an image)."""
    objects, found, twice = split.objects, split.per_image(split.matches.prediction), duplicates(split)
    most = int(objects.max(initial=0))
    active = len(np.unique(split.predictions.query[split.matches.prediction])) / num_queries
    numbers = {
        "duplicates": twice.value if twice else None,
        "missed": split.missed,
        "active_queries": active,
        "most_objects": most,
    }
    findings = []
    if twice and twice.low > TWICE:
        evidence = f"each matched object has {twice.text()} further confident predictions"
        change = "check the matching (one query an object) and loss.no_object; until then, filter.nms_iou removes them"
        findings.append(Finding("duplicates", "warning", evidence, change))
    limits = {"test.detections": detections, "the largest of test.max_dets": max(max_dets)}
    if low := {name: limit for name, limit in limits.items() if limit < most}:
        evidence = f"{(objects > min(low.values())).sum()} val images have more objects (up to {most}) than the limit: "
        evidence += " and ".join(f"{name} is {limit}" for name, limit in low.items())
        change = f"raise {' and '.join(low)} to {most} or more"
        findings.append(Finding("detections_too_few", "warning", evidence, change))
    crowded = objects > FULL * num_queries
    table = [[(objects - found)[part].sum(), found[part].sum()] for part in (crowded, ~crowded)]
    if crowded.any() and (~crowded & (objects > 0)).any():
        missed = [lost / max(lost + kept, 1) for lost, kept in table]
        level = fisher_exact(table, alternative="greater").pvalue
        numbers |= {"missed_crowded": missed[0], "missed_else": missed[1]}
        if level < LEVEL and missed[0] > 2 * missed[1] and missed[0] > 0.5:
            evidence = f"{missed[0]:.0%} of the objects are missed in images with over {FULL * num_queries:.0f}, "
            evidence += f"{missed[1]:.0%} in the others (p = {level:.1g})"
            change = f"raise model.num_queries ({num_queries}) and train again"
            findings.append(Finding("queries_saturated", "warning", evidence, change))
    if 0 < active < 0.5:  # where nothing is found, that is the question
        evidence = f"only {active:.0%} of the {num_queries} queries detect an object in any val image"
        change = f"model.num_queries can be lowered to save time: images have up to {most} objects"
        findings.append(Finding("queries_empty", "note", evidence, change))
    return findings, numbers


def duplicates(split: Split) -> Interval | None:
    """Confident predictions that fit an object found by another and find none of their own, for each object found."""
    sure = split.confident()
    own = np.isin(sure, split.matches.prediction)
    more = sure[~own & (split.nearest[sure] >= HIT)]
    return ratio(split.per_image(more), split.per_image(sure[own]))


def unannotated(train: Split, val: Split) -> list[Finding]:
    """Confident predictions of one split that find nothing, where those of the other do: objects that were not
    annotated. A model is no worse on what it was trained on; on val it is, so there they have to lie beside all
    annotations and be as confident as those that find one."""
    here, there = (_false(split, val.threshold) for split in (train, val))
    if here and there and here.low >= there.high + 0.05:
        return [_missing("train", here, there)]
    there, here = (_false(split, train.threshold, BESIDE) for split in (train, val))
    if here and there and here.low >= there.high + 0.1:
        rows = val.confident(train.threshold)
        own = np.isin(rows, val.matches.prediction)
        asked = own | (val.nearest[rows] < BESIDE)
        separate = auc(val.score[rows][asked], own[asked])
        if separate and separate.high < SEPARATE:
            return [_missing("val", here, there)]
    return []


def _false(split: Split, threshold: float, least: float = 1.0) -> Interval | None:
    """Share of the predictions as confident as that which find nothing and overlap every object by less."""
    rows = split.confident(threshold)
    lost = rows[~np.isin(rows, split.matches.prediction) & (split.nearest[rows] < least)]
    return ratio(split.per_image(lost), split.per_image(rows))


def _missing(split: str, here: Interval, there: Interval) -> Finding:
    other = "val" if split == "train" else "train"
    evidence = f"{here.text(0, 100)} % of the confident predictions in {split} images match no annotation, "
    evidence += f"{there.text(0, 100)} % in {other}"
    change = f"annotate the missing objects of {split}"
    return Finding("annotations_missing", "warning", evidence, change)
