"""Test the evaluator on this data: the ground truth must score 100, and ground truth with a known change must have the
score that is computed here, independently, from the masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mtseg.checks.findings import Finding, exception_text
from mtseg.checks.resolution import ideal
from mtseg.core import masks
from mtseg.core.params import Ranking, Task
from mtseg.core.tables import UNLABELLED, Images, Instances, Predictions, task_columns
from mtseg.evaluation.ap import scores
from mtseg.evaluation.ap.evaluation import Evaluation

IMAGES = 100  # largest number of images: the evaluator treats all of them alike
SHIFT = 0.1  # shift of each mask, as a share of its width
WRONG = 3  # one object in this many gets the next class
EXACT = 0.1  # AP points by which the ground truth may miss 100 (rounding)
NEAR = 3.0  # AP points by which a score may differ: changed masks may also match a neighbour

Score = Callable[[Evaluation], dict[str, Any]]


def check(
    images: Images, *, tasks: tuple[Task, ...], ranking: Ranking, score: Score = scores.metrics
) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and numbers in percent: truth (the lowest score of the ground truth), shifted and relabelled (AP of the
    main task after the change), shifted_expected and relabelled_expected. score: the evaluator to test."""
    instances = images.instances
    images = images[np.unique(instances.image[~instances.crowd])[:IMAGES]]
    if not len(images):
        return [], {}
    # at least as many detections as any image has objects: losses by max_dets are not errors of the evaluator
    most = max(100, *np.bincount(images.instances.image))
    numbers: dict[str, float] = {}

    def scored(predictions: Predictions) -> dict[str, Any]:
        return score(Evaluation(images, predictions, tasks=tasks, ranking=ranking, max_dets=(1, 10, most)))

    try:
        errors = [*_truth(scored, images, tasks, numbers), *_changed(scored, images, tasks, numbers)]
    except Exception as error:  # any exception on the ground truth is an error of the evaluator
        errors = [f"it fails on the ground truth: {exception_text(error)[:100]}"]
    change = "no score is reliable: check the changes in mtseg/evaluation"
    return [Finding("evaluator_wrong", "error", "; ".join(errors), change)] if errors else [], numbers


def _truth(scored: Callable, images: Images, tasks: tuple[Task, ...], numbers: dict[str, float]) -> Iterator[str]:
    metrics = scored(as_predictions(images, tasks))
    kinds = {f"{kind} AP": metrics[kind].get("AP") for kind in ("segm", "bbox", "joint")}
    kinds |= {f"{name} {key}": task.get(key) for name, task in metrics["tasks"].items() for key in ("AP", "accuracy")}
    kinds = {name: value for name, value in kinds.items() if value is not None}
    worst = min(kinds, key=kinds.get)
    numbers["truth"] = kinds[worst]
    if kinds[worst] < 100 - EXACT:
        yield f"the ground truth has a {worst} of {kinds[worst]:.1f}, expected 100"


def _changed(scored: Callable, images: Images, tasks: tuple[Task, ...], numbers: dict[str, float]) -> Iterator[str]:
    main = tasks[0]
    for name, change in {"shifted": {"shift": SHIFT}, "relabelled": {"wrong": WRONG}}.items():
        if name == "relabelled" and main.num_classes < 2:
            continue
        predictions = as_predictions(images, tasks, **change)
        metrics = scored(predictions)
        numbers[name], numbers[f"{name}_expected"] = metrics["segm"]["AP"], expected(images, predictions, main)
        if abs(numbers[name] - numbers[f"{name}_expected"]) > NEAR:
            yield f"{name} ground truth scores {numbers[name]:.1f}, expected {numbers[f'{name}_expected']:.1f}"
        true = _objects(images).labels[main.name]
        right = 100 * (predictions.labels[main.name] == true)[true != UNLABELLED].mean()
        accuracy = metrics["tasks"][main.name].get("accuracy", 0.0)
        if name == "relabelled" and abs(accuracy - right) > NEAR:
            yield f"relabelled ground truth has an accuracy of {accuracy:.1f}, expected {right:.1f}"


def as_predictions(images: Images, tasks: tuple[Task, ...], *, shift: float = 0.0, wrong: int = 0) -> Predictions:
    """The ground truth without crowds as predictions. shift: share of its width by which each mask is moved to the
    right. wrong: every `wrong`-th object gets the next main class. Better masks and labels have higher scores."""
    objects, main = _objects(images), tasks[0]
    columns = {"image_id": images.id[objects.image], "query": np.arange(len(objects)), "box": objects.box}
    columns |= {name: objects.column(name) for name in ("rle", "height", "width")}
    if shift:
        steps = [max(1, round(shift * width)) for width in objects.box[:, 2]]
        moved = [_moved(rle, step) for rle, step in zip(objects.rles(), steps, strict=True)]
        columns["rle"] = np.array([rle["counts"] for rle in moved], dtype=object)
        columns["box"] = np.array([coco_mask.toBbox(rle) for rle in moved])
    labels = {name: np.maximum(label, 0) for name, label in objects.labels.items()}
    false = np.arange(1, len(objects) + 1) % wrong == 0 if wrong else np.zeros(len(objects), dtype=bool)
    labels[main.name] = (labels[main.name] + false) % main.num_classes
    quality = _ious(objects, Predictions.of(columns)) * np.where(false, 0.5, 1.0)
    for task in tasks:
        logits = (2 + 4 * quality)[:, None] * np.eye(task.num_outputs)[labels[task.name]]
        columns |= task_columns(task.name, labels[task.name], logits)
    area = masks.areas(Predictions.of(columns).rles())
    return Predictions.of(columns | {"area": area, "mask_quality": quality, "score": quality})


def _objects(images: Images) -> Instances:
    return images.instances[~images.instances.crowd]


def _ious(objects: Instances, predictions: Predictions) -> np.ndarray:
    """[N]: mask IoU of each prediction with the object from which it was made."""
    both = zip(predictions.rles(), objects.rles(), strict=True)
    return np.array([masks.iou([predicted], [true])[0, 0] for predicted, true in both])


def _moved(rle: dict[str, Any], step: int) -> dict[str, Any]:
    """The mask moved `step` pixels to the right; unchanged if it would leave the image."""
    mask = coco_mask.decode(rle)
    moved = np.zeros_like(mask)
    moved[:, step:] = mask[:, :-step]
    packed = coco_mask.encode(np.asfortranarray(moved if moved.any() else mask))
    return {"size": rle["size"], "counts": packed["counts"].decode()}


def expected(images: Images, predictions: Predictions, task: Task) -> float:
    """COCO's AP in percent for one prediction per object, ranked by IoU."""
    objects = _objects(images)
    true = objects.labels[task.name]
    right = predictions.labels[task.name] == true
    return ideal(np.where(right, _ious(objects, predictions), 0), true)
