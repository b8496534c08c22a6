"""Precision, recall and F1 of predictions as they stand, whatever their scores: what a reader of overlays sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mtseg.core.params import Task
from mtseg.core.tables import Prediction
from mtseg.evaluation.matching import HIT, Picture


class Tally:
    """Counts the hits of any of the predictions of some pictures, their masks compared once.

    A hit has IoU >= 0.5 and the main class; a prediction takes the instance that it overlaps most of those that none
    before it took. Where an instance has no label of a further task, any is right. Crowds are not instances, and a
    prediction half inside a crowd of its class is not counted unless it is a hit.
    """

    def __init__(self, pictures: Sequence[Picture], tasks: Sequence[Task]):
        self.predictions = [prediction for picture in pictures for prediction in picture.predictions]
        self.picture = np.repeat(np.arange(len(pictures)), [len(picture.predictions) for picture in pictures])
        self.instances = np.array([(~picture.crowd).sum() for picture in pictures], dtype=int)
        self.on_crowd = np.array([on for picture in pictures for on in picture.on_crowd(tasks[0])], dtype=bool)
        self.rivals = list(_rivals(pictures, tasks))

    def rows(self, predictions: Iterable[Prediction]) -> np.ndarray | None:
        """int: where these, the very same objects, are among the pictures' predictions; None if one is not."""
        row = {id(prediction): row for row, prediction in enumerate(self.predictions)}
        rows = [row.get(id(prediction)) for prediction in predictions]
        return None if None in rows else np.array(rows, dtype=int)

    def counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """int [pictures, 4]: predictions, instances, hits, hits with every label right.

        rows: of the predictions to count, bool [P] or int; all, if not given.
        """
        chosen = np.zeros(len(self.predictions), dtype=bool)
        chosen[slice(None) if rows is None else rows] = True
        taken: set[int] = set()
        hits, right = [], []
        for row, instances in self.rivals:
            if chosen[row] and (free := next((pair for pair in instances if pair[0] not in taken), None)):
                taken.add(free[0])
                hits.append(row)
                right += [row] * free[1]
        counted = chosen & ~self.on_crowd
        counted[hits] = True
        found, hit, both = (
            np.bincount(self.picture[own], minlength=len(self.instances)) for own in (counted, hits, right)
        )
        return np.stack([found, self.instances, hit, both], axis=1)


def count(picture: Picture, tasks: Sequence[Task]) -> np.ndarray:
    """int [4] of one picture, as `Tally.counts` has them."""
    return Tally([picture], tasks).counts()[0]


def summary(counts: Sequence[np.ndarray] | np.ndarray) -> dict[str, float]:
    """Precision, recall, f1 and joint_f1 over the counts of some pictures: percent, 3 decimals, undefined left out."""
    found, true, hit, right = (int(count) for count in np.sum(counts, axis=0))
    parts = {
        "precision": (hit, found),
        "recall": (hit, true),
        "f1": (2 * hit, found + true),
        "joint_f1": (2 * right, found + true),
    }
    return {name: round(100 * part / whole, 3) for name, (part, whole) in parts.items() if whole}


def _rivals(pictures: Sequence[Picture], tasks: Sequence[Task]) -> Iterator[tuple[int, list[tuple[int, bool]]]]:
    """Every prediction that may hit, and what it may hit, the best first: (instance, whether all labels are right)."""
    main, *further = tasks
    row = instance = 0  # the picture's first
    for picture in pictures:
        allowed = (picture.predicted(main)[:, None] == picture.true(main)[None, :]) & ~picture.crowd
        right = np.ones_like(allowed)
        for task in further:
            true = picture.true(task)
            right &= (true < 0) | (picture.predicted(task)[:, None] == true)
        allowed &= picture.overlap >= HIT
        for own in np.flatnonzero(allowed.any(axis=1)):
            best = sorted(np.flatnonzero(allowed[own]), key=lambda i: -picture.overlap[own, i])
            yield row + int(own), [(instance + int(i), bool(right[own, i])) for i in best]
        row, instance = row + allowed.shape[0], instance + allowed.shape[1]
