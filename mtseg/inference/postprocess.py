"""From the detections of one image to rows of the predictions table, for all kinds of networks; without PyTorch.

k detections of an image, Q distinct masks among them, T tasks, K outputs of a task, H x W size of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from mtseg.core.masks import areas
from mtseg.core.params import Task
from mtseg.core.tables import DECIMALS, Predictions, task_columns


@dataclass(frozen=True)
class Detections:
    """The detections of a network in one image, best first.

    query: int [k]. labels: int [k, T], class indices. logits: {task: [k, K]}; their softmax is the probability of each
    class, and of no-object, the last, if the task has it. probabilities: [k, T'], of the labels of the first T' tasks,
    each given the labels of the preceding tasks; None if each task has its own softmax. mask_quality: [k], 0 to 1.
    masks: bool [Q, H, W], in any memory layout. mask: int [k], index of each detection's mask.
    """

    query: np.ndarray
    labels: np.ndarray
    logits: Mapping[str, np.ndarray]
    probabilities: np.ndarray | None
    mask_quality: np.ndarray
    masks: np.ndarray
    mask: np.ndarray


def encode(found: Detections, image_id: int, tasks: Sequence[Task]) -> Predictions:
    """The detections of one image as rows, in the same order, with box and area of the mask; detections with an empty
    mask are dropped. Raises RuntimeError if a label is outside the classes of its task."""
    _check(found.labels, tasks)
    # [Q, H, W] -> contiguous [Q, W, H]; its transpose is the Fortran-ordered [H, W, Q] that pycocotools takes
    masks_QWH = np.ascontiguousarray(found.masks.transpose(0, 2, 1))
    rles = coco_mask.encode(masks_QWH.view("uint8").T) if len(masks_QWH) else []
    texts = np.array([rle["counts"].decode() for rle in rles], dtype=object)
    boxes = coco_mask.toBbox(rles) if rles else np.zeros((0, 4))
    sizes, (height, width), own = areas(rles), found.masks.shape[1:], found.mask
    columns = {
        "image_id": np.full(len(own), image_id),
        "query": found.query,
        "box": boxes[own].round(DECIMALS),
        "area": sizes[own],
        "rle": texts[own],
        "height": np.full(len(own), height),
        "width": np.full(len(own), width),
        "mask_quality": found.mask_quality.astype(np.float64).round(DECIMALS),
    }
    conditional = [] if found.probabilities is None else list(found.probabilities.T)
    for t, task in enumerate(tasks):
        given = conditional[t] if t < len(conditional) else None
        columns |= task_columns(task.name, found.labels[:, t], found.logits[task.name], given)
    ranked = tasks[: max(1, len(conditional))]  # tasks whose labels the network ranks by
    certainty = np.prod([columns[f"probability.{task.name}"] for task in ranked], axis=0)
    columns["score"] = (certainty * columns["mask_quality"]).round(DECIMALS)
    return Predictions.of(columns)[sizes[own] > 0]


def _check(labels_kT: np.ndarray, tasks: Sequence[Task]) -> None:
    for task, column in zip(tasks, labels_kT.T.tolist(), strict=True):
        for label in column:
            if not 0 <= label < task.num_classes:
                valid = f"0..{task.num_classes - 1}"
                raise RuntimeError(f"the network returned label {label} for task '{task.name}' (valid: {valid})")
