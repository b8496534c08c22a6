"""Different runs without a fault. Nothing may be reported on any of them."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.faults.case import COMBINED, SEPARATE, Case
from benchmarks.faults.images import edit_labels
from mtseg.core.files import write_json

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


BASE = Case("three tasks, EfficientNet-Lite0")
HEALTHY = (
    BASE,
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
         changes={"generate.seed": 8, "tasks.colour.classes": "auto", "model.backbone": "resnet50", **RANDOM}),
    Case("a muted task, accumulated batches, schedule in steps",
         changes={"generate.seed": 9, "tasks.fill.loss_weight": 0.0, "tasks.fill.match_weight": 0.0,
                  "solver.schedule": "steps", "solver.ims_per_batch": 4, "solver.accumulate": 2}),
)  # fmt: skip
