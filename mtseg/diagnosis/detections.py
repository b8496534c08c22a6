"""Queries and detections: objects found twice, queries and detections that are too few (F7) or never of use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import fisher_exact

from mtseg.checks.findings import Finding
from mtseg.diagnosis.case import Case
from mtseg.diagnosis.classes import auc
from mtseg.diagnosis.intervals import Interval, ratio
from mtseg.evaluation.matching import HIT

TWICE = 0.8  # of the objects found, with confidence, from which they are reported: a short training leaves 0.4 to 0.7
FULL = 0.5  # share of the queries above which DETR starts to lose objects (its section 4.3)
BESIDE = 0.1  # mask IoU, below which a prediction is of none of the objects
TOLD = 0.8  # AUC of hits by the score, surely below which those beside are as confident
LEVEL = 0.001  # of the test that crowded pictures lose more


def check(
    case: Case, *, num_queries: int, detections: int, max_dets: Sequence[int]
) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and numbers: duplicates (further predictions an object found), missed (share of objects no mask fits),
    active_queries (share that finds an object in any picture), most_objects (in a picture)."""
    count = len(case.images)
    objects = np.bincount(case.true_picture, minlength=count)
    found = np.bincount(case.pairs.picture, minlength=count)
    twice = duplicates(case)
    active = len(np.unique(case.query[case.pairs.found])) / num_queries
    numbers = {
        "duplicates": twice.value if twice else None,
        "missed": case.missed,
        "active_queries": active,
        "most_objects": int(objects.max(initial=0)),
    }
    findings = []
    if twice and twice.low > TWICE:
        findings.append(
            Finding(
                "duplicates", "warning", f"{twice.text()} more predictions an object found, as sure as the first",
                "look at the matching (one query an object) and loss.no_object; filter.nms_iou removes them meanwhile",
            )
        )  # fmt: skip
    limits = {"test.detections": detections, "the last of test.max_dets": max_dets[-1]}
    low = {name: limit for name, limit in limits.items() if limit < objects.max(initial=0)}
    if low:
        over = int((objects > min(low.values())).sum())
        findings.append(
            Finding(
                "detections_too_few", "warning",
                f"{over} val pictures hold up to {objects.max()} objects, "
                + " and ".join(f"{name} is {limit}" for name, limit in low.items()),
                f"raise {' and '.join(low)} to {objects.max()} or more",
            )
        )  # fmt: skip
    crowded = objects > FULL * num_queries
    table = [[(objects - found)[part].sum(), found[part].sum()] for part in (crowded, ~crowded)]
    if crowded.any() and (~crowded & (objects > 0)).any():
        missed = [lost / max(lost + kept, 1) for lost, kept in table]
        level = fisher_exact(table, alternative="greater").pvalue
        numbers |= {"missed_crowded": missed[0], "missed_else": missed[1]}
        if level < LEVEL and missed[0] > 2 * missed[1] and missed[0] > 0.5:
            findings.append(
                Finding(
                    "queries_saturated", "warning",
                    f"pictures with over {FULL * num_queries:.0f} objects lose {missed[0]:.0%} of them, the others "
                    f"{missed[1]:.0%} (p = {level:.1g})", f"raise model.num_queries ({num_queries}) and train again",
                )
            )  # fmt: skip
    if 0 < active < 0.5:  # where nothing is found, that is the question
        findings.append(
            Finding(
                "queries_empty", "note",
                f"{active:.0%} of the {num_queries} queries find an object in any val picture",
                f"model.num_queries may be less: pictures hold up to {objects.max(initial=0)} objects; more cost time",
            )
        )  # fmt: skip
    return findings, numbers


def duplicates(case: Case) -> Interval | None:
    """Confident predictions that fit an object found by another and find none of their own, for each object found."""
    own = np.zeros(len(case.predictions), dtype=bool)
    own[case.pairs.found] = True
    sure = np.zeros(len(case.predictions), dtype=bool)
    sure[case.confident] = True
    more, found = np.zeros(len(case.images)), np.zeros(len(case.images))
    for picture, (rows, _, overlap) in enumerate(case.overlaps):
        if overlap.size:
            more[picture] = ((overlap >= HIT).any(1) & sure[rows] & ~own[rows]).sum()
            found[picture] = (own & sure)[rows].sum()
    return ratio(more, found)


def unannotated(trained: Case, case: Case) -> list[Finding]:
    """Confident predictions of one split that find nothing, where those of the other do: objects that were not
    annotated. A model is no worse on what it was trained on; on val it is, so there they have to lie beside all
    annotations and be as confident as those that find one."""
    train, val = (_false(split, case.threshold) for split in (trained, case))
    if train and val and train.low >= val.high + 0.05:
        return [_missing("train", train, val)]
    train, val = (_false(split, trained.threshold, BESIDE) for split in (trained, case))
    if train and val and val.low >= train.high + 0.1:
        rows = case.lead[case.score[case.lead] >= trained.threshold]
        own, near = np.isin(rows, case.pairs.found), _nearest(case)[rows]
        told = auc(case.score[rows][own | (near < BESIDE)], own[own | (near < BESIDE)])
        if told and told.high < TOLD:
            return [_missing("val", val, train)]
    return []


def _false(case: Case, threshold: float, least: float = 1.0) -> Interval | None:
    """Share of the predictions as confident as that which find nothing and overlap every object by less."""
    rows = case.lead[case.score[case.lead] >= threshold]
    lost = rows[~np.isin(rows, case.pairs.found) & (_nearest(case)[rows] < least)]
    return ratio(*(np.bincount(case.picture[chosen], minlength=len(case.images)) for chosen in (lost, rows)))


def _nearest(case: Case) -> np.ndarray:
    """[N]: the best mask IoU with an object, of the lead rows; 0 of the others."""
    best = np.zeros(len(case.predictions))
    for rows, _, overlap in case.overlaps:
        best[rows] = overlap.max(1, initial=0)
    return best


def _missing(split: str, here: Interval, there: Interval) -> Finding:
    other = "val" if split == "train" else "train"
    return Finding(
        "annotations_missing", "warning",
        f"{here.text(0, 100)} % of the confident predictions in {split} pictures find no annotation, "
        f"{there.text(0, 100)} % in {other}", f"objects of {split} are not annotated: look at its pictures",
    )  # fmt: skip
