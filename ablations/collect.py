"""The numbers of a study: from its experiments into a csv file, and back."""

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


def collect(study: Study, runs: Sequence[Run], refs: Mapping[str, list[str]], file: Path) -> int:
    """Bring the csv file up to date: a row a run in the study's order, as its experiment has it or, where that is not
    here, as the file had it; rows of runs that the study no longer has, or has with other params, go. Returns how many
    experiments were read."""
    known = {(*(row.get(key) for key in (*study.vary, "seed", "params")),): row for row in read(file)}
    rows, found = [], 0
    for run in runs:
        key = (*run.factors.values(), str(run.seed), run.digest)
        ref = experiments.result(run, refs)
        found += ref is not None
        if row := _row(study, run, ref) if ref else known.get(key):
            rows.append(row)
    columns = [*study.vary, "seed", "params", "commit", *study.metrics]
    if not rows:
        file.unlink(missing_ok=True)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as text:
            writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return found


def _row(study: Study, run: Run, ref: str) -> Row:
    values = {column: number(ref, source) for column, source in study.metrics.items()}
    return run.factors | {"seed": str(run.seed), "params": run.digest, "commit": experiments.baseline(ref)[:7]} | values


def number(ref: str, source: str) -> str:
    """`evaluate:joint.AP` of an experiment, `evaluate:tasks.*.AP` as the mean over the tasks; empty if undefined."""
    file, _, key = source.partition(":")
    found = [json.loads(experiments.file(ref, f"metrics/{file}.json") or "{}")]
    for part in key.split("."):
        within = [value for value in found if isinstance(value, dict)]
        found = [child for value in within for name, child in value.items() if part in ("*", name)]
    values = [value for value in found if not isinstance(value, dict)]
    return str(round(fmean(values), 4)) if len(values) > 1 else "".join(map(str, values))
