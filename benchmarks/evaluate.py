"""`python -m benchmarks.evaluate [--quick]`: time and memory of the stage evaluate, compared with pycocotools.

Draws data sets of 500, 1,000 and 5,000 images with three tasks, 10 instances and 100 predictions per image. Runs the
whole stage, with reading and writing, and COCOeval of pycocotools on the masks, each in its own process, and prints a
table. About 3 minutes on two cores; --quick, 500 and 1,000 images, half a minute. Linux only.

Target: 12 s and 1 GB at 5,000 images on two cores; the exit code is 1 if it is missed. The lower of wall-clock and
processor time counts, because wall-clock time is longer on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ruamel.yaml import YAML

from benchmarks.cost import Cost, run
from mtseg.core.files import write_json
from mtseg.core.params import Task, load
from mtseg.core.tables import Image, Instance, Predictions, task_columns
from mtseg.data import coco, manifest
from mtseg.inference.export import coco as results

ROOT = Path(__file__).parents[1]
SECONDS, GIGABYTES, LARGEST = 12.0, 1.0, 5000  # the target
SIDE, DETECTIONS, INSTANCES = 256, 100, 10
CLASSES = {
    "part": ("body", "door", "wheel", "window"),
    "position": ("front", "rear"),
    "side": ("left", "none", "right"),
}


def draw(folder: Path, count: int) -> tuple[Predictions, Sequence[Task]]:
    """Write the inputs of evaluate, and return the predictions. A fifth of the instances, ellipses, is missed; other
    predictions are at random."""
    rng, size = np.random.default_rng(0), count * DETECTIONS
    template = load(ROOT / "params.yaml").tasks[0]
    tasks = tuple(template.model_copy(update={"name": name, "classes": CLASSES[name]}) for name in CLASSES)
    rles, boxes, areas = zip(*(_ellipse(rng) for _ in range(400)), strict=True)
    masks = rng.integers(len(rles), size=(count, DETECTIONS))
    labels = {task.name: rng.integers(task.num_classes, size=(count, DETECTIONS)) for task in tasks}
    images = []
    for row, own in enumerate(masks[:, :INSTANCES]):
        names = [{task: int(column[row, n]) for task, column in labels.items()} for n in range(INSTANCES)]
        instances = [Instance(rles[m], boxes[m], areas[m], label) for m, label in zip(own, names, strict=True)]
        images.append(Image(row + 1, f"{row + 1}.jpg", SIDE, SIDE, tuple(instances)))
    missed = rng.random((count, INSTANCES)) < 0.2
    masks[:, :INSTANCES][missed] = rng.integers(len(rles), size=missed.sum())
    quality, chosen = rng.random(size).round(5), masks.ravel()
    image_id, query = (grid.ravel() for grid in np.indices((count, DETECTIONS)))
    columns = {"image_id": image_id + 1, "query": query, "mask_quality": quality}
    columns |= {"box": np.array(boxes)[chosen], "area": np.array(areas)[chosen]}
    columns |= {"rle": np.array([rle["counts"] for rle in rles], dtype=object)[chosen]}
    columns |= dict.fromkeys(("height", "width"), np.full(size, SIDE))
    for task in tasks:
        columns |= task_columns(task.name, labels[task.name].ravel(), rng.normal(0, 2, (size, task.num_outputs)))
    predictions = Predictions.of(columns | {"score": (columns[f"probability.{tasks[0].name}"] * quality).round(5)})
    first, *others = (folder / f"data/coco/{split}.json" for split in manifest.SPLITS)
    coco.write(first, images, tasks)
    for other in others:
        for suffix in (".json", ".parquet"):
            shutil.copy(first.with_suffix(suffix), other.with_suffix(suffix))
    predictions.write(folder / "data/predictions/val.parquet", tasks)
    with contextlib.chdir(folder):
        write_json("data/manifest.json", manifest.build(Path("data/coco")))
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params["tasks"] = [params["tasks"][0] | {"name": name, "classes": "auto"} for name in CLASSES]
    YAML().dump(params, folder / "params.yaml")
    return predictions, tasks


def _ellipse(rng: np.random.Generator) -> tuple[dict, tuple[float, ...], float]:
    width, height = rng.integers(10, 80, 2)
    x, y = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside = ((columns - x - width / 2) / (width / 2)) ** 2 + ((rows - y - height / 2) / (height / 2)) ** 2 < 1
    packed = coco_mask.encode(np.asfortranarray(inside, dtype=np.uint8))
    rle = {"size": [SIDE, SIDE], "counts": packed["counts"].decode()}
    return rle, tuple(coco_mask.toBbox(packed).tolist()), float(coco_mask.area(packed))


def plain() -> None:
    """Run COCOeval on the files in the working folder."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO("data/coco/val.json")
        evaluation = COCOeval(truth, truth.loadRes("data/predictions/val.json"), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()


def measure(folder: Path, code: str) -> Cost:
    """The cost of a process that runs `code` in `folder`."""
    return run([sys.executable, "-c", code], folder, os.environ | {"PYTHONPATH": str(ROOT)})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="500 and 1,000 images")
    for count in (500, 1000) if parser.parse_args().quick else (500, 1000, LARGEST):
        with tempfile.TemporaryDirectory() as folder:
            results.write_results(Path(folder) / "data/predictions/val.json", *draw(Path(folder), count))
            theirs = measure(Path(folder), "from benchmarks.evaluate import plain; plain()")
            ours = measure(Path(folder), "from stages.evaluate import main; main()")
        for name, own in (("evaluate", ours), ("pycocotools", theirs)):
            used = f"{own.wall:>7.1f} s {own.cpu:>7.1f} s of processor {own.peak / 1000:>6.2f} GB"
            print(f"{count:>6,} images  {name:<11}{used}")
    return int(count == LARGEST and (min(ours.wall, ours.cpu) > SECONDS or ours.peak > 1000 * GIGABYTES))


if __name__ == "__main__":
    sys.exit(main())
