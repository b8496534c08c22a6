"""Faults of the evaluator: it meets good predictions, or the ground truth itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.faults.case import Fault
from benchmarks.faults.patches import everywhere, replaced
from mtseg.data import coco
from mtseg.evaluation import average_precision
from mtseg.evaluation.average_precision import Scorer


def next_class(real: Callable) -> Callable:
    """Predicted classes are read one on from the true ones; the last is the first."""
    return lambda found, task: (real(found, task) + 1) % task.num_classes


def backwards(real: Callable) -> Callable:
    return lambda self, true, found, scores, **kwargs: real(self, true, found, -np.asarray(scores), **kwargs)


def one_detection(real: Callable) -> Callable:
    return lambda self, *args, max_dets, **kwargs: real(self, *args, max_dets=[1], **kwargs)


def moved(real: Callable) -> Callable:
    """The scorer's own true masks lie 6 pixels off."""

    def rle(segmentation: Any, height: int, width: int) -> dict:
        mask = np.roll(coco.mask(segmentation, height, width), 6, axis=1)
        return real({"size": [height, width], "counts": runs(mask)}, height, width)

    return rle


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO run lengths, column by column, beginning with zeros."""
    flat = np.concatenate([[0], mask.T.ravel(), [1 - mask.T.ravel()[-1]]])
    ends = np.flatnonzero(np.diff(flat))
    return np.diff([0, *ends]).tolist()


WRONG = ("evaluator_wrong",)
FAULTS = (
    Fault("evaluator: predicted classes off by one", number="F16", since="evaluate", causes=WRONG,
          code=lambda: everywhere(average_precision.labels_found, next_class)),
    Fault("evaluator: true masks 6 pixels off", number="F16", since="evaluate", causes=WRONG,
          code=replaced(average_precision, "rle", moved)),
    Fault("evaluator: one detection a picture", number="F16", since="evaluate", causes=WRONG,
          code=replaced(Scorer, "run", one_detection)),
    Fault("evaluator: lowest score first", number="F16", since="evaluate", causes=WRONG,
          code=replaced(Scorer, "run", backwards)),
)  # fmt: skip
