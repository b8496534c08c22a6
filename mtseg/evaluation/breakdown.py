"""What kinds of errors there are, and how much AP50 each kind costs: TIDE.

Follows Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020 (upstream:
tidecv/quantify.py). Three things differ from upstream, which hotcoco follows. An error is put right for itself alone,
as the paper says; upstream the best error of any kind holds its object, and putting right another then does nothing. A
class that is missed altogether is left out of the mean once its objects are taken out, as COCO leaves out classes
without ground truth; upstream it stays as 0, and missing it costs nothing. And crowds are no objects that a prediction
could lie badly on, as they are for hotcoco.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from mtseg.evaluation.average_precision import percent
from mtseg.evaluation.curves import precisions
from mtseg.evaluation.matching import HIT, NEAR
from mtseg.evaluation.overlaps import Matches, Overlaps

KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")
CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
NONE = -1  # the kind of a prediction that is a hit or ignored


def errors(overlaps: Overlaps, matches: Matches, scores: np.ndarray) -> dict[str, Any]:
    """TIDE's six kinds: `ap50`, `cost` (AP50 gained, were this kind of error put right) and `counts`; percent.

    Of predictions: class (IoU >= 0.5 with an object of another class), localisation (0.1 to 0.5 with one of its own),
    both at once, duplicate, background (IoU <= 0.1 with everything). Of objects: missed, and no error above is of it.
    To put right is to give the first error of an object its class or its place, and to take out the other predictions,
    or the object missed. matches: at IoU 0.5 first. scores [N]. `ap50` is None and `cost` empty without ground truth.
    """
    kind, target = _kinds(overlaps, matches)
    counts = [int((kind == error).sum()) for error in range(MISSED)]
    objects = np.bincount(matches.true[matches.objects], minlength=matches.categories)
    used = np.zeros(len(matches.true), dtype=bool)
    used[matches.hit[0][matches.hit[0] >= 0]] = True
    missed = matches.objects & ~used
    missed[target[target >= 0]] = False
    counts.append(int(missed.sum()))

    before = _ap50(matches.found, matches.hit[0] >= 0, matches, scores, objects)
    if before is None:
        return {"ap50": None, "cost": {}, "counts": dict(zip(KINDS, counts, strict=True))}
    after = [_repaired(error, kind, target, used, matches, scores, objects) for error in range(MISSED)]
    left = objects - np.bincount(matches.true[missed], minlength=matches.categories)
    found_all = _ap50(matches.found, matches.hit[0] >= 0, matches, scores, left)
    after.append(1.0 if found_all is None else found_all)
    cost = {name: percent(max(0.0, repaired - before)) for name, repaired in zip(KINDS, after, strict=True)}
    return {"ap50": percent(before), "cost": cost, "counts": dict(zip(KINDS, counts, strict=True))}


def _kinds(overlaps: Overlaps, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """The kind of error of each prediction, int [N], and the object it would be right for, int [N], or -1."""
    pairs = np.flatnonzero(matches.objects[overlaps.true] & (overlaps.iou >= NEAR))
    same = matches.true[overlaps.true[pairs]] == matches.found[overlaps.found[pairs]]
    own, own_object = _nearest(overlaps, pairs[same], len(matches.found))
    other, other_object = _nearest(overlaps, pairs[~same], len(matches.found))

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


def _nearest(overlaps: Overlaps, pairs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each prediction, the greatest IoU among these pairs, 0 without, and the object, -1 without: [N] each."""
    found, true, iou = overlaps.found[pairs], overlaps.true[pairs], overlaps.iou[pairs]
    order = np.lexsort((-true, iou, found))  # the last of a prediction stays; of equal IoUs the first object
    greatest, which = np.zeros(count), np.full(count, -1)
    greatest[found[order]], which[found[order]] = iou[order], true[order]
    return greatest, which


def _repaired(error, kind, target, used, matches: Matches, scores, objects) -> float:
    """AP50 with one kind of error put right."""
    these = np.flatnonzero(kind == error)
    hit, gone, found = matches.hit[0] >= 0, kind == error, matches.found
    if error in (CLASS, LOCALISATION):
        these = these[~used[target[these]]]
        these = these[np.lexsort((these, -scores[these]))]
        first = these[np.unique(target[these], return_index=True)[1]]
        found = found.copy()
        found[first] = matches.true[target[first]]
        hit[first], gone[first] = True, False
    return _ap50(found, hit, matches, scores, objects, gone)


def _ap50(found, hit, matches: Matches, scores, objects, gone=False) -> float | None:
    """Mean AP at IoU 0.5 over the categories with objects. found: int [N]; hit, gone: bool [N]."""
    ignored = matches.ignored[0] | gone
    rows = np.sort(matches.scored)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    rows = rows[np.argsort(found[rows], kind="stable")]
    ends = np.searchsorted(found[rows], np.arange(matches.categories + 1))
    own = [rows[low:high] for low, high in pairwise(ends)]
    curves = [precisions(hit[r], ignored[r], count) for r, count in zip(own, objects, strict=True)]
    defined = [float(curve.mean()) for curve in curves if curve is not None]
    return float(np.mean(defined)) if defined else None
