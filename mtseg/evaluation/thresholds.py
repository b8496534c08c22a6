"""Thresholds of the filter tuned on predictions with ground truth: `filter.thresholds: auto`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mtseg.core.params import Filter
from mtseg.evaluation import f1
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.filter import apply, duplicate, label_scores, surplus

LEVELS = 50  # quantiles of each task's scores and logits that are tried
DECIMALS = 3  # of a threshold
LEAST_GAIN = 0.05  # percentage points of joint F1 that a threshold must gain
Thresholds = dict[str, dict[str, float]]  # min_score and min_logit, each {task: number}
Limits = dict[tuple[str, str], float]  # {(min_score or min_logit, task): number}


def pick(evaluation: Evaluation, settings: Filter) -> Thresholds:
    """min_score and min_logit of each task that maximise joint F1, with the other rules as in `settings`.

    Coordinate ascent from no threshold at all: each threshold in turn is set to the quantile with the highest joint F1,
    until none improves. Thresholds that gain less than 0.05 points are left out. Joint F1 of the predictions that the
    thresholds were tuned on is optimistic.
    """
    bare = settings.model_copy(update={"min_score": {}, "min_logit": {}, "nms": "none", "most": None})
    *_, left = apply(evaluation, bare).steps.values()
    left = left.with_overlap()  # overlaps do not depend on the thresholds: computed once
    values = {("min_score", task): scores for task, scores in label_scores(left.predictions).items()}
    values |= {("min_logit", task): logits for task, logits in left.predictions.logit.items()}

    def joint_f1(limits: Limits) -> float:
        passed = np.ones(len(left), dtype=bool)
        for key, limit in limits.items():
            passed &= values[key] >= limit
        kept = surplus(duplicate(left[passed], settings), settings)
        return f1.summary(f1.counts(left.evaluation, kept.as_mask())).get("joint_f1", 0.0)

    limits = ascend(joint_f1, {key: _levels(column) for key, column in values.items()})
    picked: Thresholds = {"min_score": {}, "min_logit": {}}
    for (threshold, task), limit in limits.items():
        picked[threshold][task] = limit
    return picked


def _levels(column: np.ndarray) -> list[float]:
    if not column.size:
        return []
    return np.unique(np.quantile(column, np.linspace(0, 1, LEVELS)).round(DECIMALS)).tolist()


def ascend(value: Callable[[Limits], float], levels: Mapping[tuple[str, str], Sequence[float]]) -> Limits:
    """One level, or none, for each key, such that changing a single key does not increase `value`. Then each level
    whose removal costs less than 0.05 is removed.
    """
    limits: Limits = {}
    best, last = value(limits), -1.0
    while best > last:
        last = best
        for key, own in levels.items():
            for tried in [_without(limits, key), *({**limits, key: level} for level in own)]:
                if (reached := value(tried)) > best:
                    best, limits = reached, tried
    for key in tuple(limits):
        if value(limits) - value(_without(limits, key)) < LEAST_GAIN:
            limits = _without(limits, key)
    return limits


def _without(limits: Limits, key: tuple[str, str]) -> Limits:
    return {other: limit for other, limit in limits.items() if other != key}
