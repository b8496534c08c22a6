"""Scores on the test split beside those on val, each with its interval and that of the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mtseg.evaluation import intervals
from mtseg.report.html import metric
from mtseg.report.plotting import BLUE, ORANGE, canvas, columns, legend_above, rows_axis

SPLITS = (("val", BLUE, -0.17), ("test", ORANGE, 0.17))  # name, colour, shift of its line in a figure


def rows(
    named: Sequence[tuple[str, str, str]],
    values: Sequence[Mapping[str, float]],
    ranges: Sequence[Mapping[str, Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """A row of each score with `title`, `note` and the keys of `_compared`. named: (title, key, note) of each score.
    values, ranges: values, and low and high, by key, on val and on test; percent."""
    pairs = [
        [{"value": own.get(key)} | _ends(known.get(key)) for own, known in zip(values, ranges, strict=True)]
        for _, key, _ in named
    ]
    return [{"title": title, "note": note} | own for (title, _, note), own in zip(named, _compared(pairs), strict=True)]


def classes(val: pd.DataFrame, test: pd.DataFrame) -> list[dict[str, Any]]:
    """A row of each class with `task`, `class`, `instances` on test and, of AP, the keys of `_compared`. val, test:
    plots/classes.csv and plots/test_classes.csv."""
    both = [table.to_dict("records") for table in (val, test)]
    pairs = [
        [{"value": row["AP"], "low": row["AP_low"], "high": row["AP_high"]} for row in own]
        for own in zip(*both, strict=True)
    ]
    named = ("task", "class", "instances")
    return [{key: row[key] for key in named} | own for row, own in zip(both[1], _compared(pairs), strict=True)]


def _ends(row: Mapping[str, Any] | None) -> dict[str, float]:
    return {key: np.nan if row is None else row[key] for key in ("low", "high")}


def _compared(pairs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of each pair val and test, both with value, low and high, and their difference `delta`, with `low` and `high` of
    its 95 % interval, widened by the number of pairs. None where undefined."""
    pairs = [[{key: np.nan if own is None else own for key, own in side.items()} for side in pair] for pair in pairs]
    known = sum(intervals.difference(*pair) is not None for pair in pairs)
    found = []
    for val, test in pairs:
        delta, low, high = intervals.difference(val, test, known) or (test["value"] - val["value"], None, None)
        beyond = low is not None and not low <= 0 <= high
        found.append({"val": val, "test": test, "delta": delta, "low": low, "high": high, "beyond": beyond})
    return found


def figure(val: pd.DataFrame, test: pd.DataFrame) -> Figure | None:
    """The scores of both splits with their intervals. val, test: plots/intervals.csv and plots/test_intervals.csv."""
    tables = [table.set_index("metric") for table in (val, test)]
    metrics = [metric for metric in tables[0].index if metric in tables[1].index]
    if not metrics:
        return None
    axes = canvas(6.5, 1 + 0.36 * len(metrics)).subplots()
    for table, (name, colour, shift) in zip(tables, SPLITS, strict=True):
        places = np.arange(len(metrics)) + shift
        numbers = table.loc[metrics, ["value", "low", "high"]].to_numpy(dtype=float)
        for place, (_, low, high) in zip(places, numbers, strict=True):  # NaN without an interval
            axes.plot([low, high], [place, place], color=colour, lw=5, alpha=0.35, solid_capstyle="round")
        axes.plot(numbers[:, 0], places, "o", color=colour, ms=5.5, label=name)
    texts = [[f"{table.loc[metric, 'value']:.1f}" for table in tables] for metric in metrics]
    columns(axes, texts, [colour for _, colour, _ in SPLITS])
    rows_axis(axes, [metric(name) for name in metrics])
    axes.grid(axis="x")
    axes.set_title("Scores on val and on test, with 95 % intervals over images", pad=20)
    axes.set_xlabel("percent")
    legend_above(axes)
    return axes.figure
