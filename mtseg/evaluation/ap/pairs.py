"""Overlaps of predictions and instances. The stage `evaluate` computes them once and stores them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtseg.core import masks
from mtseg.core.errors import UserError
from mtseg.core.tables import PART, Images, Pairs, Predictions, return_memory
from mtseg.evaluation.ap.matching import HIT

BLOCK = 2_000  # predictions whose boxes are compared at once


def check(images: Images, predictions: Predictions) -> np.ndarray:
    """int [N]: the row of each prediction's image. Raises UserError if an image is not among `images`, or has another
    size there."""
    rows = images.rows(predictions.once("image_id")).astype(np.int32)
    wrong, known = rows < 0, rows >= 0
    for name in ("height", "width"):
        wrong[known] |= images.column(name)[rows[known]] != predictions.once(name)[known]
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        row, number = rows[first], int(predictions.image_id[first])
        size = f"{predictions.width[first]} x {predictions.height[first]}"
        fault = "is not in the data" if row < 0 else f"is {images.width[row]} x {images.height[row]} in the data"
        raise UserError(f"a prediction is for image {number} of {size} pixels, which {fault}: run `dvc repro predict`")
    return rows


def of_masks(images: Images, predictions: Predictions) -> Pairs:
    """All pairs of a prediction and an instance of the same image whose masks overlap, sorted by prediction, then
    instance. Raises UserError as `check` does."""
    row_of, true, parts = check(images, predictions), images.instances.once("rle"), []
    areas = predictions.once("area")
    for place, rle in predictions.parts("rle"):
        found = []
        for rows, columns in _by_image(images, row_of[place]):
            image, counts = row_of[place.start + rows[0]], rle[rows].tolist()
            size = [int(images.height[image]), int(images.width[image])]
            objects = [{"size": size, "counts": own} for own in true[columns]]
            index = {own: i for i, own in enumerate(dict.fromkeys(counts))}  # a query's mask serves several predictions
            iou = masks.iou([{"size": size, "counts": own} for own in index], objects)
            iou = iou[[index[own] for own in counts]]
            row, column = np.nonzero(iou)
            found.append((rows[row], columns[column], iou[row, column], masks.areas(objects)[column]))
        prediction, instance, iou, true_area = _sorted(found)
        area = areas[place][prediction]
        intersection = np.rint(iou * (area + true_area) / (1 + iou))  # exact, since areas are whole pixels
        parts.append((place.start + prediction, instance, iou, intersection))
    return _pairs(parts)


def of_boxes(images: Images, predictions: Predictions, image: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The pairs of which COCO may match the boxes: IoU >= 0.5, or half of the prediction inside the object. In parts,
    each with prediction, instance, IoU and fraction of the prediction inside the object. image: int [N], of `check`."""
    first, true = np.searchsorted(images.instances.image, np.arange(len(images) + 1)), _columns(images.instances.box)
    number = np.diff(first)  # of instances that each prediction of an image is compared with
    for place, boxes in predictions.parts("box"):
        boxes = _columns(boxes)
        for low in range(place.start, place.stop, BLOCK):
            own = np.arange(low, min(low + BLOCK, place.stop, len(image)))
            count = number[image[own]]
            row, before = np.repeat(own, count), count.cumsum() - count
            column = np.arange(len(row)) + np.repeat(first[image[own]] - before, count)
            box = boxes[:, row - place.start]
            iou, intersection = _box_overlaps(box, true[:, column])
            near = np.flatnonzero(intersection)
            inside = intersection[near] / (box[2, near] * box[3, near])
            near, inside = near[kept := (iou[near] >= HIT) | (inside >= HIT)], inside[kept]
            yield row[near].astype(np.int32), column[near].astype(np.int32), iou[near], inside


def box_overlaps(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and intersection (square pixels), [A, B] each, of boxes [A, 4] and [B, 4] (x, y, width, height)."""
    return _box_overlaps(_columns(one)[..., None], _columns(other)[:, None])


def _box_overlaps(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of boxes [4, ...], one by one."""
    low = np.maximum(one[:2], other[:2])
    width, height = np.clip(np.minimum(one[:2] + one[2:], other[:2] + other[2:]) - low, 0, None)
    intersection = width * height
    union = one[2] * one[3] + other[2] * other[3] - intersection
    return intersection / np.maximum(union, 1e-9), intersection


def _columns(boxes: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] as [4, N], each number beside that of the next box."""
    return np.ascontiguousarray(boxes.T)


def _by_image(images: Images, row_of: np.ndarray):
    """Yield (rows of predictions, rows of instances), int arrays, for each image that has both."""
    order = np.argsort(row_of, kind="stable")
    ends = np.searchsorted(row_of[order], np.arange(len(images) + 1))
    true = np.searchsorted(images.instances.image, np.arange(len(images) + 1))
    for image in np.flatnonzero((np.diff(ends) > 0) & (np.diff(true) > 0)):
        yield order[ends[image] : ends[image + 1]], np.arange(true[image], true[image + 1])


def joined(parts: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """The columns of the parts (prediction, instance and two more) joined; int32 and float64. The parts are emptied, so
    that each column is freed when it is joined."""
    dtypes = (np.int32, np.int32, np.float64, np.float64)
    columns = [[*own] for own in zip(*parts, strict=True)] or [[np.zeros(0, dtype=dtype)] for dtype in dtypes]
    parts.clear()
    found = []
    for own, dtype in zip(columns, dtypes, strict=True):
        found.append(np.concatenate(own, dtype=dtype, casting="same_kind"))
        own.clear()
    return found


def _sorted(parts: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """The same, sorted by prediction, then instance."""
    columns = joined(parts)
    order = np.lexsort((columns[1], columns[0]))
    return [column[order] for column in columns]


def _pairs(parts: list[tuple[np.ndarray, ...]]) -> Pairs:
    columns = joined(parts)
    if len(columns[0]) > PART:
        return_memory()
    return Pairs.of(dict(zip(("prediction", "instance", "iou", "intersection"), columns, strict=True)))
