"""What kinds of errors there are, and how much AP50 each kind costs: TIDE.

Follows Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020 (upstream:
tidecv/quantify.py). Three things differ from upstream, which hotcoco follows. An error is put right for itself alone,
as the paper says; upstream the best error of any kind holds its object, and putting right another then does nothing. A
class that is missed altogether is left out of the mean once its objects are taken out, as COCO leaves out classes
without ground truth; upstream it stays as 0, and missing it costs nothing. And crowds are no objects that a prediction
could lie badly on, as they are for hotcoco.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mtseg.evaluation import f1
from mtseg.evaluation.ap.average_precision import mean, percent
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT, NEAR, Candidates, Matches

KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")
CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
NONE = -1  # the kind of a prediction that is a hit or ignored


def errors(evaluation: Evaluation, matches: Matches) -> dict[str, Any]:
    """TIDE's six kinds: `ap50`, `cost` (AP50 gained, were this kind of error put right) and `counts`; percent.

    Of predictions: class (IoU >= 0.5 with an object of another class), localisation (0.1 to 0.5 with one of its own),
    both at once, duplicate, background (IoU <= 0.1 with everything). Of objects: missed, and no error above is of it.
    To put right is to give the first error of an object its class or its place, and to take out the other predictions,
    or the object missed. matches: at IoU 0.5 first. `ap50` is None and `cost` empty without ground truth.
    """
    kind, target = _kinds(evaluation.candidates, matches)
    counts = [int((kind == error).sum()) for error in range(MISSED)]
    used = np.zeros(len(matches.true), dtype=bool)
    used[matches.hit[0][matches.hit[0] >= 0]] = True
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


def _kinds(given: Candidates, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """The kind of error of each prediction, int [N], and the object it would be right for, int [N], or -1."""
    pairs = np.flatnonzero(matches.objects[given.instance] & (given.iou >= NEAR))
    same = matches.true[given.instance[pairs]] == matches.found[given.prediction[pairs]]
    own, own_object = _nearest(given, pairs[same], len(matches.found))
    other, other_object = _nearest(given, pairs[~same], len(matches.found))

    wrong = np.zeros(len(matches.found), dtype=bool)
    wrong[matches.scored] = True
    wrong &= (matches.hit[0] < 0) & ~matches.ignored[0]
    kind = np.full(len(wrong), BOTH)
    kind[other <= NEAR] = BACKGROUND
    kind[own >= HIT] = DUPLICATE
    kind[other >= HIT] = CLASS
    kind[(own >= NEAR) & (own < HIT)] = LOCALISATION
    kind[~wrong] = NONE
    target = np.select([kind == LOCALISATION, kind == CLASS], [own_object, other_object], -1)
    return kind, target


def _nearest(given: Candidates, pairs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each prediction, the greatest IoU among these pairs, 0 without, and the object, -1 without: [N] each."""
    found, true, iou = given.prediction[pairs], given.instance[pairs], given.iou[pairs]
    order = np.lexsort((-true, iou, found))  # the last of a prediction stays; of equal IoUs the first object
    greatest, which = np.zeros(count), np.full(count, -1)
    greatest[found[order]], which[found[order]] = iou[order], true[order]
    return greatest, which


def _corrected(
    error: int, kind: np.ndarray, target: np.ndarray, used: np.ndarray, matches: Matches, evaluation: Evaluation
) -> float:
    """AP50 with one kind of error corrected. kind, target: int [N], of `_kinds`. used: bool [G], matched objects."""
    rows, rank = np.flatnonzero(kind == error), evaluation.rank
    hit, removed, found = matches.hit[:1].copy(), kind == error, matches.found.copy()
    if error in (CLASS, LOCALISATION):
        rows = rows[~used[target[rows]]]
        rows = rows[np.argsort(rank[rows])]
        first = rows[np.unique(target[rows], return_index=True)[1]]
        found[first] = matches.true[target[first]]
        hit[0, first], removed[first] = target[first], False
    scored = matches.scored[np.lexsort((rank[matches.scored], found[matches.scored]))]
    starts = np.searchsorted(found[scored], np.arange(matches.categories + 1))
    ignored = matches.ignored[:1] | removed
    return _ap50(evaluation, replace(matches, found=found, scored=scored, starts=starts, hit=hit, ignored=ignored))


def _ap50(evaluation: Evaluation, matches: Matches) -> float:
    """Mean AP at IoU 0.5 over the categories with objects, 0 to 1; NaN without objects."""
    matches = replace(matches, hit=matches.hit[:1], ignored=matches.ignored[:1])
    return float(mean(evaluation.average_precision(matches))[0])


def verdicts(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What became of every prediction: kind, str [N]; the instance it found or -1, int [N]; which of its labels are
    wrong, bool [N, T].

    TIDE's kinds, given in turn, best rank first, so that a verdict never depends on a worse prediction and holds at
    every threshold of the score. right: IoU >= 0.5 and every label right. class: some label wrong. duplicate: IoU
    >= 0.5 with an object that a better one has found. localisation: IoU >= 0.1 with an object of its class. crowd: on
    a crowd, not counted. background: all else. `right` and the hits among `class` are those that `f1.counts` counts.
    """
    given, crowd = evaluation.candidates, evaluation.images.instances.crowd
    main = evaluation.tasks[0].name
    true, found = evaluation.images.instances.labels[main], evaluation.predictions.labels[main]
    same = true[given.instance] == found[given.prediction]
    matches = f1.main_matches(evaluation)
    on_crowd = np.zeros(len(found), dtype=bool)
    on_crowd[given.prediction[same & crowd[given.instance] & (given.inside >= HIT)]] = True
    objects = np.flatnonzero(~crowd[given.instance])
    overlap, nearest = _nearest(given, objects, len(found))
    own, _ = _nearest(given, objects[same[objects]], len(found))

    kinds, instances = np.full(len(found), "background", dtype=object), matches.hit[0].astype(int)
    kinds[own >= NEAR] = "localisation"
    taken: set[int] = set()
    for row in np.argsort(evaluation.rank):
        if instances[row] < 0 and not on_crowd[row] and overlap[row] >= HIT and nearest[row] not in taken:
            instances[row] = nearest[row]
        if instances[row] >= 0:
            taken.add(int(instances[row]))
            kinds[row] = "right"
        elif on_crowd[row]:
            kinds[row] = "crowd"
        elif overlap[row] >= HIT:
            kinds[row] = "duplicate"
    wrong = np.zeros((len(found), len(evaluation.tasks)), dtype=bool)
    hits = np.flatnonzero(instances >= 0)
    wrong[hits] = f1.wrong_labels(evaluation, hits, instances[hits])
    kinds[wrong.any(axis=1)] = "class"
    return kinds, instances, wrong
