"""Style, labels and SVG output of all figures.

Text and axes are drawn in `currentColor`: the text colour of the page if the SVG is part of a page, light or dark;
black in a file. Text remains text, in the reader's font.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

INK = "#123456"  # replaced by currentColor in the SVG
QUIET = f"{INK}b3"  # the same, 70 % opaque
COLOURS = (  # legible on white and on nearly black
    *("#3d85c6", "#e0862b", "#3fa066", "#d65a56", "#9a76c9", "#20a3a3"),
    *("#d873ad", "#ab7a5b", "#9c9c33", "#6f8fae"),
)
BLUE, ORANGE, RED = COLOURS[0], COLOURS[1], COLOURS[3]
GREY = "#8a919c"
FAINT = f"{GREY}55"
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may have the name $x$
    "font.family": "DejaVu Sans",  # wider than the fonts of browsers: what fits here also fits there
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": QUIET,
    "axes.labelsize": 8.5,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "grid.color": f"{GREY}33",
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}


@contextmanager
def style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # in DejaVu Sans; the reader's font may have it
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure. width, height: inches."""
    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure, name: str, title: str) -> str:
    """The figure as SVG with an accessible title. The same figure gives the same bytes.

    name: unique in a page; it makes the ids in the SVG unique.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r" <metadata>.*?</metadata>\n", "", text, flags=re.DOTALL)  # contains the date
    # in a page, its rules would apply to the whole page
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # axes_1 and the like
    text = re.sub(r"(font[a-z-]*: [^;'\"<>]*)'DejaVu Sans'[^;\"<>]*", r"\1system-ui, sans-serif", text)
    opening = f'<svg role="img" aria-label="{html.escape(title)}" stroke-linejoin="round"'
    return text.replace("<svg", opening, 1).replace(">", f">\n <title>{html.escape(title)}</title>", 1)


def end_labels(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Label lines at the right edge, without overlap. labels: (y of the last point, text, colour)."""
    if not labels:
        return
    pixels = axes.transData.transform([(axes.get_xlim()[0], y) for y, _, _ in labels])
    ends = axes.transAxes.inverted().transform(pixels)[:, 1]
    size = 8.5
    gap = 1.35 * size / (axes.bbox.height * 72 / axes.figure.dpi)
    order, steps = np.argsort(ends, kind="stable"), gap * np.arange(len(labels))
    places = isotonic_regression(ends[order] - steps).x + steps  # as close to the ends as the gaps allow
    places = np.minimum(np.maximum(places, steps - 0.03), 1.03 - steps[::-1])
    for place, index in zip(places, order, strict=True):
        _, text, colour = labels[index]
        axes.plot([1, 1.025], [ends[index], place], color=colour, lw=0.8, transform=axes.transAxes, clip_on=False)
        axes.text(1.035, place, text, color=colour, size=size, va="center", transform=axes.transAxes)


def columns(axes: Axes, rows: Sequence[Sequence[str]], colours: Sequence[str]) -> None:
    """Columns of text to the right of the axes, at y = 0, 1, ... rows: texts of each row; colours: of the columns."""
    widest = [max(len(row[column]) for row in rows) for column in range(len(colours))]
    for column, colour in enumerate(colours):
        left = 10 + sum(5.6 * width + 10 for width in widest[:column])
        for y, row in enumerate(rows):
            place = {"xycoords": axes.get_yaxis_transform(), "offset": (left, 0)}
            note(axes, row[column], (1, y), size=8.5, color=colour, **place)


def note(axes: Axes, text: str, point: tuple[float, float], offset: tuple[int, int] = (4, 0), **options: Any) -> None:
    """Text at an offset from a data point, in points (1/72 inch). options: of `Axes.annotate`."""
    axes.annotate(text, point, offset, textcoords="offset points", **{"va": "center"} | options)


def bars(axes: Axes, names: Sequence[str], values: Sequence[float], texts: Sequence[str], colour: str) -> None:
    """Horizontal bars, the first on top, each with a text at its end, without an x axis."""
    rows = np.arange(len(names))
    values = np.nan_to_num(np.asarray(values, dtype=float))
    axes.barh(rows, values, height=0.68, color=colour, lw=0)
    for row, value, text in zip(rows, values, texts, strict=True):
        note(axes, text, (max(value, 0), row), size=8.5)
    rows_axis(axes, names)
    axes.spines[["bottom"]].set_visible(False)
    axes.set_xticks([])


def rows_axis(axes: Axes, names: Sequence[str]) -> None:
    """A y axis with one row per name, the first on top, without ticks."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.spines[["left"]].set_visible(False)


def legend_above(axes: Axes) -> None:
    """A legend in one line between axes and title. The title needs pad=20."""
    place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.98), "borderpad": 0, "columnspacing": 1.5}
    axes.legend(ncols=4, labelcolor="linecolor", handlelength=0.8, **place)


def short(name: str, limit: int = 24) -> str:
    """The name, cut to `limit` characters."""
    name = "".join(sign if sign.isprintable() else " " for sign in name)  # XML has no control characters
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def plain(name: str) -> str:
    """The name with spaces: `low_score` is `low score`."""
    return name.replace("_", " ")
