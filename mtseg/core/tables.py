"""The records that pass between steps. Plain, frozen, without torch.

Class indices are 0-based positions in `Task.classes`; None is "no label". Boxes are (x, y, width, height)
in pixels of the original picture. A segmentation is a list of polygons [x0, y0, x1, y1, ...] in pixels, or a
compressed COCO RLE {"size": [height, width], "counts": str}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Segmentation = list[list[float]] | dict[str, Any]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated object. A crowd (COCO `iscrowd`) is never trained on and neither hit nor miss in scoring."""

    segmentation: Segmentation
    bbox: Box
    area: float
    labels: dict[str, int | None]
    crowd: bool = False
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """One picture and its instances. `file_name` is relative to the folder of raw data (`data.raw`)."""

    id: int
    file_name: str
    height: int
    width: int
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted object, every label at once.

    image_id: the picture. query: index of the query it came from; several predictions of a picture may share
    one, with different labels. segmentation: compressed RLE at the picture's size. bbox: of the mask.
    labels: class index per task. logits: per task its head's outputs, no-object last where the task has that slot.
    probabilities: None where each task's are the softmax of its logits; where the network has one softmax over
    combinations of labels, that of each label given those before it, whose product is that of all together, 0 to 1:
    the logits are then each task's own log-probabilities, whatever the other tasks' labels, moved to mean 0.
    mask_quality: mean mask probability inside the mask, 0 to 1.
    """

    image_id: int
    query: int
    bbox: Box
    area: float
    segmentation: dict[str, Any]
    mask_quality: float
    labels: dict[str, int]
    logits: dict[str, Sequence[float]] = field(repr=False)  # an array: a sixth of a tuple's memory
    probabilities: dict[str, float] | None = None
