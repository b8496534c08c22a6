"""`python -m benchmarks.intake --cases FOLDER`: what `convert` and `register` print of many small raw data sets.

Runs the stages on a copy of every folder in FOLDER that has raw/ and params.yaml, and prints what they print. Keys that
a params.yaml lacks have the values of this repository's. `check` runs too where --check names it. Time and memory are
measured by `benchmarks.scale`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
STAGES = ("convert", "register")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder of cases")
    parser.add_argument(
        "--check", nargs="*", default=(), help="cases that also run `check`, by the start of their name"
    )
    given = parser.parse_args()
    cases(given.cases, tuple(given.check))


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


def cases(folder: Path, checked: Sequence[str]) -> None:
    for case in sorted(path.parent for path in folder.glob("*/params.yaml")):
        print(f"== {case.name}")
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(case, copy, dirs_exist_ok=True)
            write_case_params(Path(copy))
            for stage in (*STAGES, *(["check"] if checked and case.name.startswith(tuple(checked)) else [])):
                done = subprocess.run(
                    command(stage), cwd=copy, env=environment(), capture_output=True, text=True, check=False
                )
                lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
                print(*(f"{stage:>9} {line}" for line in lines), sep="\n", flush=True)
                if done.returncode:
                    break


def write_case_params(folder: Path) -> None:
    yaml = YAML()
    own = yaml.load(folder / "params.yaml")
    params = yaml.load(ROOT / "params.yaml")
    merge(params, own)
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)


if __name__ == "__main__":
    main()
