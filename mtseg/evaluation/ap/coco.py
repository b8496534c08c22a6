"""COCO's 12 numbers, by masks and by boxes, of the main task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtseg.core.masks import AREA_RANGES
from mtseg.evaluation.ap import pairs
from mtseg.evaluation.ap.average_precision import average_precision, mean, means, percent
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Candidates, Matches, positions

SIZES = {"": None} | {name[0]: limits for name, limits in AREA_RANGES.items()}  # suffixes of AP and AR


def numbers(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """{"segm" or "bbox": {name: number}} with AP, AP50, AP75, AR1, ..., and by size APs, ARs, ...; percent, 3 decimals.

    Numbers without ground truth are left out. AP is at the largest of `max_dets`.
    """
    predictions = evaluation.predictions
    area = np.concatenate([np.zeros(0), *(box[:, 2:].prod(1) for _, box in predictions.parts("box"))])
    of_boxes = evaluation.candidates_of(pairs.of_boxes(evaluation.images, predictions), area)
    found = {}
    for kind, candidates in (("segm", evaluation.candidates), ("bbox", of_boxes)):
        main = evaluation.tasks[0]
        by_size = {
            size: evaluation.of_task(main, candidates=candidates, sizes=limits) for size, limits in SIZES.items()
        }
        found[kind] = _numbers(by_size, candidates, evaluation.max_dets)
    return found


def _numbers(by_size: Mapping[str, Matches], candidates: Candidates, max_dets: Sequence[int]) -> dict[str, float]:
    once, numbers = np.ones((1, 1 + max(candidates.image.max(initial=0), candidates.true_image.max(initial=0)))), {}
    for size, matches in by_size.items():
        scored = average_precision(matches, candidates, once)
        numbers[f"AP{size}"] = mean(scored)[0]
        if not size:
            numbers |= {"AP50": means(scored)["AP50"][0], "AP75": mean(scored[:, :, 5:6])[0]}
            place = positions(candidates.image[matches.scored], matches.predicted[matches.scored])
            numbers |= {f"AR{count}": _recall(matches, matches.scored[place < count]) for count in max_dets}
        else:
            numbers[f"AR{size}"] = _recall(matches, matches.scored)
    return {name: percent(value) for name, value in numbers.items() if not np.isnan(value)}


def _recall(matches: Matches, scored: np.ndarray) -> float:
    """Recall of the predictions `scored`: mean over categories and IoU thresholds, 0 to 1; NaN without ground truth."""
    objects = np.bincount(matches.true[matches.objects], minlength=matches.categories)[: matches.categories]
    counted = np.zeros(len(matches.predicted), dtype=bool)
    counted[scored] = True
    category, counted = matches.predicted[matches.rows], counted[matches.rows]
    hits = [category[counted & own] for own in matches.hit >= 0]
    counts = np.stack([np.bincount(own, minlength=matches.categories)[: matches.categories] for own in hits])
    return float((counts[:, objects > 0] / objects[objects > 0]).mean()) if objects.any() else np.nan
