"""Annotations that look wrong: where a sure prediction and the annotation contradict each other.

Four kinds, each with how sure it is, 0 to 1, so that the surest of all can be looked at first:

label     the mask fits the annotation (IoU >= 0.75) and the model knows another label: mask quality x (probability of
          its label - probability of the annotated one), the self-confidence margin of confident learning
          (Northcutt et al., JAIR 2021).
outline   one object, as the main class and where they lie say, but the masks differ (IoU 0.1 to 0.5), nothing else
          fits it and the prediction lies on nothing else: score x share of the smaller mask inside the larger.
missing   an object that nothing annotated lies on: its score.
spurious  an annotation that no prediction lies on, of whatever class or score: the share of its class, no larger than
          it, that was found; for where the model finds all but a few, those few are odd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mtseg.core.tables import Image, Prediction
from mtseg.evaluation.average_precision import EVERY, ordered
from mtseg.evaluation.matching import HIT, NEAR, iou
from mtseg.evaluation.overlaps import Matches, Overlaps

FITS = 0.75  # IoU from which a mask and an annotation are one object beyond doubt
SURE = 0.5  # below this nothing is suspected
MOST = 200
DECIMALS = 4


@dataclass(frozen=True)
class Labels:
    """One task. true: int [G] or EVERY; found: int [N]; probabilities [N, classes], no-object left out."""

    name: str
    classes: tuple[str, ...]
    true: np.ndarray
    found: np.ndarray
    probabilities: np.ndarray


def label_errors(
    overlaps: Overlaps,
    matches: Matches,
    predictions: Sequence[Prediction],
    labels: Sequence[Labels],
    scores: np.ndarray,
    images: Sequence[Image],
) -> list[dict[str, Any]]:
    """At most 200 suspects, surest first: image_id, instance (its place in the image, or None), prediction (its place
    among `predictions`, or None), task, annotated, predicted (class names or None), score (how sure), iou, kind.

    matches: whatever the class, at IoU 0.5 first. labels: the main task first. scores: [N], probability of the main
    class x mask quality. Crowds are not suspected, nor is what lies on one missing.
    """
    images = ordered(images)
    areas = np.array([instance.area for image in images for instance in image.instances])
    suspects = [
        *_other_label(overlaps, matches, predictions, labels),
        *_outline(overlaps, matches, labels[0], scores),
        *islice(_missing(overlaps, matches, predictions, labels[0], scores), MOST),  # surest first
        *_spurious(overlaps, matches, labels[0], areas),
    ]
    suspects.sort(key=lambda s: (-s["score"], s["kind"], s["true"], s["found"], s["task"]))  # ends no other way
    first = np.searchsorted(overlaps.true_picture, np.arange(overlaps.pictures))
    return [_row(suspect, overlaps, first, images) for suspect in suspects[:MOST]]


def _other_label(overlaps, matches, predictions, labels):
    found = np.flatnonzero(matches.hit[0] >= 0)
    true = matches.hit[0][found]
    overlap = _iou(overlaps, found, true)
    quality = np.array([predictions[row].mask_quality for row in found])
    for task in labels:
        known = task.true[true] != EVERY
        rows, columns = found[known], true[known]
        own = task.probabilities[rows]
        place = np.arange(len(rows))
        margin = own[place, task.found[rows]] - own[place, task.true[columns]]
        sure = quality[known] * margin
        for at in np.flatnonzero((overlap[known] >= FITS) & (sure >= SURE)):
            yield _suspect("label", sure[at], rows[at], columns[at], task, overlap[known][at])


def _outline(overlaps, matches, task, scores):
    free = matches.objects.copy()
    free[overlaps.true[overlaps.iou >= HIT]] = False  # something fits
    one = np.bincount(overlaps.found, minlength=len(scores)) == 1
    takes_part = np.zeros(len(scores), dtype=bool)
    takes_part[matches.scored] = True
    near = (takes_part & one)[overlaps.found] & free[overlaps.true] & (overlaps.iou >= NEAR)
    near &= task.true[overlaps.true] == task.found[overlaps.found]
    pairs = np.flatnonzero(near)
    both = overlaps.inside[pairs]  # intersection and areas, in units of the predicted area
    true_area = both / overlaps.iou[pairs] + both - 1
    sure = scores[overlaps.found[pairs]] * both / np.minimum(1, true_area)
    order = np.lexsort((overlaps.found[pairs], -sure))
    order = order[sure[order] >= SURE]
    for at in order[np.sort(np.unique(overlaps.true[pairs[order]], return_index=True)[1])]:
        pair = pairs[at]
        yield _suspect("outline", sure[at], overlaps.found[pair], overlaps.true[pair], task, overlaps.iou[pair])


def _missing(overlaps, matches, predictions, task, scores):
    alone = np.zeros(len(scores), dtype=bool)
    alone[matches.scored] = True
    alone[overlaps.found] = False
    rows = np.flatnonzero(alone & (scores >= SURE))
    kept: dict[int, list[int]] = {}  # one suspect an object: of masks that overlap the surest
    for row in rows[np.lexsort((rows, -scores[rows]))]:
        others = kept.setdefault(overlaps.found_picture[row], [])
        masks = [predictions[other].segmentation for other in others]
        if not (iou([predictions[row].segmentation], masks) >= HIT).any():
            others.append(row)
            yield _suspect("missing", scores[row], row, -1, task, 0.0)


def _spurious(overlaps, matches, task, areas):
    met = np.zeros(len(task.true), dtype=bool)
    met[overlaps.true] = True
    found = np.zeros(len(task.true), dtype=bool)
    found[matches.hit[0][matches.hit[0] >= 0]] = True
    for index in np.flatnonzero(matches.objects & ~met & (task.true != EVERY)):
        alike = matches.objects & (task.true == task.true[index]) & (areas <= areas[index])
        if (sure := found[alike].mean()) >= SURE:
            yield _suspect("spurious", sure, -1, index, task, 0.0)


def _iou(overlaps: Overlaps, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """IoU of pairs that are in the table."""
    key = overlaps.found * (overlaps.true.max(initial=0) + 1) + overlaps.true
    order = np.argsort(key)
    wanted = found * (overlaps.true.max(initial=0) + 1) + true
    return overlaps.iou[order[np.searchsorted(key[order], wanted)]]


def _suspect(kind: str, sure: float, found: int, true: int, task: Labels, overlap: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "score": round(float(sure), DECIMALS),
        "found": int(found),
        "true": int(true),
        "task": task.name,
        "annotated": task.classes[task.true[true]] if true >= 0 else None,
        "predicted": task.classes[task.found[found]] if found >= 0 else None,
        "iou": round(float(overlap), DECIMALS),
    }


def _row(suspect: dict[str, Any], overlaps: Overlaps, first: np.ndarray, images: Sequence[Image]) -> dict[str, Any]:
    found, true = suspect.pop("found"), suspect.pop("true")
    picture = overlaps.true_picture[true] if true >= 0 else overlaps.found_picture[found]
    return suspect | {
        "image_id": images[picture].id,
        "instance": int(true - first[picture]) if true >= 0 else None,
        "prediction": found if found >= 0 else None,
    }
