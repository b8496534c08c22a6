"""Detections of the network -> rows of the predictions table.

N detections of an image, Q queries among them, H x W its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.structures import Instances
from pycocotools import mask as coco_mask
from torch import Tensor

from mtseg.core.masks import areas
from mtseg.core.params import Task
from mtseg.core.tables import DECIMALS, Predictions
from mtseg.model.heads import Heads


def encode(found: Instances, image_id: int, heads: Heads) -> Predictions:
    """One image's detections, as `Mask2Former.detect` returns them, in their order. Box and area are those of the mask;
    a detection whose mask is empty gives no row. Raises RuntimeError where a label is outside its task's classes."""
    found = found.to("cpu")
    _check(found.pred_labels, heads.tasks)
    queries, first, own = np.unique(found.query.numpy(), return_index=True, return_inverse=True)
    # [Q, H, W] -> contiguous [Q, W, H]; its transpose is the Fortran-ordered [H, W, Q] that pycocotools takes
    masks_QWH = found.pred_masks[first].transpose(1, 2).contiguous().numpy()
    rles = coco_mask.encode(masks_QWH.view("uint8").T) if len(queries) else []
    texts = np.array([rle["counts"].decode() for rle in rles], dtype=object)
    boxes = coco_mask.toBbox(rles) if rles else np.zeros((0, 4))
    sizes, (height, width) = areas(rles), found.image_size
    columns = {
        "image_id": np.full(len(own), image_id),
        "query": queries[own],
        "box": boxes[own].round(DECIMALS),
        "area": sizes[own],
        "rle": texts[own],
        "height": np.full(len(own), height),
        "width": np.full(len(own), width),
        "mask_quality": found.mask_quality.numpy().astype(np.float64).round(DECIMALS),
    }
    columns |= heads.columns(found)
    certainty = np.prod([columns[f"probability.{task.name}"] for task in heads[0].tasks], axis=0)
    columns["score"] = (certainty * columns["mask_quality"]).round(DECIMALS)
    return Predictions.of(columns)[sizes[own] > 0]


def _check(labels_NT: Tensor, tasks: Sequence[Task]) -> None:
    for task, own in zip(tasks, labels_NT.T.tolist(), strict=True):
        for label in own:
            if not 0 <= label < task.num_classes:
                valid = f"0..{task.num_classes - 1}"
                raise RuntimeError(f"detect() returned label {label} for task '{task.name}' (valid: {valid})")
