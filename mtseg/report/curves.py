"""Training curves as an SVG that sits in a page, on light ground and dark."""

from __future__ import annotations

import io

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GREY = "#868c96"  # reads on white and on black
STYLE = {
    "svg.hashsalt": "mtseg",  # else the ids in the file are random
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.labelcolor": GREY,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def svg(train: pd.DataFrame, val: pd.DataFrame) -> str:
    """Losses by step, on a logarithmic scale, beside validation figures; the tables of plots/. Same bytes each time."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _lines(left, train, [name for name in train if name.startswith("loss")], "training losses")
        if (train.filter(like="loss") > 0).any(axis=None):
            left.set_yscale("log")
        _lines(right, val, [name for name in val if name != "step"], "validation", marker="o")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _lines(axes: Axes, table: pd.DataFrame, columns: list[str], title: str, marker: str | None = None) -> None:
    for number, name in enumerate(columns):
        width = 1.8 if name == "loss" else 1
        axes.plot(table["step"], table[name], marker=marker, ms=3, lw=width, color=f"C{number % 10}", label=name)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("step")
    axes.grid(color=GREY, alpha=0.2, lw=0.5)
    if columns:
        axes.legend(fontsize=7, ncols=2 if len(columns) > 4 else 1)
