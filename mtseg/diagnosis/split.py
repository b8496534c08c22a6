"""What a diagnosis asks of one split: the best prediction of each query, and the objects that these match.

I images, by id; N predictions; G instances; M matches of a prediction and an object; K outputs of a task's head.
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


class Split:
    def __init__(self, evaluation: Evaluation):
        self.evaluation = evaluation
        self.images, self.predictions, self.tasks = evaluation.images, evaluation.predictions, evaluation.tasks
        self.image = evaluation.image  # int [N], row of the image
        self.trained = tuple(task for task in self.tasks if task.loss_weight)  # a muted task learns nothing
        self.score = evaluation.all_scores["main_quality"]
        instances = self.images.instances
        self.objects = np.bincount(instances.image[~instances.crowd], minlength=len(self.images))  # [I]

    @cached_property
    def best(self) -> np.ndarray:
        """int, ascending: the rows of the best prediction of each query."""
        rank = self.evaluation.rank_by(self.evaluation.all_scores["product_quality"])
        return np.flatnonzero(self.evaluation.best_of_query(rank))

    @cached_property
    def matches(self) -> Pairs:
        """The objects found: greedily by score at mask IoU >= 0.5, class-agnostic. A column `image` beside those of
        `Pairs`."""
        true, found = (np.zeros(len(table), dtype=int) for table in (self.images.instances, self.predictions))
        kept = np.isin(np.arange(len(found)), self.best)
        rank, at = self.evaluation.rank_by(self.score), np.array([HIT])
        options = {"most": len(found), "kept": kept, "rank": rank, "thresholds": at}
        hit = self.evaluation.match(true, found, categories=1, **options).hit[0]
        pairs = self.evaluation.pairs
        own = pairs[hit[pairs.prediction] == pairs.instance]
        return own.replace(image=self.image[own.prediction])

    def labelled(self, task: Task) -> Pairs:
        """The matches whose object has a label of the task: columns `label`, the predicted one, and `true` beside."""
        true = self.images.instances.labels[task.name][self.matches.instance]
        kept = true != UNLABELLED
        found = self.predictions.labels[task.name][self.matches.prediction]
        return self.matches[kept].replace(label=found[kept], true=true[kept])

    def mean(self, values: np.ndarray, of: Pairs) -> Interval:
        """Mean of values [M] of matches."""
        return bootstrap.mean(values, of.image, len(self.images))

    def per_image(self, rows: np.ndarray) -> np.ndarray:
        """int [I]: how many of these predictions each image has."""
        return np.bincount(self.image[rows], minlength=len(self.images))

    @cached_property
    def nearest(self) -> np.ndarray:
        """[N]: the greatest mask IoU with an object that is no crowd."""
        pairs, greatest = self.evaluation.pairs, np.zeros(len(self.predictions))
        np.maximum.at(greatest, pairs.prediction, np.where(self.images.instances.crowd[pairs.instance], 0, pairs.iou))
        return greatest

    @cached_property
    def threshold(self) -> float:
        """The score at which the best predictions of the queries have the best F1, class-agnostic."""
        rows = self.best[np.argsort(-self.score[self.best], kind="stable")]
        hit = np.isin(rows, self.matches.prediction)
        if not hit.any():
            return 0.5
        f1 = 2 * np.cumsum(hit) / (np.arange(1, len(rows) + 1) + self.objects.sum())
        return float(self.score[rows[f1.argmax()]])

    def confident(self, threshold: float | None = None) -> np.ndarray:
        """int: the best rows whose score is at least the threshold, by default `self.threshold`."""
        return self.best[self.score[self.best] >= (self.threshold if threshold is None else threshold)]

    @cached_property
    def collapsed(self) -> bool:
        """Whether in most images all queries give the same logits: a network that learns nothing any more."""
        logits = np.column_stack([self.predictions.logits[task.name] for task in self.tasks])[self.best]
        parts = [logits[own] for own in by_image(self.image[self.best], len(self.images))]
        same = [float(np.ptp(part, axis=0).max()) < 1e-3 for part in parts if len(part) > 1]
        return bool(same) and bool(np.mean(same) > 0.5)

    @property
    def missed(self) -> float:
        """Share of the objects that no mask fits."""
        return 1 - len(self.matches) / max(int(self.objects.sum()), 1)


def by_image(images: np.ndarray, count: int, rank: np.ndarray | None = None) -> list[np.ndarray]:
    """For each of `count` images: places in `images`, int [n], in their order or that of `rank` [n]."""
    order = np.argsort(images, kind="stable") if rank is None else np.lexsort((rank, images))
    return np.split(order, np.searchsorted(images[order], np.arange(1, count))) if count else []
