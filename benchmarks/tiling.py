"""`python -m benchmarks.tiling MODEL [--images 4] [--large SIDE]`: tiled prediction against that of the whole image.

MODEL: a file of the stage `export`, trained on the embedded data set. Images of 2,000 pixels with 300 objects of 30 to
60 pixels, as large as in the training images of 128 pixels, and three of 420 to 800. A minute an image on two cores.
Expect a table: objects found (mask IoU >= 0.5 and the main class), in percent of the small and of the large ones; F1
and joint F1; processor seconds an image. On seams: small objects that a border of a tile crosses; once: found, and no
second prediction has half of its area on the object. The last line compares with the whole image.

--large SIDE: in place of this, `mtseg predict --tile 1000` on one JPEG of SIDE x SIDE pixels, with 12 objects of 250 to
450 pixels in each 2,000 x 2,000. Expect the peak memory of that process and its CPU time; 20000 takes a minute and a
half.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

import mtseg
from mtseg.core.strips import Strips
from mtseg.core.tables import Image, Images, Instance
from mtseg.data import shapes
from mtseg.evaluation import f1
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference.predictor import Predictor
from mtseg.inference.tiling import tiles

SIZE, SMALL, LARGE = 2000, 300, 3
# the kernel's own record: ru_maxrss would begin with the peak of the process that starts this one
CHILD = """
import atexit, pathlib, time
from mtseg.cli import main
def report():
    peak = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(f"peak {int(peak.split()[1]) * 1024 / 1e9:.2f} GB, {time.process_time():.0f} s of CPU time")
atexit.register(report)
main()
"""
SETTINGS = [(None, 0.0), (128, 0.2), (256, 0.2), (500, 0.2), (256, 0.0), (256, 0.5), (128, 0.4)]


def scene(predictor: Predictor, number: int) -> tuple[np.ndarray, Image]:
    """An image and its ground truth."""
    rng = np.random.default_rng([2, number])
    diameters = [*rng.uniform(420, 800, LARGE), *rng.uniform(30, 60, SMALL)]
    pixels, objects = shapes.scattered(rng, SIZE, diameters)
    instances = []
    for label, left, top, mask in objects:
        packed = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        strips = Strips.of({"size": [*mask.shape], "counts": packed["counts"].decode()}).placed(left, top, SIZE, SIZE)
        labels = {
            task.name: task.classes.index(name) for task, name in zip(predictor.tasks, label.split(","), strict=True)
        }
        instances.append(Instance(strips.rle(), strips.box, float(strips.area), labels))
    return pixels, Image(number, f"{number}.png", SIZE, SIZE, tuple(instances))


def crossed(box: np.ndarray, tile: int, overlap: float) -> np.ndarray:
    """bool [G]: whether a border of a tile, inside the image, crosses the box."""
    areas, low, high = tiles(SIZE, SIZE, tile, overlap), box[:, :2], box[:, :2] + box[:, 2:]
    borders = np.unique(areas)
    borders = borders[(borders > 0) & (borders < SIZE)]
    return ((low[..., None] < borders) & (borders < high[..., None])).any(axis=(1, 2))


def large(model: Path, side: int) -> None:
    """Predict on one large image in a process of its own, which prints its memory and time."""
    rng = np.random.default_rng(0)
    pixels, _ = shapes.scattered(rng, SIZE, [*rng.uniform(250, 450, 12)])
    times = -(-side // SIZE)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.jpg"
        PIL.Image.fromarray(np.tile(pixels, (times, times, 1))[:side, :side]).save(file, quality=90)
        options = [file, "--weights", model, "--tile", "1000", "--out", Path(folder) / "out"]
        subprocess.run([sys.executable, "-c", CHILD, "predict", *options], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--large", type=int, metavar="SIDE", help="pixels of a side of one large image")
    arguments = parser.parse_args()
    if arguments.large:
        large(arguments.model, arguments.large)
        return
    predictor = mtseg.load(arguments.model)
    pixels, records = zip(*(scene(predictor, number) for number in range(1, arguments.images + 1)), strict=True)
    images = Images.from_records(records, [(task.name, task.classes) for task in predictor.tasks])
    true = images.instances
    small = true.box[:, 2:].max(axis=1) < 200
    print(f"{small.sum()} small objects, {(~small).sum()} large ones in {len(images)} images of {SIZE} pixels\n")
    print(f"{'tile':>6}{'overlap':>9}{'found':>8}{'small':>8}{'large':>8}{'F1':>8}{'joint F1':>10}{'CPU s':>9}"
          f"{'on seams':>11}{'once':>7}{'off seams':>11}{'once':>7}")  # fmt: skip
    predictor.predict(pixels[0])  # the first call is slower
    first = None
    for tile, overlap in SETTINGS:
        began = time.process_time()
        found = predictor.predict(list(pixels), tile=tile, overlap=overlap)
        seconds = (time.process_time() - began) / len(images)
        evaluation = Evaluation(images, found, tasks=predictor.tasks, ranking=predictor.metadata.ranking)
        counts = f1.counts(evaluation).sum(axis=0)
        scores, pairs = f1.summary(counts), evaluation.pairs
        hit = np.zeros(len(true), dtype=bool)
        objects = f1.main_matches(evaluation).first_hit
        hit[objects[objects >= 0]] = True
        on_it = pairs.intersection >= found.area[pairs.prediction] / 2
        once = hit & (np.bincount(pairs.instance[on_it], minlength=len(true)) == 1)
        shares = [100 * hit[small].mean(), 100 * hit[~small].mean(), scores.get("f1", 0), scores.get("joint_f1", 0)]
        row = f"{tile or 'whole':>6}{overlap:>9}{hit.sum():>8}{shares[0]:>8.1f}{shares[1]:>8.1f}{shares[2]:>8.1f}"
        row += f"{shares[3]:>10.1f}{seconds:>9.2f}"
        if tile:
            seam = crossed(true.box, tile, overlap)
            for own in (small & seam, small & ~seam):
                row += f"{own.sum():>11}{100 * once[own].mean() if own.any() else np.nan:>7.1f}"
        print(row, flush=True)
        first = first or (hit.sum(), seconds)
        if (tile, overlap) == (128, 0.2):
            summary = f"tiles of 128: {hit.sum() / max(1, first[0]):.1f} times the objects in {seconds / first[1]:.0f}"
    print(f"\n{summary} times the time")


if __name__ == "__main__":
    main()
