"""The predictions of a few images in a few numbers. A training records them with the weights of a validation; the
diagnosis compares them with those of the stored predictions, which the same weights should have made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions

IMAGES = 50  # at most


def spread(images: Images, count: int) -> Images:
    """At most `count` images, evenly spread over all."""
    return images[np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]


def summary(images: Images, predictions: Predictions, tasks: Sequence[Task]) -> np.ndarray:
    """float [min(I, IMAGES), 6 + T], for each of these images: the number of predictions; the sum of the scores; the
    means, weighted by score, of mask quality, side (the root of the area, over that of the image), centre in x and y (0
    to 1), and of the label of each task (0 to 1, first to last class). Such means hardly change when the order of the
    predictions does."""
    chosen = spread(images, IMAGES)
    found = predictions[np.isin(predictions.image_id, chosen.id)]
    row, (x, y, w, h) = chosen.rows(found.image_id), found.box.reshape(-1, 4).T
    labels = [found.labels[task.name] / max(len(task.classes) - 1, 1) for task in tasks]
    side = np.sqrt(found.area / (found.width * found.height))
    values = (found.mask_quality, side, (x + w / 2) / found.width, (y + h / 2) / found.height, *labels)
    total = np.bincount(row, found.score, len(chosen))
    means = [np.bincount(row, found.score * value, len(chosen)) / np.maximum(total, 1e-9) for value in values]
    return np.column_stack([np.bincount(row, minlength=len(chosen)), total, *means]).round(4)
