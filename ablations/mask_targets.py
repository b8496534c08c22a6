"""`python -m ablations.mask_targets [--scale carparts --data DIR] [--objects SIZE]`: compare targets of mask losses.

| target | a pixel of the mask that the losses see |
|---|---|
| hard | 0 or 1: polygons are scaled and drawn by pycocotools at the network's resolution, as training does it |
| half | 0 or 1: coverage of at least a half |
| coverage | 0 to 1: the mask of the original size, resized as the image is, with anti-aliasing |

The missing runs are made one after the other, each in a process of its own, which replaces the loader's function: there
is no setting for it. After Ctrl-C the same command makes the runs that are still missing. With `--ground-truth` nothing
is trained: the targets are compared with the masks of the original size, a minute on one core, on the data of seed 0.
Writes ablations/results/mask_targets*.csv and the tables in docs/results.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from importlib import import_module
from itertools import product
from operator import getitem
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import center_of_mass

from ablations import experiments, page, rows, studies, tables
from ablations.studies import SCALES, Run, Study
from mtseg.core import masks
from mtseg.core.errors import UserError
from mtseg.core.files import read_json, write_json
from mtseg.core.masks import Segmentation
from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.core.tables import Image, Images
from mtseg.data import manifest

NAME = "mask_targets"
WORK = Path("work") / NAME
STUDY = Study(
    name=NAME,
    question="Do masks drawn without a shift, or fractional ones, give better masks?",
    at={
        "embedded": {
            "generate": {"size": 128, "val": 300},
            "input": {"size": 64},
            "solver": {"max_iter": 1200, "eval_period": 1200},
        },
        "carparts": {"input": {"size": 96}, "solver": {"max_iter": 1000, "eval_period": 1000}},
    },
    vary={
        "objects": {"1.0": None, "0.6": {"generate": {"scale": 0.6}}},
        "target": dict.fromkeys(("hard", "half", "coverage")),
    },
    only={"carparts": {"objects": ["1.0"]}},
    seeds=3,
    metrics={
        "AP": "evaluate:segm.AP",
        "AP75": "evaluate:segm.AP75",
        "joint AP": "evaluate:joint.AP",
        "dx": "diagnosis:dx",
        "dy": "diagnosis:dy",
    },
    against={"target": "hard"},
)
COMPARED = ("AP", "AP75", "joint AP")
FACTORS = (0.3, 0.5, 0.7, 1.0)  # of the original size
SMALLEST = 30  # pixels of the masks that are measured
MEASURED = rows.RESULTS / f"{NAME}.csv"
COLUMNS = ("data", "target", "factor", "objects", "dx", "dy", "IoU")


def coverage(segmentation: Segmentation, image: Image, transforms, size: tuple[int, int]) -> np.ndarray:
    """float32 [S, S]; all 0 if no pixel is half covered, so that all targets leave out about the same objects."""
    from detectron2.data.transforms import TransformList

    resize, *others = transforms.transforms
    whole = masks.mask(segmentation, image.height, image.width) * np.uint8(255)
    covered = TransformList(others).apply_segmentation(resize.apply_image(whole)) / np.float32(255)
    return covered * (covered >= 0.5).any()


def half(*arguments) -> np.ndarray:
    return coverage(*arguments) >= 0.5


def target(name: str) -> Callable[..., np.ndarray]:
    from mtseg.data import loader

    return {"hard": loader._moved_mask, "half": half, "coverage": coverage}[name]


def use(name: str) -> None:
    """Let the loader of this process make such targets."""
    import torch
    from detectron2.structures import BitMasks

    from mtseg.data import loader

    class Masks(BitMasks):  # which makes them bool
        def __init__(self, masks: np.ndarray):
            super().__init__(masks)
            self.tensor = torch.as_tensor(masks)

    loader._moved_mask, loader.BitMasks = target(name), Masks


def train(name: str) -> None:
    """In the folder of a run: train with a target, predict and score. Writes the metrics of the stages, and the offsets
    of the masks from their objects."""
    from mtseg.core.tables import Pairs, Predictions
    from mtseg.diagnosis import masks as mask_diagnosis
    from mtseg.diagnosis.split import Split
    from mtseg.evaluation.ap.evaluation import Evaluation

    use(name)
    for stage in ("train", "predict", "evaluate"):
        import_module(f"stages.{stage}").main()
    params, data = load(), manifest.load(Path("data/manifest.json"))
    tasks, images = data.tasks(params.tasks), data.images("val")
    predictions = Predictions.read("data/predictions/val.parquet", tasks)
    pairs = Pairs.read("data/evaluation/pairs.parquet", images, predictions)
    evaluation = Evaluation(images, predictions, pairs, tasks=tasks, ranking=params.test.ranking)
    write_json(Path("metrics/diagnosis.json"), mask_diagnosis.offsets(Split(evaluation)))


def prepared(run: Run) -> Path:
    """A folder with the data of a run; runs that differ in their target share it. The check before training looks at
    none of these differences and is left out."""
    folder = WORK / run.digest
    if not (folder / "data/manifest.json").exists():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "recipes").unlink(missing_ok=True)
        (folder / "recipes").symlink_to(Path("recipes").resolve())
        (folder / "params.yaml").write_bytes(Path("params.yaml").read_bytes())
        experiments.write_params(folder / "params.yaml", run.params)
        for stage in ("generate",) * (run.scale == SCALES[0]) + ("convert", "register"):
            _python(folder, f"stages.{stage}")
        write_json(folder / "data/check/verdict.json", {"errors": []})
    return folder


def _python(folder: Path, *module: str) -> None:
    """Run a module in a folder, on one thread, with this code. Raises UserError if it fails."""
    here, log = Path.cwd(), (folder / "log").resolve()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    own = {"PYTHONPATH": str(here), "MTSEG_WORK": str(here / folder / "-".join(module))}  # states know no target
    with log.open("a", encoding="utf-8") as out:
        done = subprocess.run(
            [sys.executable, "-m", *module], cwd=folder, env=os.environ | threads | own, stdout=out, stderr=out
        )
    if done.returncode:
        raise UserError(f"python -m {' '.join(module)} failed, see {log}")


def make(run: Run) -> rows.Row:
    folder = prepared(run)
    _python(folder, f"ablations.{NAME}", "--one", run.factors["target"])
    row = run.factors | {"seed": str(run.seed), "params": run.digest, "commit": experiments.head()[:7]}
    for column, source in STUDY.metrics.items():
        file, _, key = source.partition(":")
        value = reduce(getitem, key.split("."), read_json(folder / f"metrics/{file}.json", made_by=file))
        row[column] = "" if value is None else str(round(value, 3))
    return row


def outlines(images: Iterable[Image], *, traced: bool) -> Iterator[tuple[Image, Segmentation, np.ndarray]]:
    """The objects of SMALLEST pixels or more: image, outline, mask of the original size. traced: with the outlines of
    cv2.findContours, whose points are the centres of pixels, but are written as integers."""
    for image in images:
        for instance in image.instances:
            outline = instance.segmentation
            if traced:
                drawn = masks.mask(outline, image.height, image.width)
                found, _ = cv2.findContours(drawn, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                outline = [part.astype(float).ravel().tolist() for part in found if len(part) > 2]
            if outline and (whole := masks.mask(outline, image.height, image.width)).sum() >= SMALLEST:
                yield image, outline, whole


def ground_truth(name: str, images: Iterable[Image], *, traced: bool = False) -> Iterator[rows.Row]:
    """For each target and factor: mean offset of its centre of mass from that of the mask of the original size, in
    pixels of the target, and mean IoU of the two after the target is brought back to that size, as predictions are.
    First the mask of the original size itself, against its polygon, of objects of one polygon."""
    from detectron2.data.transforms import ResizeTransform, TransformList

    def row(kind: str, factor: float, offsets: list[np.ndarray], ious: list[float]) -> rows.Row:
        dy, dx = np.mean(offsets, axis=0)
        iou = f"{np.mean(ious):.3f}" if ious else ""
        values = (name, kind, str(factor), str(len(offsets)), f"{dx:+.3f}", f"{dy:+.3f}", iou)
        return dict(zip(COLUMNS, values, strict=True))

    objects, offsets = list(outlines(images, traced=traced)), []
    for _, outline, whole in objects:
        if isinstance(outline, list) and len(outline) == 1:
            moments = cv2.moments(np.float32(outline).reshape(-1, 1, 2))
            offsets.append(_centre(whole) - np.array([moments["m01"], moments["m10"]]) / moments["m00"])
    yield row("mask of the evaluator", 1.0, offsets, [])
    for kind, factor in product(STUDY.vary["target"], FACTORS):
        offsets, ious = [], []
        for image, outline, whole in objects:
            size = round(image.height * factor), round(image.width * factor)
            move = TransformList([ResizeTransform(image.height, image.width, *size)])
            if (moved := target(kind)(outline, image, move, size).astype(np.float32)).any():
                offsets.append(_centre(moved) - np.array(size) / whole.shape * _centre(whole))
                back = cv2.resize(moved, whole.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
                ious.append((back & (whole > 0)).sum() / (back | (whole > 0)).sum())
        yield row(kind, factor, offsets, ious)


def _centre(mask: np.ndarray) -> np.ndarray:
    """Centre of mass (y, x); that of the first pixel is at 0.5."""
    return np.array(center_of_mass(mask)) + 0.5


def measure(runs: list[Run]) -> None:
    """Measure the ground truth of val in the data of seed 0, and replace these rows in the csv file."""
    kept = rows.read(MEASURED)
    for run in runs:
        if run.seed or run.factors["target"] != "hard":
            continue
        folder = prepared(run)
        images = list(Images.read(folder / "data/coco/val.parquet"))[:100]
        for traced in (False, True):
            name = f"{run.scale}, objects {run.factors['objects']}{', traced' * traced}"
            kept = [row for row in kept if row["data"] != name] + [*ground_truth(name, images, traced=traced)]
            rows.write(MEASURED, COLUMNS, kept)


def differences(scale: str, found: list[rows.Row]) -> str:
    """Paired differences from `hard`, Markdown."""
    groups, lines = rows.groups(STUDY, scale, found), []
    for levels, columns in groups.items():
        reference = groups.get((levels[0], "hard"), {})
        cells = []
        for name in COMPARED:
            own, other = columns[name], reference.get(name, {})
            cells.append(rows.mean_and_half([own[seed] - other[seed] for seed in own if seed in other], signed=True))
        if levels[1] != "hard" and any(cells):
            lines.append([*levels, *cells])
    return page.table([*STUDY.vary, *(f"Δ {name}" for name in COMPARED)], lines)


def offsets_table(found: list[rows.Row]) -> str:
    """Markdown: `dx, dy, IoU` by factor. Left out is factor 1, at which all targets are the mask itself."""
    cells = {(row["data"], row["target"], row["factor"]): [row["dx"], row["dy"], row["IoU"]] for row in found}
    factors, lines = [str(factor) for factor in FACTORS if factor != 1], []
    for data, kind in dict.fromkeys((row["data"], row["target"]) for row in found if row["IoU"]):
        lines.append([data, kind, *(", ".join(cells[data, kind, factor]) for factor in factors)])
    return page.table(["data", "target", *(f"at {factor}" for factor in factors)], lines)


def publish() -> None:
    blocks = {}
    if found := rows.read(MEASURED):
        blocks[NAME] = offsets_table(found)
    for scale in SCALES:
        if found := rows.read(rows.path(STUDY, scale)):
            commits = page.commits(row["commit"] for row in found)
            parts = (tables.table(STUDY, scale, found), differences(scale, found), commits)
            blocks[f"{NAME} {scale}"] = "\n\n".join(parts)
    page.write(page.PAGE, blocks)


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m ablations.{NAME}", description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", choices=SCALES, default=SCALES[0])
    parser.add_argument("--data", type=Path, help=f"folder of the raw data, at scales other than '{SCALES[0]}'")
    parser.add_argument("--objects", choices=[*STUDY.vary["objects"]], help="size of the embedded data's objects")
    parser.add_argument("--ground-truth", action="store_true", help="only measure the targets, without training")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # for the process of a run
    arguments = parser.parse_args()
    if arguments.one:
        return train(arguments.one)
    scale = arguments.scale
    runs = studies.runs(STUDY, scale, params=Path("params.yaml"), raw=arguments.data)
    file = rows.path(STUDY, scale)
    chosen = [run for run in runs if arguments.objects in (None, run.factors["objects"])]
    if arguments.ground_truth:
        measure(chosen)
    else:
        for run in chosen:
            if run.name not in rows.done(STUDY, runs, file):
                began = time.monotonic()
                rows.update(STUDY, runs, file, {run.name: make(run)})
                print(f"{(time.monotonic() - began) / 60:6.1f} min  {run.name}", flush=True)
    publish()


if __name__ == "__main__":
    run_stage(main)
