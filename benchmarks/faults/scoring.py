"""Faults of the evaluator: it meets good predictions, or the ground truth itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.faults.case import Fault
from benchmarks.faults.patches import everywhere, replaced
from mtseg.data import coco
from mtseg.scoring import average_precision
from mtseg.scoring.average_precision import Scorer


def next_class(real: Callable) -> Callable:
    """Predicted classes are read one on from the true ones; the last is the first."""
    return lambda found, task: (real(found, task) + 1) % task.num_classes


def backwards(real: Callable) -> Callable:
    return lambda self, true, found, scores, **kwargs: real(self, true, found, -np.asarray(scores), **kwargs)


def one_detection(real: Callable) -> Callable:
    return lambda self, *args, max_dets, **kwargs: real(self, *args, max_dets=[1], **kwargs)


def with_truth(change: Callable[[Any], Any]) -> Callable:
    """The scorer's own copy of the true masks, changed."""

    def make(real: Callable) -> Callable:
        def init(self: Scorer, *args: Any, **kwargs: Any) -> None:
            real(self, *args, **kwargs)
            self._true_masks = [change(rle) for rle in self._true_masks]

        return init

    return make


def moved(rle: dict) -> dict:
    height, width = rle["size"]
    mask = np.roll(coco.mask(rle, height, width), 6, axis=1)
    return coco.rle({"size": [height, width], "counts": runs(mask)}, height, width)


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO run lengths, column by column, beginning with zeros."""
    flat = np.concatenate([[0], mask.T.ravel(), [1 - mask.T.ravel()[-1]]])
    ends = np.flatnonzero(np.diff(flat))
    return np.diff([0, *ends]).tolist()


def last_picture_lost(real: Callable) -> Callable:
    def init(self: Scorer, images: Any, predictions: Any) -> None:
        last = max(image.id for image in images)
        real(self, images, [p for p in predictions if p.image_id != last])

    return init


WRONG = ("evaluator_wrong",)
FAULTS = (
    Fault("evaluator: predicted classes off by one", number="F16", since="evaluate", causes=WRONG,
          code=lambda: everywhere(average_precision.labels_found, next_class)),
    Fault("evaluator: true masks 6 pixels off", number="F16", since="evaluate", causes=WRONG,
          code=replaced(Scorer, "__init__", with_truth(moved))),
    Fault("evaluator: one detection a picture", number="F16", since="evaluate", causes=WRONG,
          code=replaced(Scorer, "run", one_detection)),
    Fault("evaluator: lowest score first", number="F16", since="evaluate", causes=WRONG,
          code=replaced(Scorer, "run", backwards)),
)  # fmt: skip
