"""Two revisions side by side: what differs in params and scores, how surely, and in which pictures it shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.data.pictures import read_picture
from mtseg.files import replace_folder
from mtseg.report import draw, html, page, revision
from mtseg.report.sides import Side, common
from mtseg.scoring import bootstrap, curves, f1, intervals
from mtseg.scoring.average_precision import ordered
from mtseg.scoring.evidence import Evidence
from mtseg.scoring.matching import pictures
from mtseg.sections import Task

SIZE = 384  # pixels, longer side of a drawn panel
SHOWN = 6  # pictures that became better, and as many that became worse
JPEG = {"quality": 88, "subsampling": 0}
LOWER_IS_BETTER = ("ece", "loss", "removed")


def write(folder: Path, a: Side, b: Side, *, root: Path) -> list[str]:
    """Write `folder`: index.html and the pictures that changed most. What could not be compared is returned as lines.

    root: folder of the pictures. Raises UserError when a picture cannot be read.
    """
    notes = [side.lacks for side in (a, b) if side.lacks]
    both = None if notes else common(a, b, notes)
    leading = classes = better = worse = ()
    with replace_folder(folder) as temporary:
        if both:
            a_common, b_common = both
            leading, of_class = paired(a_common, b_common)
            better, worse = changed(a_common, b_common)
            for entry in (*better, *worse):
                _draw(temporary, entry, a_common, b_common, root)
        classes = class_rows(a.held.get("classes"), b.held.get("classes"), of_class if both else {})
        text = html.render(
            "compare.html",
            sides=[{"rev": side.rev, "commit": side.commit} for side in (a, b)],
            notes=notes,
            code=revision.code(a.commit, b.commit),
            params=page.changes(a.held["params"], b.held["params"]),
            leading=leading,
            pictures=len(both[0].images) if both else 0,
            tasks=task_rows(a.held["evaluate"], b.held["evaluate"]),
            classes=classes,
            metrics=metric_rows(a.held, b.held),
            groups={"Better": better, "Worse": worse} if both else {},
        )
        (temporary / "index.html").write_bytes(text.encode())
    return notes


def paired(a: Side, b: Side) -> tuple[list[dict[str, Any]], dict[tuple[str, str], dict[str, float]]]:
    """The leading numbers of both on the same pictures, and the AP of each (task, class): in percent a, b, their
    difference `delta` and its 95 % interval, low and high. The same draws of pictures serve both (a paired bootstrap).
    """
    proofs = [
        Evidence.of(side.images, side.raw, tasks=side.tasks, ranking=side.ranking, max_dets=side.max_dets)
        for side in (a, b)
    ]
    weights = bootstrap.draws(len(a.images), max(len(a.raw), len(b.raw)))
    one, other = (intervals.samples(evidence, weights) for evidence in proofs)
    one, other = ({**own, **_sieved(side, weights)} for own, side in zip((one, other), (a, b), strict=True))
    del one[f"tasks.{a.tasks[0].name}.AP"]  # segm.AP again
    rows = [{"metric": name, **row} for name in one if (row := _difference(one[name], other[name]))]
    of_class = {}
    for task in a.tasks:
        own = [_by_class(evidence, task, weights) for evidence in proofs]
        for index, name in enumerate(task.classes):
            if row := _difference(own[0][:, index], own[1][:, index]):
                of_class[task.name, name] = row
    return rows, of_class


def changed(a: Side, b: Side) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Pictures whose filtered predictions became better, and worse, by joint F1, the greatest change first."""
    rows = []
    for image, *counts in zip(ordered(a.images), _counts(a), _counts(b), strict=True):
        # where there is nothing to find and nothing was found, all is right
        was, now = (f1.summary([own]).get("joint_f1", 100.0) for own in counts)
        rows.append({"id": image.id, "name": image.file_name, "a": was, "b": now, "delta": now - was})
    rows.sort(key=lambda row: (-abs(row["delta"]), row["id"]))
    better, worse = ([row for row in rows if sign * row["delta"] > 0] for sign in (1, -1))
    return better[:SHOWN], worse[:SHOWN]


def metric_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every metric that either has, as the files have it, with the intervals of plots/intervals.csv."""
    values = [
        {
            f"{name}.{key}": value
            for name in ("evaluate", "filter", "training")
            for key, value in page.flat(side.get(name, {})).items()
        }
        for side in (a, b)
    ]
    ranges = [
        {} if side.get("intervals") is None else {row["metric"]: row for row in side["intervals"].to_dict("records")}
        for side in (a, b)
    ]
    rows = []
    for key in sorted({*values[0], *values[1]}):
        was, now = (side.get(key) for side in values)
        if not all(value is None or isinstance(value, int | float) for value in (was, now)):
            continue
        name = key.partition(".")[2]
        delta = None if was is None or now is None else now - was
        rows.append(
            {"file": key.partition(".")[0], "metric": name, "a": was, "b": now, "delta": delta}
            | {f"range_{side}": _range(own.get(name)) for side, own in zip("ab", ranges, strict=True)}
            | {"lower_is_better": any(word in key for word in LOWER_IS_BETTER)}
        )
    return rows


def task_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """AP, accuracy, f1 and ece of each task that both have, (a, b, difference) each."""
    rows = []
    for name in (name for name in b.get("tasks", {}) if name in a.get("tasks", {})):
        row: dict[str, Any] = {"task": name}
        for key in ("AP", "accuracy", "f1", "ece"):
            was, now = (side["tasks"][name].get(key) for side in (a, b))
            row[key] = (was, now, None if was is None or now is None else now - was)
        rows.append(row)
    return rows


def class_rows(a: Any, b: Any, of_class: Mapping[tuple[str, str], Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row a class that either table has: AP and accuracy of both and the differences, AP's with its interval."""
    tables = [
        {} if table is None else {(row["task"], row["class"]): row for row in table.to_dict("records")}
        for table in (a, b)
    ]
    rows = []
    for key in dict.fromkeys([*tables[1], *tables[0]]):
        was, now = (table.get(key, {}) for table in tables)
        row: dict[str, Any] = {"task": key[0], "class": key[1], "instances": now.get("instances", was.get("instances"))}
        for name in ("AP", "accuracy"):
            row |= {f"{name}_a": was.get(name), f"{name}_b": now.get(name)}
            row[f"{name}_delta"] = None if None in (was.get(name), now.get(name)) else now[name] - was[name]
        rows.append(row | {"paired": of_class.get(key)})
    return rows


def _difference(one: np.ndarray, other: np.ndarray) -> dict[str, float] | None:
    """None where either is undefined. one, other: [1 + B], 0 to 1, the first of the data as they are."""
    if np.isnan([one[0], other[0]]).any():
        return None
    delta, low, high = bootstrap.interval(other - one, least=-1)
    return {"a": 100 * float(one[0]), "b": 100 * float(other[0]), "delta": delta, "low": low, "high": high}


def _counts(side: Side) -> np.ndarray:
    """int [pictures by id, 4] of the filtered predictions, as `f1.Tally` counts."""
    scene = pictures(side.images, side.filtered, tasks=side.tasks, ranking=side.ranking)
    return f1.Tally(scene, side.tasks).counts()


def _sieved(side: Side, weights: np.ndarray) -> dict[str, np.ndarray]:
    """F1 and joint F1 of the filtered predictions, of each draw."""
    found, true, hit, right = (weights @ _counts(side)).T
    with np.errstate(invalid="ignore"):  # 0 / 0: undefined
        return {"filtered.f1": 2 * hit / (found + true), "filtered.joint_f1": 2 * right / (found + true)}


def _by_class(evidence: Evidence, task: Task, weights: np.ndarray) -> np.ndarray:
    """AP [1 + B, K]"""
    return curves.average_precision(evidence.matches[task.name], evidence.pictures, weights).mean(axis=2)


def _range(row: Mapping[str, Any] | None) -> tuple[float, float] | None:
    return None if row is None else (row["low"], row["high"])


def _draw(folder: Path, entry: dict[str, Any], a: Side, b: Side, root: Path) -> None:
    """Ground truth, a and b of one picture, a file each: ID-truth.jpg, ID-a.jpg, ID-b.jpg; entry is told their size."""
    image = next(image for image in a.images if image.id == entry["id"])
    pixels = read_picture(root, image)
    panels = {"truth": ("ground truth", draw.truth(image, a.tasks))}
    for name, side in (("a", a), ("b", b)):
        own = [p for p in side.filtered if p.image_id == image.id]
        panels[name] = (f"{side.rev}, joint F1 {entry[name]:.1f}", draw.found(image, own, side.tasks))
    for name, (title, overlays) in panels.items():
        sheet = draw.compare(pixels, {title: overlays}, size=SIZE)
        sheet.save(folder / f"{image.id}-{name}.jpg", **JPEG)
        entry |= {"width": sheet.width, "height": sheet.height}
