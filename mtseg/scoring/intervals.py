"""How far the leading numbers would move had other pictures been drawn: bootstrapped intervals (Efron, 1979).

hotcoco's `compare` resamples too, but counts a picture drawn twice once: a subsample of some 63 % of the pictures, with
intervals about three quarters as wide as they should be. Here a picture drawn twice counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtseg.records import Image, Prediction
from mtseg.scoring import curves
from mtseg.scoring.average_precision import EVERY
from mtseg.scoring.evidence import Evidence
from mtseg.scoring.overlaps import Matches
from mtseg.sections import Ranking, Task

SEED = 0
LEVEL = 0.95
REPLICATES = 500
FEWEST = 100  # however many predictions there are
COLUMNS = ("metric", "value", "low", "high")
WORK = 40_000_000  # replicates x predictions beyond which there are fewer replicates


def intervals(
    images: Sequence[Image],
    predictions: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    ranking: Ranking,
    max_dets: Sequence[int],
) -> list[dict[str, Any]]:
    """`rows` of these predictions. Raises UserError on predictions for pictures that are not among `images`."""
    return rows(Evidence.of(images, predictions, tasks=tasks, ranking=ranking, max_dets=max_dets))


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """A row a number: metric, value, and its 95 % interval over pictures, low and high; percent, 3 decimals.

    The ends are percentiles of the draws, moved so that the draws' median lies at the value: AP of a draw runs a little
    high, for what is drawn twice is ranked side by side, and precision is read at its best.
    segm.AP, segm.AP50, joint.AP, joint.AP50 and of each task AP and accuracy, under the names of metrics/evaluate.json;
    what is undefined is left out. The same draws serve all numbers.
    """
    weights = draws(evidence.overlaps.pictures, len(evidence.predictions))
    numbers = samples(evidence, weights)
    return [_row(metric, values) for metric, values in numbers.items() if not np.isnan(values[0])]


def samples(evidence: Evidence, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of each draw, 0 to 1 and NaN where undefined: [1 + B] each. weights: of `draws`."""
    main, *further = evidence.tasks
    segm = _ap(evidence, evidence.matches[main.name], weights)
    joint = _ap(evidence, evidence.jointly, weights)
    of_tasks = {main.name: segm[0]} | {t.name: _ap(evidence, evidence.matches[t.name], weights)[0] for t in further}
    numbers = dict(zip(("segm.AP", "segm.AP50", "joint.AP", "joint.AP50"), (*segm, *joint), strict=True))
    for task in evidence.tasks:
        numbers[f"tasks.{task.name}.AP"] = of_tasks[task.name]
        numbers[f"tasks.{task.name}.accuracy"] = _accuracy(evidence, task.name, weights)
    return numbers


def draws(pictures: int, predictions: int) -> np.ndarray:
    """How often each picture is drawn: [1 + B, S]; the first row, all ones, is the data as they are."""
    count = int(np.clip(WORK // max(predictions, 1), FEWEST, REPLICATES))
    drawn = np.random.default_rng(SEED).multinomial(pictures, np.full(pictures, 1 / pictures), size=count)
    return np.concatenate([np.ones((1, pictures)), drawn])


def _ap(evidence: Evidence, matches: Matches, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and AP50 of each draw, 0 to 1, NaN where nothing that counts was drawn."""
    scored = curves.average_precision(matches, evidence.pictures, weights)
    return curves.mean(scored), curves.mean(scored[:, :, :1])


def _accuracy(evidence: Evidence, name: str, weights: np.ndarray) -> np.ndarray:
    """Share of labels that are right on matched objects, of each draw."""
    labels, hit = evidence.labels[name], evidence.whatever.hit[0]
    found = np.flatnonzero(hit >= 0)
    found = found[labels.true[hit[found]] != EVERY]
    right = labels.found[found] == labels.true[hit[found]]
    pictures = evidence.overlaps.found_picture[found]
    matched, correct = (np.bincount(p, minlength=weights.shape[1]) for p in (pictures, pictures[right]))
    count = weights @ matched
    return np.divide(weights @ correct, count, out=np.full(len(weights), np.nan), where=count > 0)


def _row(metric: str, values: np.ndarray) -> dict[str, Any]:
    return dict(zip(COLUMNS, (metric, *interval(values)), strict=True))


def interval(values: np.ndarray, *, least: float = 0) -> tuple[float, float, float]:
    """Value and ends of its interval, in percent, from [1 + B] draws of which the first is the data as they are.

    least: the smallest value there may be; of a difference -1.
    """
    value, drawn = values[0], values[1:][~np.isnan(values[1:])]
    low, median, high = np.quantile(drawn, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2]) if len(drawn) else [value] * 3
    ends = np.clip([value + low - median, value + high - median], least, 1)
    value, low, high = (round(100 * float(number), 3) for number in (value, *ends))
    return value, low, high
