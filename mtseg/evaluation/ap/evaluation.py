"""Predictions beside the ground truth, matched in every way that is asked about: what all figures are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mtseg.core.params import Ranking, Task
from mtseg.core.tables import UNLABELLED, Images, Pairs, Predictions
from mtseg.evaluation.ap import pairs as overlapping
from mtseg.evaluation.ap import rankings
from mtseg.evaluation.ap.average_precision import average_precision
from mtseg.evaluation.ap.matching import HIT, NEAR, Candidates, Matches, match


class Evaluation:
    """Predictions beside the ground truth of their images, matched in every way that is asked about, each once.

    pairs: of `evaluation.pairs`, computed here unless given. ranking: the score that orders predictions. max_dets: a
    category's predictions in an image that count in AP, the largest of them. Raises UserError on predictions for images
    that are not among `images`.
    """

    def __init__(
        self, images: Images, predictions: Predictions, pairs: Pairs | None = None, *, tasks: Sequence[Task],
        ranking: Ranking, max_dets: Sequence[int] = (100,),
    ):  # fmt: skip
        self.images, self.predictions, self.tasks = images, predictions, tuple(tasks)
        self.ranking, self.max_dets = ranking, tuple(max_dets)
        self.image = overlapping.check(images, predictions)  # int [N], row of the image
        self.pairs = overlapping.of_masks(images, predictions) if pairs is None else pairs

    @cached_property
    def candidates(self) -> Candidates:
        """The pairs of masks that lie near each other: IoU >= 0.1, or half of the prediction inside the object."""
        return self.candidates_of(self.pairs, self.predictions.area)

    def candidates_of(self, pairs: Pairs, area: np.ndarray) -> Candidates:
        """The same of other pairs, such as of boxes. area: [N], of the predictions."""
        true, inside = self.images.instances, pairs.intersection / area[pairs.prediction]
        near = (pairs.iou >= NEAR) | (inside >= HIT)
        prediction, instance = pairs.prediction[near], pairs.instance[near]
        return Candidates(
            self.image, area, true.image, true.area, true.crowd, prediction, instance, pairs.iou[near], inside[near]
        )

    @cached_property
    def all_scores(self) -> dict[Ranking, np.ndarray]:
        """The score of every ranking, [N] each."""
        return rankings.scores(self.predictions)

    @property
    def scores(self) -> np.ndarray:
        """[N], of the ranking."""
        return self.all_scores[self.ranking]

    @cached_property
    def ties(self) -> np.ndarray:
        return rankings.order(self.predictions)

    @cached_property
    def rank(self) -> np.ndarray:
        """int [N], 0 the best."""
        return self.rank_by(self.scores)

    def rank_by(self, scores: np.ndarray) -> np.ndarray:
        return rankings.ranks(scores, self.ties)

    def best_of_query(self, rank: np.ndarray | None = None, task: Task | None = None) -> np.ndarray:
        """bool [N]: the best of the predictions that share a query, hence a mask; of a task, that share its label
        too."""
        shared = [self.predictions.query, self.image]
        if task:
            shared.insert(0, self.predictions.labels[task.name])
        order = np.lexsort((self.rank if rank is None else rank, *shared))
        first = np.ones(len(order), dtype=bool)
        first[1:] = np.any([np.diff(column[order]) != 0 for column in shared], axis=0)
        best = np.zeros(len(order), dtype=bool)
        best[order[first]] = True
        return best

    def match(self, true: np.ndarray, found: np.ndarray, *, categories: int, **options: Any) -> Matches:
        """`matching.match` of these predictions, by `rank` unless another is given."""
        options = {"most": max(self.max_dets), "rank": self.rank} | options
        return match(options.pop("given", self.candidates), true, found, categories=categories, **options)

    def of_task(self, task: Task, rank: np.ndarray | None = None, **options: Any) -> Matches:
        """Matches of one task. Of a query, hence mask, the best prediction counts; of the main task the best of each
        class."""
        rank = self.rank if rank is None else rank
        kept = self.best_of_query(rank, task if task is self.tasks[0] else None)
        true, found = self.images.instances.labels[task.name], self.predictions.labels[task.name]
        return self.match(true, found, categories=task.num_classes, rank=rank, kept=kept, **options)

    @cached_property
    def matches(self) -> dict[str, Matches]:
        """By task."""
        return {task.name: self.of_task(task) for task in self.tasks}

    @cached_property
    def class_agnostic(self) -> Matches:
        """At IoU 0.5, masks alone, the best prediction of each query."""
        true, found = (np.zeros(len(table), dtype=int) for table in (self.images.instances, self.predictions))
        options = {"most": len(found), "kept": self.best_of_query(), "thresholds": np.array([HIT])}
        return self.match(true, found, categories=1, **options)

    @cached_property
    def joint(self) -> Matches:
        """All labels as one category: the combinations in the ground truth."""
        return self.joint_with({})

    def joint_with(self, labels: dict[str, np.ndarray], **options: Any) -> Matches:
        """The same with other predicted labels of some tasks, int [N] each."""
        true, found, names = combined(self.images, self.predictions.labels | labels, self.tasks)
        return self.match(true, found, categories=len(names), **options)

    def joint_with_right(self, task: Task) -> Matches:
        """The same, had every matched prediction the right label of one task."""
        true, hit = self.images.instances.labels[task.name], self.class_agnostic.hit[0]
        rows = np.flatnonzero(hit >= 0)
        rows = rows[true[hit[rows]] != UNLABELLED]
        found = self.predictions.labels[task.name].copy()
        found[rows] = true[hit[rows]]
        return self.joint_with({task.name: found})

    def average_precision(self, matches: Matches, weights: np.ndarray | None = None) -> np.ndarray:
        """AP [B, categories, thresholds], 0 to 1, NaN without ground truth. weights: [B, images], default ones."""
        weights = np.ones((1, len(self.images))) if weights is None else weights
        return average_precision(matches, self.candidates, weights)

    def class_probabilities(self, task: Task) -> np.ndarray:
        """[N, classes], the no-object slot left out: they are asked of objects, which are there."""
        probabilities = self.predictions.probabilities[task.name][:, : task.num_classes]
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def labelled(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the predictions that match an object with a label of the task, class-agnostic, and of the objects."""
        hit = self.class_agnostic.hit[0]
        rows = np.flatnonzero(hit >= 0)
        rows = rows[self.images.instances.labels[task.name][hit[rows]] != UNLABELLED]
        return rows, hit[rows]


def combined(
    images: Images, labels: dict[str, np.ndarray], tasks: Sequence[Task]
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, ...]]]:
    """All labels as one category: int [G], int [N], and the combinations of class names in the ground truth, sorted.

    An object that lacks a label is UNLABELLED. A prediction of a combination that the ground truth lacks has the number
    past the last, as with classes that COCO's ground truth lacks.
    """
    shape = [task.num_classes for task in tasks]
    true = np.column_stack([images.instances.labels[task.name] for task in tasks])
    whole = (true != UNLABELLED).all(axis=1)
    # the numbers of a mixed-radix system sort as the tuples do
    codes, numbers = np.unique(np.ravel_multi_index(true[whole].T, shape), return_inverse=True)
    true_number = np.full(len(true), UNLABELLED)
    true_number[whole] = numbers
    code = np.ravel_multi_index([labels[task.name] for task in tasks], shape)
    place = np.searchsorted(codes, code)
    known = np.append(codes, -1)[place] == code
    combinations = zip(*np.unravel_index(codes, shape), strict=True)
    names = [tuple(task.classes[i] for task, i in zip(tasks, own, strict=True)) for own in combinations]
    return true_number, np.where(known, place, len(codes)), names
