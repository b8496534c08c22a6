"""Cut-outs of suspected label errors: a part of the image with the outlines of annotation and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtseg.core.tables import Images, Predictions
from mtseg.report import overlays

SIZE = 240  # longer side of a cut-out in pixels
MARGIN = 0.4  # margin on each side, over the longer side of the objects


def collect(
    suspects: Sequence[Mapping[str, Any]], images: Images, raw: Predictions, *, count: int
) -> list[dict[str, Any]]:
    """The first `count` of `evaluation.label_errors`, the most certain ones.

    Each has, in addition: number (from 1), name of the image, window (x, y, width, height in the image, for `cut`),
    width and height of the cut-out, and in its pixels the outlines `truth` and `found` as SVG paths ("" if missing).
    """
    return [_place(number, suspect, images, raw) for number, suspect in enumerate(suspects[:count], 1)]


def cut(pixels: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """The window (x, y, width, height) of an image, uint8 [height, width, 3]."""
    x, y, width, height = window
    return pixels[y : y + height, x : x + width]


def _place(number: int, suspect: Mapping[str, Any], images: Images, raw: Predictions) -> dict[str, Any]:
    image = int(images.rows(np.array([suspect["image_id"]]))[0])
    first = int(np.searchsorted(images.instances.image, image))
    truth, found = suspect["instance"], suspect["prediction"]
    objects = {
        "truth": None if truth is None else images.instances[[first + truth]],
        "found": None if found is None else raw[[found]],
    }
    boxes = np.concatenate([own.box for own in objects.values() if own])
    window = _window(boxes, int(images.width[image]), int(images.height[image]))
    scale = SIZE / max(window[2:])
    return {
        **suspect,
        "number": number,
        "name": str(images.file_name[image]),
        "window": window,
        "width": max(1, round(window[2] * scale)),
        "height": max(1, round(window[3] * scale)),
        **{
            name: overlays.path(own.rles()[0], scale=scale, corner=window[:2]) if own else ""
            for name, own in objects.items()
        },
    }


def _window(boxes: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """(x, y, width, height) in pixels: around the boxes [n, 4] (x, y, width, height), with a margin, in the image."""
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    margin = max(12.0, MARGIN * float((high - low).max()))
    size = np.array([width, height])
    low = np.clip(np.floor(low - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(high + margin), low + 1, size).astype(int)
    return (*low.tolist(), *(high - low).tolist())
