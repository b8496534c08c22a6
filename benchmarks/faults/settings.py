"""Faults of params.yaml."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.case import APART, Fault
from benchmarks.faults.data import drop_objects
from benchmarks.faults.healthy import MOBILE
from benchmarks.faults.images import edit_labels

SIDES = ("shape", "colour", "fill", "side")
MUTED = ("loss_muted",)


def few_images(raw: Path) -> None:
    """8 are left to train on."""
    for path in sorted((raw / "train").glob("*.json"))[8:]:
        path.unlink()
        path.with_suffix(".jpg").unlink()


def short_sides(raw: Path) -> None:
    edit_labels(raw, lambda parts, rng: [*parts[:-1], {"left": "L", "right": "R"}[parts[-1]]])


def few_stars(raw: Path) -> None:
    drop_objects(of="star", keep=25)(raw)


FAULTS = (
    Fault("the lr of another batch size", failure="lr_for_batch",
          changes={"solver.base_lr": 8e-3, "solver.ims_per_batch": 4},
          causes=("lr_for_batch",)),
    Fault("lr 100 times too high", changes={"solver.base_lr": 2e-1}, causes=("lr_for_batch", "lr_too_high")),
    Fault("reference lr 100 times too high: the rule agrees", changes={"solver.reference_lr": 4e-1},
          causes=("lr_too_high",)),
    Fault("reference lr 100 times too low: the rule agrees", failure="lr_for_batch",
          changes={"solver.reference_lr": 4e-5},
          causes=("lr_too_low",)),
    Fault("a warm-up longer than the training", changes={"solver.warmup": 40000},
          causes=("warmup_too_long", "lr_too_low")),
    Fault("25 steps", changes={"solver.max_iter": 25, "solver.eval_period": 25, "solver.warmup": 2},
          causes=("too_few_steps",)),
    Fault("400 steps from random weights, one task not learnt by then", tasks=("colour", "fill"),
          changes=MOBILE | {"solver.max_iter": 400}, causes=("too_few_steps", "lr_too_low")),
    Fault("8 images to train on", raw=few_images, causes=("overtrained", "class_too_rare")),
    Fault("one query", failure="query_count", changes={"model.num_queries": 1}, causes=("queries_too_few",)),
    Fault("maxDets 1 and one detection per image", failure="query_count", since="predict",
          changes={"test.detections": 1, "test.max_dets": [1]},
          causes=("detections_too_few", "queries_saturated")),
    Fault("a task's loss weight is 0 for the main task", failure="zero_loss_weight",
          changes={"tasks.shape.loss_weight": 0.0},
          causes=MUTED),
    Fault("loss weights of the masks are 0", changes={"loss.mask": 0.0, "loss.dice": 0.0}, causes=MUTED),
    Fault("a task's match weight is 0", failure="task_untrained_in_matching", changes={"tasks.fill.match_weight": 0.0},
          causes=("task_untrained_in_matching",)),
    Fault("a task's loss weight is 1000", changes={"tasks.colour.loss_weight": 1000.0},
          causes=("task_weight",)),
    Fault("the labels' weight in the matching is 1000", changes={"loss.labels": 1000.0},
          causes=("task_weight",)),
    Fault("the backbone's lr 100 times that of the rest", changes={"solver.backbone_multiplier": 100.0},
          causes=("lr_too_high",)),
    Fault("flip without flip_pairs, sides named L and R", tasks=SIDES, raw=short_sides,
          changes={"tasks.side.flip_pairs": []}, causes=("flip_without_pairs",)),
    Fault("flip without flip_pairs", tasks=SIDES, changes={"tasks.side.flip_pairs": []},
          causes=("flip_without_pairs",)),
    Fault("random weights, norms frozen", changes={"model.weights": None}, causes=("random_frozen_norm",)),
    Fault("random weights, backbone frozen",
          changes={"model.weights": None, "model.freeze_norm": False, "solver.backbone_multiplier": 0.0},
          causes=("weights_frozen",)),
    Fault("no-object weight 100 times too high", changes={"loss.no_object": 10.0},
          causes=("no_object_weight", "collapse_to_background")),
    Fault("no-object weight 0", changes={"loss.no_object": 0.0},
          causes=("no_object_weight",)),
    Fault("one class weighs 1000", changes={"tasks.colour.class_weights": {"red": 1000.0}},
          causes=("class_weights", "collapse_to_class")),
    Fault("weight decay 100 times too high", changes={"solver.weight_decay": 50.0},
          causes=("weight_decay",)),
    Fault("training at a quarter of the size it predicts at",
          changes={"input.min_scale": 0.25, "input.max_scale": 0.3}, causes=("scale_mismatch",)),
    Fault("ranked by the sum of logits, heads apart", failure="ranking", since="evaluate",
          changes={**APART, "test.ranking": "sum"}, causes=("ranking",)),
)  # fmt: skip
