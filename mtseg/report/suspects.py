"""Suspected label errors as the page shows them: the place cut out, with the outlines of annotation and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtseg.core.tables import Image, Instance, Prediction
from mtseg.report import outline

SIZE = 240  # pixels, longer side of a cut-out
MARGIN = 0.4  # of its objects' longer side, on every side: context


def collect(
    errors: Sequence[Mapping[str, Any]], images: Sequence[Image], raw: Sequence[Prediction], *, count: int
) -> list[dict[str, Any]]:
    """The first `count` of the `label_errors` of data/evaluation.json, which come surest first.

    Each as it stands there, with: number (from 1), name of the picture, window (x, y, width, height in the picture, for
    `cut`), width and height of the cut-out, and in its pixels the outlines `truth` and `found`, "" where there is none.
    """
    by_id = {image.id: image for image in images}
    return [_place(number, error, by_id[error["image_id"]], raw) for number, error in enumerate(errors[:count], 1)]


def cut(pixels: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """The window (x, y, width, height) of uint8 [height, width, 3]."""
    x, y, width, height = window
    return pixels[y : y + height, x : x + width]


def _place(number: int, error: Mapping[str, Any], image: Image, raw: Sequence[Prediction]) -> dict[str, Any]:
    truth: Instance | None = None if error["instance"] is None else image.instances[error["instance"]]
    found: Prediction | None = None if error["prediction"] is None else raw[error["prediction"]]
    window = _window([item.bbox for item in (truth, found) if item], image)
    scale = SIZE / max(window[2:])

    def path(item: Instance | Prediction | None) -> str:
        if item is None:
            return ""
        return outline.path(item.segmentation, image.height, image.width, scale=scale, corner=window[:2])

    return dict(error) | {
        "number": number,
        "name": image.file_name,
        "window": window,
        "width": max(1, round(window[2] * scale)),
        "height": max(1, round(window[3] * scale)),
        "truth": path(truth),
        "found": path(found),
    }


def _window(boxes: Sequence[tuple[float, float, float, float]], image: Image) -> tuple[int, int, int, int]:
    """Round the boxes (x, y, width, height), with a margin, inside the picture."""
    corners = np.array([[x, y, x + width, y + height] for x, y, width, height in boxes])
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    margin = max(12.0, MARGIN * float((high - low).max()))
    size = np.array([image.width, image.height])
    low = np.clip(np.floor(low - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(high + margin), low + 1, size).astype(int)
    return (*low.tolist(), *(high - low).tolist())
