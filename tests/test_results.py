"""The figures of the two whole runs in README.md and docs/results.md are those of the committed files."""

from pathlib import Path

import pandas as pd
import pytest

from mtseg.core.files import read_json

ROOT = Path(__file__).parents[1]
RUNS = {"Embedded data set": ("embedded", "shape", "metrics", "plots"),
        "Car parts": ("car parts", "main", *2 * ["docs/carparts"])}  # fmt: skip


@pytest.mark.parametrize("heading", RUNS)
def test_the_tables_are_of_the_committed_metrics(heading):
    data, main, metrics, _ = RUNS[heading]
    found, kept = (read_json(ROOT / metrics / f"{name}.json") for name in ("evaluate", "filter"))
    tasks = found["tasks"]
    sizes = [key for key in ("APs", "APm", "APl") if key in found["segm"]]
    rows = [
        [name, *(found[kind][key] for key in ("AP", "AP50", "AP75", *sizes))]
        for kind, name in (("segm", f"{main}, masks"), ("bbox", f"{main}, boxes"))
    ]
    rows.append(["joint", found["joint"]["AP"], found["joint"]["AP50"]])
    rows += [[name, *(task[key] for key in ("AP", "accuracy", "f1"))] for name, task in tasks.items()]
    rows += [[*(kept[kind][key] for key in ("precision", "recall", "f1", "joint_f1"))] for kind in ("raw", "filtered")]
    assert not [row for row in map(cells, rows) if row not in section(heading)]
    (line,) = (line for line in read("README.md").splitlines() if line.startswith("| ") and data in line.split("|")[1])
    accuracies = ", ".join(f"{task['accuracy']:.1f}" for name, task in tasks.items() if name != main)
    assert cells([found["segm"]["AP"], found["joint"]["AP"], accuracies]) in line


@pytest.mark.parametrize("heading", RUNS)
def test_intervals_and_gains_are_of_the_committed_files(heading):
    _, _, metrics, plots = RUNS[heading]
    for row in pd.read_csv(ROOT / plots / "intervals.csv").itertuples():
        if row.metric in ("segm.AP", "joint.AP"):
            assert f"{row.low:.1f} to {row.high:.1f}" in section(heading)
    joint = read_json(ROOT / metrics / "evaluate.json")["joint"]["AP"]
    for value in read_json(ROOT / metrics / "diagnosis.json")["oracles"].values():
        assert f" {value - joint:.1f} " in section(heading)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def section(heading: str) -> str:
    return read("docs/results.md").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def cells(values: list) -> str:
    return "|" + "".join(f" {value if isinstance(value, str) else f'{value:.1f}'} |" for value in values)
