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

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from mtseg.core import masks
from mtseg.core.params import Task
from mtseg.core.tables import UNLABELLED
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT, NEAR

FITS = 0.75  # IoU from which a mask and an annotation are one object beyond doubt
SURE = 0.5  # below this nothing is suspected
MOST = 200
DECIMALS = 4


def label_errors(evaluation: Evaluation) -> list[dict[str, Any]]:
    """At most 200 suspects, surest first: image_id, instance (its place in the image, or None), prediction (its row, or
    None), task, annotated, predicted (class names or None), score (how sure), iou, kind.

    Crowds are not suspected, nor is what lies on one missing. Scores are main class probability x mask quality.
    """
    suspects = [
        *_other_label(evaluation),
        *_outline(evaluation),
        *islice(_missing(evaluation), MOST),  # surest first
        *_spurious(evaluation),
    ]
    suspects.sort(key=lambda s: (-s["score"], s["kind"], s["true"], s["found"], s["task"]))  # ends no other way
    return [_row(suspect, evaluation) for suspect in suspects[:MOST]]


def _other_label(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for task in evaluation.tasks:
        rows, objects = evaluation.labelled(task)
        overlap, own = _iou(evaluation, rows, objects), evaluation.class_probabilities(task)[rows]
        place = np.arange(len(rows))
        true, found = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
        margin = own[place, found[rows]] - own[place, true[objects]]
        sure = evaluation.predictions.mask_quality[rows] * margin
        for at in np.flatnonzero((overlap >= FITS) & (sure >= SURE)):
            yield _suspect(evaluation, "label", sure[at], rows[at], objects[at], task, overlap[at])


def _outline(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    given, matches, main = evaluation.candidates, evaluation.class_agnostic, evaluation.tasks[0]
    scores = evaluation.all_scores["main_quality"]
    true, found = evaluation.images.instances.labels[main.name], evaluation.predictions.labels[main.name]
    free = matches.objects.copy()
    free[given.instance[given.iou >= HIT]] = False  # something fits
    one = np.bincount(given.prediction, minlength=len(scores)) == 1
    near = (_takes_part(evaluation) & one)[given.prediction] & free[given.instance] & (given.iou >= NEAR)
    near &= true[given.instance] == found[given.prediction]
    pairs = np.flatnonzero(near)
    both = given.inside[pairs]  # intersection and areas, in units of the predicted area
    true_area = both / given.iou[pairs] + both - 1
    sure = scores[given.prediction[pairs]] * both / np.minimum(1, true_area)
    order = np.lexsort((given.prediction[pairs], -sure))
    order = order[sure[order] >= SURE]
    for at in order[np.sort(np.unique(given.instance[pairs[order]], return_index=True)[1])]:
        pair = pairs[at]
        yield _suspect(
            evaluation, "outline", sure[at], given.prediction[pair], given.instance[pair], main, given.iou[pair]
        )


def _missing(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    scores, alone = evaluation.all_scores["main_quality"], _takes_part(evaluation)
    alone[evaluation.candidates.prediction] = False
    rows = np.flatnonzero(alone & (scores >= SURE))
    rows = rows[np.argsort(evaluation.rank_by(scores)[rows])]
    found = dict(zip(rows.tolist(), evaluation.predictions[rows].rles(), strict=True))
    kept: dict[int, list[int]] = {}  # one suspect an object: of masks that overlap the surest
    for row in found:
        others = kept.setdefault(int(evaluation.image[row]), [])
        if not (masks.iou([found[row]], [found[other] for other in others]) >= HIT).any():
            others.append(row)
            yield _suspect(evaluation, "missing", scores[row], row, -1, evaluation.tasks[0], 0.0)


def _spurious(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    matches, main, instances = evaluation.class_agnostic, evaluation.tasks[0], evaluation.images.instances
    true, met, found = instances.labels[main.name], *np.zeros((2, len(instances)), dtype=bool)
    met[evaluation.candidates.instance] = True
    found[matches.hit[0][matches.hit[0] >= 0]] = True
    for index in np.flatnonzero(matches.objects & ~met & (true != UNLABELLED)):
        alike = matches.objects & (true == true[index]) & (instances.area <= instances.area[index])
        if (sure := found[alike].mean()) >= SURE:
            yield _suspect(evaluation, "spurious", sure, -1, index, main, 0.0)


def _takes_part(evaluation: Evaluation) -> np.ndarray:
    """bool [N]: the best of each query."""
    takes_part = np.zeros(len(evaluation.predictions), dtype=bool)
    takes_part[evaluation.class_agnostic.scored] = True
    return takes_part


def _iou(evaluation: Evaluation, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """IoU of pairs that overlap."""
    given, count = evaluation.candidates, len(evaluation.images.instances)
    key = given.prediction * count + given.instance
    order = np.argsort(key)
    return given.iou[order[np.searchsorted(key[order], found * count + true)]]


def _suspect(
    evaluation: Evaluation, kind: str, sure: float, found: int, true: int, task: Task, overlap: float
) -> dict[str, Any]:
    annotated, predicted = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
    return {
        "kind": kind,
        "score": round(float(sure), DECIMALS),
        "found": int(found),
        "true": int(true),
        "task": task.name,
        "annotated": task.classes[annotated[true]] if true >= 0 else None,
        "predicted": task.classes[predicted[found]] if found >= 0 else None,
        "iou": round(float(overlap), DECIMALS),
    }


def _row(suspect: dict[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    found, true = suspect.pop("found"), suspect.pop("true")
    of_instance = evaluation.images.instances.image
    image = of_instance[true] if true >= 0 else evaluation.image[found]
    return suspect | {
        "image_id": int(evaluation.images.id[image]),
        "instance": int(true - np.searchsorted(of_instance, image)) if true >= 0 else None,
        "prediction": found if found >= 0 else None,
    }
