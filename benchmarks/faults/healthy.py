"""Different runs without a fault. Nothing may be reported on any of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.faults.case import COMBINED, SEPARATE, TINY, Case
from benchmarks.faults.images import draw, edit, edit_labels
from mtseg.core.files import write_json
from mtseg.core.params import Generate

RANDOM = {"model.weights": None, "model.freeze_norm": False}
MOBILE = {"generate.seed": 6, "tasks.colour.classes": "auto", "model.backbone": "mobilenetv3_small", **RANDOM}
FOUR = ("shape", "colour", "fill", "side")


def some_unlabelled(raw: Path) -> None:
    """Remove the last task's label from a fifth of the objects."""
    edit_labels(raw, lambda parts, rng: [*parts[:-1], "-" if rng.random() < 0.2 else parts[-1]])


def few_red(raw: Path) -> None:
    """Rename all colours but red to `other`, and remove images with red objects until 90 % are `other`."""
    edit_labels(raw, lambda parts, rng: [parts[0], "red" if parts[1] == "red" else "other", *parts[2:]])
    red = 0
    for path in sorted(raw.rglob("*.json")):
        if any(",red," in shape["label"] for shape in json.loads(path.read_bytes())["shapes"]):
            red += 1
            if red % 4:
                path.unlink()
                path.with_suffix(".jpg").unlink()


def as_coco(raw: Path) -> None:
    """Convert to COCO: annotations/*.json and images/*/; the main label is the category, others are attributes."""
    (raw / "annotations").mkdir()
    (raw / "images").mkdir()
    for split in ("train", "val"):
        names: dict[str, int] = {}
        images, annotations = [], []
        for number, path in enumerate(sorted((raw / split).glob("*.json")), start=1):
            record = json.loads(path.read_bytes())
            size = {"height": record["imageHeight"], "width": record["imageWidth"]}
            images.append({"id": number, "file_name": record["imagePath"], **size})
            joined: dict[tuple, list] = {}  # the parts of one object share a group
            for index, shape in enumerate(record["shapes"]):
                group = shape["group_id"]
                key = (shape["label"], f"ungrouped {index}" if group is None else group)
                joined.setdefault(key, []).append([value for point in shape["points"] for value in point])
            for (label, _), polygons in joined.items():
                main, *further = label.split(",")
                category = names.setdefault(main, len(names) + 1)
                labels = dict(zip(BASE.tasks[1:], further, strict=True))
                common = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
                annotations.append({**common, "segmentation": polygons, "attributes": labels})
            path.unlink()
        categories = [{"id": number, "name": name} for name, number in names.items()]
        found = {"images": images, "annotations": annotations, "categories": categories}
        write_json(raw / "annotations" / f"{split}.json", found, indent=None)
        (raw / split).rename(raw / "images" / split)


def two_classes(raw: Path) -> None:
    edit_labels(raw, lambda parts, rng: ["round" if parts[0] == "circle" else "angular", *parts[1:]])


def drawn(split: str, seed: int, **settings: float) -> Callable[[Path], None]:
    """Draw a split with another seed of the generator, and other settings."""

    def change(raw: Path) -> None:
        own = Generate(
            **TINY["generate"] | {"train": 1, "seed": seed, "scale": 1.0, "unseen": 0, "alike": 0.0} | settings
        )
        draw(raw / "drawn", settings=own, tasks=BASE.tasks, plain=True)
        shutil.rmtree(raw / split, ignore_errors=True)
        (raw / "drawn/val").rename(raw / split)
        shutil.rmtree(raw / "drawn")

    return change


def moved(
    pixels: Callable[[np.ndarray], np.ndarray], points: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Callable[[Path], None]:
    """Change images and outlines of val alike. points: of the points [n, 2] and (width, height)."""

    def change(raw: Path) -> None:
        for path in sorted((raw / "val").glob("*.json")):
            record, image = json.loads(path.read_bytes()), np.asarray(Image.open(path.with_suffix(".jpg")))
            for shape in record["shapes"]:
                shape["points"] = points(np.array(shape["points"]), np.array(image.shape[1::-1])).tolist()
            image = np.ascontiguousarray(pixels(image))
            record["imageHeight"], record["imageWidth"] = image.shape[:2]
            Image.fromarray(image).save(path.with_suffix(".jpg"), quality=92, subsampling=0)
            write_json(path, record, indent=None)

    return change


def as_png(raw: Path) -> None:
    for path in sorted(raw.rglob("*.jpg")):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    edit(raw, lambda record, number: record.update(imagePath=record["imagePath"].replace(".jpg", ".png")))


def grey(raw: Path) -> None:
    for path in sorted(raw.rglob("*.jpg")):
        Image.open(path).convert("L").save(path, quality=92)


def by_size(raw: Path) -> None:
    """The last label says whether an object is large or small."""

    def each(record: dict, number: int) -> None:
        for shape in record["shapes"]:
            area = cv2.contourArea(np.array(shape["points"], dtype=np.float32))
            word = "large" if area > 0.09 * record["imageHeight"] * record["imageWidth"] else "small"
            shape["label"] = ",".join([*shape["label"].split(",")[:-1], word])

    edit(raw, each)


def few_stars(raw: Path) -> None:
    """Remove nine in ten images with a star."""
    for number, path in enumerate(sorted(raw.rglob("*.json"))):
        if number % 10 and any(shape["label"].startswith("star") for shape in json.loads(path.read_bytes())["shapes"]):
            path.unlink()
            path.with_suffix(".jpg").unlink()


VAL = {"since": "predict"}
FIVE = (*FOUR, "level")
BASE = Case("three tasks, EfficientNet-Lite0")
ONE_SOFTMAX = Case("three tasks, one softmax over combinations", changes=COMBINED)
CASES = (
    BASE,
    ONE_SOFTMAX,
    Case("COCO annotations, another seed", raw=as_coco,
         changes={"seed": 7, "generate.seed": 7, "data.format": "coco"}),
    Case("one task", tasks=("shape",), changes={"generate.seed": 1}),
    Case("four tasks, left and right swapped by the flip", tasks=FOUR, changes={"generate.seed": 2}),
    Case("colour is the main task, backgrounds of the embedded data", tasks=("colour", "shape"), plain=False,
         changes={"generate.seed": 3, "tasks.colour.classes": "auto", "solver.max_iter": 800}),
    Case("two classes, found in the data", raw=two_classes,
         changes={"generate.seed": 4, "tasks.shape.classes": "auto", "tasks.colour.class_weights": "auto"}),
    Case("a fifth of one task without labels, no background slot", raw=some_unlabelled,
         changes={"generate.seed": 5, **SEPARATE, "tasks.fill.background": False, "tasks.fill.loss_weight": 2.0}),
    Case("a fifth of one task without labels, one softmax over combinations", raw=some_unlabelled,
         changes={"generate.seed": 10, **COMBINED}),
    Case("separate heads, each with a background slot", changes={"generate.seed": 11, **SEPARATE}),
    Case("nine in ten objects are of one colour", raw=few_red,
         changes={"generate.seed": 12, "generate.train": 600, "generate.val": 160, **COMBINED}),
    Case("MobileNetV3-Small from random weights", tasks=("colour", "fill"),
         changes={**MOBILE, "solver.max_iter": 1200}),
    Case("ResNet-50 from random weights", tasks=("colour",),
         changes={"generate.seed": 8, "tasks.colour.classes": "auto", "model.backbone": "resnet50",
                  "solver.max_iter": 250, **RANDOM}),
    Case("a muted task, accumulated batches, schedule in steps",
         changes={"generate.seed": 9, "tasks.fill.loss_weight": 0.0, "tasks.fill.match_weight": 0.0,
                  "solver.schedule": "steps", "solver.ims_per_batch": 4, "solver.accumulate": 2}),
    *(Case(f"val drawn with seed {seed}", **VAL, raw=drawn("val", seed)) for seed in range(101, 107)),
    *(Case(f"val of {count} images", **VAL, raw=drawn("val", seed, val=count))
      for count, seed in ((6, 117), (12, 122), (20, 130), (160, 270))),  # 117: val of 6 has all classes
    Case("a test split", **VAL, raw=drawn("test", 120)),
    Case("val mirrored, with its outlines", **VAL,
         raw=moved(lambda image: image[:, ::-1], lambda points, size: points * (-1, 1) + (size[0], 0))),
    Case("val turned upside down, with its outlines", **VAL,
         raw=moved(lambda image: image[::-1, ::-1], lambda points, size: size - points)),
    Case("images of val 1.5 times as large", **VAL, raw=drawn("val", 121, size=96)),
    Case("all images as PNG", **VAL, raw=as_png),
    Case("another seed of the training", changes={"seed": 3}),
    Case("another generator", changes={"generate.seed": 21}),
    Case("five tasks", tasks=FIVE, changes={"generate.seed": 23}),
    Case("grey images, without the task that needs colour", tasks=("shape", "fill"), raw=grey,
         changes={"generate.seed": 24}),
    Case("one image in memory, four summed into a step", changes={
         "generate.seed": 25, "solver.ims_per_batch": 1, "solver.accumulate": 4}),
    Case("a task for the size, without jitter", raw=by_size,
         changes={"generate.seed": 26, "input.min_scale": 1.0, "input.max_scale": 1.0}),
    Case("one task, one softmax, no flips", tasks=("colour",),
         changes={"generate.seed": 27, "tasks.colour.classes": "auto", "input.flip": 0.0}),
    Case("up to six objects", changes={"generate.seed": 28, "generate.max_objects": 6, "generate.scale": 0.8,
                                       "solver.max_iter": 800}),
    Case("MobileNetV3-Large from random weights", tasks=("shape", "fill"), changes={
         "generate.seed": 29, "model.backbone": "mobilenetv3_large", "solver.max_iter": 1200, **RANDOM}),
    Case("COCO annotations, one softmax over combinations", raw=as_coco,
         changes={"generate.seed": 30, "data.format": "coco", **COMBINED}),
    Case("a class with a tenth of the objects of the others", raw=few_stars, changes={
         "generate.seed": 31, "generate.train": 400, "generate.val": 100}),
)  # fmt: skip
TUNED = {"filter.thresholds": "auto"}  # the filter's limits are for longer trainings, and too strict here
HEALTHY = tuple(replace(case, changes=TUNED | case.changes) for case in CASES)
