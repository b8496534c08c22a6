"""Where the scores come from: confusions, calibration, kinds of errors, curves, and annotations that look wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtseg.core.params import Task
from mtseg.evaluation import curves
from mtseg.evaluation.average_precision import EVERY, percent
from mtseg.evaluation.breakdown import errors
from mtseg.evaluation.calibration import calibration
from mtseg.evaluation.confusion import confusion
from mtseg.evaluation.evidence import Evidence
from mtseg.evaluation.label_errors import label_errors
from mtseg.evaluation.overlaps import Matches

DECIMALS = 4


def report(evidence: Evidence) -> dict[str, Any]:
    """What data/evaluation.json holds. AP in percent with 3 decimals, shares and scores with 4; None where undefined.

    ranking; scores: the 101 scores at which `f1` is given, 0 to 1, or lowest to highest where the ranking sums logits.
    tasks.NAME: classes; confusion (`confusion`, from the score with the main task's best F1, its `min_score`);
    calibration (`calibration`, of the label's probability on matched objects, no-object left out); errors (TIDE,
    `breakdown.errors`); curves, by class, and overall, all classes together: precision at 101 recalls and IoU 0.5, f1
    at `scores`, best_f1 and its best_score. score: calibration of the detection score, a hit being right in place and
    main class; None where the ranking sums logits. joint: ap; label_cost, by task: joint AP gained if what is matched
    had that task's labels right; errors, of all labels as one. label_errors: `label_errors`.
    """
    probable = not evidence.ranking.startswith("sum")
    axis = curves.score_axis(evidence.scores, probable=probable)
    own_curves = {task.name: _curves(evidence, task, axis) for task in evidence.tasks}
    main = evidence.tasks[0].name
    best = own_curves[main][-1]["best_score"]
    min_score = float(axis[0]) if best is None else best
    tasks = {
        task.name: {
            "classes": list(task.classes),
            "confusion": {"min_score": _round(min_score), "matrix": _confusion(evidence, task, min_score).tolist()},
            "calibration": _label_calibration(evidence, task),
            "errors": errors(evidence.overlaps, evidence.matches[task.name], evidence.scores),
            "curves": dict(zip(task.classes, map(_rounded, own_curves[task.name]), strict=False)),
            "overall": _rounded(own_curves[task.name][-1]),
        }
        for task in evidence.tasks
    }
    return {
        "ranking": evidence.ranking,
        "scores": _round(axis),
        "tasks": tasks,
        "score": {"calibration": _score_calibration(evidence, evidence.matches[main]) if probable else None},
        "joint": _joint(evidence),
        "label_errors": _label_errors(evidence),
    }


def _label_errors(evidence: Evidence) -> list[dict[str, Any]]:
    suspects = label_errors(
        evidence.overlaps,
        evidence.whatever,
        evidence.predictions,
        list(evidence.labels.values()),
        evidence.ranked["main_quality"],
        evidence.images,
    )
    in_file = evidence.places.tolist()
    return [s if s["prediction"] is None else s | {"prediction": in_file[s["prediction"]]} for s in suspects]


def _confusion(evidence: Evidence, task: Task, min_score: float) -> np.ndarray:
    labels = evidence.labels[task.name]
    options = {"classes": task.num_classes, "min_score": min_score}
    return confusion(evidence.overlaps, evidence.whatever, labels.true, labels.found, evidence.scores, **options)


def _label_calibration(evidence: Evidence, task: Task) -> dict[str, Any]:
    labels, hit = evidence.labels[task.name], evidence.whatever.hit[0]
    found = np.flatnonzero(hit >= 0)
    found = found[labels.true[hit[found]] != EVERY]
    confidence = labels.probabilities[found, labels.found[found]]
    return calibration(confidence, labels.found[found] == labels.true[hit[found]])


def _score_calibration(evidence: Evidence, matches: Matches) -> dict[str, Any]:
    rows = matches.scored[~matches.ignored[0, matches.scored]]
    return calibration(evidence.scores[rows], matches.hit[0, rows] >= 0)


def _curves(evidence: Evidence, task: Task, axis: np.ndarray) -> list[dict[str, Any]]:
    """A curve a class, and as the last that of all together."""
    matches, scores = evidence.matches[task.name], evidence.scores
    true = matches.true[matches.objects]
    rows = [matches.of(index) for index in range(task.num_classes)]
    rows.append(matches.scored[np.argsort(-scores[matches.scored], kind="stable")])
    objects = [*np.bincount(true, minlength=task.num_classes).tolist(), len(true)]
    return [_curve(matches, scores, own, count, axis) for own, count in zip(rows, objects, strict=True)]


def _curve(matches: Matches, scores: np.ndarray, rows: np.ndarray, objects: int, axis: np.ndarray) -> dict[str, Any]:
    precision = curves.precisions(matches.hit[0, rows] >= 0, matches.ignored[0, rows], objects)
    rows = rows[~matches.ignored[0, rows]]
    f1, best_f1, best_score = curves.f1_by_score(matches.hit[0, rows] >= 0, scores[rows], objects, axis)
    return {"precision": precision, "f1": f1, "best_f1": best_f1, "best_score": best_score}


def _joint(evidence: Evidence) -> dict[str, Any]:
    ap = _ap(evidence, evidence.jointly)
    mended = {task.name: _ap(evidence, evidence.jointly_right(task)) for task in evidence.tasks}
    cost = {name: None if value is None else percent(value - ap) for name, value in mended.items()}
    wrong = errors(evidence.overlaps, evidence.jointly, evidence.scores)
    return {"ap": percent(ap), "label_cost": cost, "errors": wrong}


def _ap(evidence: Evidence, matches: Matches) -> float | None:
    once = np.ones((1, evidence.overlaps.pictures))
    value = float(curves.mean(curves.average_precision(matches, evidence.pictures, once))[0])
    return None if np.isnan(value) else value


def _rounded(curve: dict[str, Any]) -> dict[str, Any]:
    """Rounded; the f1 and precision of a class without ground truth are None at every place."""
    return {
        name: [None] * 101 if value is None and name in ("precision", "f1") else _round(value)
        for name, value in curve.items()
    }


def _round(value: Any) -> Any:
    return None if value is None else np.round(value, DECIMALS).tolist()
