"""The figures of the report as SVG, for the page and for `dvc plots show`. Undefined values are left out."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtseg.report import breakdowns, learning, tested
from mtseg.report.html import metric, ranking
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
NAMED = 10  # number of classes with their own colour; the others are grey


def figures(numbers: Numbers) -> dict[str, str]:
    """SVG by name of all figures whose numbers exist and are not empty. The same numbers give the same bytes.

    numbers: the tables `classes`, `rankings`, `intervals`, `test_intervals`, `rules` (of the filter), `train`, `val`
    and `health`; the JSON files `analysis` and `manifest`.
    """
    drawings = [  # name, title, function, names of its arguments in numbers
        ("training", "Losses and validation by training step", learning.training, "train", "val"),
        ("health", "Gradients, matching and background by training step", learning.health, "health"),
        ("intervals", "Scores with 95 % intervals", intervals, "intervals"),
        ("tested", "Scores on val and on test", tested.figure, "intervals", "test_intervals"),
        ("precision_recall", "Precision against recall of each class", precision_recall, "analysis", "classes"),
        ("f1_by_score", "F1 against the score threshold", f1_by_score, "analysis", "classes"),
        ("calibration", "Share correct against predicted probability", breakdowns.calibration, "analysis"),
        ("errors", "AP50 lost to each kind of error", breakdowns.errors, "analysis"),
        ("classes", "AP of each class", breakdowns.classes, "classes"),
        ("rankings", "AP by ranking", rankings, "rankings"),
        ("filter", "Precision, recall and F1 after each rule of the filter", rules, "rules"),
        ("images", "Instances per image, and their sizes", breakdowns.images, "manifest"),
    ]
    for task in numbers.get("analysis", {}).get("tasks", ()):
        title = f"Confusion of {task}: ground truth in rows, predictions in columns"
        drawings.append((f"confusion_{task}", title, partial(breakdowns.confusion, task=task), "analysis"))
    for task in numbers.get("manifest", {}).get("tasks", ()):
        title = f"Classes of {task['name']} in train and val"
        drawings.append((f"data_{task['name']}", title, partial(breakdowns.labels, task=task), "manifest"))
    done = {}
    with style():
        for name, title, draw, *needs in drawings:
            if set(needs) <= set(numbers) and (figure := draw(*(numbers[key] for key in needs))):
                done[name] = svg(figure, name, title)
    return done


def precision_recall(analysis: Numbers, classes: pd.DataFrame) -> Figure | None:
    task, own, ap50 = _main(analysis, classes)
    if not ap50:
        return None
    texts = {name: f"{value:.0f}" for name, value in ap50.items() if pd.notna(value)}
    mean = own["errors"].get("ap50")
    note = "" if mean is None else f"(mean {mean:.0f})"
    named = sorted([*ap50][:NAMED], key=lambda name: -np.nan_to_num(ap50[name]))
    axes = _class_lines(np.linspace(0, 1, 101), own, "precision", named, [*ap50][NAMED:], texts, note)
    axes.set(xlabel="recall", ylabel="precision", title=f"Precision against recall, IoU 0.5: {task}, with AP50")
    return axes.figure


def f1_by_score(analysis: Numbers, classes: pd.DataFrame) -> Figure | None:
    task, own, ap50 = _main(analysis, classes)
    if not ap50:
        return None
    best = {name: (curve["best_score"], curve["best_f1"]) for name, curve in own["curves"].items() if curve["best_f1"]}
    texts = {name: f"{f1:.2f} at {score:.2f}" for name, (score, f1) in best.items()}
    score, f1 = own["overall"]["best_score"], own["overall"]["best_f1"]
    note = f"{f1:.2f} at {score:.2f}" if f1 else ""
    named = sorted([*ap50][:NAMED], key=lambda name: -best.get(name, (0, 0))[1])
    axes = _class_lines(np.array(analysis["scores"]), own, "f1", named, [*ap50][NAMED:], texts, note)
    for number, name in enumerate(named):
        if name in best:
            axes.plot(*best[name], "o", color=COLOURS[number], ms=4)
    title = f"F1 of raw predictions by score threshold, IoU 0.5: {task}"
    if f1:
        axes.plot([score, score], [0, f1], color=INK, lw=1, ls=(0, (2, 3)))
        axes.plot(score, f1, "o", color=INK, ms=6)
        axes.annotate(f" best at {score:.2f}", (score, 0.02), color=INK, size=8.5)
        title += f", best {f1:.2f}"
    axes.set(xlabel=f"threshold on {ranking(analysis['ranking'])}", ylabel="F1", title=title)
    return axes.figure


def _main(analysis: Numbers, classes: pd.DataFrame) -> tuple[str, Numbers, dict[str, float]]:
    """The main task, its analysis, and AP50 of its classes, most frequent class first."""
    task = next(iter(analysis["tasks"]))
    rows = classes[classes["task"] == task].sort_values("instances", ascending=False, kind="stable")
    own = analysis["tasks"][task]
    return task, own, {row["class"]: row["AP50"] for _, row in rows.iterrows() if row["class"] in own["curves"]}


def _class_lines(
    steps: np.ndarray, own: Numbers, key: str, named: list[str], others: list[str], texts: dict[str, str], note: str
) -> Axes:
    """A new figure with a line for each class over `steps` [101] and one for all classes. named: classes with their own
    colour and text; others: grey ones; note: text of all classes."""
    axes = canvas(6.5, 4).subplots()
    for name in others:
        axes.plot(steps, _values(own["curves"][name][key]), color=GREY, lw=0.7, alpha=0.6)
    for name, colour in zip(named, COLOURS, strict=False):
        label = f"{short(name)}\u2002{texts.get(name, '')}"
        axes.plot(steps, _values(own["curves"][name][key]), color=colour, lw=1.3, label=label)
    if others:
        axes.plot([], [], color=GREY, lw=0.7, label=f"{len(others)} smaller classes")
    axes.plot(steps, _values(own["overall"][key]), color=INK, lw=2.4, label=f"all classes\u2002{note}")
    axes.set(xlim=(steps[0], steps[-1]), ylim=(0, 1.01))
    axes.grid()
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "handlelength": 1.2, "labelspacing": 0.35}
    axes.legend(labelcolor="linecolor", **place)
    return axes


def _values(values: list[float | None]) -> np.ndarray:
    """Values with None as NaN, and without the zeros after the last positive value."""
    values = np.array(values, dtype=float)
    last = np.flatnonzero(values > 0)
    values[last[-1] + 1 if len(last) else 0 :] = np.nan
    return values


def intervals(table: pd.DataFrame) -> Figure | None:
    if table.empty:
        return None
    axes = canvas(6.5, 0.75 + 0.24 * len(table)).subplots()
    numbers = table[["value", "low", "high"]].to_numpy(dtype=float)
    for row, (value, low, high) in enumerate(numbers):  # NaN without an interval
        axes.plot([low, high], [row, row], color=BLUE, lw=5, alpha=0.35, solid_capstyle="round")
        axes.plot(value, row, "o", color=BLUE, ms=5.5)
    texts = [(f"{v:.1f}", "" if np.isnan(a) else f"{a:.1f} to {b:.1f}") for v, a, b in numbers]
    columns(axes, texts, (INK, QUIET))
    rows_axis(axes, [metric(name) for name in table["metric"]])
    axes.grid(axis="x")
    axes.set_title("Scores with 95 % intervals over images")
    axes.set_xlabel("percent")
    return axes.figure


def rankings(table: pd.DataFrame) -> Figure | None:
    kinds = [
        (key, name, colour)
        for key, name, colour in (("segm_AP", "mask AP", BLUE), ("joint_AP", "joint AP", ORANGE))
        if table[key].notna().any()
    ]
    if not kinds:
        return None
    table = table.sort_values(kinds[-1][0], ascending=False, kind="stable")
    axes = canvas(6.5, 0.95 + 0.27 * len(table)).subplots()
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
    return axes.figure


def rules(table: pd.DataFrame) -> Figure | None:
    """Number of predictions that each rule of the filter removes, and the scores after it."""
    kinds = [("precision", BLUE), ("recall", ORANGE), ("f1", GREY), ("joint_f1", INK)]
    kinds = [(key, colour) for key, colour in kinds if table[key].notna().any()]
    if not kinds:
        return None
    axes = canvas(max(6.5, 2 + 0.75 * len(table)), 3.2).subplots()
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
    return axes.figure
