"""A study's plot: its first column, or another, over one factor, a line a level of another, bars the 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ablations import means
from ablations.studies import Study
from mtseg.report.plotting import COLOURS, canvas, end_labels, style, svg

Groups = Mapping[tuple[str, ...], Mapping[str, Mapping[int, float]]]


def plot(study: Study, scale: str, groups: Groups) -> str:
    """SVG. Same bytes each time."""
    factors, (x, series, y) = list(study.vary), (study.plot[key] for key in ("x", "series", "y"))
    levels = study.levels(scale)
    places = positions(levels[x])
    with style():
        figure = canvas(5.6, 3.2)
        axes = figure.subplots()
        ends = []
        for line, colour in zip(levels[series], COLOURS, strict=False):
            points = []
            for key, columns in groups.items():
                chosen = dict(zip(factors, key, strict=True))
                if chosen[series] == line and columns[y]:
                    values = [*columns[y].values()]
                    points.append((places[chosen[x]], np.mean(values), means.half_interval(values)))
            if points:
                at, mean, half = zip(*sorted(points), strict=True)
                axes.errorbar(at, mean, half, color=colour, marker="o", ms=4, lw=1.6, elinewidth=1, capsize=3)
                ends.append((float(mean[-1]), line.replace("_", " "), colour))
        axes.set_xticks([*places.values()], [*places])
        axes.minorticks_off()
        axes.set(xlabel=x, ylabel=y)
        axes.margins(x=0.04)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        end_labels(axes, ends)
        return svg(figure, f"{study.name}_{scale}", f"{y} by {x}")


def positions(levels: list[str]) -> dict[str, float]:
    """Where each level stands: by the logarithm of a positive number, else one after the other."""
    try:
        numbers = [float(level) for level in levels]
        if min(numbers) > 0:
            return dict(zip(levels, np.log10(numbers).tolist(), strict=True))
    except ValueError:
        pass
    return {level: float(place) for place, level in enumerate(levels)}
