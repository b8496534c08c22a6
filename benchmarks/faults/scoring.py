"""Faults of the evaluator: it meets good predictions, or the ground truth itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from benchmarks.faults.case import Fault
from benchmarks.faults.patches import changed
from mtseg.core.tables import Images, Pairs, Predictions
from mtseg.evaluation import pairs
from mtseg.evaluation.evaluation import Evaluation


def next_class(
    real: Callable, self: Evaluation, true: Any, found: np.ndarray, *, categories: int, **kwargs: Any
) -> Any:
    """Predicted classes are read one on from the true ones; the last is the first."""
    return real(self, true, (found + 1) % categories, categories=categories, **kwargs)


def backwards(real: Callable, self: Evaluation, scores: np.ndarray) -> np.ndarray:
    return real(self, -scores)


def one_detection(real: Callable, self: Evaluation, *args: Any, **kwargs: Any) -> None:
    real(self, *args, **kwargs | {"max_dets": (1,)})


def moved(real: Callable, images: Images, predictions: Predictions) -> Pairs:
    """True masks and predictions are compared 6 pixels off each other."""
    masks = (np.roll(coco_mask.decode(rle), 6, axis=1) for rle in predictions.rles())
    rles = [coco_mask.encode(np.asfortranarray(mask))["counts"].decode() for mask in masks]
    return real(images, predictions.replace(rle=np.array(rles, dtype=object)))


WRONG = {"failure": "evaluator_wrong", "since": "evaluate", "causes": ("evaluator_wrong",)}
FAULTS = (
    Fault("evaluator: predicted classes off by one", **WRONG, code=changed(Evaluation, "match", next_class)),
    Fault("evaluator: true masks 6 pixels off", **WRONG, code=changed(pairs, "of_masks", moved)),
    Fault("evaluator: one detection per image", **WRONG, code=changed(Evaluation, "__init__", one_detection)),
    Fault("evaluator: lowest score first", **WRONG, code=changed(Evaluation, "rank_by", backwards)),
)
