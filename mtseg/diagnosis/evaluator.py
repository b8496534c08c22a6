"""Test the evaluator on this data: the ground truth must score 100, and ground truth that is changed at random what
pycocotools gives it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtseg.checks.findings import Finding, exception_text
from mtseg.core.errors import out_of_memory
from mtseg.core.masks import areas
from mtseg.core.params import Ranking, Task
from mtseg.core.tables import UNLABELLED, Images, Instances, Predictions, task_columns
from mtseg.evaluation.ap import scores
from mtseg.evaluation.ap.evaluation import Evaluation, combined

IMAGES, OBJECTS = 100, 500  # largest number of images, and about of objects: the evaluator treats all of them alike
SHIFT = 0.4  # largest shift of a changed mask, as a share of its width
WRONG = 0.3  # share of the changed predictions with another label of each task
EXACT = 0.1  # points by which a score may differ (rounding)

Score = Callable[[Evaluation], dict[str, Any]]


def check(
    images: Images, *, tasks: tuple[Task, ...], ranking: Ranking, score: Score = scores.metrics
) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and numbers in percent: truth (the lowest score of the ground truth), changed (AP of the main task
    after the changes) and changed_expected (by pycocotools). score: the evaluator to test."""
    instances = images.instances
    own = np.unique(instances.image[~instances.crowd])[:IMAGES]
    counts = np.bincount(instances.image, minlength=len(images))[own]
    images = images[own[counts.cumsum() - counts < OBJECTS]]
    if not len(images):
        return [], {}
    # at least as many detections as any image has objects: losses by max_dets are not errors of the evaluator
    most = (1, 10, max(100, *np.bincount(images.instances.image)))
    numbers: dict[str, float] = {}

    def scored(predictions: Predictions) -> dict[str, Any]:
        return score(Evaluation(images, predictions, tasks=tasks, ranking=ranking, max_dets=most))

    try:
        errors = [*_truth(scored, images, tasks, numbers), *_changed(scored, images, tasks, most, numbers)]
    except Exception as error:  # any exception on the ground truth is an error of the evaluator
        if out_of_memory(error):
            raise
        errors = [f"it fails on the ground truth: {exception_text(error)[:100]}"]
    change = "no score is reliable: check the changes in mtseg/evaluation"
    return [Finding("evaluator_wrong", "error", "; ".join(errors), change)] if errors else [], numbers


def _truth(scored: Callable, images: Images, tasks: tuple[Task, ...], numbers: dict[str, float]) -> Iterator[str]:
    metrics = scored(as_predictions(images, tasks))
    kinds = {f"{kind} AP": metrics[kind].get("AP") for kind in ("segm", "bbox", "joint")}
    kinds |= {f"{name} {key}": task.get(key) for name, task in metrics["tasks"].items() for key in ("AP", "accuracy")}
    kinds = {name: value for name, value in kinds.items() if value is not None}
    if not kinds:  # no object has a label
        return
    worst = min(kinds, key=kinds.get)
    numbers["truth"] = kinds[worst]
    if kinds[worst] < 100 - EXACT - _copies(images) * worst.endswith("accuracy"):
        yield f"the ground truth has a {worst} of {kinds[worst]:.1f}, expected 100"


def _changed(
    scored: Callable, images: Images, tasks: tuple[Task, ...], most: tuple[int, ...], numbers: dict[str, float]
) -> Iterator[str]:
    objects, predictions = _objects(images), changed(images, tasks)
    metrics, main = scored(predictions), tasks[0]
    true, predicted, _ = combined(images, predictions.labels, tasks)
    labels = {task.name: (images.instances.labels[task.name], predictions.labels[task.name]) for task in tasks}
    wanted = {
        name: by_pycocotools(images, predictions, *own, most, sizes=name == main.name) for name, own in labels.items()
    }
    compared = [
        ("segm", metrics["segm"], wanted[main.name]),
        ("bbox", metrics["bbox"], by_pycocotools(images, predictions, *labels[main.name], most, kind="bbox")),
        ("joint", metrics["joint"], by_pycocotools(images, predictions, true, predicted, most, sizes=False)),
        *((name, {"AP": metrics["tasks"][name].get("AP")}, own) for name, own in wanted.items()),
    ]
    for kind, own, others in compared:
        off = [name for name in own if name in others and abs((own[name] or 0) - others[name]) > EXACT]
        for name in off[:1]:
            yield f"changed ground truth has a {kind} {name} of {own[name]}, by pycocotools of {others[name]:.3f}"
    numbers |= {"changed": metrics["segm"].get("AP"), "changed_expected": wanted[main.name].get("AP")}
    given = {task.name: predictions.labels[task.name][: len(objects)] for task in tasks}
    of_tasks = scored(as_predictions(images, tasks, given))["tasks"]
    for name, label in given.items():
        known = objects.labels[name] != UNLABELLED
        if known.any():
            own, right = of_tasks[name].get("accuracy", 0.0), 100 * (label == objects.labels[name])[known].mean()
            if abs(own - right) > EXACT + _copies(images):
                yield f"{right:.1f}% of the labels of {name} are correct, their accuracy is {own:.1f}"


def as_predictions(images: Images, tasks: tuple[Task, ...], labels: dict[str, np.ndarray] | None = None) -> Predictions:
    """The ground truth without crowds as predictions. labels: others of some tasks."""
    objects = _objects(images)
    quality = np.linspace(1, 0.5, len(objects))
    return _predictions(images, objects, objects.rles(), objects.labels | (labels or {}), quality, tasks)


def changed(images: Images, tasks: tuple[Task, ...]) -> Predictions:
    """Predictions with the objects' own masks, then as many with moved ones, then the left half of each, in random
    order of score; some labels of each task are others."""
    objects, rng = _objects(images), np.random.default_rng(0)
    width, steps = objects.box[:, 2], np.rint(rng.uniform(0, SHIFT, len(objects)) * objects.box[:, 2]).astype(int)
    middle = np.rint(objects.box[:, 0] + width / 2).astype(int)
    whole = objects.rles()
    moved = [_edited(rle, rle["size"][1] - step, step) for rle, step in zip(whole, steps, strict=True)]
    halves = [_edited(rle, end) for rle, end in zip(whole, middle, strict=True)]
    again, labels = objects[np.tile(np.arange(len(objects)), 3)], {}
    for task in tasks:
        other = rng.integers(task.num_classes, size=len(again))
        labels[task.name] = np.where(rng.random(len(again)) < WRONG, other, again.labels[task.name])
    quality = (1 + rng.permutation(len(again))) / len(again)
    return _predictions(images, again, [*whole, *moved, *halves], labels, quality, tasks)


def _objects(images: Images) -> Instances:
    return images.instances[~images.instances.crowd]


def _copies(images: Images) -> float:
    """Percentage of the objects that have the mask of another one, so that the predictions of both match either."""
    objects = _objects(images)
    known = set(zip(objects.image.tolist(), objects.rle, strict=True))
    return 200 * (1 - len(known) / len(objects))


def _edited(rle: dict[str, Any], width: int, step: int = 0) -> dict[str, Any]:
    """The leftmost `width` columns of a mask, moved `step` to the right; unchanged if nothing is in them."""
    mask = coco_mask.decode(rle)
    edited = np.zeros_like(mask)
    edited[:, step : step + width] = mask[:, :width]
    packed = coco_mask.encode(np.asfortranarray(edited if edited.any() else mask))
    return {"size": rle["size"], "counts": packed["counts"].decode()}


def _predictions(
    images: Images, objects: Instances, rles: list[dict], labels: dict[str, np.ndarray], quality: np.ndarray,
    tasks: tuple[Task, ...],
) -> Predictions:  # fmt: skip
    """A prediction for each of these objects. Without a label it has the first class. quality: 0 to 1."""
    columns = {name: objects.column(name) for name in ("height", "width")}
    columns |= {"image_id": images.id[objects.image], "query": np.arange(len(objects)), "score": quality}
    columns |= {"rle": np.array([rle["counts"] for rle in rles], dtype=object), "mask_quality": quality}
    columns |= {"box": coco_mask.toBbox(rles).reshape(-1, 4), "area": areas(rles)}
    for task in tasks:
        label = np.maximum(labels[task.name], 0)
        columns |= task_columns(task.name, label, (2 + 4 * quality)[:, None] * np.eye(task.num_outputs)[label])
    return Predictions.of(columns)


def by_pycocotools(
    images: Images, predictions: Predictions, true: np.ndarray, predicted: np.ndarray, most: tuple[int, ...],
    kind: str = "segm", *, sizes: bool = True,
) -> dict[str, float]:  # fmt: skip
    """COCO's 12 numbers in percent, without those that are undefined. true: category of each instance; if it is
    UNLABELLED, predictions on it are ignored, as on a crowd. predicted: category of each prediction; those of other
    categories do not count. most: `max_dets`. sizes: whether to give numbers by size and number of detections."""
    instances, categories = images.instances, np.unique(true[true != UNLABELLED])
    kept = np.isin(predicted, categories)
    predictions, predicted = predictions[kept], predicted[kept]
    shapes = {"segmentation": predictions.rles()} if kind == "segm" else {"bbox": predictions.box.tolist()}
    columns = zip(predictions.image_id.tolist(), predicted.tolist(), predictions.score.tolist(), strict=True)
    found = [
        {"image_id": image, "category_id": category + 1, "score": score}
        | {name: own[row] for name, own in shapes.items()}
        for row, (image, category, score) in enumerate(columns)
    ]
    low, high = predictions.box[:, :2], predictions.box[:, :2] + predictions.box[:, 2:]
    annotations, rles = [], instances.rles()
    for row, (category, box) in enumerate(zip(true.tolist(), instances.box, strict=True)):
        image, of = int(images.id[instances.image[row]]), [category]
        if unlabelled := category == UNLABELLED:
            near = (low < box[:2] + box[2:]).all(1) & (high > box[:2]).all(1) & (predictions.image_id == image)
            of = np.unique(predicted[near]).tolist()
        for own in of:
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": own + 1, "segmentation": rles[row],
                "bbox": box.tolist(), "area": float(instances.area[row]),
                "iscrowd": int(unlabelled or instances.crowd[row]),
            })  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {}, "annotations": annotations, "categories": [{"id": int(own) + 1} for own in categories],
            "images": [{"id": image.id, "height": image.height, "width": image.width} for image in images],
        }  # fmt: skip
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(found) if found else COCO(), kind)
        given = coco.params
        given.maxDets = [*most] if sizes else [most[-1]]
        if not sizes:
            given.areaRng, given.areaRngLbl = given.areaRng[:1], given.areaRngLbl[:1]
        coco.evaluate()
        coco.accumulate()
    precision, recall = coco.eval["precision"][..., -1], coco.eval["recall"]  # [T, R, K, areas], [T, K, areas, maxDets]
    numbers = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    numbers |= {f"AR{count}": recall[:, :, 0, place] for place, count in enumerate(given.maxDets)}
    for place, size in enumerate(given.areaRngLbl[1:], 1):
        numbers |= {f"AP{size[0]}": precision[..., place], f"AR{size[0]}": recall[:, :, place, -1]}
    return {name: 100 * float(own[own > -1].mean()) for name, own in numbers.items() if (own > -1).any()}
