"""Where the scores come from: confusions, calibration, kinds of errors, curves, and annotations that look wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtseg.core.params import Task
from mtseg.evaluation import curves
from mtseg.evaluation.ap.average_precision import mean, percent
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches
from mtseg.evaluation.calibration import calibration
from mtseg.evaluation.confusion import confusion
from mtseg.evaluation.errors import errors
from mtseg.evaluation.label_errors import label_errors

DECIMALS = 4


def report(evaluation: Evaluation) -> dict[str, Any]:
    """What data/evaluation/analysis.json holds. AP in percent with 3 decimals, shares and scores with 4; None where
    undefined.

    ranking; scores: the 101 scores at which `f1` is given, 0 to 1, or lowest to highest where the ranking sums logits.
    tasks.NAME: classes; confusion (`confusion`, from the score with the main task's best F1, its `min_score`);
    calibration (`calibration`, of the label's probability on matched objects, no-object left out); errors (TIDE,
    `errors.errors`); curves, by class, and overall, all classes together: precision at 101 recalls and IoU 0.5, f1
    at `scores`, best_f1 and its best_score. score: calibration of the detection score, a hit being right in place and
    main class; None where the ranking sums logits. joint: ap; label_cost, by task: joint AP gained if what is matched
    had that task's labels right; errors, of all labels as one. label_errors: `label_errors`.
    """
    probable = not evaluation.ranking.startswith("sum")
    axis = curves.score_axis(evaluation.scores, probable=probable)
    own_curves = {task.name: _curves(evaluation, task, axis) for task in evaluation.tasks}
    main = evaluation.tasks[0].name
    best = own_curves[main][-1]["best_score"]
    min_score = float(axis[0]) if best is None else best
    tasks = {
        task.name: {
            "classes": list(task.classes),
            "confusion": {"min_score": _round(min_score), "matrix": confusion(evaluation, task, min_score).tolist()},
            "calibration": _label_calibration(evaluation, task),
            "errors": errors(evaluation, evaluation.matches[task.name]),
            "curves": dict(zip(task.classes, map(_rounded, own_curves[task.name]), strict=False)),
            "overall": _rounded(own_curves[task.name][-1]),
        }
        for task in evaluation.tasks
    }
    return {
        "ranking": evaluation.ranking,
        "scores": _round(axis),
        "tasks": tasks,
        "score": {"calibration": _score_calibration(evaluation, evaluation.matches[main]) if probable else None},
        "joint": _joint(evaluation),
        "label_errors": label_errors(evaluation),
    }


def _label_calibration(evaluation: Evaluation, task: Task) -> dict[str, Any]:
    rows, objects = evaluation.labelled(task)
    found = evaluation.predictions.labels[task.name][rows]
    confidence = evaluation.class_probabilities(task)[rows, found]
    return calibration(confidence, found == evaluation.images.instances.labels[task.name][objects])


def _score_calibration(evaluation: Evaluation, matches: Matches) -> dict[str, Any]:
    rows = matches.scored[~matches.ignored[0, matches.scored]]
    return calibration(evaluation.scores[rows], matches.hit[0, rows] >= 0)


def _curves(evaluation: Evaluation, task: Task, axis: np.ndarray) -> list[dict[str, Any]]:
    """A curve a class, and as the last that of all together."""
    matches, scores = evaluation.matches[task.name], evaluation.scores
    true = matches.true[matches.objects]
    rows = [matches.of(index) for index in range(task.num_classes)]
    rows.append(matches.scored[np.argsort(evaluation.rank[matches.scored])])
    objects = [*np.bincount(true, minlength=task.num_classes).tolist(), len(true)]
    return [_curve(matches, scores, own, count, axis) for own, count in zip(rows, objects, strict=True)]


def _curve(matches: Matches, scores: np.ndarray, rows: np.ndarray, objects: int, axis: np.ndarray) -> dict[str, Any]:
    precision = curves.precisions(matches.hit[0, rows] >= 0, matches.ignored[0, rows], objects)
    rows = rows[~matches.ignored[0, rows]]
    hit, scores = matches.hit[0, rows] >= 0, scores[rows]
    best_f1, best_score = curves.best_f1(hit, scores, objects)
    f1 = curves.f1_by_score(hit, scores, objects, axis)
    return {"precision": precision, "f1": f1, "best_f1": best_f1, "best_score": best_score}


def _joint(evaluation: Evaluation) -> dict[str, Any]:
    ap = _ap(evaluation, evaluation.joint)
    right = {task.name: _ap(evaluation, evaluation.joint_with_right(task)) for task in evaluation.tasks}
    cost = {name: None if value is None else percent(value - ap) for name, value in right.items()}
    return {"ap": percent(ap), "label_cost": cost, "errors": errors(evaluation, evaluation.joint)}


def rankings(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A row each ranking: ranking, segm_AP, joint_AP in percent, None where undefined."""
    rows = []
    for ranking, values in evaluation.all_scores.items():
        rank = evaluation.rank_by(values)
        segm = _ap(evaluation, evaluation.of_task(evaluation.tasks[0], rank))
        joint = _ap(evaluation, evaluation.joint_with({}, rank=rank))
        rows.append({"ranking": ranking, "segm_AP": percent(segm), "joint_AP": percent(joint)})
    return rows


def _ap(evaluation: Evaluation, matches: Matches) -> float | None:
    value = float(mean(evaluation.average_precision(matches))[0])
    return None if np.isnan(value) else value


def _rounded(curve: dict[str, Any]) -> dict[str, Any]:
    """Rounded; the f1 and precision of a class without ground truth are None at every place."""
    return {
        name: [None] * 101 if value is None and name in ("precision", "f1") else _round(value)
        for name, value in curve.items()
    }


def _round(value: Any) -> Any:
    return None if value is None else np.round(value, DECIMALS).tolist()
