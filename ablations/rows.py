"""The numbers of a study: ablations/results/STUDY_SCALE.csv has a row for each run that has finished."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from ablations import experiments
from ablations.studies import Run, Study
from mtseg.core.files import replace_file

RESULTS = Path("ablations/results")
Row = dict[str, str]


def path(study: Study, scale: str, folder: Path = RESULTS) -> Path:
    return folder / f"{study.name}_{scale}.csv"


def read(file: Path) -> list[Row]:
    """The rows of a csv file; none where there is no file."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def write(file: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A csv file; none where there are no rows."""
    if not rows:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def done(study: Study, runs: Sequence[Run], file: Path) -> dict[str, Row]:
    """{name of a run: its row} of the runs that have one: the same levels, seed and digest of params."""
    known = {(*(row.get(key) for key in (*study.vary, "seed", "params")),): row for row in read(file)}
    found = {run.name: known.get((*run.factors.values(), str(run.seed), run.digest)) for run in runs}
    return {name: row for name, row in found.items() if row}


def update(study: Study, runs: Sequence[Run], file: Path, new: Mapping[str, Row]) -> None:
    """Bring the file up to date: rows in the order of the study's runs; those of runs it no longer has are removed."""
    rows = done(study, runs, file) | new
    columns = [*study.vary, "seed", "params", "commit", *study.metrics]
    write(file, columns, [rows[run.name] for run in runs if run.name in rows])


def row(study: Study, run: Run, ref: str) -> Row:
    """The row of a run from its experiment."""
    values = {column: number(ref, source) for column, source in study.metrics.items()}
    commit = "".join(ref.split("/")[2:4])[:7]
    return run.factors | {"seed": str(run.seed), "params": run.digest, "commit": commit} | values


def number(ref: str, source: str) -> str:
    """`evaluate:joint.AP` of an experiment; `evaluate:tasks.*.AP` is the mean over the tasks; empty if undefined."""
    file, _, key = source.partition(":")
    found = [json.loads(experiments.git("show", f"{ref}:metrics/{file}.json") or "{}")]
    for part in key.split("."):
        within = [value for value in found if isinstance(value, dict)]
        found = [child for value in within for name, child in value.items() if part in ("*", name)]
    values = [value for value in found if not isinstance(value, dict)]
    return str(round(fmean(values), 4)) if len(values) > 1 else "".join(map(str, values))
