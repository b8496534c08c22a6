"""How far a number would move had other pictures been drawn: the bootstrap (Efron, 1979).

hotcoco's `compare` resamples too, but counts a picture drawn twice once: a subsample of some 63 % of the pictures, with
intervals about three quarters as wide as they should be. Here a picture drawn twice counts twice.
"""

from __future__ import annotations

import numpy as np

SEED = 0
LEVEL = 0.95
REPLICATES = 500
LEAST_PICTURES = 5  # fewer say nothing of those that were not drawn: no interval
FEWEST = 100  # however many predictions there are
WORK = 40_000_000  # replicates x predictions beyond which there are fewer replicates


def draws(pictures: int, predictions: int) -> np.ndarray:
    """How often each picture is drawn: [1 + B, S]; the first row, all ones, is the data as they are.

    B is 500, fewer where there are many predictions but 100 at least, and 0 below 5 pictures.
    """
    count = int(np.clip(WORK // max(predictions, 1), FEWEST, REPLICATES))
    count = count if pictures >= LEAST_PICTURES else 0
    drawn = np.random.default_rng(SEED).multinomial(pictures, np.full(pictures, 1 / max(pictures, 1)), size=count)
    return np.concatenate([np.ones((1, pictures)), drawn])


def interval(values: np.ndarray, *, least: float = 0) -> tuple[float, float, float]:
    """Value and ends of its interval, in percent, from [1 + B] draws of which the first is the data as they are.

    The ends are percentiles of the draws, moved so that the draws' median lies at the value: AP of a draw runs a little
    high, for what is drawn twice is ranked side by side, and precision is read at its best.
    The ends are NaN where nothing was drawn. least: the smallest value there may be; of a difference -1.
    """
    value, drawn = values[0], values[1:][~np.isnan(values[1:])]
    if not len(drawn):
        return round(100 * float(value), 3), np.nan, np.nan
    low, median, high = np.quantile(drawn, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    ends = np.clip([value + low - median, value + high - median], least, 1)
    value, low, high = (round(100 * float(number), 3) for number in (value, *ends))
    return value, low, high
