"""The report: one page with the numbers, the figures, and a gallery of pictures to look through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtseg.checks.findings import CAUSES
from mtseg.core.files import read_json, replace_folder
from mtseg.core.params import Ranking, Task, Visualise
from mtseg.core.tables import Image, Prediction
from mtseg.data.images import read_image
from mtseg.report import breakdowns, gallery, html, suspects, tables
from mtseg.report.baseline import Baseline

JPEG = {"quality": 85, "optimize": True}
Numbers = dict[str, Any]


def read_numbers(
    *,
    evaluate: Path,
    filter: Path,
    classes: Path,
    rankings: Path,
    intervals: Path,
    sieve: Path,
    evaluation: Path,
    manifest: Path,
    diagnosis: Path,
    train: Path,
    val: Path,
    health: Path,
) -> Numbers:
    """What the page tells beside pictures, under these names; the last three, the curves, only if all exist.

    Raises UserError when a file is missing or broken.
    """
    numbers = {
        "evaluate": read_json(evaluate, made_by="evaluate"),
        "filter": read_json(filter, made_by="filter"),
        "classes": tables.read(classes, made_by="evaluate"),
        "rankings": tables.read(rankings, made_by="evaluate"),
        "intervals": tables.read(intervals, made_by="evaluate"),
        "sieve": tables.read(sieve, made_by="filter"),
        "evaluation": read_json(evaluation, made_by="evaluate"),
        "manifest": read_json(manifest, made_by="register"),
        "diagnosis": read_json(diagnosis, made_by="diagnose"),
    }
    curves = {"train": train, "val": val, "health": health}
    if all(path.exists() for path in curves.values()):
        numbers |= {name: tables.read(path, made_by="train") for name, path in curves.items()}
    return numbers


def read_removed(path: Path) -> list[str | None]:
    """Of each raw prediction the rule of the filter that took it out, or None. Raises UserError as `read_numbers`."""
    return [rule or None for rule in tables.read(path, made_by="filter")["rule"]]


def write(
    folder: Path,
    images: Sequence[Image],
    raw: Sequence[Prediction],
    filtered: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    ranking: Ranking,
    root: Path,
    settings: Visualise,
    numbers: Numbers,
    figures: Mapping[str, str],
    removed: Sequence[str | None],
    params: Mapping[str, Any],
    baseline: Baseline,
) -> None:
    """Write `folder`: index.html, ID.jpg of each picture shown and label-N.jpg of each suspected label error.

    root: folder of the pictures. figures: SVG by name. removed: for each of raw the rule that took it out, or None.
    params: of the files as they are, as written. The same input gives the same bytes. Raises UserError when a picture
    cannot be read.
    """
    shown = gallery.collect(images, raw, filtered, tasks=tasks, ranking=ranking, settings=settings, removed=removed)
    doubtful = suspects.collect(numbers["evaluation"]["label_errors"], images, raw, count=settings.pictures)
    page = html.render(
        "page.html",
        **scores(numbers, tasks, baseline),
        header=header(numbers, images, tasks=tasks, ranking=ranking, name=root.resolve().name, baseline=baseline),
        changes=None if baseline.params is None else changes(params, baseline.params),
        why=baseline.why,
        picked=picked(numbers["filter"], params),
        kinds=breakdowns.KINDS,
        costs=breakdowns.costs(numbers["evaluation"]),
        label_cost=breakdowns.label_cost(numbers["evaluation"]),
        ranked_by=html.ranking(ranking),
        tasks=[{"name": task.name, "classes": list(task.classes)} for task in tasks],
        figures={name: Markup(svg) for name, svg in figures.items()},
        gallery=shown,
        suspects=doubtful,
        findings=numbers["diagnosis"]["findings"],
        causes=CAUSES,
        all_suspects=len(numbers["evaluation"]["label_errors"]),
        images=len(images),
        min_score=settings.min_score,
        numbers=numbers,
    )
    with replace_folder(folder) as temporary:
        in_gallery = {entry["id"] for entry in shown}
        for image in images:
            own = [place for place in doubtful if place["image_id"] == image.id]
            if not own and image.id not in in_gallery:
                continue
            pixels = read_image(root, image)
            if image.id in in_gallery:
                gallery.thumbnail(pixels, settings.size).save(temporary / f"{image.id}.jpg", **JPEG)
            for place in own:
                part = suspects.cut(pixels, place["window"])
                gallery.thumbnail(part, suspects.SIZE).save(temporary / f"label-{place['number']}.jpg", **JPEG)
        (temporary / "index.html").write_bytes(page.encode())


def write_figures(folder: Path, figures: Mapping[str, str]) -> None:
    """Write `folder` with NAME.svg of each figure."""
    with replace_folder(folder) as temporary:
        for name, svg in figures.items():
            (temporary / f"{name}.svg").write_bytes(svg.encode())


def header(
    numbers: Numbers,
    images: Sequence[Image],
    *,
    tasks: Sequence[Task],
    ranking: Ranking,
    name: str,
    baseline: Baseline,
) -> list[tuple[str, str]]:
    """What the report is of, as (term, text). name: of the data's folder."""
    val = numbers["manifest"]["splits"]["val"]
    instances = sum(not instance.crowd for image in images for instance in image.instances)
    return [
        ("data", f"{name}, val split ({val['sha256'][:12]})"),
        ("pictures", f"{len(images):,} with {instances:,} instances"),
        ("tasks", ", ".join(f"{task.name} ({task.num_classes} classes)" for task in tasks)),
        ("ranked by", html.ranking(ranking)),
        *([("made on commit", baseline.commit[:10])] if baseline.commit else []),
    ]


def picked(metrics: Mapping[str, Any], params: Mapping[str, Any]) -> list[str] | None:
    """The thresholds that the filter picked, as text; None where they were given."""
    if params.get("filter", {}).get("thresholds") != "auto":
        return None
    limits = metrics.get("picked", {})
    return [f"{kind} of {task} {limit:g}" for kind, own in limits.items() for task, limit in own.items()]


def changes(here: Mapping[str, Any], committed: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, here, committed) of the params that differ, as text; a dash where one has no such key."""
    now, old, absent = flat(here), flat(committed), object()
    keys = sorted(key for key in {**now, **old} if now.get(key, absent) != old.get(key, absent))
    return [(key, *(html.text(side[key]) if key in side else html.UNDEFINED for side in (now, old))) for key in keys]


def flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted name; members of a list of sections by their `name`, a list of plain values is a leaf."""
    if (
        isinstance(nested, list | tuple)
        and nested
        and all(isinstance(item, dict) and "name" in item for item in nested)
    ):
        nested = {item["name"]: item for item in nested}
    if not isinstance(nested, Mapping) or not nested:
        return {prefix: list(nested) if isinstance(nested, tuple) else nested}
    dotted = f"{prefix}." if prefix else ""
    return {key: leaf for name, value in nested.items() for key, leaf in flat(value, f"{dotted}{name}").items()}


def scores(numbers: Numbers, tasks: Sequence[Task], baseline: Baseline) -> dict[str, Any]:
    """Cards and tables for the template."""
    main, *further = (task.name for task in tasks)
    metrics = flat(numbers["evaluate"]) | flat(numbers["filter"])
    old = flat(baseline.evaluate) | flat(baseline.filter)
    ranges = {row["metric"]: row for row in numbers["intervals"].to_dict("records")}
    ranges["filtered.joint_f1"] = numbers["sieve"].to_dict("records")[-1]  # after the last rule
    chosen = [
        ("mask AP", "segm.AP", main),
        ("mask AP50", "segm.AP50", main),
        ("box AP", "bbox.AP", main),
        ("joint AP", "joint.AP", "every label right"),
        ("joint F1", "filtered.joint_f1", "after the filter"),
        *((f"{name} AP", f"tasks.{name}.AP", "further task") for name in further),
        *((f"{name} accuracy", f"tasks.{name}.accuracy", "where matched") for name in (main, *further)),
    ]
    curves = {name: own["curves"] for name, own in numbers["evaluation"]["tasks"].items()}
    best = [curves.get(row.task, {}).get(row["class"], {}) for _, row in numbers["classes"].iterrows()]
    return {
        "cards": [_card(*card, metrics, old, ranges.get(card[1])) for card in chosen],
        "classes": [row | own for row, own in zip(numbers["classes"].to_dict("records"), best, strict=True)],
        "rankings": numbers["rankings"].to_dict("records"),
        "sieve": numbers["sieve"].to_dict("records"),
    }


def _card(
    title: str, key: str, note: str, metrics: Mapping[str, Any], before: Mapping[str, Any], interval: Any
) -> dict[str, Any]:
    value, old = metrics.get(key), before.get(key)
    delta = None if value is None or old is None else value - old
    low, high = (interval[end] for end in ("low", "high")) if interval else (math.nan, math.nan)
    ranged = not math.isnan(low + high)  # too few pictures have no interval
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
