"""The report's figures as SVG: in the page, and as files for `dvc plots show`. What is undefined is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtseg.report import breakdowns, learning
from mtseg.report.html import ranking
from mtseg.report.plotting import (
    BLUE,
    COLOURS,
    FAINT,
    GREY,
    INK,
    ORANGE,
    QUIET,
    canvas,
    columns,
    end_labels,
    legend_above,
    plain,
    rows_axis,
    short,
    style,
    svg,
)

Numbers = dict[str, Any]
NAMED = 10  # classes told apart by colour; the rest are grey


def figures(numbers: Numbers) -> dict[str, str]:
    """SVG by name, of those figures whose numbers are given and not empty. Same bytes each time.

    numbers: the tables `classes`, `rankings`, `intervals` and `rules` (of the filter), of training `train`, `val` and
    `health`; the JSON files `analysis`, `manifest` and `diagnosis`. Names: training, health, lost, intervals,
    precision_recall, f1_by_score, confusion_TASK, calibration, errors, classes, rankings, filter, data_TASK, images.
    """
    analysis, manifest = numbers.get("analysis"), numbers.get("manifest")
    drawings: dict[str, tuple[str, Callable[[], Figure | None]]] = {}

    def add(name: str, title: str, needs: Iterable[str], draw: Callable[..., Figure | None], *extra: Any) -> None:
        given = [numbers.get(key) for key in needs]
        if all(value is not None for value in given):
            drawings[name] = title, lambda: draw(*given, *extra)

    add("training", "Losses and validation by training step", ("train", "val"), learning.training)
    add("health", "Gradients, matching and background by training step", ("health",), learning.health)
    add("lost", "Joint AP with one kind of error corrected", ("diagnosis",), learning.lost)
    add("intervals", "Scores with 95 % intervals", ("intervals",), intervals)
    add("precision_recall", "Precision against recall of each class", ("analysis", "classes"), precision_recall)
    add("f1_by_score", "F1 against the score threshold", ("analysis", "classes"), f1_by_score)
    for task in analysis["tasks"] if analysis else ():
        title = f"Confusion of {task}: ground truth in rows, predictions in columns"
        add(f"confusion_{task}", title, ("analysis",), breakdowns.confusion, task)
    add("calibration", "Share of correct labels against predicted probability", ("analysis",), breakdowns.calibration)
    add("errors", "AP50 lost to each kind of error", ("analysis",), breakdowns.errors)
    add("classes", "AP of each class", ("classes",), breakdowns.classes)
    add("rankings", "AP by ranking", ("rankings",), rankings)
    add("filter", "Precision, recall and F1 after each rule of the filter", ("rules",), rules)
    for task in manifest["tasks"] if manifest else ():
        title = f"Classes of {task['name']} in train and val"
        add(f"data_{task['name']}", title, ("manifest",), breakdowns.labels, task)
    add("images", "Instances per image, and their sizes", ("manifest",), breakdowns.images)

    done = {}
    with style():
        for name, (title, draw) in drawings.items():
            if figure := draw():
                done[name] = svg(figure, name, title)
    return done


def _curves(analysis: Numbers, classes: pd.DataFrame) -> tuple[str, Numbers, list[str], dict[str, float]]:
    """The main task, its analysis, its classes by number of instances, and their AP50."""
    task = next(iter(analysis["tasks"]))
    rows = classes[classes["task"] == task].sort_values("instances", ascending=False, kind="stable")
    own = analysis["tasks"][task]
    names = [name for name in rows["class"] if name in own["curves"]]
    return task, own, names, dict(zip(rows["class"], rows["AP50"], strict=True))


def _class_lines(
    axes: Axes, steps: np.ndarray, own: Numbers, names: list[str], key: str, texts: dict[str, str], note: str
) -> None:
    """A line a class over `steps` [101], the largest named with their texts, and one for all together with its note."""
    for name in names[NAMED:]:
        axes.plot(steps, _values(own["curves"][name][key]), color=GREY, lw=0.7, alpha=0.6)
    for number, name in enumerate(names[:NAMED]):
        values = _values(own["curves"][name][key])
        axes.plot(steps, values, color=COLOURS[number], lw=1.3, label=f"{short(name)}\u2002{texts.get(name, '')}")
    if len(names) > NAMED:
        axes.plot([], [], color=GREY, lw=0.7, label=f"{len(names) - NAMED} smaller classes")
    axes.plot(steps, _values(own["overall"][key]), color=INK, lw=2.4, label=f"all together\u2002{note}")
    axes.set(xlim=(steps[0], steps[-1]), ylim=(0, 1.01))
    axes.grid()
    axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), labelcolor="linecolor", handlelength=1.2, labelspacing=0.35
    )


def _values(values: list[float | None]) -> np.ndarray:
    """null as NaN, and no line along zero past the last point that was reached."""
    values = np.array(values, dtype=float)
    last = np.flatnonzero(values > 0)
    values[last[-1] + 1 if len(last) else 0 :] = np.nan
    return values


def precision_recall(analysis: Numbers, classes: pd.DataFrame) -> Figure | None:
    task, own, names, ap50 = _curves(analysis, classes)
    if not names:
        return None
    figure = canvas(6.5, 4)
    axes = figure.subplots()
    texts = {name: f"{value:.0f}" for name, value in ap50.items() if pd.notna(value)}
    mean = own["errors"].get("ap50")
    best_first = sorted(names[:NAMED], key=lambda name: -np.nan_to_num(ap50[name])) + names[NAMED:]
    note = "" if mean is None else f"(mean {mean:.0f})"
    _class_lines(axes, np.linspace(0, 1, 101), own, best_first, "precision", texts, note)
    axes.set(xlabel="recall", ylabel="precision", title=f"Precision against recall, IoU 0.5: {task}, with AP50")
    return figure


def f1_by_score(analysis: Numbers, classes: pd.DataFrame) -> Figure | None:
    task, own, names, _ = _curves(analysis, classes)
    if not names:
        return None
    figure = canvas(6.5, 4)
    axes = figure.subplots()
    best = {name: (curve["best_score"], curve["best_f1"]) for name, curve in own["curves"].items() if curve["best_f1"]}
    texts = {name: f"{f1:.2f} at {score:.2f}" for name, (score, f1) in best.items()}
    named = sorted(names[:NAMED], key=lambda name: -best.get(name, (0, 0))[1])
    score, f1 = own["overall"]["best_score"], own["overall"]["best_f1"]
    note = f"{f1:.2f} at {score:.2f}" if f1 else ""
    _class_lines(axes, np.array(analysis["scores"]), own, named + names[NAMED:], "f1", texts, note)
    for number, name in enumerate(named):
        if name in best:
            axes.plot(*best[name], "o", color=COLOURS[number], ms=4)
    title = f"F1 against the score threshold, IoU 0.5: {task}"
    if f1:
        axes.plot([score, score], [0, f1], color=INK, lw=1, ls=(0, (2, 3)))
        axes.plot(score, f1, "o", color=INK, ms=6)
        axes.annotate(f" best at {score:.2f}", (score, 0.02), color=INK, size=8.5)
        title += f", best {f1:.2f}"
    axes.set(xlabel=f"threshold on {ranking(analysis['ranking'])}", ylabel="F1", title=title)
    return figure


def intervals(table: pd.DataFrame) -> Figure | None:
    if table.empty:
        return None
    figure = canvas(6.5, 0.75 + 0.24 * len(table))
    axes = figure.subplots()
    numbers = table[["value", "low", "high"]].to_numpy(dtype=float)
    for row, (value, low, high) in enumerate(numbers):  # too few images have no interval
        axes.plot([low, high], [row, row], color=BLUE, lw=5, alpha=0.35, solid_capstyle="round")
        axes.plot(value, row, "o", color=BLUE, ms=5.5)
    texts = [(f"{v:.1f}", "" if np.isnan(a) else f"{a:.1f} to {b:.1f}") for v, a, b in numbers]
    columns(axes, texts, (INK, QUIET))
    rows_axis(axes, [plain(name.replace(".", " ").removeprefix("tasks ")) for name in table["metric"]])
    axes.grid(axis="x")
    axes.set_title("Scores with 95 % intervals over images")
    axes.set_xlabel("percent")
    return figure


def rankings(table: pd.DataFrame) -> Figure | None:
    kinds = [
        (key, name, colour)
        for key, name, colour in (("segm_AP", "mask AP", BLUE), ("joint_AP", "joint AP", ORANGE))
        if table[key].notna().any()
    ]
    if not kinds:
        return None
    table = table.sort_values(kinds[-1][0], ascending=False, kind="stable")
    figure = canvas(6.5, 0.95 + 0.27 * len(table))
    axes = figure.subplots()
    for key, name, colour in kinds:
        axes.plot(table[key], range(len(table)), "o", color=colour, ms=6, label=name)
    for row, values in enumerate(table[[key for key, _, _ in kinds]].to_numpy(dtype=float)):
        axes.plot([values.min(), values.max()], [row, row], color=FAINT, lw=2, zorder=0)
    texts = [[f"{row[key]:.1f}" for key, _, _ in kinds] for _, row in table.iterrows()]
    columns(axes, texts, [colour for _, _, colour in kinds])
    rows_axis(axes, [ranking(name) for name in table["ranking"]])
    axes.grid(axis="x")
    axes.margins(x=0.08)
    axes.set_title("AP when predictions are ranked by", pad=20)
    legend_above(axes)
    return figure


def rules(table: pd.DataFrame) -> Figure | None:
    """What each rule of the filter removes, and the scores after it."""
    kinds = [("precision", BLUE), ("recall", ORANGE), ("f1", GREY), ("joint_f1", INK)]
    kinds = [(key, colour) for key, colour in kinds if table[key].notna().any()]
    if not kinds:
        return None
    figure = canvas(max(6.5, 2 + 0.75 * len(table)), 3.2)
    axes = figure.subplots()
    stages = range(len(table))
    for key, colour in kinds:
        axes.plot(stages, table[key], color=colour, marker="o", ms=4, lw=2 if key == "joint_f1" else 1.3, clip_on=False)
    axes.set(xlim=(-0.3, len(table) - 0.8), ylim=(0, 100))
    last = table.iloc[-1]
    names = {"f1": "F1", "joint_f1": "joint F1"}
    end_labels(axes, [(last[key], f"{names.get(key, key)} {last[key]:.1f}", colour) for key, colour in kinds])
    removed = table["removed"].fillna(0).astype(int)
    texts = [
        plain(str(name)).replace(" ", "\n") + (f"\n−{gone:,}" if gone else "")
        for name, gone in zip(table["stage"], removed, strict=True)
    ]
    axes.set_xticks(stages, texts)
    axes.grid(axis="y")
    axes.set_title(f"The filter removes {removed.sum():,} predictions, rule by rule")
    return figure
