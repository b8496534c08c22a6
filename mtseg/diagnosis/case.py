"""One split's ground truth and predictions as arrays, and which prediction found which object.

P pictures, by id; N predictions, in the file's order; G objects (no crowds); M pairs of a prediction and the object it
found; K outputs of a task's head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mtseg.core.params import Task
from mtseg.core.tables import Image, Prediction
from mtseg.data.coco import rle
from mtseg.evaluation.average_precision import EVERY, first_of_query, ordered
from mtseg.evaluation.matching import iou, match
from mtseg.evaluation.predictions import scores


@dataclass(frozen=True)
class Pairs:
    """M objects that were found: rows of the predictions and of the objects, the picture, and the IoU of the masks."""

    found: np.ndarray
    true: np.ndarray
    picture: np.ndarray
    overlap: np.ndarray

    def __len__(self) -> int:
        return len(self.found)

    def only(self, kept: np.ndarray) -> Pairs:
        return Pairs(self.found[kept], self.true[kept], self.picture[kept], self.overlap[kept])


class Case:
    def __init__(self, images: Sequence[Image], predictions: Sequence[Prediction], tasks: Sequence[Task]):
        self.images, self.tasks = ordered(images), tuple(tasks)
        self.trained = tuple(task for task in tasks if task.loss_weight)  # of a muted one nothing can be asked
        place = {image.id: index for index, image in enumerate(self.images)}
        self.predictions = [prediction for prediction in predictions if prediction.image_id in place]
        self.picture = np.array([place[p.image_id] for p in self.predictions], dtype=int)
        self.query = np.array([p.query for p in self.predictions], dtype=int)
        self.quality = np.array([p.mask_quality for p in self.predictions], dtype=np.float64)
        self.boxes = np.array([p.bbox for p in self.predictions], dtype=np.float64).reshape(-1, 4)
        self.labels = {t.name: np.array([p.labels[t.name] for p in self.predictions], dtype=int) for t in tasks}
        self.logits = {
            t.name: np.array([p.logits[t.name] for p in self.predictions], dtype=np.float64).reshape(-1, t.num_outputs)
            for t in tasks
        }
        objects = [(index, i) for index, image in enumerate(self.images) for i in image.instances if not i.crowd]
        self.true_picture = np.array([index for index, _ in objects], dtype=int)
        self.true_boxes = np.array([i.bbox for _, i in objects], dtype=np.float64).reshape(-1, 4)
        self.true_labels = {
            t.name: np.array([EVERY if i.labels[t.name] is None else i.labels[t.name] for _, i in objects], dtype=int)
            for t in tasks
        }
        self.instances = [instance for _, instance in objects]
        self.sizes = np.array([(image.width, image.height) for image in self.images], dtype=np.float64).reshape(-1, 2)

    def probability(self, task: Task) -> np.ndarray:
        """[N, K]"""
        shifted = np.exp(self.logits[task.name] - self.logits[task.name].max(1, keepdims=True, initial=-np.inf))
        return shifted / shifted.sum(1, keepdims=True)

    def answer(self, task: Task) -> np.ndarray:
        """int [N]: the output with the highest logit, no-object being the last where the task has it."""
        return self.logits[task.name].argmax(1) if len(self.predictions) else np.zeros(0, dtype=int)

    @cached_property
    def certainty(self) -> np.ndarray:
        """[N]: probability of all labels together."""
        return scores(self.predictions, self.tasks)["product"]

    @cached_property
    def combined(self) -> bool:
        """Whether the network has one softmax over combinations of labels."""
        return bool(self.predictions) and self.predictions[0].probabilities is not None

    @cached_property
    def score(self) -> np.ndarray:
        """[N]: main class probability x mask quality."""
        main = self.tasks[0]
        rows = np.arange(len(self.predictions))
        return self.probability(main)[rows, self.labels[main.name]] * self.quality

    @cached_property
    def lead(self) -> np.ndarray:
        """int, ascending: the rows that are the best of their query."""
        return np.flatnonzero(first_of_query(self.predictions, self.certainty * self.quality))

    def by_picture(self, pictures: np.ndarray, scores: np.ndarray | None = None) -> list[np.ndarray]:
        """For each picture: places in `pictures` [n], best of scores [n] first."""
        order = np.lexsort((pictures,) if scores is None else (-scores, pictures))
        return np.split(order, np.searchsorted(pictures[order], np.arange(1, len(self.images))))[: len(self.images)]

    @cached_property
    def overlaps(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each picture: rows of its lead predictions, best first, rows of its objects, and their mask IoU."""
        found = [self.lead[own] for own in self.by_picture(self.picture[self.lead], self.score[self.lead])]
        true = self.by_picture(self.true_picture)
        masks = [
            [rle(self.instances[g].segmentation, image.height, image.width) for g in rows]
            for image, rows in zip(self.images, true, strict=True)
        ]
        return [
            (rows, objects, iou([self.predictions[i].segmentation for i in rows], truth))
            for rows, objects, truth in zip(found, true, masks, strict=True)
        ]

    @cached_property
    def pairs(self) -> Pairs:
        """Objects and what found them: greedily by score, mask IoU >= 0.5, whatever the labels say."""
        parts = []
        for picture, (rows, objects, overlap) in enumerate(self.overlaps):
            matched = match(overlap, np.ones_like(overlap, dtype=bool))
            hits = np.flatnonzero(matched >= 0)
            columns = matched[hits]
            parts.append((rows[hits], objects[columns], np.full(len(hits), picture), overlap[hits, columns]))
        if not parts:
            return Pairs(*(np.zeros(0, dtype=int) for _ in range(3)), np.zeros(0))
        return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def labelled(self, task: Task) -> Pairs:
        """The pairs whose object has a label of the task."""
        return self.pairs.only(self.true_labels[task.name][self.pairs.true] != EVERY)

    @cached_property
    def threshold(self) -> float:
        """The score from which predictions have the best F1 of finding objects, whatever the labels."""
        hit = np.zeros(len(self.predictions), dtype=bool)
        hit[self.pairs.found] = True
        rows = self.lead[np.argsort(-self.score[self.lead], kind="stable")]
        if not hit.any():
            return 0.5
        f1 = 2 * np.cumsum(hit[rows]) / (np.arange(1, len(rows) + 1) + len(self.true_picture))
        return float(self.score[rows[f1.argmax()]])

    @cached_property
    def confident(self) -> np.ndarray:
        """int: the lead rows at or above `threshold`."""
        return self.lead[self.score[self.lead] >= self.threshold]

    @cached_property
    def collapsed(self) -> bool:
        """Whether in most pictures all queries say the same of all tasks: a network that has gone dead."""
        logits = np.column_stack([self.logits[task.name] for task in self.tasks])[self.lead]
        parts = [logits[own] for own in self.by_picture(self.picture[self.lead])]
        dead = [float(np.ptp(part, axis=0).max()) < 1e-3 for part in parts if len(part) > 1]
        return bool(dead) and bool(np.mean(dead) > 0.5)

    @property
    def missed(self) -> float:
        """Share of the objects that no mask fits, confident or not."""
        return 1 - len(self.pairs) / max(len(self.true_picture), 1)
