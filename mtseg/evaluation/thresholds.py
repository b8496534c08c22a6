"""The filter's thresholds, picked on predictions with known truth: `filter.thresholds: auto`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mtseg.core.params import Filter, Ranking, Task
from mtseg.core.tables import Image, Prediction
from mtseg.evaluation.f1 import Tally, summary
from mtseg.evaluation.filter import duplicate, sieve, surplus
from mtseg.evaluation.matching import pictures

LEVELS = 50  # quantiles tried of each task's scores and logits
DECIMALS = 3  # of a threshold
LEAST_GAIN = 0.05  # points of joint F1 that a threshold has to bring
Thresholds = dict[str, dict[str, float]]  # min_score and min_logit, each {task: number}
Limits = dict[tuple[str, str], float]  # the same by (min_score or min_logit, task)


def pick(
    images: Sequence[Image],
    predictions: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    settings: Filter,
    ranking: Ranking,
) -> Thresholds:
    """min_score and min_logit of each task that bring joint F1 to its highest, the other rules as in `settings`.

    Coordinate search: one threshold after the other takes the quantile that is best with the rest as they are, until
    none gains. It starts without any, and one that gains nothing is left out. On the predictions that they were picked
    on, joint F1 flatters them.
    """
    bare = settings.model_copy(update={"min_score": {}, "min_logit": {}, "nms": "none", "most": None})
    *_, found = sieve(predictions, tasks=tasks, settings=bare, ranking=ranking).steps.values()
    found = found.compared()  # the thresholds decide which masks meet, not how much they overlap
    tally = Tally(pictures(images, found.predictions, tasks=tasks, ranking=ranking), tasks)
    row = np.empty(len(predictions), dtype=int)
    row[found.index] = tally.rows(found.predictions)
    values = {("min_score", task): scores for task, scores in found.score.items()}
    values |= {("min_logit", task): logits for task, logits in found.logit.items()}

    def joint_f1(limits: Limits) -> float:
        passed = np.ones(len(found), dtype=bool)
        for key, limit in limits.items():
            passed &= values[key] >= limit
        kept = surplus(duplicate(found[passed], settings), settings)
        return summary(tally.counts(row[kept.index])).get("joint_f1", 0.0)

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
