"""`python -m benchmarks.intake [--quick] [--cases FOLDER]`: time and memory of `convert` and `register`.

Without arguments: data sets of 11,800 and 118,000 images in COCO format, as many as COCO's train split, with 7.3
objects each, drawn in a temporary folder; --quick: the smaller one only. The images are small, so the time is that of
the annotations. Prints a table of seconds and of peak resident memory in MB (Linux). About 10 minutes on two cores.
Expect a time that grows no faster than the number of images, and at most 2000 MB.

With --cases: runs the stages on a copy of every folder in FOLDER that has raw/ and params.yaml, and prints what they
print. Keys that a params.yaml lacks have the values of this repository's. `check` runs too where --check names it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
STAGES = ("convert", "register")
SIDE = 64  # pixels of an image's side
OBJECTS = 7.3  # per image, on average, as in COCO
CORNERS = 24  # of a polygon, the median of COCO
CLASSES = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="11,800 images only")
    parser.add_argument("--cases", type=Path, help="folder of cases to run instead")
    parser.add_argument(
        "--check", nargs="*", default=(), help="cases that also run `check`, by the start of their name"
    )
    given = parser.parse_args()
    if given.cases:
        return cases(given.cases, tuple(given.check))
    print(f"{'images':>8} {'stage':>9} {'seconds':>8} {'peak MB':>8}")
    for count in (11_800,) if given.quick else (11_800, 118_000):
        with tempfile.TemporaryDirectory() as folder:
            generate(Path(folder) / "raw", count)
            write_params(Path(folder), {"data": {"raw": "raw", "format": "coco", "split": 0.05}})
            for stage in STAGES:
                seconds, peak = measured(Path(folder), stage)
                print(f"{count:>8} {stage:>9} {seconds:>8.0f} {peak:>8.0f}", flush=True)


def generate(raw: Path, count: int, seed: int = 0) -> None:
    """Write `count` images of coarse noise, each different, and annotations.json with random polygons."""
    rng = np.random.default_rng(seed)
    (raw / "images").mkdir(parents=True)
    turns = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    corners = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE)).save(raw / "images" / f"{number:06}.jpg", quality=50)
        for _ in range(rng.poisson(OBJECTS)):
            radius = rng.uniform(3, 12)
            points = rng.uniform(radius, SIDE - radius, 2) + corners * radius * rng.uniform(0.8, 1, (CORNERS, 1))
            polygon = [round(value, 2) for value in points.ravel().tolist()]
            (x, y), (right, bottom) = points.min(0).round(2).tolist(), points.max(0).round(2).tolist()
            box, area = [x, y, round(right - x, 2), round(bottom - y, 2)], round(shoelace(points), 2)
            of = {"id": len(annotations) + 1, "image_id": number, "category_id": int(rng.integers(CLASSES)) + 1}
            annotations.append(of | {"bbox": box, "area": area, "iscrowd": 0, "segmentation": [polygon]})
    images = [{"id": n, "file_name": f"{n:06}.jpg", "height": SIDE, "width": SIDE} for n in range(count)]
    categories = [{"id": n + 1, "name": f"class {n + 1}"} for n in range(CLASSES)]
    with (raw / "annotations.json").open("w") as file:
        json.dump({"images": images, "categories": categories, "annotations": annotations}, file)


def shoelace(points: np.ndarray) -> float:
    """Area of a polygon [n, 2]."""
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


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


def measured(folder: Path, stage: str) -> tuple[float, float]:
    """Seconds and peak resident memory in MB of a stage. Exits if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command(stage), cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{stage} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


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
