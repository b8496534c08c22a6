"""Two revisions side by side: what differs in params and scores, how surely, and in which pictures it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.core.errors import UserError
from mtseg.core.files import replace_folder
from mtseg.core.params import Task
from mtseg.core.tables import Image
from mtseg.data.images import read_image
from mtseg.evaluation import bootstrap, breakdown, curves, f1, intervals
from mtseg.evaluation.average_precision import ordered
from mtseg.evaluation.evidence import Evidence
from mtseg.evaluation.matching import pictures
from mtseg.evaluation.overlaps import Matches
from mtseg.report import breakdowns, draw, html, page, revision
from mtseg.report.sides import Side, common

SIZE = 384  # pixels, longer side of a drawn panel
SHOWN = 6  # pictures that became better, and as many that became worse
JPEG = {"quality": 88, "subsampling": 0}


def write(folder: Path, a: Side, b: Side) -> list[str]:
    """Write `folder`: index.html and the pictures that changed most. Returns what could not be compared, as lines."""
    notes = [side.lacks for side in (a, b) if side.lacks]
    both = None if notes else common(a, b, notes)
    leading = classes = better = worse = errors = ()
    with replace_folder(folder) as temporary:
        if both:
            a_common, b_common = both
            leading, of_class, errors = paired(a_common, b_common)
            better, worse = changed(a_common, b_common)
            better, worse = _draw(temporary, (better, worse), a_common, b_common, notes)
        classes = class_rows(a.held.get("classes"), b.held.get("classes"), of_class if both else {})
        text = html.render(
            "compare.html",
            sides=[{"rev": side.rev, "commit": side.commit} for side in (a, b)],
            notes=notes,
            code=revision.code(a.commit, b.commit),
            params=page.changes(a.held["params"], b.held["params"]),
            leading=leading,
            errors=errors,
            pictures=len(both[0].images) if both else 0,
            tasks=task_rows(a.held["evaluate"], b.held["evaluate"]),
            classes=classes,
            metrics=metric_rows(a.held, b.held),
            groups={"Better": better, "Worse": worse} if both else {},
        )
        (temporary / "index.html").write_bytes(text.encode())
    return notes


def paired(
    a: Side, b: Side
) -> tuple[list[dict[str, Any]], dict[tuple[str, str], dict[str, float]], list[dict[str, Any]]]:
    """The leading numbers of both on the same pictures, the AP of each (task, class), and what errors cost, as
    `error_rows`: in percent a, b, their difference `delta` and, save for kinds of errors, its 95 % interval, low and
    high, NaN where there is none. The same draws of pictures serve both (a paired bootstrap).
    """
    proofs = [
        Evidence.of(side.images, side.raw, tasks=side.tasks, ranking=side.ranking, max_dets=side.max_dets)
        for side in (a, b)
    ]
    weights = bootstrap.draws(len(a.images), max(len(a.raw), len(b.raw)))
    one, other = (intervals.samples(evidence, weights) for evidence in proofs)
    one, other = ({**own, **_sieved(side, weights)} for own, side in zip((one, other), (a, b), strict=True))
    one.pop(f"tasks.{a.tasks[0].name}.AP", None)  # segm.AP again
    rows = [{"metric": name, **row} for name in one if (row := _difference(one[name], other[name]))]
    of_class = {}
    for task in a.tasks:
        own = [_by_class(evidence, task, weights) for evidence in proofs]
        for index, name in enumerate(task.classes):
            if row := _difference(own[0][:, index], own[1][:, index]):
                of_class[task.name, name] = row
    return rows, of_class, error_rows(*proofs)


def error_rows(a: Evidence, b: Evidence) -> list[dict[str, Any]]:
    """Of both, a and b, and their `delta`: the AP50 that each `kind` of error costs, `of` each task and of all labels
    jointly; and the joint AP that the labels of each task cost. What either lacks is left out."""
    one, other = _costs(a), _costs(b)
    return [
        {"of": of, "kind": kind, "a": was, "b": other[of, kind], "delta": other[of, kind] - was}
        for (of, kind), was in one.items()
        if (of, kind) in other
    ]


def _costs(evidence: Evidence) -> dict[tuple[str, str], float]:
    """What each (of, kind) of error costs, in percent; empty without ground truth."""
    several = len(evidence.tasks) > 1
    matched = dict(evidence.matches) | ({breakdowns.JOINTLY: evidence.jointly} if several else {})
    costs = {}
    for of, matches in matched.items():
        own = breakdown.errors(evidence.overlaps, matches, evidence.scores)["cost"]
        costs |= {(of, kind): own[kind] for kind in breakdown.KINDS if kind in own}
    once = np.ones((1, evidence.overlaps.pictures))

    def joint_ap(matches: Matches) -> float:
        return 100 * float(curves.mean(curves.average_precision(matches, evidence.pictures, once))[0])

    if several and not np.isnan(now := joint_ap(evidence.jointly)):
        mended = {task.name: joint_ap(evidence.jointly_right(task)) for task in evidence.tasks}
        costs |= {("joint AP", f"labels of {name}"): value - now for name, value in mended.items()}
    return costs


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
    return None if row is None or np.isnan(row["low"]) else (row["low"], row["high"])


def _draw(
    folder: Path, groups: Sequence[list[dict[str, Any]]], a: Side, b: Side, notes: list[str]
) -> list[list[dict[str, Any]]]:
    """Ground truth, a and b of each picture, a file each: ID-truth.jpg, ID-a.jpg, ID-b.jpg; the entries that could be
    drawn, with their size. Of the others there is a note."""
    images, lost = {image.id: image for image in a.images}, {}
    for entry in (entry for group in groups for entry in group):
        image = images[entry["id"]]
        try:
            pixels = _pixels(image, a, b)
        except UserError as error:
            lost[image.id] = str(error)
            continue
        panels = {"truth": ("ground truth", draw.truth(image, a.tasks))}
        for name, side in (("a", a), ("b", b)):
            own = [p for p in side.filtered if p.image_id == image.id]
            panels[name] = (f"{side.rev}, joint F1 {entry[name]:.1f}", draw.found(image, own, side.tasks))
        for name, (title, overlays) in panels.items():
            sheet = draw.compare(pixels, {title: overlays}, size=SIZE)
            sheet.save(folder / f"{image.id}-{name}.jpg", **JPEG)
            entry |= {"width": sheet.width, "height": sheet.height}
    if lost:
        notes.append(f"Pictures that are not shown, for they cannot be read: {len(lost)}. {next(iter(lost.values()))}")
    return [[entry for entry in group if entry["id"] not in lost] for group in groups]


def _pixels(image: Image, a: Side, b: Side) -> np.ndarray:
    """The picture from the data of B, or else of A. Raises UserError where neither can be read."""
    try:
        return read_image(b.root, image)
    except UserError:
        return read_image(a.root, image)
