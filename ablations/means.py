"""Rows by their levels, and means over seeds with half their 95 % intervals, by Student's t."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t

from ablations.rows import Row
from ablations.studies import Study

LEVEL = 0.95


def groups(study: Study, scale: str, rows: Sequence[Row]) -> dict[tuple[str, ...], dict[str, dict[int, float]]]:
    """levels of all factors -> column -> {seed: value}, in the study's order; undefined values left out."""
    ranks = [{level: rank for rank, level in enumerate(levels)} for levels in study.levels(scale).values()]
    found: dict[tuple[str, ...], dict[str, dict[int, float]]] = {}
    for row in rows:
        columns = found.setdefault(tuple(row[factor] for factor in study.vary), {name: {} for name in study.metrics})
        for name, values in columns.items():
            if row.get(name):
                values[int(row["seed"])] = float(row[name])
    return dict(
        sorted(found.items(), key=lambda item: [rank[level] for rank, level in zip(ranks, item[0], strict=True)])
    )


def mean_and_half(values: Sequence[float], *, signed: bool = False) -> str:
    """`61.2 ± 0.8`: the mean and half its interval; the mean alone of one value, nothing of none."""
    if not values:
        return ""
    text = f"{np.mean(values):{'+' if signed else ''}.1f}"
    return text if len(values) == 1 else f"{text} ± {half_interval(values):.1f}"


def half_interval(values: Sequence[float]) -> float:
    """Half the interval of the mean at LEVEL, by Student's t; 0 for less than two values."""
    count = len(values)
    if count < 2:
        return 0.0
    return float(t.ppf((1 + LEVEL) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
