"""Figures of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtseg.report.html import metric
from mtseg.report.plotting import COLOURS, GREY, INK, QUIET, canvas, end_labels, plain


def training(train: pd.DataFrame, val: pd.DataFrame) -> Figure | None:
    """Left: losses on a logarithmic scale, and the learning rate below. Right: validation scores."""
    losses = [name for name in train if name.startswith("loss") and (train[name] > 0).any()]
    scores = [name for name in val if name != "step" and val[name].notna().any()]
    if not losses and not scores:
        return None
    figure = canvas(9, 3.4)
    grid = figure.add_gridspec(2, 2, height_ratios=[4, 1])
    left, below, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[:, 1])
    _step_axes((left, below, right), [*train["step"], *val["step"]])
    left.set_xlabel("")
    left.tick_params(labelbottom=False)
    if losses:
        left.set_yscale("log")
    left.set_title("Training losses, logarithmic")
    _lines(left, train, losses, lambda name, value: f"{plain(name.removeprefix('loss_'))} {value:.3g}", heavy="loss")
    if "lr" in train and len(train):
        below.plot(train["step"], train["lr"], color=GREY, lw=1.2)
        below.set_ylim(0, 1.15 * max(train["lr"].max(), 1e-12))
        below.set_yticks([train["lr"].max()], [f"{train['lr'].max():.2g}"])
        below.set_title("learning rate", size=8.5, color=QUIET, pad=3)
    right.set_ylim(0, 100)
    right.set_title("Validation, percent")
    _lines(right, val, scores, lambda name, value: f"{metric(name)} {value:.1f}", heavy="joint_AP", marker="o")
    return figure


def _step_axes(panels: Iterable[Axes], steps: Iterable[int]) -> None:
    """Training steps on the x axes, from 0 to the last one."""
    end = max([1, *steps])
    for axes in panels:
        axes.set_xlim(0, end)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
        axes.set_xlabel("step")
        axes.grid(axis="y")


def _lines(
    axes: Axes, table: pd.DataFrame, names: list[str], text: Callable[[str, float], str], heavy: str, marker: str = ""
) -> None:
    """A line for each column `names` of the table over its steps, with `text(name, last value)` at the end. heavy: the
    column that is emphasised."""
    ends = []
    for number, name in enumerate(names):
        colour = INK if name == heavy else COLOURS[number % len(COLOURS)]
        marked = marker or ("o" if len(table) == 1 else None)
        points = table[["step", name]].dropna()
        if axes.get_yscale() == "log":
            points = points[points[name] > 0]
        axes.plot(
            *points.to_numpy().T, color=colour, lw=1.8 if name == heavy else 1.1, marker=marked, ms=3.5, clip_on=False
        )
        ends.append((points[name].iloc[-1], text(name, points[name].iloc[-1]), colour))
    if axes.get_yscale() == "log" and names:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, high / 10), max(high, 10 * low))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
    end_labels(axes, ends)


def health(table: pd.DataFrame) -> Figure | None:
    """Left: gradient norms. Right: share of matched queries predicted as background, and stability of the matching."""
    gradients = [name for name in table if name.startswith("gradient_") and (table[name] > 0).any()]
    shares = [name for name in table if name.startswith(("stability", "background_")) and table[name].notna().any()]
    if not gradients and not shares:
        return None
    figure = canvas(9, 3)
    left, right = figure.subplots(1, 2)
    _step_axes((left, right), table["step"])
    if gradients:
        left.set_yscale("log")
    left.set_title("Norm of the gradients, logarithmic")
    _lines(left, table, gradients, lambda name, value: plain(name.removeprefix("gradient_")), heavy="gradient_decoder")
    percent = table[["step"]].join(100 * table[shares])
    right.set_ylim(0, 100)
    right.set_title("Labelled background, and stable matches, percent")
    _lines(right, percent, shares, lambda name, value: f"{plain(name)} {value:.0f}", heavy="stability")
    return figure
