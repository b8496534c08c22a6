"""The results of a study: ablations/results/STUDY_SCALE.csv has a row for each finished run.

Means over seeds come with half their 95 % interval, by Student's t."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import t

from ablations import experiments
from ablations.studies import Run, Study
from mtseg.core.files import replace_file

RESULTS = Path("ablations/results")
LEVEL = 0.95
Row = dict[str, str]


def path(study: Study, scale: str, folder: Path = RESULTS) -> Path:
    return folder / f"{study.name}_{scale}.csv"


def read(file: Path) -> list[Row]:
    """The rows of a csv file, none if there is no file."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def write(file: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a csv file, or remove it if there are no rows."""
    if not rows:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def done(study: Study, runs: Sequence[Run], file: Path) -> dict[str, Row]:
    """{name: row} of the runs that have a row with the same levels, seed and digest of params."""
    known = {(*(row.get(key) for key in (*study.vary, "seed", "params")),): row for row in read(file)}
    found = {run.name: known.get((*run.factors.values(), str(run.seed), run.digest)) for run in runs}
    return {name: row for name, row in found.items() if row}


def update(study: Study, runs: Sequence[Run], file: Path, new: Mapping[str, Row]) -> None:
    """Add rows, in the order of the study's runs, and remove those of runs that the study no longer has."""
    rows = done(study, runs, file) | new
    columns = [*study.vary, "seed", "params", "commit", *study.metrics]
    write(file, columns, [rows[run.name] for run in runs if run.name in rows])


def row(study: Study, run: Run, ref: str) -> Row:
    """The row of a run, from its experiment."""
    values = {column: number(ref, source) for column, source in study.metrics.items()}
    commit = "".join(ref.split("/")[2:4])[:7]
    return run.factors | {"seed": str(run.seed), "params": run.digest, "commit": commit} | values


def number(ref: str, source: str) -> str:
    """A metric of an experiment: `evaluate:joint.AP`, or the mean over the tasks, `evaluate:tasks.*.AP`; empty if
    undefined."""
    file, _, key = source.partition(":")
    found = [json.loads(experiments.git("show", f"{ref}:metrics/{file}.json") or "{}")]
    for part in key.split("."):
        within = [value for value in found if isinstance(value, dict)]
        found = [child for value in within for name, child in value.items() if part in ("*", name)]
    values = [value for value in found if not isinstance(value, dict)]
    return str(round(fmean(values), 4)) if len(values) > 1 else "".join(map(str, values))


def groups(study: Study, scale: str, rows: Sequence[Row]) -> dict[tuple[str, ...], dict[str, dict[int, float]]]:
    """{levels of all factors: {column: {seed: value}}}, in the study's order, without undefined values."""
    ranks = [{level: rank for rank, level in enumerate(levels)} for levels in study.levels(scale).values()]
    found: dict[tuple[str, ...], dict[str, dict[int, float]]] = {}
    for row in rows:
        columns = found.setdefault(tuple(row[factor] for factor in study.vary), {name: {} for name in study.metrics})
        for name, values in columns.items():
            if row.get(name):
                values[int(row["seed"])] = float(row[name])
    return dict(
        sorted(found.items(), key=lambda item: [rank[level] for rank, level in zip(ranks, item[0], strict=True)])
    )


def mean_and_half(values: Sequence[float], *, signed: bool = False) -> str:
    """`61.2 ± 0.8`, mean and half the interval; the mean alone of a single value; empty without values."""
    if not values:
        return ""
    text = f"{np.mean(values):{'+' if signed else ''}.1f}"
    return text if len(values) == 1 else f"{text} ± {half_interval(values):.1f}"


def half_interval(values: Sequence[float]) -> float:
    """Half the interval of the mean at LEVEL; 0 for fewer than two values."""
    count = len(values)
    if count < 2:
        return 0.0
    return float(t.ppf((1 + LEVEL) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
