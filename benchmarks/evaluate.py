"""`python -m benchmarks.evaluate [--quick]`: the evaluate stage's time and memory, beside those of pycocotools.

Draws data sets of 500, 1,000 and 5,000 images, with 100 predictions and 10 instances per image and three tasks. Runs
the whole stage, with reading and writing, and COCOeval of pycocotools for the masks alone, each in a process of its
own. Expect a table; its last line has the time and memory of the largest data set.

Targets: 60 s and 4 GB at 5,000 images on two cores. Of 60 s, 5 s are for starting up and the rest grows with the
images, so 16 s at 1,000; of 4 GB, 1 GB, so 1.6 GB. The shorter of wall time and processor time (of all processes
together) counts, as an idle machine takes no longer than the latter. Exits 1 when a target is missed. About 4 minutes
on two cores; --quick, 500 and 1,000 images, half a minute. Linux alone: it reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ruamel.yaml import YAML

from mtseg.core.files import write_json, write_json_array
from mtseg.core.params import load
from mtseg.core.tables import Image, Images, Instance, Predictions, softmax_columns
from mtseg.data import coco, manifest

ROOT = Path(__file__).parents[1]
SECONDS, GIGABYTES, LARGEST = 60.0, 4.0, 5000  # the targets
START = 5.0, 1.0  # of them, what is for starting up
SIDE, DETECTIONS, INSTANCES = 256, 100, 10
CLASSES = {
    "part": ("body", "door", "wheel", "window"),
    "position": ("front", "rear"),
    "side": ("left", "none", "right"),
}


def draw(folder: Path, count: int) -> None:
    """A folder as it is before evaluate. A fifth of the ellipses is missed; the other predictions are anywhere."""
    rng = np.random.default_rng(0)
    template = load(ROOT / "params.yaml").tasks[0]
    tasks = tuple(template.model_copy(update={"name": name, "classes": CLASSES[name]}) for name in CLASSES)
    rles, boxes, areas = zip(*(_ellipse(rng) for _ in range(400)), strict=True)
    masks = rng.integers(len(rles), size=(count, DETECTIONS))
    labels = {task.name: rng.integers(task.num_classes, size=(count, DETECTIONS)) for task in tasks}
    images = []
    for row in range(count):
        own = [
            Instance(rles[mask], boxes[mask], areas[mask], {name: int(labels[name][row, i]) for name in CLASSES})
            for i, mask in enumerate(masks[row, :INSTANCES])
        ]
        images.append(Image(row + 1, f"{row + 1}.jpg", SIDE, SIDE, tuple(own)))
    (folder / "data/coco").mkdir(parents=True)
    (folder / "data/predictions").mkdir()
    for split in manifest.SPLITS:
        Images.from_records(images, list(CLASSES.items())).write(folder / f"data/coco/{split}.parquet")
        coco.write(folder / f"data/coco/{split}.json", images, tasks)

    missed = rng.random((count, INSTANCES)) < 0.2
    masks[:, :INSTANCES][missed] = rng.integers(len(rles), size=missed.sum())
    number, mask = count * DETECTIONS, masks.ravel()
    columns = {
        "image_id": np.repeat(np.arange(1, count + 1), DETECTIONS),
        "query": np.tile(np.arange(DETECTIONS), count),
        "box": np.array(boxes)[mask],
        "area": np.array(areas)[mask],
        "rle": np.array([rle["counts"] for rle in rles], dtype=object)[mask],
        "height": np.full(number, SIDE),
        "width": np.full(number, SIDE),
        "mask_quality": rng.random(number).round(5),
    }
    for task in tasks:
        logits = rng.normal(0, 2, (number, task.num_outputs))
        columns |= softmax_columns(task.name, labels[task.name].ravel(), logits)
    columns["score"] = (columns[f"probability.{tasks[0].name}"] * columns["mask_quality"]).round(5)
    found = Predictions.of(columns)[np.lexsort((-columns["score"], columns["image_id"]))]
    found.write(folder / "data/predictions/val.parquet", tasks)
    each = zip(found.image_id.tolist(), found.labels[tasks[0].name].tolist(), found.rles(), found.score, strict=True)
    records = (
        {"image_id": image, "category_id": label + 1, "segmentation": rle, "score": float(score)}
        for image, label, rle, score in each
    )
    write_json_array(folder / "data/predictions/val.json", records)

    with contextlib.chdir(folder):
        write_json("data/manifest.json", manifest.build(Path("data/coco")))
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params["tasks"] = [params["tasks"][0] | {"name": name, "classes": "auto"} for name in CLASSES]
    YAML().dump(params, folder / "params.yaml")


def _ellipse(rng: np.random.Generator) -> tuple[dict, tuple[float, ...], float]:
    width, height = rng.integers(10, 80, 2)
    x, y = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside = ((columns - x - width / 2) / (width / 2)) ** 2 + ((rows - y - height / 2) / (height / 2)) ** 2 < 1
    packed = coco_mask.encode(np.asfortranarray(inside, dtype=np.uint8))
    rle = {"size": [SIDE, SIDE], "counts": packed["counts"].decode()}
    return rle, tuple(coco_mask.toBbox(packed).tolist()), float(coco_mask.area(packed))


def plain(folder: Path) -> None:
    """pycocotools on the same files, as its users run it."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "data/coco/val.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "data/predictions/val.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()


def measure(module: str, *arguments: str, folder: Path) -> tuple[float, float, float]:
    """Wall and processor time in seconds, and peak memory in GB, of a module that is run in `folder`: of the process
    and those that it starts, resident at once, looked at 20 times a second."""
    before, started, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0.0
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _resident(process.pid) / 1e9)
        time.sleep(0.05)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed in {folder}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def _resident(pid: int) -> int:
    """Bytes of a process and all that descend from it; 0 when it has ended."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        children = [
            Path(f"/proc/{pid}/task/{thread}/children").read_text() for thread in os.listdir(f"/proc/{pid}/task")
        ]
    except (OSError, IndexError):
        return 0
    return own + sum(_resident(int(child)) for text in children for child in text.split())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="500 and 1,000 images")
    parser.add_argument("--plain", action="store_true", help="only pycocotools, in this folder")
    arguments = parser.parse_args()
    if arguments.plain:
        plain(Path())
        return 0
    print(f"{'images':>8}  {'':<12}{'wall s':>8}{'processor s':>13}{'peak GB':>9}")
    missed = []
    for images in (500, 1000) if arguments.quick else (500, 1000, LARGEST):
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder), images)
            theirs = measure("benchmarks.evaluate", "--plain", folder=Path(folder))
            ours = measure("stages.evaluate", folder=Path(folder))
        for name, (wall, processor, peak) in (("pycocotools", theirs), ("evaluate", ours)):
            print(f"{images:>8,}  {name:<12}{wall:>8.1f}{processor:>13.1f}{peak:>9.2f}", flush=True)
        seconds, peak = min(ours[:2]), ours[2]
        limits = [
            least + (most - least) * images / LARGEST for least, most in zip(START, (SECONDS, GIGABYTES), strict=True)
        ]
        if seconds > limits[0] or peak > limits[1]:
            missed.append(f"{images:,} images: {seconds:.1f} s of {limits[0]:.1f}, {peak:.2f} GB of {limits[1]:.2f}")
    for line in missed:
        print(f"missed at {line}")
    print(
        f"evaluate, {images:,} images: {seconds:.1f} s of {limits[0]:.0f}, {peak:.2f} GB of {limits[1]:.1f}, "
        f"{seconds / min(theirs[:2]):.1f} times as long as pycocotools takes for the masks alone"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
