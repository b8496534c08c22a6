"""Detailed figures of scores and data: confusion, calibration, errors, classes, labels and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mtseg.core.masks import AREA_RANGES
from mtseg.data.splits import SPLITS
from mtseg.evaluation.errors import KINDS
from mtseg.report.html import error, ranking
from mtseg.report.plotting import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    ORANGE,
    QUIET,
    RED,
    bars,
    canvas,
    columns,
    legend_above,
    note,
    rows_axis,
    short,
)

MOST = 40  # largest number of legible rows; of more classes, the most informative are shown
ENOUGH = 10  # labels in a bin from which it is drawn opaque
SIZES = tuple(AREA_RANGES)
ALL_LABELS = "all labels"
BACKGROUND = "(background)"  # drawn in italics, since a class may have the same name


def confusion(analysis: dict[str, Any], task: str) -> Figure | None:
    """Confusion matrix of a task: counts, coloured by their share of the row; correct in blue, wrong in red."""
    own = analysis["tasks"][task]
    counts, names = np.array(own["confusion"]["matrix"], dtype=int), [*own["classes"], BACKGROUND]
    if not counts.any():
        return None
    wrong = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
    total = len(own["classes"])
    if total > MOST:
        kept = np.sort(np.append(np.argsort(-wrong[:-1], kind="stable")[: MOST - 1], total))
        counts, names = counts[np.ix_(kept, kept)], [names[index] for index in kept]
    size = len(names)
    cell = max(0.27, min(0.78, 3.6 / size))
    lines = [f"{short(task, 16)}: ground truth in rows, predictions in columns"]
    if (threshold := own["confusion"].get("min_score")) is not None:
        lines.append(f"{ranking(analysis['ranking'])} ≥ {threshold:.2f}")
    if total > MOST:
        lines.append(f"the {size - 1} most confused of {total} classes")
    matched = counts[:-1, :-1]
    worst = np.where(np.eye(len(matched), dtype=bool), 0, matched)
    if worst.any():
        row, column = np.unravel_index(worst.argmax(), worst.shape)
        lines.append(f"most often {short(names[row], 16)} predicted as {short(names[column], 16)}: {worst.max()}")
    figure = canvas(max(2.2 + cell * size, 0.3 + 0.083 * max(map(len, lines))), 1.9 + cell * size)
    figure.suptitle("\n".join(lines), size=10, x=0.01, ha="left", linespacing=1.4)
    axes = figure.subplots()
    axes.set_anchor("W")
    place = np.arange(size) + 0.18 * (np.arange(size) == size - 1)  # a gap before background
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    digits = len(str(counts.max()))
    font = min(9, 72 * cell / (0.72 * max(digits, 2)))
    for row, column in np.argwhere(counts):
        colour, part = BLUE if row == column else RED, share[row, column]
        corner = place[column] - 0.47, place[row] - 0.47
        axes.add_patch(Rectangle(corner, 0.94, 0.94, color=colour, alpha=0.08 + 0.85 * part, lw=0))
        ink = "white" if part > 0.55 else INK
        axes.text(place[column], place[row], counts[row, column], ha="center", va="center", size=font, color=ink)
    axes.set(xlim=(-0.6, place[-1] + 0.6), ylim=(place[-1] + 0.6, -0.6), aspect="equal")
    turned = max(map(len, names)) * 0.075 > cell
    options = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"} if turned else {}
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks(place, [short(name, 18) for name in names], **options)
    axes.set_yticks(place, [short(name, 18) for name in names])
    axes.tick_params(length=0)
    for label in (axes.get_xticklabels()[-1], axes.get_yticklabels()[-1]):
        label.set_style("italic")
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def calibration(analysis: dict[str, Any]) -> Figure | None:
    """Reliability diagrams of the labels of each task and of the detection score, with the counts below."""
    panels = [(f"label: {short(task, 16)}", own.get("calibration")) for task, own in analysis["tasks"].items()]
    panels.append(("detection score", (analysis.get("score") or {}).get("calibration")))
    panels = [(name, curve) for name, curve in panels if curve and any(bin["count"] for bin in curve["bins"])]
    if not panels:
        return None
    across = min(4, len(panels))
    lines = -(-len(panels) // across)
    figure = canvas(2.35 * across + 0.3, 3.3 * lines)
    grid = figure.add_gridspec(2 * lines, across, height_ratios=[3, 0.8] * lines)
    for number, (name, curve) in enumerate(panels):
        line, column = divmod(number, across)
        above, below = (figure.add_subplot(grid[2 * line + part, column]) for part in (0, 1))
        _reliability(above, below, [bin for bin in curve["bins"] if bin["count"]])
        above.set_title(name if curve.get("ece") is None else f"{name}\nECE {_percent(curve['ece'])}", linespacing=1.4)
        if not column:
            above.set_ylabel("share correct")
            below.set_ylabel("count")
        below.set_xlabel("predicted probability")
    title = f"Correct labels against predicted probability: red is overconfident; pale has fewer than {ENOUGH}"
    figure.suptitle(title if across > 2 else title.partition(":")[0], size=10, x=0.01, ha="left")
    return figure


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _reliability(above: Axes, below: Axes, bins: list[dict[str, Any]]) -> None:
    """Accuracy against confidence of the bins in `above`, their counts in `below`."""
    above.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=(0, (3, 3)))
    for bin in bins:
        x, y = bin["confidence"], bin["accuracy"]
        look = {"color": RED if y < x else BLUE, "alpha": 0.9 if bin["count"] >= ENOUGH else 0.3}
        above.plot([x, x], [x, y], lw=2.5, solid_capstyle="butt", **look)  # overconfident in red
        above.plot(x, y, "o", ms=5, mew=0, **look)
    above.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    above.tick_params(labelbottom=False)
    above.grid()
    places, counts = [(bin["lower"] + bin["upper"]) / 2 for bin in bins], [bin["count"] for bin in bins]
    widths = [0.85 * (bin["upper"] - bin["lower"]) for bin in bins]
    below.set_yscale("log")
    below.bar(places, counts, width=widths, color=GREY, alpha=0.7, lw=0)
    below.set(xlim=(-0.04, 1.04), ylim=(0.5, 2 * max(counts)), xticks=[0, 0.5, 1])
    below.minorticks_off()
    below.set_yticks(sorted({1, max(counts)}), [f"{count:,}" for count in sorted({1, max(counts)})])


def costs(analysis: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`errors.errors` of each task and of all labels together, if there is ground truth."""
    own = {name: task["errors"] for name, task in analysis["tasks"].items()}
    joint = (analysis.get("joint") or {}).get("errors")
    own |= {ALL_LABELS: joint} if joint and len(own) > 1 else {}
    return {name: errors for name, errors in own.items() if errors.get("ap50") is not None}


def label_cost(analysis: dict[str, Any]) -> dict[str, float]:
    """Joint AP lost by wrong labels of each task, if defined; empty for a single task, whose AP is joint AP."""
    own = (analysis.get("joint") or {}).get("label_cost") or {}
    return {name: own[name] for name in analysis["tasks"] if own.get(name) is not None and len(analysis["tasks"]) > 1}


def errors(analysis: dict[str, Any]) -> Figure | None:
    """Gain in AP50 if one kind of error were corrected, for each task and all labels together; below, gain in joint AP
    with perfect labels of one task."""
    panels, cost = costs(analysis), label_cost(analysis)
    if not panels:
        return None
    across = 2 if len(panels) == 4 else min(3, len(panels))
    lines = -(-len(panels) // across)
    figure = canvas(2.9 * across + 0.9, 2.1 * lines + (0.75 + 0.26 * len(cost) if cost else 0))
    grid = figure.add_gridspec(lines + bool(cost), across, height_ratios=[6.5] * lines + [1.5 + len(cost)] * bool(cost))
    longest = max([0.1, *(value for own in panels.values() for value in own["cost"].values())])
    for number, (name, own) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[divmod(number, across)])
        values = [own["cost"][kind] for kind in KINDS]
        counts = [own["counts"][kind] for kind in KINDS]
        texts = [
            f"{value:.1f}" + (f"\u2003{count:,}×" if count else "") for value, count in zip(values, counts, strict=True)
        ]
        bars(axes, [error(kind) for kind in KINDS] if not number % across else [""] * len(KINDS), values, texts, RED)
        axes.set_xlim(0, 1.55 * longest)
        axes.set_title(f"{short(name, 20)}, AP50 {own['ap50']:.1f}")
    title = "AP50 that each kind of error costs, and how often it happens among all raw predictions"
    figure.suptitle(title, size=10, x=0.01, ha="left")
    if cost:
        axes = figure.add_subplot(grid[lines, :])
        bars(axes, list(cost), list(cost.values()), [f"{value:.1f}" for value in cost.values()], ORANGE)
        axes.set_xlim(0, max(2.0, 1.5 * max(cost.values())))
        axes.set_title(f"Joint AP, now {analysis['joint']['ap']:.1f}, would gain with perfect labels of one task")
    return figure


def classes(table: pd.DataFrame) -> Figure | None:
    """AP of each class as a bar and AP50 as a tick, with one panel per task."""
    table = table.dropna(subset="AP")
    panels = list(table.groupby("task", sort=False))
    if not panels:
        return None
    rows = [min(MOST, len(own)) for _, own in panels]
    figure = canvas(6.5, 0.6 + sum(0.6 + 0.22 * count for count in rows))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[count + 1.5 for count in rows])[:, 0]
    for number, (axes, (task, own)) in enumerate(zip(grid, panels, strict=True)):
        most = f", the {MOST} lowest of {len(own)}" if len(own) > MOST else ""
        own = own.sort_values("AP", ascending=False, kind="stable").tail(MOST)
        names = [f"{short(name)} ({count:.0f})" for name, count in zip(own["class"], own["instances"], strict=True)]
        axes.barh(range(len(own)), own["AP"], height=0.68, color=COLOURS[number % len(COLOURS)], lw=0)
        axes.plot(own["AP50"], range(len(own)), "|", color=INK, ms=9, mew=1.6, clip_on=False)
        texts = [(f"{ap:.1f}", f"{ap50:.1f}") for ap, ap50 in own[["AP", "AP50"]].to_numpy(dtype=float)]
        columns(axes, texts, (INK, QUIET))
        rows_axis(axes, names)
        axes.set_xlim(0, 100)
        axes.grid(axis="x")
        axes.tick_params(labelbottom=axes is grid[-1])
        axes.set_title(
            f"{task}: AP (bar) and AP50 (tick) of each class, with its instances{most}"
            if not number
            else f"{task}{most}"
        )
    return figure


def labels(manifest: dict[str, Any], task: dict[str, Any]) -> Figure | None:
    """Share of the instances that each class has in each split, with counts."""
    name, splits = task["name"], _splits(manifest, "instances")
    if not splits:
        return None
    largest = {one: max(split["labels"][name].get(one, 0) for _, split, *_ in splits) for one in task["classes"]}
    order = sorted(task["classes"], key=lambda one: -largest[one])[:MOST]
    axes = canvas(6.5, 1.1 + 0.34 * len(order)).subplots()
    for key, split, colour, shift in splits:
        counts, rows = [split["labels"][name].get(one, 0) for one in order], np.arange(len(order)) + shift
        shares = 100 * np.array(counts) / split["instances"]
        axes.barh(
            rows,
            shares,
            height=_width(splits) - 0.03,
            color=colour,
            lw=0,
            label=f"{key}, {split['instances']:,} instances",
        )
        for row, share, count in zip(rows, shares, counts, strict=True):
            note(axes, f"{count:,}", (share, row), size=7.5, color=QUIET if count else RED)
    rows_axis(axes, order)
    axes.margins(x=0.1)
    axes.set_xlabel("percent of the split's instances")
    axes.grid(axis="x")
    most = f", the {MOST} largest of {len(task['classes'])}" if len(task["classes"]) > MOST else ""
    axes.set_title(f"{name}: classes in {' and '.join(key for key, *_ in splits)}{most}", pad=20)
    legend_above(axes)
    return axes.figure


def images(manifest: dict[str, Any]) -> Figure | None:
    """Instances per image, and sizes of instances, as shares of each split."""
    splits = _splits(manifest, "images")
    if not splits:
        return None
    figure = canvas(9, 2.8)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    last = max([0, *(int(count) for _, split, *_ in splits for count in split["instances_per_image"])])
    for key, split, colour, shift in splits:
        per_image = np.array([split["instances_per_image"].get(str(count), 0) for count in range(last + 1)])
        look = {"width": _width(splits) - 0.02, "color": colour, "lw": 0, "label": f"{key}, {split['images']:,} images"}
        left.bar(np.arange(last + 1) + shift, 100 * per_image / split["images"], **look)
        counts = np.array([split["areas"][size] for size in SIZES])
        places, shares = np.arange(len(SIZES)) + shift, 100 * counts / max(counts.sum(), 1)
        right.bar(places, shares, **look)
        for place, share, count in zip(places, shares, counts, strict=True):
            note(right, f"{count:,}", (place, share), (0, 3), size=8, color=QUIET, ha="center", va="baseline")
    left.set(xlabel="instances per image", ylabel="percent")
    left.set_title("Instances per image", pad=20)
    left.xaxis.get_major_locator().set_params(integer=True)
    legend_above(left)
    right.set_xticks(range(len(SIZES)), SIZES)
    right.set_title("Sizes of instances (COCO)", pad=20)
    right.margins(y=0.12)
    for axes in (left, right):
        axes.grid(axis="y")
    return figure


def _splits(manifest: dict[str, Any], kind: str) -> list[tuple[str, dict[str, Any], str, float]]:
    """(name, counts, colour, offset of its bars) of each split with any `kind`: images or instances."""
    given = manifest["splits"]
    splits = [(key, given[key]) for key in SPLITS if key in given and given[key][kind]]
    shifts = _width(splits) * (np.arange(len(splits)) - (len(splits) - 1) / 2)
    return [(*split, *look) for split, look in zip(splits, zip(COLOURS, shifts, strict=False), strict=True)]


def _width(splits: Sequence[Any]) -> float:
    """Distance between the bars of neighbouring splits."""
    return 0.8 / max(2, len(splits))
