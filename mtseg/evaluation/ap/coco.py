"""COCO's 12 numbers, by masks and by boxes, of the main task."""

from __future__ import annotations

import numpy as np

from mtseg.core.masks import AREA_RANGES
from mtseg.evaluation.ap.average_precision import average_precision, mean, means, percent
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Candidates, Matches, positions

SIZES = {"": None} | {name[0]: limits for name, limits in AREA_RANGES.items()}  # suffixes of AP and AR


def numbers(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """{"segm" or "bbox": {name: number}} with AP, AP50, AP75, AR1, ..., and by size APs, ARs, ...; percent, 3 decimals.

    Numbers without ground truth are left out. AP is at the largest of `max_dets`.
    """
    return {"segm": of_masks(evaluation), "bbox": of_boxes(evaluation)}


def of_masks(evaluation: Evaluation) -> dict[str, float]:
    return _numbers(evaluation, evaluation.candidates)


def of_boxes(evaluation: Evaluation) -> dict[str, float]:
    return _numbers(evaluation, evaluation.candidates_of_boxes())


def _numbers(evaluation: Evaluation, candidates: Candidates) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for size in SIZES:
        numbers |= _of_size(evaluation, candidates, size)
    return {name: percent(value) for name, value in numbers.items() if not np.isnan(value)}


def _of_size(evaluation: Evaluation, candidates: Candidates, size: str) -> dict[str, float]:
    """The numbers of a key of SIZES, 0 to 1, apart: the matches of 10,000,000 predictions take 100 MB."""
    matches = evaluation.of_task(evaluation.tasks[0], candidates=candidates, sizes=SIZES[size])
    scored = average_precision(matches, candidates)
    if size:
        return {f"AP{size}": mean(scored)[0], f"AR{size}": _recall(matches, matches.scored)}
    place = positions(candidates.image[matches.scored], matches.predicted[matches.scored])
    recalls = {f"AR{count}": _recall(matches, matches.scored[place < count]) for count in evaluation.max_dets}
    return {"AP": mean(scored)[0], "AP50": means(scored)["AP50"][0], "AP75": mean(scored[:, :, 5:6])[0]} | recalls


def _recall(matches: Matches, scored: np.ndarray) -> float:
    """Recall of the predictions `scored`: mean over categories and IoU thresholds, 0 to 1; NaN without ground truth."""
    objects = np.bincount(matches.true[matches.objects], minlength=matches.categories)[: matches.categories]
    counted = np.zeros(len(matches.predicted), dtype=bool)
    counted[scored] = True
    category, counted = matches.predicted[matches.rows], counted[matches.rows]
    hits = [category[counted & own] for own in matches.hit >= 0]
    counts = np.stack([np.bincount(own, minlength=matches.categories)[: matches.categories] for own in hits])
    return float((counts[:, objects > 0] / objects[objects > 0]).mean()) if objects.any() else np.nan
