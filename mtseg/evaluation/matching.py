"""Which prediction is which ground truth: IoUs, and greedy matching by score.

P predictions of a picture, best score first; G its ground truths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from mtseg.core.errors import UserError
from mtseg.core.params import Ranking, Task
from mtseg.core.tables import Image, Prediction
from mtseg.data.coco import rle
from mtseg.evaluation.predictions import places, scores

HIT = 0.5  # mask IoU from which an object is found
NEAR = 0.1  # and from which it is the object meant, only badly placed (TIDE)


@dataclass(frozen=True)
class Picture:
    """One picture's ground truth beside its predictions, best score first, whatever their order in the file.

    overlap [P, G]: intersection over union of the masks. inside [P, G]: intersection over the predicted area, by which
    COCO measures crowds; 0 with a ground truth that is none.
    """

    image: Image
    predictions: tuple[Prediction, ...]
    scores: np.ndarray
    overlap: np.ndarray
    inside: np.ndarray

    @property
    def crowd(self) -> np.ndarray:
        """bool [G]"""
        return np.array([instance.crowd for instance in self.image.instances], dtype=bool)

    def on_crowd(self, main: Task) -> np.ndarray:
        """bool [P]: half inside a crowd of its class, and so no miss."""
        same = self.predicted(main)[:, None] == self.true(main)[None, :]
        return (same & self.crowd & (self.inside >= HIT)).any(axis=1)

    def true(self, task: Task) -> np.ndarray:
        """int [G]: class indices, -1 for no label."""
        labels = [instance.labels[task.name] for instance in self.image.instances]
        return np.array([-1 if label is None else label for label in labels], dtype=int)

    def predicted(self, task: Task) -> np.ndarray:
        """int [P]: class indices."""
        return np.array([prediction.labels[task.name] for prediction in self.predictions], dtype=int)


def pictures(
    images: Sequence[Image], predictions: Sequence[Prediction], *, tasks: Sequence[Task], ranking: Ranking
) -> list[Picture]:
    """Every picture with its predictions, also those that have none, by id.

    Raises UserError on a prediction whose picture does not exist or has another size.
    """
    check(images, predictions)
    predictions = in_order(predictions, tasks)
    values = scores(predictions, tasks)[ranking]
    ids = np.array([p.image_id for p in predictions], dtype=int)
    order = np.lexsort((-values, ids))
    images = sorted(images, key=lambda image: image.id)
    ends = np.searchsorted(ids[order], [image.id for image in images], side="right")
    starts = np.searchsorted(ids[order], [image.id for image in images], side="left")
    rows = (order[start:end] for start, end in zip(starts, ends, strict=True))
    return [
        _picture(image, tuple(predictions[row] for row in own), values[own])
        for image, own in zip(images, rows, strict=True)
    ]


def in_order(predictions: Sequence[Prediction], tasks: Sequence[Task]) -> list[Prediction]:
    """The predictions as `places` says."""
    return [predictions[place] for place in places(predictions, tasks)]


def check(images: Sequence[Image], predictions: Sequence[Prediction]) -> None:
    """Raises UserError on a prediction whose picture does not exist or has another size."""
    sizes = {image.id: [image.height, image.width] for image in images}
    for prediction in predictions:
        size = prediction.segmentation["size"]
        if list(size) != sizes.get(prediction.image_id):
            known = sizes.get(prediction.image_id, "absent")
            raise UserError(
                f"a prediction is for picture {prediction.image_id} of size {list(size)}; "
                f"in the data that picture is {known}: run `dvc repro predict` again"
            )


def _picture(image: Image, predictions: tuple[Prediction, ...], values: np.ndarray) -> Picture:
    found = [prediction.segmentation for prediction in predictions]
    truth = [rle(instance.segmentation, image.height, image.width) for instance in image.instances]
    overlap = iou(found, truth)
    inside = np.zeros_like(overlap)
    crowds = [column for column, instance in enumerate(image.instances) if instance.crowd]
    inside[:, crowds] = iou(found, [truth[column] for column in crowds], crowd=True)
    return Picture(image=image, predictions=predictions, scores=values, overlap=overlap, inside=inside)


def iou(found: Sequence[dict], truth: Sequence[dict], *, crowd: bool = False) -> np.ndarray:
    """Mask IoU [len(found), len(truth)] of RLEs; with `crowd`, intersection over the area of `found`."""
    if not found or not truth:
        return np.zeros((len(found), len(truth)))
    return np.asarray(coco_mask.iou(list(found), list(truth), [crowd] * len(truth)))


def match(overlap: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Greedy matching at IoU >= 0.5: each prediction in turn takes the best ground truth still free.

    overlap [P, G], allowed bool [P, G]: pairs that may match -> int [P], the ground truth or -1.
    """
    free = np.where(allowed & (overlap >= HIT), overlap, -1.0)
    matches = np.full(len(overlap), -1)
    for row in np.flatnonzero((free >= HIT).any(axis=1)):
        best = int(free[row].argmax())
        if free[row, best] >= HIT:
            matches[row] = best
            free[:, best] = -1.0
    return matches
