"""Kinds of errors, and how much AP50 each kind costs (TIDE).

Follows Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020 (upstream:
tidecv/quantify.py, which hotcoco follows too). Differences from upstream:

- Each kind of error is corrected independently of the others, as in the paper. Upstream, the best error of any kind
  reserves its object, so that correcting another error of that object has no effect.
- A class whose objects are all missed is left out of the mean AP once these are removed, as COCO leaves out classes
  without ground truth. Upstream its AP stays 0, so that missing all of a class costs nothing.
- Predictions that overlap a crowd by less than half are not localisation errors, as they are in hotcoco.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mtseg.evaluation import f1
from mtseg.evaluation.ap.average_precision import percent
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT, NEAR, Candidates, Matches, by, category_starts

KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")
CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
NONE = -1  # kind of a prediction that is a hit or ignored


def errors(evaluation: Evaluation, matches: Matches) -> dict[str, Any]:
    """`ap50`, `counts` of TIDE's six kinds of errors, and `cost`: AP50 gained if a kind were corrected; AP in percent.

    | kind         | error                                                                                   |
    |--------------|-----------------------------------------------------------------------------------------|
    | class        | IoU >= 0.5 with an object of another class                                              |
    | localisation | IoU 0.1 to 0.5 with an object of its class                                              |
    | both         | IoU 0.1 to 0.5 with an object of another class                                          |
    | duplicate    | IoU >= 0.5 with an object of its class that has a match                                 |
    | background   | IoU <= 0.1 with all objects                                                             |
    | missed       | an object without a match and without a prediction that has a class or localisation error |

    To correct class or localisation errors, the best such prediction of each unmatched object becomes its match and the
    others are removed; of the other kinds, the predictions or objects are removed. matches: with IoU threshold 0.5
    first. `ap50` is None and `cost` empty without ground truth.
    """
    kind, target = _kinds(evaluation.candidates, matches)
    counts = [int((kind == error).sum()) for error in range(MISSED)]
    used = np.zeros(len(matches.true), dtype=bool)
    used[matches.hit[0, matches.hit[0] >= 0]] = True
    missed = matches.objects & ~used
    missed[target[target >= 0]] = False
    counts.append(int(missed.sum()))

    before = _ap50(evaluation, matches)
    if np.isnan(before):
        return {"ap50": None, "cost": {}, "counts": dict(zip(KINDS, counts, strict=True))}
    after = [_corrected(error, kind, target, used, matches, evaluation) for error in range(MISSED)]
    none_missed = _ap50(evaluation, replace(matches, objects=matches.objects & ~missed))
    after.append(1.0 if np.isnan(none_missed) else none_missed)
    cost = {name: percent(max(0.0, ap50 - before)) for name, ap50 in zip(KINDS, after, strict=True)}
    return {"ap50": percent(before), "cost": cost, "counts": dict(zip(KINDS, counts, strict=True))}


def _kinds(candidates: Candidates, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Kind of error of each prediction, int [N], and the object that a class or localisation error belongs to, int [N],
    else -1."""
    wrong = matches.takes_part & (matches.first_hit < 0) & ~matches.first_ignored
    pairs = np.flatnonzero(matches.objects[candidates.instance] & (candidates.iou >= NEAR)).astype(np.int32)
    same = matches.true[candidates.instance[pairs]] == matches.predicted[candidates.prediction[pairs]]
    kind, target = np.full(len(wrong), BACKGROUND, dtype=np.int8), np.full(len(wrong), -1, dtype=np.int32)
    rows, other, objects = _nearest(candidates, pairs[~same])
    kind[rows[other > NEAR]] = BOTH
    own_rows, own, own_objects = _nearest(candidates, pairs[same])
    kind[own_rows[own >= HIT]] = DUPLICATE
    kind[rows[other >= HIT]] = CLASS
    kind[own_rows[own < HIT]] = LOCALISATION
    kind[~wrong] = NONE
    for error, own, hit in ((CLASS, rows, objects), (LOCALISATION, own_rows, own_objects)):
        chosen = kind[own] == error
        target[own[chosen]] = hit[chosen]
    return kind, target


def _nearest(candidates: Candidates, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the predictions of these pairs: their rows, ascending, the highest IoU of each, and its object, of equal ones
    the first: [n] each."""
    predicted, true, iou = candidates.prediction[pairs], candidates.instance[pairs], candidates.iou[pairs]
    order = np.lexsort((-true, iou, predicted)).astype(np.int32)
    best = order[np.diff(predicted[order], append=np.int32(-1)) != 0]
    return predicted[best], iou[best], true[best]


def _corrected(
    error: int, kind: np.ndarray, target: np.ndarray, used: np.ndarray, matches: Matches, evaluation: Evaluation
) -> float:
    """AP50 with one kind of error corrected. kind, target: int [N], of `_kinds`. used: bool [G], matched objects."""
    hit, removed, predicted, scored = matches.first_hit, kind == error, matches.predicted, matches.scored
    if error in (CLASS, LOCALISATION):
        rows = np.flatnonzero(removed)
        rows = rows[~used[target[rows]]]
        rows = rows[np.argsort(evaluation.rank[rows])]
        first = rows[np.unique(target[rows], return_index=True)[1]]
        predicted = predicted.copy()
        hit[first], predicted[first], removed[first] = target[first], matches.true[target[first]], False
        scored = evaluation.order
        scored = scored[matches.takes_part[scored]]
        scored = scored[by(predicted[scored])]
    gone = removed | (matches.first_ignored & (hit < 0))
    scored, rows = scored[~gone[scored]], np.flatnonzero(hit >= 0)
    starts = category_starts(predicted[scored], matches.categories)
    none = np.zeros((1, len(rows)), dtype=bool)
    changed = {"predicted": predicted, "scored": scored, "starts": starts}
    return _ap50(evaluation, replace(matches, rows=rows, hit=hit[None, rows], ignored=none, **changed))


def _ap50(evaluation: Evaluation, matches: Matches) -> float:
    """AP at IoU 0.5, 0 to 1; NaN without objects."""
    return evaluation.ap(replace(matches, hit=matches.hit[:1], ignored=matches.ignored[:1]))


def label_costs(evaluation: Evaluation) -> dict[str, float | None]:
    """{task: joint AP in percent gained if matched objects had the right labels of the task}; None without ground
    truth."""
    ap = evaluation.ap(evaluation.joint)
    corrected = {task.name: evaluation.ap(evaluation.joint_with_true_labels(task)) for task in evaluation.tasks}
    return {name: None if np.isnan(value) else percent(value - ap) for name, value in corrected.items()}


def verdicts(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind of each prediction, str [N]; the instance it matches or -1, int [N]; which of its labels are wrong, bool
    [N, T].

    | kind         | prediction                                             |
    |--------------|--------------------------------------------------------|
    | right        | IoU >= 0.5 with an object, all labels correct          |
    | class        | IoU >= 0.5 with an object, some label wrong            |
    | duplicate    | IoU >= 0.5 with an object that a better one matches    |
    | localisation | IoU >= 0.1 with an object of its class                 |
    | crowd        | on a crowd of its class, not counted                   |
    | background   | all others                                             |

    Kinds are assigned best rank first: the kind of a prediction does not depend on worse ones, and so holds at every
    score threshold. The hits that `f1.counts` counts are `right` or `class`.
    """
    candidates, crowd = evaluation.candidates, evaluation.images.instances.crowd
    main = evaluation.tasks[0].name
    true, predicted = evaluation.images.instances.labels[main], evaluation.predictions.labels[main]
    same = true[candidates.instance] == predicted[candidates.prediction]
    matches = f1.main_matches(evaluation)
    on_crowd = np.zeros(len(predicted), dtype=bool)
    on_crowd[candidates.prediction[same & crowd[candidates.instance] & (candidates.inside >= HIT)]] = True
    objects = np.flatnonzero(~crowd[candidates.instance])
    nearest = np.full(len(predicted), -1)  # the object that a prediction hits best
    rows, overlap, instances = _nearest(candidates, objects)
    nearest[rows[overlap >= HIT]] = instances[overlap >= HIT]
    rows, overlap, _ = _nearest(candidates, objects[same[objects]])

    kinds, instances = np.full(len(predicted), "background", dtype=object), matches.first_hit.astype(int)
    kinds[rows[overlap >= NEAR]] = "localisation"
    taken: set[int] = set()
    for row in evaluation.order:
        if instances[row] < 0 and not on_crowd[row] and nearest[row] >= 0 and nearest[row] not in taken:
            instances[row] = nearest[row]
        if instances[row] >= 0:
            taken.add(int(instances[row]))
            kinds[row] = "right"
        elif on_crowd[row]:
            kinds[row] = "crowd"
        elif nearest[row] >= 0:
            kinds[row] = "duplicate"
    wrong = np.zeros((len(predicted), len(evaluation.tasks)), dtype=bool)
    hits = np.flatnonzero(instances >= 0)
    wrong[hits] = f1.wrong_labels(evaluation, hits, instances[hits])
    kinds[wrong.any(axis=1)] = "class"
    return kinds, instances, wrong
