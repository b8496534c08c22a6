"""What the labels of found objects are taken for, background included."""

from __future__ import annotations

import numpy as np

from mtseg.evaluation.average_precision import EVERY
from mtseg.evaluation.matching import HIT
from mtseg.evaluation.overlaps import Matches, Overlaps


def confusion(
    overlaps: Overlaps,
    matches: Matches,
    true: np.ndarray,
    found: np.ndarray,
    scores: np.ndarray,
    *,
    classes: int,
    min_score: float,
) -> np.ndarray:
    """int [classes + 1, classes + 1]: rows truth, columns predicted; the last of both is background.

    Objects that no prediction of at least `min_score` matches are predicted as background; such predictions that
    match none are background taken for something. matches: whatever the class, at IoU 0.5 first. true: int [G], EVERY
    where there is no label: the object and what lies on it count nowhere, as with crowds. found: int [N]. scores [N].
    """
    taken = np.zeros(len(scores), dtype=bool)
    taken[matches.scored] = True
    taken &= scores >= min_score
    unlabelled = (true[overlaps.true] == EVERY) & (overlaps.inside >= HIT)
    on_unlabelled = np.zeros(len(scores), dtype=bool)
    on_unlabelled[overlaps.found[unlabelled]] = True

    objects = matches.objects & (true != EVERY)
    matched = taken & (matches.hit[0] >= 0)
    hit = matches.hit[0][matched]
    labelled = objects[hit]
    missed = objects.copy()
    missed[hit] = False
    alone = taken & ~matched & ~matches.ignored[0] & ~on_unlabelled

    rows = np.concatenate([true[hit[labelled]], true[missed], np.full(alone.sum(), classes)])
    columns = np.concatenate([found[matched][labelled], np.full(missed.sum(), classes), found[alone]])
    matrix = np.zeros((classes + 1, classes + 1), dtype=int)
    np.add.at(matrix, (rows, columns), 1)
    return matrix
