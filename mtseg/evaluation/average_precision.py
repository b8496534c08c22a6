"""COCO average precision by hotcoco, of any categories that predictions and ground truth can be given.

hotcoco gives pycocotools' numbers in a fraction of its time (`mtseg/scoring/reference.py`, held against each other in
tests). The summary is ours, since COCO's says -1 for AP when 100 is not among maxDets.

G: ground truths, pictures by id, instances in order. N: predictions, in the order given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hotcoco import COCO, COCOeval

from mtseg.core.params import Task
from mtseg.core.tables import Image, Prediction
from mtseg.data.coco import rle

EVERY = -1  # category of a ground truth without a label: neither hit nor miss, whatever category is scored


class Scorer:
    """Pictures and predictions, held ready to be scored under any categories and any scores."""

    def __init__(self, images: Sequence[Image], predictions: Sequence[Prediction]):
        self.images = [{"id": i.id, "height": i.height, "width": i.width} for i in ordered(images)]
        truth = [(image, instance) for image in ordered(images) for instance in image.instances]
        self.true_picture = np.array([image.id for image, _ in truth], dtype=int)
        self.found_picture = np.array([p.image_id for p in predictions], dtype=int)
        self.crowd = np.array([instance.crowd for _, instance in truth], dtype=bool)
        self.true_boxes = np.array([instance.bbox for _, instance in truth], dtype=np.float64).reshape(-1, 4)
        self.true_areas = np.array([instance.area for _, instance in truth], dtype=np.float64)
        self.true_masks = [rle(instance.segmentation, image.height, image.width) for image, instance in truth]
        self.boxes = np.array([p.bbox for p in predictions], dtype=np.float64).reshape(-1, 4)
        self.areas = np.array([p.area for p in predictions], dtype=np.float64)
        self.masks = [p.segmentation for p in predictions]

    def run(
        self,
        true: np.ndarray,
        found: np.ndarray,
        scores: np.ndarray,
        *,
        categories: int,
        max_dets: Sequence[int],
        kind: str = "segm",
        kept: np.ndarray | None = None,
        sizes: bool = True,
    ) -> COCOeval:
        """An evaluation, evaluated and accumulated; without `sizes` not apart for small, medium and large objects.

        true: int [G], category index or EVERY. found: int [N], category index; one past the last falls under none.
        scores [N]; of equal ones the first given ranks first. kind: segm or bbox. kept: bool [N], default all.

        In the evaluation category ids are indices + 1, annotation ids too; a ground truth of EVERY, a crowd in each
        category found in its picture, has ids past G.
        """
        scored = (found < categories) if kept is None else (found < categories) & kept
        every = np.flatnonzero(true == EVERY)
        rows, copied = self._copies(every, found, scored)
        single = np.flatnonzero(true != EVERY)
        ids = np.concatenate([single + 1, len(true) + 1 + np.arange(len(rows))])
        rows = np.concatenate([single, rows])
        names = [{"id": index + 1, "name": str(index)} for index in range(categories + 1)]  # the last: of no category
        truth = COCO.from_arrays(
            self.images, names, self.true_picture[rows], np.concatenate([true[single], copied]) + 1,
            self.true_boxes[rows], ids=ids, area=self.true_areas[rows], iscrowd=self.crowd[rows] | (ids > len(true)),
            segmentation=[self.true_masks[row] for row in rows],
        )  # fmt: skip
        table = np.column_stack([self.found_picture, self.boxes, scores, np.where(scored, found, categories) + 1])
        detections = truth.load_res(table, segmentation=self.masks)
        if kind == "segm":
            detections.update_anns(ids=np.arange(1, len(table) + 1), area=self.areas)  # not the boxes'
        evaluation = COCOeval(truth, detections, kind)
        evaluation.params.cat_ids = list(range(1, categories + 1))
        evaluation.params.max_dets = sorted(max_dets)
        if not sizes:
            evaluation.params.area_rng = evaluation.params.area_rng[:1]
            evaluation.params.area_rng_lbl = evaluation.params.area_rng_lbl[:1]
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation

    def _copies(self, every: np.ndarray, found: np.ndarray, scored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ground truths of `every` and a category found in its picture: all such pairs, int [C] and int [C]."""
        pairs = np.unique(np.column_stack([self.found_picture[scored], found[scored]]), axis=0)
        start = np.searchsorted(pairs[:, 0], self.true_picture[every], side="left")
        count = np.searchsorted(pairs[:, 0], self.true_picture[every], side="right") - start
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(every, count), pairs[np.repeat(start, count) + within, 1]


@dataclass(frozen=True)
class Curves:
    """precision [IoU, recall, category, area, maxDets], recall [IoU, category, area, maxDets]; -1 where undefined."""

    precision: np.ndarray
    recall: np.ndarray
    max_dets: tuple[int, ...]

    @classmethod
    def of(cls, evaluation: COCOeval) -> Curves:
        found = evaluation.eval
        return cls(found["precision"], found["recall"], tuple(evaluation.params.max_dets))

    def numbers(self) -> dict[str, float]:
        """COCO's numbers, 0 to 1, undefined ones left out: AP, AP50, AP75, AR1, ...; with sizes, APs, ARs, ..."""
        numbers = {
            "AP": self.precision[:, :, :, 0, -1],
            "AP50": self.precision[0, :, :, 0, -1],
            "AP75": self.precision[5, :, :, 0, -1],
        }
        numbers |= {f"AR{most}": self.recall[:, :, 0, index] for index, most in enumerate(self.max_dets)}
        for index in range(1, self.precision.shape[3]):
            numbers[f"AP{'sml'[index - 1]}"] = self.precision[:, :, :, index, -1]
            numbers[f"AR{'sml'[index - 1]}"] = self.recall[:, :, index, -1]
        return {name: value for name, curve in numbers.items() if (value := mean(curve)) is not None}

    def summary(self) -> dict[str, float]:
        """The numbers in percent, 3 decimals. AP is at the largest of max_dets."""
        return {name: percent(value) for name, value in self.numbers().items()}

    def of_category(self, category: int) -> dict[str, float | None]:
        """AP and AP50 of one category in percent, None where it has no ground truth."""
        curve = self.precision[:, :, category, 0, -1]
        return {"AP": percent(mean(curve)), "AP50": percent(mean(curve[0]))}


def summary(evaluation: COCOeval) -> dict[str, float]:
    """COCO's numbers in percent, 3 decimals, undefined ones left out; AP is at the largest of max_dets."""
    return Curves.of(evaluation).summary()


def mean(values: np.ndarray) -> float | None:
    """Mean of the defined values (not -1); None if there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def percent(share: float | None) -> float | None:
    """A share of 1 in percent, 3 decimals; None stays None."""
    return None if share is None else round(100 * share, 3)


def ordered(images: Sequence[Image]) -> list[Image]:
    """The pictures by id."""
    return sorted(images, key=lambda image: image.id)


def labels_true(images: Sequence[Image], task: Task) -> np.ndarray:
    """int [G]: class indices, EVERY where there is no label."""
    labels = [instance.labels[task.name] for image in ordered(images) for instance in image.instances]
    return np.array([EVERY if label is None else label for label in labels], dtype=int)


def labels_found(predictions: Sequence[Prediction], task: Task) -> np.ndarray:
    """int [N]: class indices."""
    return np.array([prediction.labels[task.name] for prediction in predictions], dtype=int)


def joint(
    images: Sequence[Image], predictions: Sequence[Prediction], tasks: Sequence[Task]
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, ...]]]:
    """All labels as one: int [G] and int [N], and the combinations of class names in the ground truth, sorted.

    A ground truth that lacks a label is EVERY. A prediction of a combination that the ground truth lacks has the
    number past the last, as with classes that COCO's ground truth lacks.
    """
    true = np.column_stack([labels_true(images, task) for task in tasks])
    found = np.column_stack([labels_found(predictions, task) for task in tasks])
    return combined(true, found, tasks)


def combined(
    true: np.ndarray, found: np.ndarray, tasks: Sequence[Task]
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, ...]]]:
    """`joint` of labels that are at hand: int [G, tasks] or EVERY, and int [N, tasks]."""
    shape = [task.num_classes for task in tasks]
    whole = (true != EVERY).all(axis=1)
    # the numbers of a mixed-radix system sort as the tuples do
    codes, numbers = np.unique(np.ravel_multi_index(true[whole].T, shape), return_inverse=True)
    true_number = np.full(len(true), EVERY)
    true_number[whole] = numbers
    code = np.ravel_multi_index(found.T, shape)
    place = np.searchsorted(codes, code)
    known = np.append(codes, -1)[place] == code
    combinations = zip(*np.unravel_index(codes, shape), strict=True)
    names = [tuple(task.classes[i] for task, i in zip(tasks, labels, strict=True)) for labels in combinations]
    return true_number, np.where(known, place, len(codes)), names


def first_of_query(predictions: Sequence[Prediction], scores: np.ndarray, task: Task | None = None) -> np.ndarray:
    """bool [N]: the best of the predictions that share a query, hence a mask; of a task, that share its label too."""
    labels = labels_found(predictions, task) if task else np.zeros(len(predictions), dtype=int)
    shared = np.array([(p.image_id, p.query) for p in predictions], dtype=int).reshape(-1, 2)
    shared = np.column_stack([shared, labels])
    order = np.lexsort((-scores, *shared.T))  # stable: of equal scores the first given
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(shared[order], axis=0) != 0).any(axis=1)
    best = np.zeros(len(order), dtype=bool)
    best[order[first]] = True
    return best
