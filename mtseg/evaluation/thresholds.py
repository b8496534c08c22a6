"""The filter's thresholds, picked on predictions with known ground truth: `filter.thresholds: auto`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mtseg.core.params import Filter
from mtseg.evaluation import f1
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.filter import apply, duplicate, label_scores, surplus

LEVELS = 50  # quantiles tried of each task's scores and logits
DECIMALS = 3  # of a threshold
LEAST_GAIN = 0.05  # points of joint F1 that a threshold has to bring
Thresholds = dict[str, dict[str, float]]  # min_score and min_logit, each {task: number}
Limits = dict[tuple[str, str], float]  # the same by (min_score or min_logit, task)


def pick(evaluation: Evaluation, settings: Filter) -> Thresholds:
    """min_score and min_logit of each task that bring joint F1 to its highest, the other rules as in `settings`.

    Coordinate search: one threshold after the other takes the quantile that is best with the rest as they are, until
    none gains. It starts without any, and one that gains nothing is left out. Joint F1 of the predictions that they
    were picked on is optimistic.
    """
    bare = settings.model_copy(update={"min_score": {}, "min_logit": {}, "nms": "none", "most": None})
    *_, left = apply(evaluation, bare).steps.values()
    left = left.compared()  # the thresholds decide which masks meet, not how much they overlap
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
    """Of each key the level, or none, so that no other level of a single key gives a higher value.

    Then those go, one after the other, without which less than 0.05 is lost.
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
