"""The predictions of one split matched with its objects, as all parts of the diagnosis use them.

I images, by id; N predictions; M matches of a prediction and an object. An object is an instance that is no crowd.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mtseg.core.params import Task
from mtseg.core.tables import UNLABELLED, Pairs
from mtseg.evaluation import bootstrap
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT
from mtseg.evaluation.bootstrap import Interval
from mtseg.evaluation.curves import best_f1

SAME_BOX = 0.5  # share of the larger of two boxes that they have in common, if they are about the same


class Split:
    """Predictions and ground truth of a split, class-agnostic matches, and the most used figures."""

    def __init__(self, evaluation: Evaluation):
        self.evaluation = evaluation
        self.images, self.predictions, self.tasks = evaluation.images, evaluation.predictions, evaluation.tasks
        self.image = evaluation.image  # int [N], row of the image
        self.trained = tuple(task for task in self.tasks if task.loss_weight)  # a task of weight 0 is not trained
        self.score = evaluation.scores_by("main_quality")
        instances = self.images.instances
        self.objects = np.bincount(
            instances.image[~instances.crowd], minlength=len(self.images)
        )  # number of objects [I]

    @cached_property
    def best(self) -> np.ndarray:
        """int, ascending: rows of the best prediction of each query."""
        rank = self.evaluation.rank_by(self.evaluation.scores_by("product_quality"))
        return np.flatnonzero(self.evaluation.best_of_query(rank))

    @cached_property
    def matches(self) -> Pairs:
        """`best` predictions matched with objects, greedily by score at mask IoU >= 0.5, class-agnostic. Columns of
        `Pairs`, and `image`, the row of the image."""
        one_class = [np.zeros(len(table), dtype=int) for table in (self.images.instances, self.predictions)]
        count = len(self.predictions)
        kept = np.isin(np.arange(count), self.best)
        options = {"kept": kept, "rank": self.evaluation.rank_by(self.score), "thresholds": np.array([HIT])}
        hit = self.evaluation.match(*one_class, categories=1, max_dets=count, **options).first_hit
        pairs = self.evaluation.pairs
        matches = pairs[hit[pairs.prediction] == pairs.instance]
        return matches.replace(image=self.image[matches.prediction])

    def labelled(self, task: Task) -> Pairs:
        """The matches whose object has a label of the task, with columns `label` (predicted) and `true` (annotated)."""
        true = self.images.instances.labels[task.name][self.matches.instance]
        label = self.predictions.labels[task.name][self.matches.prediction]
        kept = true != UNLABELLED
        return self.matches[kept].replace(label=label[kept], true=true[kept])

    def mean(self, values: np.ndarray, of: Pairs) -> Interval:
        """Mean of values [M], one of each match in `of`, with its interval."""
        return bootstrap.mean(values, of.image, len(self.images))

    def per_image(self, rows: np.ndarray) -> np.ndarray:
        """int [I]: number of these predictions in each image. rows: int, of the predictions."""
        return np.bincount(self.image[rows], minlength=len(self.images))

    @cached_property
    def best_iou(self) -> np.ndarray:
        """[N]: the largest mask IoU of each prediction with an object."""
        pairs, greatest = self.evaluation.pairs, np.zeros(len(self.predictions))
        np.maximum.at(greatest, pairs.prediction, np.where(self.images.instances.crowd[pairs.instance], 0, pairs.iou))
        return greatest

    @cached_property
    def threshold(self) -> float:
        """The score threshold with the highest class-agnostic F1 of the best predictions; 0.5 without matches."""
        rows = self.best[np.argsort(-self.score[self.best], kind="stable")]
        hit = np.isin(rows, self.matches.prediction)
        _, score = best_f1(hit, self.score[rows], int(self.objects.sum()))
        return 0.5 if score is None else score

    @cached_property
    def ignored(self) -> np.ndarray:
        """bool [N]: whether a prediction without a match lies on a crowd by half or more: it is neither right nor
        wrong, as in COCO's evaluation."""
        pairs = self.evaluation.candidates
        on_crowd = np.zeros(len(self.predictions), dtype=bool)
        on_crowd[pairs.prediction[pairs.crowd[pairs.instance] & (pairs.inside >= HIT)]] = True
        on_crowd[self.matches.prediction] = False
        return on_crowd

    def confident(self, threshold: float | None = None) -> np.ndarray:
        """int: those of `best`, but `ignored`, whose score is at least the threshold, by default `self.threshold`."""
        least = self.threshold if threshold is None else threshold
        return self.best[(self.score[self.best] >= least) & ~self.ignored[self.best]]

    @cached_property
    def collapsed(self) -> bool:
        """Whether all queries give the same logits in most images: the network has stopped learning."""
        logits = np.column_stack([self.predictions.logits[task.name] for task in self.tasks])[self.best]
        parts = [logits[own] for own in by_image(self.image[self.best], len(self.images))]
        same = [float(np.ptp(part, axis=0).max()) < 1e-3 for part in parts if len(part) > 1]
        return bool(same) and bool(np.mean(same) > 0.5)

    def shared(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """bool [N] each: whether the logits of a task are also those of another image; and whether the box is about the
        same in most of these images, as a share of the longer side: in an image of another shape the mask is cut."""
        vector = np.unique(self.predictions.logits[task.name], axis=0, return_inverse=True)[1].ravel()
        alike = several(vector, of=self.image)[vector]
        rows = np.unique(np.column_stack([vector, self.image]), axis=0, return_index=True)[1]  # one of each image
        of, first = vector[rows], np.unique(vector[rows], return_index=True)[1]
        box = (self.predictions.box / np.maximum(self.images.width, self.images.height)[self.image][:, None])[rows]
        other = box[first][of]
        low, high = (
            np.maximum(box[:, :2], other[:, :2]),
            np.minimum(box[:, :2] + box[:, 2:], other[:, :2] + other[:, 2:]),
        )
        agree = (high - low).clip(0).prod(1) >= SAME_BOX * np.maximum(box[:, 2:].prod(1), other[:, 2:].prod(1))
        same = 2 * (np.bincount(of, agree) - 1) >= np.bincount(of) - 1  # the first agrees with itself
        return alike, alike & same[vector]

    @property
    def missed(self) -> float:
        """Share of the objects without a match."""
        return 1 - len(self.matches) / max(int(self.objects.sum()), 1)


def several(*columns: np.ndarray, of: np.ndarray) -> np.ndarray:
    """bool: for each distinct row of the columns, sorted: whether it occurs with more than one value of `of`."""
    distinct = np.unique(np.column_stack([*columns, of]), axis=0)
    return np.unique(distinct[:, :-1], axis=0, return_counts=True)[1] > 1


def by_image(images: np.ndarray, count: int, rank: np.ndarray | None = None) -> list[np.ndarray]:
    """For each of `count` images the indices, int [n], at which `images` holds its row: ascending, or by `rank`."""
    order = np.argsort(images, kind="stable") if rank is None else np.lexsort((rank, images))
    return np.split(order, np.searchsorted(images[order], np.arange(1, count))) if count else []
