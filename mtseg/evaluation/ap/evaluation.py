"""Predictions, ground truth and their matches: all metrics are computed from an `Evaluation`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from mtseg.core.params import Ranking, Task
from mtseg.core.tables import PART, UNLABELLED, Images, Pairs, Predictions
from mtseg.evaluation.ap import pairs as overlapping
from mtseg.evaluation.ap import rankings
from mtseg.evaluation.ap.average_precision import average_precision, mean
from mtseg.evaluation.ap.matching import HIT, NEAR, Candidates, Matches, cuts, inverse, match


class Evaluation:
    """Predictions and the ground truth of their images. Matches are computed on first use and cached.

    pairs: as `ap.pairs.of_masks` returns them; computed if None. ranking: the score that predictions are sorted by.
    max_dets: COCO's maxDets; AP counts the largest number of predictions per image and category. Raises UserError if
    the image of a prediction is not among `images`.
    """

    def __init__(
        self, images: Images, predictions: Predictions, pairs: Pairs | None = None, *, tasks: Sequence[Task],
        ranking: Ranking, max_dets: Sequence[int] = (100,),
    ):  # fmt: skip
        self.images, self.predictions, self.tasks = images, predictions, tuple(tasks)
        self.ranking, self.max_dets = ranking, tuple(max_dets)
        self._known_groups: dict[str | None, np.ndarray] = {}
        self.image = overlapping.check(images, predictions)  # int [N], row of the image
        self.pairs = overlapping.of_masks(images, predictions) if pairs is None else pairs

    @cached_property
    def _most(self) -> int:
        """The largest number of predictions of an image."""
        return int(np.bincount(self.image).max(initial=0))

    @cached_property
    def _cuts(self) -> np.ndarray:
        """Of `Candidates`."""
        return cuts(self.image, PART)

    def replace(self, **changes: Any) -> Evaluation:
        """Another evaluation with some of the arguments changed. Other images or predictions need their `pairs`."""
        names = ("images", "predictions", "pairs", "tasks", "ranking", "max_dets")
        return Evaluation(**{name: getattr(self, name) for name in names} | changes)

    @cached_property
    def candidates(self) -> Candidates:
        """The pairs of masks with IoU >= 0.1, or with half of the prediction inside the object."""
        return self.candidates_of(self.pairs, self.predictions.once("area"))

    def candidates_of(self, pairs: Pairs, area: np.ndarray) -> Candidates:
        """Candidates of other pairs. area: [N], of the predictions."""
        names, parts = ("prediction", "instance", "iou", "intersection"), []
        for (_, row), *others in zip(*map(pairs.parts, names), strict=True):
            column, iou, intersection = (own for _, own in others)
            inside = intersection / area[row]
            near = np.flatnonzero((iou >= NEAR) | (inside >= HIT))
            parts.append(tuple(own[near] for own in (row, column, iou, inside)))
        return self._candidates(parts, area)

    def candidates_of_boxes(self) -> Candidates:
        """Those of the boxes in place of the masks."""
        area = np.concatenate([np.zeros(0), *(box[:, 2:].prod(1) for _, box in self.predictions.parts("box"))])
        return self._candidates([*overlapping.of_boxes(self.images, self.predictions, self.image)], area)

    def _candidates(self, parts: list[tuple[np.ndarray, ...]], area: np.ndarray) -> Candidates:
        """parts: of the pairs, see `ap.pairs.joined`; they are emptied."""
        true = self.images.instances
        narrow = area.astype(np.float32)  # exact for pixels
        area = narrow if (narrow == area).all() else area
        of_pairs = overlapping.joined(parts)
        return Candidates(self.image, area, true.image, true.area, true.crowd, *of_pairs, self._most, self._cuts)

    @cached_property
    def scores(self) -> np.ndarray:
        """The scores [N] of this evaluation's ranking."""
        return self.scores_by(self.ranking)

    def scores_by(self, ranking: Ranking) -> np.ndarray:
        """The scores [N] of a ranking."""
        return rankings.score(self.predictions, ranking)

    @cached_property
    def tie_order(self) -> np.ndarray:
        """int [N]: the order of predictions with equal scores, see `rankings.order`."""
        return rankings.order(self.predictions, self.image, self._cuts)

    @cached_property
    def rank(self) -> np.ndarray:
        """int [N]: rank of each prediction, 0 the best."""
        return self.rank_by(self.scores)

    @property
    def order(self) -> np.ndarray:
        """int [N]: the predictions by rank, the best first."""
        return inverse(self.rank)

    def rank_by(self, scores: np.ndarray) -> np.ndarray:
        return rankings.ranks(scores, self.tie_order)

    def best_of_query(self, rank: np.ndarray | None = None, task: Task | None = None) -> np.ndarray:
        """bool [N]: whether a prediction is the best of its query, hence of its mask; with `task`, the best of its
        query and its label of that task."""
        rank, group = self.rank if rank is None else rank, self._groups(None if task is None else task.name)
        least = np.full(group.max(initial=-1) + 1, len(rank), dtype=np.int32)
        np.minimum.at(least, group, rank)
        return rank == least[group]

    def _groups(self, task: str | None) -> np.ndarray:
        """int [N]: the number of each prediction's query, or of its query and its label of a task."""
        if task not in self._known_groups:
            query, groups, count = self.predictions.once("query"), np.empty(len(self.image), dtype=np.int32), 0
            labels = self.predictions.labels[task] if task else np.broadcast_to(np.int8(0), len(query))
            sizes = [int(own.max(initial=0)) + 1 for own in (query, labels)]
            for low, high in pairwise(self._cuts):
                own = slice(low, high)
                keys = (self.image[own].astype(np.int64) * sizes[0] + query[own]) * sizes[1] + labels[own]
                known, number = np.unique(keys, return_inverse=True)
                groups[own], count = count + number, count + len(known)
            self._known_groups[task] = groups
        return self._known_groups[task]

    def match(self, true: np.ndarray, predicted: np.ndarray, *, categories: int, **options: Any) -> Matches:
        """`matching.match` of these predictions; by default with `candidates`, `rank` and the largest of `max_dets`."""
        options = {"max_dets": max(self.max_dets), "rank": self.rank} | options
        return match(options.pop("candidates", self.candidates), true, predicted, categories=categories, **options)

    def of_task(self, task: Task, rank: np.ndarray | None = None, **options: Any) -> Matches:
        """Matches by the labels of one task. Only the best prediction of a query counts, of the main task the best of a
        query and class."""
        rank = self.rank if rank is None else rank
        kept = self.best_of_query(rank, task if task is self.tasks[0] else None)
        true, predicted = self.images.instances.labels[task.name], self.predictions.labels[task.name]
        return self.match(true, predicted, categories=task.num_classes, rank=rank, kept=kept, **options)

    @cached_property
    def matches(self) -> dict[str, Matches]:
        """{task: matches}."""
        return {task.name: self.of_task(task) for task in self.tasks}

    @cached_property
    def class_agnostic(self) -> Matches:
        """Matches at IoU 0.5 without regard to labels, of the best prediction of each query."""
        tables = (self.images.instances, self.predictions)
        true, predicted = (np.broadcast_to(np.int32(0), len(table)) for table in tables)
        options = {"max_dets": len(predicted), "kept": self.best_of_query(), "thresholds": np.array([HIT])}
        return self.match(true, predicted, categories=1, **options)

    @cached_property
    def joint(self) -> Matches:
        """Matches with combinations of labels as categories: those in the ground truth."""
        return self.joint_with({})

    def joint_with(self, labels: dict[str, np.ndarray], **options: Any) -> Matches:
        """`joint` with other predicted labels of some tasks: {task: int [N]}."""
        true, predicted, names = combined(self.images, self.predictions.labels | labels, self.tasks)
        return self.match(true, predicted, categories=len(names), **options)

    def joint_with_true_labels(self, task: Task) -> Matches:
        """`joint` if every prediction of `class_agnostic` that matches an object had the object's label of one task."""
        return self.joint_with({task.name: self._with_true_labels(task)})

    def _with_true_labels(self, task: Task) -> np.ndarray:
        true, hit = self.images.instances.labels[task.name], self.class_agnostic.first_hit
        rows = np.flatnonzero(hit >= 0)
        rows = rows[true[hit[rows]] != UNLABELLED]
        predicted = self.predictions.labels[task.name].copy()
        predicted[rows] = true[hit[rows]]
        return predicted

    def average_precision(self, matches: Matches, weights: np.ndarray | None = None) -> np.ndarray:
        """AP [B, categories, IoU thresholds], 0 to 1, NaN without ground truth. weights: [B, images], by default 1."""
        return average_precision(matches, self.candidates, weights)

    def ap(self, matches: Matches) -> float:
        """Mean of `average_precision` over thresholds and the categories with objects, 0 to 1; NaN without objects."""
        return float(mean(self.average_precision(matches))[0])

    def class_probabilities(self, task: Task, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Probabilities [n, classes] of these predictions, normalised without the no-object slot."""
        probabilities = self.predictions.take(f"probabilities.{task.name}", rows)[:, : task.num_classes]
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def labelled(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """The class-agnostic matches whose object has a label of the task: rows of predictions and rows of instances,
        int [n] each."""
        hit = self.class_agnostic.first_hit
        rows = np.flatnonzero(hit >= 0)
        rows = rows[self.images.instances.labels[task.name][hit[rows]] != UNLABELLED]
        return rows, hit[rows]


def combined(
    images: Images, labels: dict[str, np.ndarray], tasks: Sequence[Task]
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, ...]]]:
    """Combinations of all labels as categories: of instances, int [G]; of predictions, int [N]; and their class names,
    sorted.

    The categories are the combinations in the ground truth. An instance without a label of some task is UNLABELLED. A
    prediction of any other combination gets the number of categories, and is ignored as COCO ignores classes without
    ground truth.
    """
    true = np.column_stack([images.instances.labels[task.name] for task in tasks])
    whole = (true != UNLABELLED).all(axis=1)
    # The combinations of the first tasks are numbered, then those of these numbers and the next task's labels: with
    # many tasks the product of their numbers of classes exceeds 64 bits. The numbers sort as the tuples do.
    code, known = np.zeros(whole.sum(), dtype=np.int64), []
    for task, column in zip(tasks, true[whole].T, strict=True):
        values, code = np.unique(code * task.num_classes + column, return_inverse=True)
        known.append(values)
    true_number = np.full(len(true), UNLABELLED, dtype=np.int32)
    true_number[whole] = code
    numbers = np.empty(len(labels[tasks[0].name]), dtype=np.int32)
    for low in range(0, len(numbers), PART):
        part = np.zeros(len(numbers[low : low + PART]), dtype=np.int64)
        for task, values in zip(tasks, known, strict=True):
            wanted = part * task.num_classes + labels[task.name][low : low + PART]
            part = np.searchsorted(values, wanted)
            part[np.append(values, -1)[part] != wanted] = len(values)  # above every value of the next task, too
        numbers[low : low + PART] = part
    combinations = true[whole][np.unique(code, return_index=True)[1]]
    names = [tuple(task.classes[i] for task, i in zip(tasks, own, strict=True)) for own in combinations]
    return true_number, numbers, names
