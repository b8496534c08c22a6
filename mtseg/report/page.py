"""The report: one page with the numbers, the figures and a gallery of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mtseg.core.errors import UserError
from mtseg.core.files import read_json, read_table, replace_folder, write_image
from mtseg.core.params import Task, Visualise
from mtseg.data.images import read_image
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.report import breakdowns, gallery, html, overlays, suspects, tested
from mtseg.report.history import Baseline

JPEG = {"quality": 85, "optimize": True}
Numbers = dict[str, Any]
File = tuple[str, str, Sequence[str]]  # path, stage that makes it, keys or columns that it must have


def read_numbers(files: Mapping[str, File], curves: Mapping[str, File]) -> Numbers:
    """JSON files and tables by name; those of `curves` only if all exist. files, curves: by name. Raises UserError if a
    file is missing or broken."""
    if all(Path(path).exists() for path, *_ in curves.values()):
        files = {**files, **curves}
    numbers = {
        name: (read_json if path.endswith(".json") else read_table)(Path(path), made_by=stage, keys=keys)
        for name, (path, stage, keys) in files.items()
    }
    by_name = numbers["analysis"]["tasks"]  # sorted by name in the JSON file
    names = [task["name"] for task in numbers["manifest"]["tasks"]]
    if {*by_name} != {*names}:
        raise UserError(
            f"{files['analysis'][0]} was made for other tasks: run `dvc repro {files['analysis'][1]}` again"
        )
    numbers["analysis"]["tasks"] = {name: by_name[name] for name in names}
    return numbers


def read_removed(path: Path, count: int) -> Sequence[str]:
    """For each of `count` raw predictions the rule of the filter that removed it, or "". Raises UserError if the file
    is missing, broken or of other predictions."""
    rules = read_table(path, made_by="filter", only=("rule",))["rule"]
    if len(rules) != count:
        raise UserError(f"{path} has {len(rules)} rows for {count} predictions: run `dvc repro filter` again")
    return rules.array  # not a list of as many strings


def write(
    folder: Path,
    raw: Evaluation,
    filtered: Evaluation,
    *,
    root: Path,
    settings: Visualise,
    numbers: Numbers,
    drawn: Mapping[str, str],
    removed: Sequence[str],
    params: Mapping[str, Any],
    baseline: Baseline,
) -> None:
    """Write `folder`: index.html, ID.jpg of each image shown and label-N.jpg of each suspected label error.

    root: folder of the images. drawn: figures as SVG by name. removed: for each raw prediction the rule that removed
    it, or "". params: of the workspace, as written. The same input gives the same bytes. Raises UserError if an image
    cannot be read.
    """
    images, tasks, analysis = raw.images, raw.tasks, numbers["analysis"]
    shown = gallery.collect(raw, filtered, settings=settings, removed=removed)
    doubtful = suspects.collect(analysis["label_errors"], images, raw.predictions, count=settings.pictures)
    page = html.render(
        "page.html",
        **scores(numbers, tasks, baseline),
        header=header(numbers, raw, name=root.resolve().name, baseline=baseline),
        changes=None if baseline.params is None else changes(params, baseline.params),
        why=baseline.why,
        picked=picked(numbers["filter"], params),
        kinds=breakdowns.KINDS,
        costs=breakdowns.costs(analysis),
        label_cost=breakdowns.label_cost(analysis),
        ranked_by=html.ranking(raw.ranking),
        tasks=[{"name": task.name, "classes": list(task.classes)} for task in tasks],
        figures={name: Markup(svg) for name, svg in drawn.items()},
        gallery=shown,
        suspects=doubtful,
        findings=[*numbers["check"], *numbers["diagnosis"]["findings"]],
        raise_ap=raise_ap(numbers["diagnosis"]["figures"]),
        all_suspects=len(analysis["label_errors"]),
        images=len(images),
        objects=int((~images.instances.crowd).sum()),
        predictions=len(raw.predictions),
        min_score=settings.min_score,
        numbers=numbers,
    )
    with replace_folder(folder) as temporary:
        in_gallery = {entry["id"] for entry in shown}
        wanted = in_gallery | {place["image_id"] for place in doubtful}
        for image in images[np.isin(images.id, list(wanted))]:
            pixels = read_image(root, image)
            if image.id in in_gallery:
                write_image(temporary / f"{image.id}.jpg", overlays.thumbnail(pixels, settings.size), "JPEG", **JPEG)
            for place in (place for place in doubtful if place["image_id"] == image.id):
                part = suspects.cut(pixels, place["window"])
                drawn = overlays.thumbnail(part, suspects.SIZE)
                write_image(temporary / f"label-{place['number']}.jpg", drawn, "JPEG", **JPEG)
        (temporary / "index.html").write_bytes(page.encode())


def write_figures(folder: Path, drawn: Mapping[str, str]) -> None:
    """Write `folder` with NAME.svg of each figure."""
    with replace_folder(folder) as temporary:
        for name, svg in drawn.items():
            (temporary / f"{name}.svg").write_bytes(svg.encode())


def header(numbers: Numbers, raw: Evaluation, *, name: str, baseline: Baseline) -> list[tuple[str, str]]:
    """Facts about the run as (term, text). name: of the folder with the data."""
    val = numbers["manifest"]["splits"]["val"]
    return [
        ("data", f"{name}, val split ({val['sha256'][:12]})"),
        ("images", f"{len(raw.images):,} with {(~raw.images.instances.crowd).sum():,} instances"),
        ("tasks", ", ".join(f"{task.name} ({task.num_classes} classes)" for task in raw.tasks)),
        ("ranked by", html.ranking(raw.ranking)),
        *([("made on commit", baseline.commit[:10])] if baseline.commit else []),
    ]


def picked(metrics: Mapping[str, Any], params: Mapping[str, Any]) -> list[str] | None:
    """The thresholds that the filter chose, as text; None if params.yaml sets them."""
    if params.get("filter", {}).get("thresholds") != "auto":
        return None
    limits = metrics.get("picked", {})
    return [f"{kind} of {task} {limit:g}" for kind, own in limits.items() for task, limit in own.items()]


def raise_ap(figures: Numbers) -> list[tuple[str, dict[str, Any]]]:
    """The rows (step, {gain, cost}) of the table of what would raise AP, the largest gain first; the file is sorted by
    name."""
    return sorted(figures.get("raise_ap", {}).items(), key=lambda row: -(row[1]["gain"] or 0.0))


def changes(here: Mapping[str, Any], committed: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, here, committed) of the params that differ, as text; a dash if one side has no such key."""
    now, old, absent = flat(here), flat(committed), object()
    keys = sorted(key for key in {**now, **old} if now.get(key, absent) != old.get(key, absent))
    return [(key, *(html.text(side[key]) if key in side else html.UNDEFINED for side in (now, old))) for key in keys]


def flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key. Items of a list of sections are named by their `name`; a list of plain values is one
    value."""
    if isinstance(nested, list) and nested and all(isinstance(item, dict) and "name" in item for item in nested):
        nested = {item["name"]: item for item in nested}
    if not isinstance(nested, Mapping) or not nested:
        return {prefix: nested}
    dotted = f"{prefix}." if prefix else ""
    return {key: leaf for name, value in nested.items() for key, leaf in flat(value, f"{dotted}{name}").items()}


def scores(numbers: Numbers, tasks: Sequence[Task], baseline: Baseline) -> dict[str, Any]:
    """Cards and tables of the template: cards, classes, rankings, rules, and of val and test tested and tested_classes,
    empty without a test split."""
    main, *further = (task.name for task in tasks)
    metrics = flat(numbers["evaluate"]) | flat(numbers["filter"])
    old = flat(baseline.metrics.get("evaluate", {})) | flat(baseline.metrics.get("filter", {}))
    ranges = {row["metric"]: row for row in numbers["intervals"].to_dict("records")}
    ranges["filtered.joint_f1"] = numbers["rules"].to_dict("records")[-1]  # after the last rule
    chosen = [
        ("mask AP", "segm.AP", main),
        ("mask AP50", "segm.AP50", main),
        ("box AP", "bbox.AP", main),
        ("joint AP", "joint.AP", "all labels correct"),
        ("joint F1", "filtered.joint_f1", "after the filter"),
        *((f"{name} AP", f"tasks.{name}.AP", "further task") for name in further),
        *((f"{name} accuracy", f"tasks.{name}.accuracy", "of matched objects") for name in (main, *further)),
    ]
    of_test = {row["metric"]: row for row in numbers["test_intervals"].to_dict("records")}
    curves = {name: own["curves"] for name, own in numbers["analysis"]["tasks"].items()}
    best = [curves.get(row.task, {}).get(row["class"], {}) for _, row in numbers["classes"].iterrows()]
    return {
        "cards": [_card(*card, metrics, old, ranges.get(card[1])) for card in chosen],
        "classes": [row | own for row, own in zip(numbers["classes"].to_dict("records"), best, strict=True)],
        "rankings": numbers["rankings"].to_dict("records"),
        "rules": numbers["rules"].to_dict("records"),
        "tested": tested.rows(chosen, (metrics, flat(numbers["test"])), (ranges, of_test)) if numbers["test"] else [],
        "tested_classes": tested.classes(numbers["classes"], numbers["test_classes"]) if numbers["test"] else [],
    }


def _card(
    title: str, key: str, note: str, metrics: Mapping[str, Any], before: Mapping[str, Any], interval: Any
) -> dict[str, Any]:
    value, old = metrics.get(key), before.get(key)
    delta = None if value is None or old is None else value - old
    low, high = (interval[end] for end in ("low", "high")) if interval else (math.nan, math.nan)
    ranged = not math.isnan(low + high)  # undefined for too few images
    outside = ranged and old is not None and not low <= old <= high
    return {
        "title": title,
        "value": value,
        "note": note,
        "low": low if ranged else None,
        "high": high if ranged else None,
        "delta": delta,
        "sign": ("better" if delta > 0 else "worse") if outside else "",
    }
