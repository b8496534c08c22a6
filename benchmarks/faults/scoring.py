"""Faults of the evaluator: it meets good predictions, or the ground truth itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from benchmarks.faults.case import Fault
from benchmarks.faults.patches import Patch, changed
from mtseg.core.tables import Images, Pairs, Predictions
from mtseg.evaluation.ap import pairs
from mtseg.evaluation.ap.evaluation import Evaluation


def matched(change: Callable[[Evaluation, np.ndarray, int, dict], tuple[np.ndarray, dict]]) -> Patch:
    """Predictions are matched with other labels or options, where there are several classes."""

    def match(real: Callable, self: Evaluation, true: Any, found: Any, *, categories: int, **options: Any) -> Any:
        if categories > 1:
            found, options = change(self, found, categories, options)
        return real(self, true, found, categories=categories, **options)

    return changed(Evaluation, "match", match)


def next_class(self: Evaluation, found: np.ndarray, categories: int, options: dict) -> tuple[np.ndarray, dict]:
    """Predicted classes are read one on from the true ones; the last is the first."""
    return (found + 1) % categories, options


def backwards(self: Evaluation, found: np.ndarray, categories: int, options: dict) -> tuple[np.ndarray, dict]:
    return found, options | {"rank": len(found) - 1 - options.get("rank", self.rank)}


def one_detection(self: Evaluation, found: np.ndarray, categories: int, options: dict) -> tuple[np.ndarray, dict]:
    return found, options | {"most": 1}


def moved(real: Callable, images: Images, predictions: Predictions) -> Pairs:
    """True masks and predictions are compared 6 pixels off each other."""
    masks = (np.roll(coco_mask.decode(rle), 6, axis=1) for rle in predictions.rles())
    rles = [coco_mask.encode(np.asfortranarray(mask))["counts"].decode() for mask in masks]
    return real(images, predictions.replace(rle=np.array(rles, dtype=object)))


WRONG = {"failure": "evaluator_wrong", "since": "evaluate", "causes": ("evaluator_wrong",)}
FAULTS = (
    Fault("evaluator: predicted classes off by one", **WRONG, code=matched(next_class)),
    Fault("evaluator: true masks 6 pixels off", **WRONG, code=changed(pairs, "of_masks", moved)),
    Fault("evaluator: one detection per image", **WRONG, code=matched(one_detection)),
    Fault("evaluator: lowest score first", **WRONG, code=matched(backwards)),
)
