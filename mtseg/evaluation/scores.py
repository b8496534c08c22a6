"""How good predictions are: COCO AP of every task and of all labels together, and label accuracy on what was found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mtseg.core.params import Ranking, Task
from mtseg.core.tables import UNLABELLED, Images, Pairs, Predictions
from mtseg.evaluation import pairs as overlapping
from mtseg.evaluation import rankings
from mtseg.evaluation.average_precision import SIZES, average_precision, coco_numbers, mean, percent
from mtseg.evaluation.matching import HIT, Candidates, Matches, match


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
        """For `match`, by masks."""
        return self._candidates(self.pairs, self.predictions.area)

    def _candidates(self, pairs: Pairs, area: np.ndarray) -> Candidates:
        true, inside = self.images.instances, pairs.intersection / area[pairs.prediction]
        return Candidates(
            self.image, area, true.image, true.area, true.crowd, pairs.prediction, pairs.instance, pairs.iou, inside
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

    def labelled(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the predictions that match an object with a label of the task, class-agnostic, and of the objects."""
        hit = self.class_agnostic.hit[0]
        rows = np.flatnonzero(hit >= 0)
        rows = rows[self.images.instances.labels[task.name][hit[rows]] != UNLABELLED]
        return rows, hit[rows]

    def coco(self) -> dict[str, dict[str, float]]:
        """`segm` and `bbox`: COCO's numbers of the main task."""
        boxes = self.predictions.box[:, 2:].prod(1)
        kinds = {
            "segm": self.candidates,
            "bbox": self._candidates(overlapping.of_boxes(self.images, self.predictions), boxes),
        }
        return {
            kind: coco_numbers(
                {size: self.of_task(self.tasks[0], given=given, sizes=limits) for size, limits in SIZES.items()},
                given, self.max_dets,
            )
            for kind, given in kinds.items()
        }  # fmt: skip


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


def metrics(evaluation: Evaluation) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and a table of classes, in percent with 3 decimals; what is undefined is left out (None in the table).

    Metrics: `segm` and `bbox`, COCO's 12 numbers of the main task; `tasks.NAME.AP|accuracy|f1`; `joint.AP|AP50`, whose
    categories are the combinations of labels in the ground truth. Table: task, class, instances, AP, AP50, accuracy.

    AP is at the largest of `max_dets`. An object without a task's label is ignored in that task's AP and in the joint
    one, as a crowd is. Accuracy and macro-F1 are of the labels on objects matched at mask IoU >= 0.5, class-agnostic.
    """
    found, rows = {"joint": _summary(evaluation.average_precision(evaluation.joint), "AP", "AP50"), "tasks": {}}, []
    for task in evaluation.tasks:
        matches = evaluation.matches[task.name]
        scored, confusion = evaluation.average_precision(matches), _confusion(evaluation, task)
        found["tasks"][task.name] = _summary(scored, "AP") | _label_scores(confusion)
        rows += _class_rows(matches.true[matches.objects], task, scored, confusion)
    return found | evaluation.coco(), rows


def headline(images: Images, predictions: Predictions, tasks: Sequence[Task]) -> dict[str, float]:
    """What training reports of its validation, in percent: segm_AP, joint_AP, TASK_accuracy. By COCO's 100 detections
    and the product of probabilities, not by the params of the test section, which may change without training anew."""
    evaluation = Evaluation(images, predictions, tasks=tasks, ranking="product_quality")
    main, joint = evaluation.matches[evaluation.tasks[0].name], evaluation.joint
    row = {
        name: _summary(evaluation.average_precision(matches), "AP").get("AP", 0.0)
        for name, matches in (("segm_AP", main), ("joint_AP", joint))
    }
    accuracies = {task.name: _label_scores(_confusion(evaluation, task)) for task in evaluation.tasks}
    return row | {f"{name}_accuracy": own["accuracy"] for name, own in accuracies.items() if own}


def _summary(scored: np.ndarray, *names: str) -> dict[str, float]:
    """AP and AP50, those that are asked for and defined."""
    numbers = {"AP": mean(scored)[0], "AP50": mean(scored[:, :, :1])[0]}
    return {name: percent(numbers[name]) for name in names if not np.isnan(numbers[name])}


def _confusion(evaluation: Evaluation, task: Task) -> np.ndarray:
    """int [true, predicted] of the labelled objects that were matched."""
    rows, objects = evaluation.labelled(task)
    counts = np.zeros((task.num_classes, task.num_classes), dtype=int)
    true, found = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
    np.add.at(counts, (true[objects], found[rows]), 1)
    return counts


def _label_scores(confusion: np.ndarray) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur; nothing when nothing was matched."""
    if not confusion.any():
        return {}
    right, occurring = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    f1 = 2 * right[occurring > 0] / occurring[occurring > 0]
    return {"accuracy": percent(right.sum() / confusion.sum()), "f1": percent(f1.mean())}


def _class_rows(true: np.ndarray, task: Task, scored: np.ndarray, confusion: np.ndarray) -> list[dict[str, Any]]:
    """true: int, of the labelled objects, crowds left out."""
    rows = []
    for index, name in enumerate(task.classes):
        matched = confusion[index].sum()
        rows.append(
            {
                "task": task.name,
                "class": name,
                "instances": int((true == index).sum()),
                **dict.fromkeys(("AP", "AP50")),
                **_summary(scored[:, index : index + 1], "AP", "AP50"),
                "accuracy": percent(confusion[index, index] / matched) if matched else None,
            }
        )
    return rows
