"""`python -m benchmarks.scale [--images N ...] [--objects N] [--stages NAME ...] [--out FILE]`: time and memory against
size.

Runs each stage in a process of its own, on data that are drawn in a temporary folder:

  convert, register, check, loader   COCO format, images of 64 pixels with 7.3 objects each; the loader: one epoch
  evaluate, filter, visualise        the tables of `benchmarks.evaluate`, 10 objects and 100 predictions an image

Prints seconds of wall time and of CPU time and peak resident memory (Linux), of all processes of a stage, and the
exponent of each: the slope of a line through the logarithms, 1 for a time that grows with the number of images. The
libraries are part of the memory, so its exponent is below 1 at small sizes. Writes a plot. A stage needs those before
it. By default convert and register on 5,000 to 40,000 images, about 6 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from benchmarks import evaluate
from benchmarks.cost import Cost, run
from benchmarks.intake import ROOT, command, environment, write_params
from mtseg.core.files import write_json, write_table
from mtseg.core.params import load
from mtseg.evaluation.intervals import CLASS_COLUMNS, COLUMNS

SIZES = (5_000, 10_000, 20_000, 40_000)
RAW, PREDICTED = ("convert", "register", "check", "loader"), ("evaluate", "filter", "visualise")
LOADER = """
from pathlib import Path
from mtseg.core.params import load
from mtseg.data import loader, manifest
params, data = load(), manifest.load(Path("data/manifest.json"))
images = data.images("train")
mapper = loader.Mapper(data.tasks(params.tasks), params.input, root=params.data.raw, training=True)
for _ in loader.training_batches(images, mapper, batch=8, start=0, stop=len(images) // 8, seed=0, workers=0):
    pass
"""
SIDE = 64  # pixels of an image's side
OBJECTS = 7.3  # per image, on average, by default as in COCO
CORNERS = 24  # of a polygon, the median of COCO
CLASSES = 80
LINKS = 50_000  # names that a file may have: ext4 allows 65,000
BUDGET = 2000  # MB, that a stage may use


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=int, default=SIZES, help="numbers of images")
    parser.add_argument(
        "--objects", type=float, default=OBJECTS, metavar="N", help="per image, on average, of raw data"
    )
    parser.add_argument(
        "--stages", nargs="+", choices=RAW + PREDICTED, default=["convert", "register"], metavar="NAME",
        help=", ".join(RAW + PREDICTED)
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "docs/figures/scale.svg", help="the plot")
    given = parser.parse_args()
    costs: dict[str, dict[int, Cost]] = {name: {} for name in given.stages}
    print(f"{'images':>8} {'stage':>9} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}")
    for count in sorted(given.images):
        for prepare, own in ((partial(raw, objects=given.objects), RAW), (predicted, PREDICTED)):
            wanted = [name for name in own if name in given.stages]
            with tempfile.TemporaryDirectory() as folder:
                if wanted:  # in a process: Linux counts the memory of the parent as the peak of one that it starts
                    with multiprocessing.get_context("spawn").Pool(1) as other:
                        other.apply(prepare, (Path(folder), count))
                for name in wanted:
                    arguments = [sys.executable, "-c", LOADER] if name == "loader" else command(name)
                    cost = costs[name][count] = run(arguments, Path(folder), environment())
                    print(f"{count:>8} {name:>9} {cost.wall:>8.1f} {cost.cpu:>8.1f} {cost.peak:>8.0f}", flush=True)
    if len(given.images) > 1:
        for name, own in costs.items():
            fitted = ", ".join(f"{key} {exponent(column(own, key)):.2f}" for key in ("wall", "cpu", "peak"))
            print(f"{name}: exponents: {fitted}")
        plot(costs, given.out)


def raw(folder: Path, count: int, objects: float = OBJECTS) -> None:
    generate(folder / "raw", count, objects)
    write_params(folder, {"data": {"raw": "raw", "format": "coco", "split": 0.05}, "device": "cpu"})


def predicted(folder: Path, count: int) -> None:
    """What `evaluate`, `filter` and `visualise` read; the findings are none, the images are one."""
    evaluate.draw(folder, count)
    for name, value in {
        "check/findings": [],
        "diagnosis": {"findings": [], "figures": {}, "looked_at": "", "not_visible": "", "verdict": ""},
    }.items():
        write_json(folder / f"data/{name}.json", value)
    write_json(folder / "metrics/test.json", {})
    write_table(folder / "plots/test_classes.csv", [], columns=CLASS_COLUMNS)
    write_table(folder / "plots/test_intervals.csv", [], columns=COLUMNS)
    root = folder / load(folder / "params.yaml").data.raw
    root.mkdir(parents=True)
    for number in range(1, count + 1):
        path = root / f"{number}.jpg"
        if number % LINKS == 1:
            Image.new("RGB", (evaluate.SIDE, evaluate.SIDE)).save(image := path)
        else:
            path.hardlink_to(image)


def generate(raw: Path, count: int, objects: float, seed: int = 0) -> None:
    """Write `count` images of coarse noise, each different, and annotations.json with random polygons."""
    rng = np.random.default_rng(seed)
    (raw / "images").mkdir(parents=True)
    turns = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    corners = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE)).save(raw / "images" / f"{number:06}.jpg", quality=50)
        for _ in range(rng.poisson(objects)):
            radius = rng.uniform(3, 12)
            points = rng.uniform(radius, SIDE - radius, 2) + corners * radius * rng.uniform(0.8, 1, (CORNERS, 1))
            polygon = [round(value, 2) for value in points.ravel().tolist()]
            (x, y), (right, bottom) = points.min(0).round(2).tolist(), points.max(0).round(2).tolist()
            box, area = [x, y, round(right - x, 2), round(bottom - y, 2)], round(shoelace(points), 2)
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": int(rng.integers(CLASSES)) + 1}
            annotations.append(ids | {"bbox": box, "area": area, "iscrowd": 0, "segmentation": [polygon]})
    images = [{"id": n, "file_name": f"{n:06}.jpg", "height": SIDE, "width": SIDE} for n in range(count)]
    categories = [{"id": n + 1, "name": f"class {n + 1}"} for n in range(CLASSES)]
    with (raw / "annotations.json").open("w") as file:
        json.dump({"images": images, "categories": categories, "annotations": annotations}, file)


def shoelace(points: np.ndarray) -> float:
    """Area of a polygon [n, 2]."""
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def exponent(costs: Mapping[int, float]) -> float:
    """The k of the curve c * size^k that is nearest to the costs of sizes (least squares of logarithms)."""
    return float(np.polyfit(np.log([*costs]), np.log([*costs.values()]), 1)[0])


def column(costs: Mapping[int, Cost], key: str) -> dict[int, float]:
    return {count: getattr(cost, key) for count, cost in costs.items()}


def plot(costs: Mapping[str, Mapping[int, Cost]], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axis, key, title in zip(axes, ("cpu", "peak"), ("CPU time, s", "peak memory, MB"), strict=True):
        for name, own in costs.items():
            label = f"{name}: exponent {exponent(column(own, key)):.2f}"
            axis.plot([*own], [*column(own, key).values()], "o-", label=label)
        axis.set(xscale="log", yscale="log", xlabel="images", title=title)
        axis.set_xticks([], minor=True)
        axis.set_xticks([*own], [f"{count:,}" for count in own])
        axis.legend(fontsize="small")
    axes[1].axhline(BUDGET, color="grey", linestyle="--", linewidth=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
