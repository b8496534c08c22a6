"""Analysis of the scores: confusion, calibration, kinds of errors, curves, and suspected annotation errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from mtseg.core.params import Ranking, Task
from mtseg.evaluation import curves, unseen
from mtseg.evaluation.ap import coco, scores
from mtseg.evaluation.ap.average_precision import percent
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches
from mtseg.evaluation.ap.rankings import RANKINGS
from mtseg.evaluation.calibration import calibration
from mtseg.evaluation.confusion import confusion
from mtseg.evaluation.errors import errors, label_costs
from mtseg.evaluation.label_errors import label_errors

DECIMALS = 4


Known = Mapping[str | tuple[str, str], Any]  # results of `works`


def works(evaluation: Evaluation) -> dict[str | tuple[str, str], Callable[[], Any]]:
    """What takes longest of `report`, `metrics` and `rankings`, by name. Each is computed by itself, and keeps little;
    those functions take the results as `known`."""
    rankings = [name for name in RANKINGS if name != evaluation.ranking]  # its matches are used for all else
    return {
        "bbox": partial(coco.of_boxes, evaluation),
        "joint": partial(_joint, evaluation),
        "label_errors": partial(label_errors, evaluation),
        "segm": partial(coco.of_masks, evaluation),
        **{("errors", task.name): partial(_errors, evaluation, task) for task in evaluation.tasks},
        **{("ranking", name): partial(_of_ranking, evaluation, name) for name in rankings},
    }


def report(evaluation: Evaluation, known: Known = MappingProxyType({})) -> dict[str, Any]:
    """The content of data/evaluation/analysis.json. AP is in percent with 3 decimals, fractions and scores have 4; None
    where undefined.

    | key                           | value                                                                      |
    |-------------------------------|----------------------------------------------------------------------------|
    | ranking                       | name of the ranking                                                        |
    | scores                        | the 101 thresholds of `f1`: 0 to 1, or lowest to highest sum of logits     |
    | tasks.NAME.classes            | class names                                                                |
    | tasks.NAME.confusion          | `confusion` at `min_score`, the score with the main task's best F1         |
    | tasks.NAME.calibration        | `calibration` of label probabilities (without no-object) on matched objects |
    | tasks.NAME.errors             | `errors.errors` (TIDE)                                                     |
    | tasks.NAME.curves, overall    | of each class and of all: `precision` at 101 recalls and IoU 0.5, `f1` at  |
    |                               | `scores`, `best_f1` and its threshold `best_score`                         |
    | score.calibration             | of the score as the probability of a match by main class; None if the      |
    |                               | ranking sums logits                                                        |
    | joint.ap, joint.errors        | joint AP, and `errors.errors` with combinations of labels as categories    |
    | joint.label_cost              | of each task: joint AP gained if matched objects had its correct labels    |
    | label_errors                  | `label_errors`                                                             |
    """
    is_probability = not evaluation.ranking.startswith("sum")
    axis = curves.score_axis(evaluation.scores, is_probability=is_probability)
    task_curves = {task.name: _curves(evaluation, task, axis) for task in evaluation.tasks}
    main = evaluation.tasks[0].name
    best = task_curves[main][-1]["best_score"]
    min_score = float(axis[0]) if best is None else best
    tasks = {
        task.name: {
            "classes": list(task.classes),
            "confusion": {"min_score": _round(min_score), "matrix": confusion(evaluation, task, min_score).tolist()},
            "calibration": _label_calibration(evaluation, task),
            "errors": known.get(("errors", task.name)) or errors(evaluation, evaluation.matches[task.name]),
            "curves": dict(zip(task.classes, map(_rounded, task_curves[task.name]), strict=False)),
            "overall": _rounded(task_curves[task.name][-1]),
        }
        for task in evaluation.tasks
    }
    return {
        "ranking": evaluation.ranking,
        "scores": _round(axis),
        "tasks": tasks,
        "score": {"calibration": _score_calibration(evaluation, evaluation.matches[main]) if is_probability else None},
        "joint": known.get("joint") or _joint(evaluation),
        "label_errors": known["label_errors"] if "label_errors" in known else label_errors(evaluation),
    }


def metrics(
    evaluation: Evaluation,
    report: dict[str, Any],
    trained: Collection[tuple[int, ...]],
    known: Known = MappingProxyType({}),
) -> dict[str, Any]:
    """The content of metrics/evaluate.json: `scores.metrics`, with `unseen.metrics` among the joint ones, and the
    calibration error `ece` of each task, from its `report`. trained: combinations of labels in train."""
    found = scores.metrics(evaluation, {name: known[name] for name in ("segm", "bbox") if name in known})
    found["joint"] |= unseen.metrics(evaluation, trained)
    for name, task in report["tasks"].items():
        found["tasks"][name] |= {"ece": ece} if (ece := task["calibration"]["ece"]) is not None else {}
    return found


def _label_calibration(evaluation: Evaluation, task: Task) -> dict[str, Any]:
    rows, objects = evaluation.labelled(task)
    predicted = evaluation.predictions.labels[task.name][rows]
    confidence = evaluation.class_probabilities(task, rows)[np.arange(len(rows)), predicted]
    return calibration(confidence, predicted == evaluation.images.instances.labels[task.name][objects])


def _score_calibration(evaluation: Evaluation, matches: Matches) -> dict[str, Any]:
    rows = matches.scored[~matches.first_ignored[matches.scored]]
    return calibration(evaluation.scores[rows], matches.first_hit[rows] >= 0)


def _curves(evaluation: Evaluation, task: Task, axis: np.ndarray) -> list[dict[str, Any]]:
    """The curves of each class, then those of all classes together."""
    matches, scores = evaluation.matches[task.name], evaluation.scores
    hit, ignored = matches.first_hit >= 0, matches.first_ignored
    true = matches.true[matches.objects]
    rows, order = [matches.of(index) for index in range(task.num_classes)], evaluation.order
    rows.append(order[matches.takes_part[order]])
    objects = [*np.bincount(true, minlength=task.num_classes).tolist(), len(true)]
    return [_curve(hit[own], ignored[own], scores[own], count, axis) for own, count in zip(rows, objects, strict=True)]


def _curve(hit: np.ndarray, ignored: np.ndarray, scores: np.ndarray, objects: int, axis: np.ndarray) -> dict[str, Any]:
    """hit, ignored: bool [n], scores [n], of the predictions of a class, the best first. objects: their number."""
    precision = curves.precisions(hit, ignored, objects)
    hit, scores = hit[~ignored], scores[~ignored]
    best_f1, best_score = curves.best_f1(hit, scores, objects)
    f1 = curves.f1_by_score(hit, scores, objects, axis)
    return {"precision": precision, "f1": f1, "best_f1": best_f1, "best_score": best_score}


def _joint(evaluation: Evaluation) -> dict[str, Any]:
    ap = _ap(evaluation, evaluation.joint)
    return {"ap": ap, "label_cost": label_costs(evaluation), "errors": errors(evaluation, evaluation.joint)}


def _errors(evaluation: Evaluation, task: Task) -> dict[str, Any]:
    return errors(evaluation, evaluation.of_task(task))


def rankings(evaluation: Evaluation, known: Known = MappingProxyType({})) -> list[dict[str, Any]]:
    """One row for each ranking: ranking, segm_AP, joint_AP; percent, None where undefined."""
    return [known.get(("ranking", name)) or _of_ranking(evaluation, name) for name in RANKINGS]


def _of_ranking(evaluation: Evaluation, ranking: Ranking) -> dict[str, Any]:
    """A row of `rankings`."""
    main, own = evaluation.tasks[0], ranking == evaluation.ranking  # then it is matched already
    rank = evaluation.rank if own else evaluation.rank_by(evaluation.scores_by(ranking))
    segm = _ap(evaluation, evaluation.matches[main.name] if own else evaluation.of_task(main, rank))
    joint = _ap(evaluation, evaluation.joint if own else evaluation.joint_with({}, rank=rank))
    return {"ranking": ranking, "segm_AP": segm, "joint_AP": joint}


def _ap(evaluation: Evaluation, matches: Matches) -> float | None:
    value = evaluation.ap(matches)
    return None if np.isnan(value) else percent(value)


def _rounded(curve: dict[str, Any]) -> dict[str, Any]:
    """The curve rounded; f1 and precision of a class without ground truth become 101 x None."""
    return {
        name: [None] * 101 if value is None and name in ("precision", "f1") else _round(value)
        for name, value in curve.items()
    }


def _round(value: Any) -> Any:
    return None if value is None else np.round(value, DECIMALS).tolist()
