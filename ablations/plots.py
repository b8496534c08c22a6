"""The plot of a study: a metric over one factor, one line per level of another; by default its first metric by level.
Error bars are 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ablations import rows
from ablations.studies import Study
from mtseg.report.plotting import COLOURS, canvas, end_labels, style, svg

Groups = Mapping[tuple[str, ...], Mapping[str, Mapping[int, float]]]


def plot(study: Study, scale: str, groups: Groups) -> str:
    """An SVG, deterministic."""
    return _lines(study, scale, groups) if study.plot else _levels(study, scale, groups)


def title(study: Study) -> str:
    if study.plot:
        return f"{study.plot.y} by {study.plot.x}, one line per {study.plot.series}"
    return f"{next(iter(study.metrics))} by {' and '.join(study.vary)}"


def _levels(study: Study, scale: str, groups: Groups) -> str:
    y = next(iter(study.metrics))
    found = [(" ".join(key).replace("_", " "), [*columns[y].values()]) for key, columns in groups.items() if columns[y]]
    with style():
        figure = canvas(5.6, 0.8 + 0.26 * len(found))
        axes = figure.subplots()
        for place, (_, values) in enumerate(found):
            axes.errorbar(np.mean(values), -place, xerr=rows.half_interval(values), color=COLOURS[0], marker="o", ms=5,
                          elinewidth=1, capsize=3, clip_on=False)  # fmt: skip
        axes.set_yticks([-place for place in range(len(found))], [name for name, _ in found])
        axes.minorticks_off()
        axes.set(xlabel=y)
        axes.set_xlim(left=0)
        _caption(axes, scale, [values for _, values in found])
        axes.grid(axis="x")
        return svg(figure, f"{study.name}_{scale}", title(study))


def _lines(study: Study, scale: str, groups: Groups) -> str:
    factors, (x, series, y) = list(study.vary), (study.plot.x, study.plot.series, study.plot.y)
    levels = study.levels(scale)
    places = positions(levels[x])
    with style():
        figure = canvas(5.6, 3.2)
        axes = figure.subplots()
        ends = []
        apart = 0.015 * (max(places.values()) - min(places.values()))  # so that error bars do not overlap
        for number, (line, colour) in enumerate(zip(levels[series], COLOURS, strict=False)):
            points, shift = [], apart * (number - (len(levels[series]) - 1) / 2)
            for key, columns in groups.items():
                chosen = dict(zip(factors, key, strict=True))
                if chosen[series] == line and columns[y]:
                    values = [*columns[y].values()]
                    points.append((places[chosen[x]] + shift, np.mean(values), rows.half_interval(values)))
            if points:
                at, mean, half = zip(*sorted(points), strict=True)
                axes.errorbar(at, mean, half, color=colour, marker="o", ms=4, lw=1.6, elinewidth=1, capsize=3)
                ends.append((float(mean[-1]), line.replace("_", " "), colour))
        axes.set_xticks([*places.values()], [*places])
        axes.minorticks_off()
        axes.set(xlabel=x, ylabel=y)
        axes.margins(x=0.04)
        axes.set_ylim(bottom=0)
        _caption(axes, scale, [[*columns[y].values()] for columns in groups.values() if columns[y]])
        axes.grid(axis="y")
        end_labels(axes, ends)
        return svg(figure, f"{study.name}_{scale}", title(study))


def _caption(axes: Axes, scale: str, seeds: Sequence[Sequence[float]]) -> None:
    bars = "; bars: 95 % intervals" if any(len(values) > 1 for values in seeds) else "; one seed"
    axes.set_title(f"{scale}{bars}", loc="left", size=8.5, pad=8)


def positions(levels: list[str]) -> dict[str, float]:
    """The position of each level: its logarithm if all are positive numbers, else its index."""
    try:
        numbers = [float(level) for level in levels]
        if min(numbers) > 0:
            return dict(zip(levels, np.log10(numbers).tolist(), strict=True))
    except ValueError:
        pass
    return {level: float(place) for place, level in enumerate(levels)}
