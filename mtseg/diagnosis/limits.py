"""How much AP the findings cost, and what would raise AP: a table with the gain of each step and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mtseg.checks import resolution
from mtseg.checks.findings import SEVERITIES, Finding
from mtseg.core.params import Input
from mtseg.diagnosis import ranking
from mtseg.diagnosis.split import Split

LIMITING = 20.0  # AP to gain from one kind of error, from which it is named although there are no faults
LEAST = 5.0  # the same of a model of a lower AP than this; between the two, as much as its AP
IMAGES = 60  # of val, from which the effect of input.size is estimated
FEWEST = 5  # images of each split to compare their AP
WORDS = {
    "masks": ("perfect masks", "a larger input.size, more steps, outlines drawn with care"),
    "all_found": ("no missed objects", "more images of such objects; see detections.missed"),
    "labels": ("perfect labels", "more examples of the classes that are confused"),
    "ranking": ("perfect ranking", "another test.ranking, more steps"),
}
OF_CAUSE = {  # cause -> the kind of error that it makes. The filter makes none: AP is that of the raw predictions
    "collapse_to_background": "labels", "collapse_to_class": "labels", "label_noise": "labels",
    "task_untrained_in_matching": "labels", "labels_of_other_query": "labels", "too_few_steps": "labels",
    "duplicates": "ranking",
    "queries_saturated": "all_found", "detections_too_few": "all_found", "annotations_missing": "all_found",
    "ranking": "ranking",
}  # fmt: skip


class Weighed(NamedTuple):
    """A finding, and an estimate of the joint AP that correcting it brings."""

    finding: Finding
    gain: float


def by_gain(findings: Sequence[Finding], split: Split, oracles: dict[str, float]) -> list[Weighed]:
    """The findings with the AP that they cost at most, by severity and AP. oracles: of `ranking.losses`."""
    weighed = []
    for finding in findings:
        kind = OF_CAUSE.get(finding.cause)
        if finding.cause == "annotations_missing" and finding.where == "val":
            kind = "ranking"  # predictions of objects that val lacks count as false
        gain = oracles[kind] - oracles["AP"] if oracles and kind else 0.0
        if kind == "labels" and finding.where and len(split.tasks) > 1:
            task = next((task for task in split.tasks if finding.where == f"task '{task.name}'"), None)
            gain = ranking.with_labels(split, [task]) - oracles["AP"] if oracles and task else gain
        weighed.append(Weighed(finding, gain))
    return by_weight(weighed)


def by_weight(weighed: Sequence[Weighed]) -> list[Weighed]:
    return sorted(weighed, key=lambda one: (SEVERITIES.index(one.finding.severity), -one.gain))


def factor(oracles: dict[str, float]) -> list[Finding]:
    """A note on the kind of error that costs most, if that is much."""
    gains = {name: oracles[name] - oracles["AP"] for name in WORDS} if oracles else {}
    most = max(gains, key=gains.get, default=None)
    if most is None or gains[most] < min(LIMITING, max(oracles["AP"], LEAST)):
        return []
    what, cost = WORDS[most]
    evidence = f"joint AP is {oracles['AP']:.1f}, and would be {oracles[most]:.1f} with {what}"
    return [Finding("limiting_factor", "note", evidence, f"what helps: {cost}")]


def table(
    split: Split, train: Split, oracles: dict[str, float], *, validated: pd.DataFrame, input: Input
) -> dict[str, dict[str, Any]]:
    """{what: {"gain": joint AP in points or None, "cost": what it takes}}, the largest gain first. train: a sample. The
    gains of resolution, data and steps are estimates, the last None with fewer than 3 validations. They do not add
    up."""
    if not oracles:
        return {}
    rows = {what: {"gain": oracles[name] - oracles["AP"], "cost": cost} for name, (what, cost) in WORDS.items()}
    sample = split.images[np.linspace(0, len(split.images) - 1, min(IMAGES, len(split.images))).astype(int)]
    ceilings = resolution.ceilings(sample, split.tasks[0], input.size)
    larger = next((size for size in ceilings if size > input.size), None)
    if larger and ceilings[input.size]:
        gain = oracles["AP"] * (ceilings[larger] / ceilings[input.size] - 1)
        cost = f"up to {(larger / input.size) ** 2:.1f} times the time and memory"
        rows[f"input.size {larger}: finer masks"] = {"gain": max(gain, 0.0), "cost": cost}
    if min(len(train.images), len(split.images)) >= FEWEST and len(train.predictions):
        gain = ranking.joint_ap(train.evaluation) - oracles["AP"]
        cost = "many more images, at most this much; for 100 more, compare this run with one at data.share: 0.5"
        rows["val as good as train"] = {"gain": max(gain, 0.0), "cost": cost}
    if len(validated):
        cost = "unknown with fewer than 3 validations: lower solver.eval_period"
        rows["twice the steps"] = {"gain": None, "cost": cost}
    if "joint_AP" in validated and len(validated) > 2:
        step, ap = validated["step"].to_numpy(float), validated["joint_AP"].to_numpy(float)
        gain = ap[-1] - float(np.interp(step[-1] / 2, step, ap))
        cost = "twice the time; that is what the second half of the training brought, at most this much again"
        rows["twice the steps"] = {"gain": max(gain, 0.0), "cost": cost}
    return dict(sorted(rows.items(), key=lambda row: -(row[1]["gain"] or 0.0)))


def lines(oracles: dict[str, float], rows: dict[str, dict[str, Any]]) -> list[str]:
    """The table as text."""
    if not rows:
        return []
    width = max(map(len, rows))
    head = f"joint AP is {oracles['AP']:.1f}. What would raise AP (gains do not add up):"
    return [head, *(f"  {what:<{width}} {_gain(row['gain'])}  {row['cost']}" for what, row in rows.items())]


def _gain(points: float | None) -> str:
    return f"{'?':>6}" if points is None else f"{points:+6.1f}"
