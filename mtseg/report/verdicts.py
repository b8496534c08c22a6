"""What became of every prediction of one picture, in the words of the report.

The kinds follow TIDE (Bolya et al., ECCV 2020) with one difference: they are given in turn, best score first, so that a
verdict never hangs on a worse prediction. Then they hold at every threshold, and a reader may move it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtseg.core.params import Task
from mtseg.evaluation.matching import HIT, NEAR, Picture, match

# right: IoU >= 0.5 and every label right; label: IoU >= 0.5, some label wrong; duplicate: IoU >= 0.5 with an object
# that a better one has taken; localisation: IoU >= 0.1 with an object of its class; crowd: on a crowd, not counted
Kind = Literal["right", "label", "duplicate", "localisation", "false", "crowd"]


@dataclass(frozen=True)
class Verdict:
    """truth: the instance it found, wrong labels or not, else None. wrong: tasks, by position."""

    kind: Kind
    truth: int | None = None
    wrong: tuple[int, ...] = ()


def judge(picture: Picture, tasks: Sequence[Task]) -> list[Verdict]:
    """A verdict for each of the picture's predictions, best score first. `right` and the hits among `label` are those
    that `scoring.f1` counts."""
    found = np.stack([picture.predicted(task) for task in tasks], axis=1)  # [P, tasks]
    true = np.stack([picture.true(task) for task in tasks], axis=1)  # [G, tasks]
    same = found[:, None, 0] == true[None, :, 0]
    matches = match(picture.overlap, same & ~picture.crowd)
    on_crowd = picture.on_crowd(tasks[0])
    overlap = np.where(picture.crowd, 0.0, picture.overlap)
    taken: set[int] = set()
    verdicts = []
    for row, truth in enumerate(matches.tolist()):
        best = truth if truth >= 0 else int(overlap[row].argmax()) if overlap.size else -1
        if truth >= 0 or (not on_crowd[row] and best >= 0 and overlap[row, best] >= HIT and best not in taken):
            taken.add(best)
            wrong = np.flatnonzero((true[best] >= 0) & (true[best] != found[row])).tolist()
            verdicts.append(Verdict("label" if wrong else "right", best, tuple(wrong)))
        elif on_crowd[row]:
            verdicts.append(Verdict("crowd"))
        elif best >= 0 and overlap[row, best] >= HIT:
            verdicts.append(Verdict("duplicate"))
        else:
            verdicts.append(Verdict("localisation" if (same[row] & (overlap[row] >= NEAR)).any() else "false"))
    return verdicts
