"""Runs that nothing is wrong with, as unlike as they get: not one of them may raise an alarm."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.case import Case
from benchmarks.faults.pictures import edit_labels

RANDOM = {"model.weights": None, "model.freeze_norm": False}
MOBILE = {"generate.seed": 6, "tasks.colour.classes": "auto", "model.backbone": "mobilenetv3_small", **RANDOM}
FOUR = ("shape", "colour", "fill", "side")


def some_unlabelled(raw: Path) -> None:
    """A fifth of the objects say nothing of the last task."""
    edit_labels(raw, lambda parts, rng: [*parts[:-1], "-" if rng.random() < 0.2 else parts[-1]])


def two_classes(raw: Path) -> None:
    edit_labels(raw, lambda parts, rng: ["round" if parts[0] == "circle" else "angular", *parts[1:]])


BASE = Case("three tasks, EfficientNet-Lite0")
HEALTHY = (
    BASE,
    Case("another seed of data and training", changes={"seed": 7, "generate.seed": 7}),
    Case("one task", tasks=("shape",), changes={"generate.seed": 1}),
    Case("four tasks, left and right swapped by the flip", tasks=FOUR, changes={"generate.seed": 2}),
    Case("colour is the main task", tasks=("colour", "shape"),
         changes={"generate.seed": 3, "tasks.colour.classes": "auto"}),
    Case("two classes, found in the data", raw=two_classes,
         changes={"generate.seed": 4, "tasks.shape.classes": "auto", "tasks.colour.class_weights": "auto"}),
    Case("a fifth of one task without labels, no background slot", raw=some_unlabelled,
         changes={"generate.seed": 5, "tasks.fill.background": False, "tasks.fill.loss_weight": 2.0}),
    Case("MobileNetV3-Small from random weights", tasks=("colour", "fill"),
         changes={**MOBILE, "solver.max_iter": 1200}),
    Case("ResNet-50 from random weights", tasks=("colour",),
         changes={"generate.seed": 8, "tasks.colour.classes": "auto", "model.backbone": "resnet50", **RANDOM}),
    Case("a muted task (F9), accumulated batches, schedule in steps",
         changes={"generate.seed": 9, "tasks.fill.loss_weight": 0.0, "tasks.fill.match_weight": 0.0,
                  "solver.schedule": "steps", "solver.ims_per_batch": 4, "solver.accumulate": 2}),
)  # fmt: skip
