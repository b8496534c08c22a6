"""The leading numbers with their 95 % intervals over pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtseg.evaluation import curves
from mtseg.evaluation.average_precision import EVERY
from mtseg.evaluation.bootstrap import draws, interval
from mtseg.evaluation.evidence import Evidence
from mtseg.evaluation.overlaps import Matches

COLUMNS = ("metric", "value", "low", "high")


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """A row a number: metric, value, and its 95 % interval over pictures, low and high; percent, 3 decimals;
    low and high are NaN below 5 pictures.

    segm.AP, segm.AP50, joint.AP, joint.AP50, of each task accuracy and of each further one AP, under the names of
    metrics/evaluate.json; what is undefined is left out. The same draws serve all numbers.
    """
    weights = draws(evidence.overlaps.pictures, len(evidence.predictions))
    numbers = samples(evidence, weights)
    return [_row(metric, values) for metric, values in numbers.items() if not np.isnan(values[0])]


def samples(evidence: Evidence, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of each draw, 0 to 1 and NaN where undefined: [1 + B] each. weights: of `draws`."""
    main = evidence.tasks[0]
    segm = _ap(evidence, evidence.matches[main.name], weights)
    joint = _ap(evidence, evidence.jointly, weights)
    numbers = dict(zip(("segm.AP", "segm.AP50", "joint.AP", "joint.AP50"), (*segm, *joint), strict=True))
    for task in evidence.tasks:
        if task is not main:  # whose AP is segm.AP
            numbers[f"tasks.{task.name}.AP"] = _ap(evidence, evidence.matches[task.name], weights)[0]
        numbers[f"tasks.{task.name}.accuracy"] = _accuracy(evidence, task.name, weights)
    return numbers


def _ap(evidence: Evidence, matches: Matches, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and AP50 of each draw, 0 to 1, NaN where nothing that counts was drawn."""
    scored = curves.average_precision(matches, evidence.pictures, weights)
    return curves.mean(scored), curves.mean(scored[:, :, :1])


def _accuracy(evidence: Evidence, name: str, weights: np.ndarray) -> np.ndarray:
    """Share of labels that are right on matched objects, of each draw."""
    labels, hit = evidence.labels[name], evidence.whatever.hit[0]
    found = np.flatnonzero(hit >= 0)
    found = found[labels.true[hit[found]] != EVERY]
    right = labels.found[found] == labels.true[hit[found]]
    pictures = evidence.overlaps.found_picture[found]
    matched, correct = (np.bincount(p, minlength=weights.shape[1]) for p in (pictures, pictures[right]))
    count = weights @ matched
    return np.divide(weights @ correct, count, out=np.full(len(weights), np.nan), where=count > 0)


def _row(metric: str, values: np.ndarray) -> dict[str, Any]:
    return dict(zip(COLUMNS, (metric, *interval(values)), strict=True))
