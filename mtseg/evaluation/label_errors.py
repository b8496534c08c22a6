"""Suspected annotation errors: places where a confident prediction contradicts the annotation.

Each suspect has a kind and a confidence, 0 to 1, by which suspects are sorted:

label     A prediction matches the annotation (IoU >= 0.75) but has another label. Confidence: mask quality x
          (probability of the predicted label - probability of the annotated label), the margin of confident learning
          (Northcutt et al., JAIR 2021).
outline   Prediction and annotation have the same main class and IoU 0.1 to 0.5; no prediction matches the annotation,
          and the prediction overlaps no other one. Confidence: score x fraction of the smaller mask inside the larger.
missing   A prediction overlaps no annotation. Confidence: its score.
spurious  No prediction of any class or score overlaps the annotation. Confidence: fraction of the annotations of its
          class, no larger than it, that are matched.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from mtseg.core import masks
from mtseg.core.params import Task
from mtseg.core.tables import UNLABELLED
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT, NEAR, inverse

SAME_OBJECT_IOU = 0.75  # minimum IoU of a suspect of kind `label`
MIN_SCORE = 0.5  # minimum confidence of a suspect
MAX_SUSPECTS = 200
DECIMALS = 4
BLOCK = 20_000  # predictions whose masks are in memory at once


def label_errors(
    evaluation: Evaluation, *, most: int | None = MAX_SUSPECTS, fits: float = SAME_OBJECT_IOU
) -> list[dict[str, Any]]:
    """At most `most` suspects (None: all), highest confidence first: image_id, instance (index in the image, or None),
    prediction (row, or None), task, annotated, predicted (class names or None), score (the confidence), iou, kind.

    fits: IoU, at least 0.5, from which the labels of a mask and an annotation are compared: lower finds more errors,
    and suspects more correct labels. Crowds are not suspected, nor predictions on crowds. The score of a prediction is
    that of the ranking main_quality.
    """
    suspects = [
        *_other_label(evaluation, fits),
        *_outline(evaluation),
        *islice(_missing(evaluation), most),  # sorted by confidence
        *_spurious(evaluation),
    ]
    suspects.sort(key=lambda s: (-s["score"], s["kind"], s["object_row"], s["prediction_row"], s["task"]))
    return [_row(suspect, evaluation) for suspect in suspects[:most]]


def _other_label(evaluation: Evaluation, fits: float) -> Iterator[dict[str, Any]]:
    for task in evaluation.tasks:
        rows, objects = evaluation.labelled(task)
        overlap, own = _iou(evaluation, rows, objects), evaluation.class_probabilities(task, rows)
        index = np.arange(len(rows))
        true, predicted = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
        margin = own[index, predicted[rows]] - own[index, true[objects]]
        confidence = evaluation.predictions.take("mask_quality", rows) * margin
        for at in np.flatnonzero((overlap >= fits) & (confidence >= MIN_SCORE)):
            yield _suspect(evaluation, "label", confidence[at], rows[at], objects[at], task, overlap[at])


def _outline(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    candidates, matches, main = evaluation.candidates, evaluation.class_agnostic, evaluation.tasks[0]
    scores = evaluation.scores_by("main_quality")
    true, predicted = evaluation.images.instances.labels[main.name], evaluation.predictions.labels[main.name]
    free = matches.objects.copy()
    free[candidates.instance[candidates.iou >= HIT]] = False  # they have a match
    one = np.bincount(candidates.prediction, minlength=len(scores)) == 1
    near = (matches.takes_part & one)[candidates.prediction] & free[candidates.instance] & (candidates.iou >= NEAR)
    near &= true[candidates.instance] == predicted[candidates.prediction]
    pairs = np.flatnonzero(near)
    both = candidates.inside[pairs]  # intersection; areas in units of the predicted area
    true_area = both / candidates.iou[pairs] + both - 1
    confidence = scores[candidates.prediction[pairs]] * both / np.minimum(1, true_area)
    order = np.lexsort((candidates.prediction[pairs], -confidence))
    order = order[confidence[order] >= MIN_SCORE]
    for at in order[np.sort(np.unique(candidates.instance[pairs[order]], return_index=True)[1])]:
        pair = pairs[at]
        yield _suspect(
            evaluation,
            "outline",
            confidence[at],
            candidates.prediction[pair],
            candidates.instance[pair],
            main,
            candidates.iou[pair],
        )


def _missing(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    scores, alone = evaluation.scores_by("main_quality"), evaluation.class_agnostic.takes_part
    alone[evaluation.candidates.prediction] = False
    rows = np.flatnonzero(alone & (scores >= MIN_SCORE))
    rows = rows[np.lexsort((inverse(evaluation.tie_order)[rows], -scores[rows]))]  # by rank, of these alone
    kept: dict[int, list[dict[str, Any]]] = {}  # image -> masks: of overlapping predictions only that of highest score
    for low in range(0, len(rows), BLOCK):
        own = rows[low : low + BLOCK]
        for row, rle in zip(own.tolist(), evaluation.predictions[own].rles(), strict=True):
            others = kept.setdefault(int(evaluation.image[row]), [])
            if not (masks.iou([rle], others) >= HIT).any():
                others.append(rle)
                yield _suspect(evaluation, "missing", scores[row], row, -1, evaluation.tasks[0], 0.0)


def _spurious(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    matches, main, instances = evaluation.class_agnostic, evaluation.tasks[0], evaluation.images.instances
    true, overlapped, matched = instances.labels[main.name], *np.zeros((2, len(instances)), dtype=bool)
    overlapped[evaluation.candidates.instance] = True
    matched[matches.hit[0, matches.hit[0] >= 0]] = True
    alone = matches.objects & ~overlapped & (true != UNLABELLED)
    for label in np.unique(true[alone]):
        own = np.flatnonzero(matches.objects & (true == label))
        own = own[np.argsort(instances.area[own])]
        rows = np.flatnonzero(alone & (true == label))
        smaller = np.searchsorted(instances.area[own], instances.area[rows], side="right")
        for index, confidence in zip(rows, matched[own].cumsum()[smaller - 1] / smaller, strict=True):
            if confidence >= MIN_SCORE:
                yield _suspect(evaluation, "spurious", confidence, -1, index, main, 0.0)


def _iou(evaluation: Evaluation, predictions: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """IoU [n] of predictions and objects, int [n] each, that overlap."""
    candidates, count = evaluation.candidates, len(evaluation.images.instances)
    key = candidates.prediction.astype(np.int64) * count + candidates.instance
    order = np.argsort(key, kind="stable")  # fast, since they are nearly sorted
    wanted = predictions.astype(np.int64) * count + objects
    return candidates.iou[order[np.searchsorted(key[order], wanted)]]


def _suspect(
    evaluation: Evaluation, kind: str, confidence: float, prediction: int, instance: int, task: Task, overlap: float
) -> dict[str, Any]:
    annotated, predicted = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
    return {
        "kind": kind,
        "score": round(float(confidence), DECIMALS),
        "prediction_row": int(prediction),
        "object_row": int(instance),
        "task": task.name,
        "annotated": task.classes[annotated[instance]] if instance >= 0 else None,
        "predicted": task.classes[predicted[prediction]] if prediction >= 0 else None,
        "iou": round(float(overlap), DECIMALS),
    }


def _row(suspect: dict[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    prediction, instance = suspect.pop("prediction_row"), suspect.pop("object_row")
    of_instance = evaluation.images.instances.image
    image = of_instance[instance] if instance >= 0 else evaluation.image[prediction]
    return suspect | {
        "image_id": int(evaluation.images.id[image]),
        "instance": int(instance - np.searchsorted(of_instance, image)) if instance >= 0 else None,
        "prediction": prediction if prediction >= 0 else None,
    }
