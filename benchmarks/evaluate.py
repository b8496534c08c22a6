"""`python -m benchmarks.evaluate [--quick]`: the evaluate stage's time and memory, beside those of pycocotools.

Draws data sets of 500, 1,000 and 5,000 pictures, with 100 predictions and 10 instances a picture and three tasks; runs
the stage whole, reading and writing included, and pycocotools' COCOeval of the masks alone; each in a process of its
own, which another may join. Expect a table, and as its last line the largest data set's time and memory.

Targets: 60 s and 4 GB at 5,000 pictures on two cores. Of 60 s, 5 s are for starting up and the rest grows with the
pictures, so 16 s at 1,000; of 4 GB, 1 GB, so 1.6 GB. What counts is the shorter of wall time and processor time (of
all processes together): with nothing else to do, a machine takes no longer than the latter. Exits 1 when a target is
missed. Some 4 minutes on two cores; --quick, 500 and 1,000 pictures, half a minute. Linux alone: it reads /proc.
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

from mtseg.core.files import write_json
from mtseg.core.params import load
from mtseg.core.tables import Image, Instance, Prediction
from mtseg.data import coco, manifest
from mtseg.evaluation import predictions

ROOT = Path(__file__).parents[1]
SECONDS, GIGABYTES, LARGEST = 60.0, 4.0, 5000  # the targets
START = 5.0, 1.0  # of them, what is for starting up
SIDE, DETECTIONS, INSTANCES = 256, 100, 10
CLASSES = {
    "part": ("body", "door", "wheel", "window"),
    "position": ("front", "rear"),
    "side": ("left", "none", "right"),
}


def draw(folder: Path, pictures: int) -> None:
    """A folder as it stands before evaluate. Of the ellipses a fifth is missed; the other predictions are anywhere."""
    rng = np.random.default_rng(0)
    template = load(ROOT / "params.yaml").tasks[0]
    tasks = tuple(template.model_copy(update={"name": name, "classes": CLASSES[name]}) for name in CLASSES)
    pool = [_ellipse(rng) for _ in range(400)]
    images, found = [], []
    for image_id in range(1, pictures + 1):
        masks = rng.integers(len(pool), size=DETECTIONS)
        labels = np.stack([rng.integers(task.num_classes, size=DETECTIONS) for task in tasks], axis=1)
        logits = {task.name: rng.normal(0, 2, (DETECTIONS, task.num_outputs)).round(5) for task in tasks}
        own = []
        for mask, values in zip(masks[:INSTANCES], labels.tolist(), strict=False):
            rle, box, area = pool[mask]
            own.append(Instance(rle, box, area, dict(zip(CLASSES, values, strict=True))))
        images.append(Image(image_id, f"{image_id}.jpg", SIDE, SIDE, tuple(own)))
        missed = rng.random(INSTANCES) < 0.2
        masks[:INSTANCES][missed] = rng.integers(len(pool), size=missed.sum())
        for query, (mask, quality) in enumerate(zip(masks, rng.random(DETECTIONS).round(5).tolist(), strict=True)):
            rle, box, area = pool[mask]
            chosen = dict(zip(CLASSES, labels[query].tolist(), strict=True))
            own_logits = {name: tuple(values[query].tolist()) for name, values in logits.items()}
            found.append(Prediction(image_id, query, box, area, rle, quality, chosen, own_logits))
    for split in manifest.SPLITS:
        coco.write(folder / f"data/coco/{split}.json", images, tasks)
    predictions.write(folder / "data/predictions/val.json", None, found, images, tasks)
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
    parser.add_argument("--quick", action="store_true", help="500 and 1,000 pictures")
    parser.add_argument("--plain", action="store_true", help="only pycocotools, in this folder")
    arguments = parser.parse_args()
    if arguments.plain:
        plain(Path())
        return 0
    print(f"{'pictures':>8}  {'':<12}{'wall s':>8}{'processor s':>13}{'peak GB':>9}")
    missed = []
    for pictures in (500, 1000) if arguments.quick else (500, 1000, LARGEST):
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder), pictures)
            theirs = measure("benchmarks.evaluate", "--plain", folder=Path(folder))
            ours = measure("stages.evaluate", folder=Path(folder))
        for name, (wall, processor, peak) in (("pycocotools", theirs), ("evaluate", ours)):
            print(f"{pictures:>8,}  {name:<12}{wall:>8.1f}{processor:>13.1f}{peak:>9.2f}", flush=True)
        seconds, peak = min(ours[:2]), ours[2]
        limits = [
            least + (most - least) * pictures / LARGEST for least, most in zip(START, (SECONDS, GIGABYTES), strict=True)
        ]
        if seconds > limits[0] or peak > limits[1]:
            missed.append(
                f"{pictures:,} pictures: {seconds:.1f} s of {limits[0]:.1f}, {peak:.2f} GB of {limits[1]:.2f}"
            )
    for line in missed:
        print(f"missed at {line}")
    print(
        f"evaluate, {pictures:,} pictures: {seconds:.1f} s of {limits[0]:.0f}, {peak:.2f} GB of {limits[1]:.1f}, "
        f"{seconds / min(theirs[:2]):.1f} times as long as pycocotools takes for the masks alone"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
