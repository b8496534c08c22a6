"""`python -m benchmarks.intake --cases FOLDER`: whether the first stages do what is right with small raw data sets.

Runs `convert` and `register` on a copy of every folder in FOLDER that has raw/ and params.yaml, and prints what they
print. Keys that a params.yaml lacks have the values of this repository's. The table --expected has for each case

    images   number of each split
    says     regular expressions, one for each line beyond the summary; none: nothing else may be said
    error    regular expressions that the error has, in place of the two above
    check    the same for the output of the stage `check`, which then runs too

A case that differs is printed as such, and the exit code is 1. One case takes 0.2 s. Time and memory are measured by
`benchmarks.scale`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mtseg.core.errors import as_user_error

ROOT = Path(__file__).parents[1]
STAGES = ("convert", "register")
EXPECTED = ROOT / "benchmarks" / "intake.yaml"
USUAL = re.compile(r".* -> data/coco: |split: |\S+: format \w+, recognised by ")  # lines of every run


@dataclass(frozen=True)
class Outcome:
    """lines: what each stage printed. error: why one failed, with a traceback if that is a bug. images: number of each
    split."""

    lines: dict[str, list[str]]
    error: str
    images: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder of cases")
    parser.add_argument("--expected", type=Path, default=EXPECTED, help="table of what is right")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    expected = YAML(typ="safe").load(given.expected)
    differ, unknown = [], []
    for case in sorted(path.parent for path in given.cases.glob("*/params.yaml")):
        print(f"== {case.name}")
        right = expected.get(case.name)
        outcome = run(case, (*STAGES, *(["check"] if right and "check" in right else [])))
        for stage, lines in outcome.lines.items():
            print(*(f"{stage:>9} {line}" for line in lines), sep="\n", flush=True)
        if right is None:
            unknown.append(case.name)
        elif faults := judge(right, outcome):
            differ.append(case.name)
            print(*(f"  DIFFERS {fault}" for fault in faults), sep="\n", flush=True)
    if unknown:
        print(f"not in {given.expected}: {', '.join(unknown)}")
    if differ:
        sys.exit(f"{len(differ)} cases differ from what is right: {', '.join(differ)}")


def run(case: Path, stages: Sequence[str]) -> Outcome:
    """Run the stages on a copy of the case, in this process, up to the first that fails."""
    lines: dict[str, list[str]] = {}
    error = ""
    with tempfile.TemporaryDirectory() as copy, contextlib.chdir(copy):
        shutil.copytree(case, copy, dirs_exist_ok=True, symlinks=True)
        write_case_params(Path(copy))
        for stage in stages:
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    importlib.import_module(f"stages.{stage}").main()
            except Exception as failure:
                error = str(as_user_error(failure) or traceback.format_exc())
            except SystemExit as stop:
                error = str(stop.code or "")
            lines[stage] = [*printed.getvalue().splitlines(), *error.splitlines()]
            if error:
                break
        report = Path("data/coco/report.json")
        images = json.loads(report.read_bytes())["images"] if report.exists() else {}
    return Outcome(lines, error, images)


def judge(right: Mapping[str, Any], outcome: Outcome) -> list[str]:
    """How the outcome of a case differs from what is right."""
    printed = {stage: " ".join(" ".join(lines).split()) for stage, lines in outcome.lines.items()}
    checked = [text for text in right.get("check", ()) if not re.search(text, printed.get("check", ""))]
    faults = [f"check does not say: {text}" for text in checked]
    if "error" in right:
        error = " ".join(outcome.error.split())
        return [f"the error is not: {text}" for text in right["error"] if not re.search(text, error)] + faults
    if outcome.error and "check" not in outcome.lines:
        return [f"fails: {outcome.error}"]
    if outcome.images != right["images"]:
        faults.append(f"images are {outcome.images}, expected {right['images']}")
    said = [item for item in _items(outcome.lines["convert"]) if not USUAL.match(item)]
    patterns = right.get("says", ())
    faults += [f"does not say: {text}" for text in patterns if not any(re.search(text, item) for item in said)]
    return faults + [f"says: {item}" for item in said if not any(re.search(text, item) for text in patterns)]


def _items(lines: Sequence[str]) -> list[str]:
    """The lines of a summary, joined where they were wrapped."""
    items: list[str] = []
    for line in lines:
        if line.startswith("      ") and items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(line.strip())
    return items


def write_params(folder: Path, changes: dict[str, Any]) -> None:
    """Write params.yaml: that of this repository with one task, `category`, and with `changes`."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["tasks"] = [params["tasks"][0] | {"name": "category", "classes": "auto", "flip_pairs": []}]
    merge(params, changes)
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)


def merge(params: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set the values of `changes` in `params`; keys that it does not have are left out."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(params.get(key), dict) and params[key]:
            merge(params[key], value)
        elif key in params:
            params[key] = value


def command(stage: str) -> list[str]:
    return [sys.executable, "-m", f"stages.{stage}"]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def write_case_params(folder: Path) -> None:
    yaml = YAML()
    own = yaml.load(folder / "params.yaml")
    params = yaml.load(ROOT / "params.yaml")
    merge(params, own)
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)


if __name__ == "__main__":
    main()
