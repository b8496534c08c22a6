"""May the evaluator judge (F16)? It is fed this data's own ground truth, which must score 100, and the ground truth
spoilt to a known degree, which must fall as computed here from the masks alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mtseg.checks.findings import Finding
from mtseg.core.params import Ranking, Task
from mtseg.core.tables import Image, Instance, Prediction
from mtseg.data import coco
from mtseg.evaluation.average_precision import Scorer, labels_found, labels_true, summary
from mtseg.evaluation.matching import iou
from mtseg.evaluation.predictions import scores as ranked

PICTURES = 100  # at most: the test is of the evaluator, and all pictures go the same way through it
SHIFT = 0.1  # of each object's width
WRONG = 3  # one object in so many gets the next class
EXACT = 0.1  # AP points by which 100 may be missed: rounding
NEAR = 3.0  # AP points: spoilt masks may also hit a neighbour
IOUS = np.linspace(0.5, 0.95, 10)

Evaluate = Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]


def check(
    evaluate: Evaluate, images: Sequence[Image], *, tasks: Sequence[Task], ranking: Ranking
) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and numbers: truth (AP of the ground truth, the least of all kinds), shifted and relabelled (AP of the
    main task) beside shifted_expected and relabelled_expected."""
    images = [image for image in images if any(not i.crowd for i in image.instances)][:PICTURES]
    if not images:
        return [], {}
    # more detections than any picture holds: what maxDets costs is no fault of the evaluator
    scored = {"tasks": tasks, "ranking": ranking, "max_dets": (1, 10, max(100, *(len(i.instances) for i in images)))}
    numbers: dict[str, float] = {}
    try:
        faults = [*_truth(evaluate, images, scored, numbers), *_spoilt(evaluate, images, scored, numbers)]
    except Exception as error:  # whatever it is: what cannot score the ground truth cannot judge a model
        faults = [f"it fails on the ground truth: {type(error).__name__}: {' '.join(str(error).split())[:100]}"]
    change = "no score can be trusted: look at mtseg/scoring and at what was changed there"
    return [Finding("evaluator_wrong", "error", "; ".join(faults), change)] if faults else [], numbers


def _truth(evaluate: Evaluate, images: Sequence[Image], scored: dict[str, Any], numbers: dict[str, float]) -> list[str]:
    metrics, _ = evaluate(images, as_predictions(images, scored["tasks"]), **scored)
    kinds = {f"{kind} AP": metrics[kind].get("AP") for kind in ("segm", "bbox", "joint")}
    kinds |= {f"{name} {key}": task.get(key) for name, task in metrics["tasks"].items() for key in ("AP", "accuracy")}
    kinds |= {"Scorer's AP": _by_scorer(images, as_predictions(images, scored["tasks"]), scored)}
    kinds = {name: value for name, value in kinds.items() if value is not None}
    worst = min(kinds, key=kinds.get)
    numbers["truth"] = kinds[worst]
    return [] if kinds[worst] >= 100 - EXACT else [f"the ground truth itself scores {kinds[worst]:.1f} in {worst}"]


def _spoilt(
    evaluate: Evaluate, images: Sequence[Image], scored: dict[str, Any], numbers: dict[str, float]
) -> list[str]:
    main, faults = scored["tasks"][0], []
    for name, how in {"shifted": {"shift": SHIFT}, "relabelled": {"wrong": WRONG}}.items():
        if name == "relabelled" and main.num_classes < 2:
            continue
        predictions = as_predictions(images, scored["tasks"], **how)
        metrics, _ = evaluate(images, predictions, **scored)
        wanted = expected(images, predictions, main)
        numbers[name], numbers[f"{name}_expected"] = metrics["segm"]["AP"], wanted
        for told in (numbers[name], _by_scorer(images, predictions, scored)):
            if told is not None and abs(told - wanted) > NEAR:
                faults.append(f"{name} ground truth scores {told:.1f}, not {wanted:.1f}")
        accuracy, right = metrics["tasks"][main.name].get("accuracy", 0.0), _share_right(images, predictions, main)
        if name == "relabelled" and abs(accuracy - right) > NEAR:
            faults.append(f"relabelled ground truth has an accuracy of {accuracy:.1f}, not {right:.1f}")
    return faults


def _by_scorer(images: Sequence[Image], predictions: Sequence[Prediction], scored: dict[str, Any]) -> float | None:
    """AP of the main task by `Scorer` itself, through which most figures come."""
    main = scored["tasks"][0]
    run = Scorer(images, predictions).run(
        labels_true(images, main), labels_found(predictions, main),
        ranked(predictions, scored["tasks"])[scored["ranking"]], categories=main.num_classes,
        max_dets=scored["max_dets"], sizes=False,
    )  # fmt: skip
    return summary(run).get("AP")


def as_predictions(
    images: Sequence[Image], tasks: Sequence[Task], *, shift: float = 0.0, wrong: int = 0
) -> list[Prediction]:
    """The ground truth, crowds left out, as a model would give it: every mask moved to the right by a share of its
    width, every `wrong`-th main class the next one. The better the mask and the label, the higher every score."""
    predictions, number = [], 0
    for image in images:
        for query, instance in enumerate(image.instances):
            if instance.crowd:
                continue
            number += 1
            false = bool(wrong) and number % wrong == 0
            found = _moved(instance, image, shift)
            labels = {task.name: instance.labels[task.name] or 0 for task in tasks}
            if false:
                labels[tasks[0].name] = (labels[tasks[0].name] + 1) % tasks[0].num_classes
            truth = coco.rle(instance.segmentation, image.height, image.width)
            quality = float(iou([found], [truth])[0, 0]) * (0.5 if false else 1.0)
            predictions.append(
                Prediction(
                    image_id=image.id,
                    query=query,
                    bbox=tuple(coco_mask.toBbox(found)) if shift else instance.bbox,
                    area=float(coco_mask.area(found)),
                    segmentation=found,
                    mask_quality=quality,
                    labels=labels,
                    logits={task.name: _logits(task, labels[task.name], quality) for task in tasks},
                )
            )
    return predictions


def _logits(task: Task, label: int, quality: float) -> tuple[float, ...]:
    return tuple((2 + 4 * quality) * (index == label) for index in range(task.num_outputs))


def _moved(instance: Instance, image: Image, shift: float) -> dict[str, Any]:
    if not shift:
        return coco.rle(instance.segmentation, image.height, image.width)
    mask = coco.mask(instance.segmentation, image.height, image.width)
    step = max(1, round(shift * instance.bbox[2]))
    moved = np.zeros_like(mask)
    moved[:, step:] = mask[:, :-step]
    if not moved.any():  # it has left the picture
        moved = mask
    packed = coco_mask.encode(np.asfortranarray(moved))
    return {"size": [image.height, image.width], "counts": packed["counts"].decode()}


def expected(images: Sequence[Image], predictions: Sequence[Prediction], task: Task) -> float:
    """COCO's AP, worked out for one prediction an object whose scores sort by its IoU: at each threshold precision is 1
    up to the recall reached. Percent."""
    truth = [(image, i) for image in images for i in image.instances if not i.crowd]
    true = np.array([-1 if i.labels[task.name] is None else i.labels[task.name] for _, i in truth])
    right = np.array([p.labels[task.name] for p in predictions]) == true
    overlap = np.array(
        [
            iou([p.segmentation], [coco.rle(i.segmentation, image.height, image.width)])[0, 0]
            for p, (image, i) in zip(predictions, truth, strict=True)
        ]
    )
    classes = [c for c in range(task.num_classes) if (true == c).any()]
    hit = right[:, None] & (overlap[:, None] >= IOUS)
    recall = np.array([hit[true == c].mean(0) for c in classes])
    return float(100 * np.where(recall > 0, np.floor(100 * recall + 1e-9) + 1, 0).mean() / 101)


def _share_right(images: Sequence[Image], predictions: Sequence[Prediction], task: Task) -> float:
    truth = [i.labels[task.name] for image in images for i in image.instances if not i.crowd]
    right = [p.labels[task.name] == label for p, label in zip(predictions, truth, strict=True) if label is not None]
    return 100 * float(np.mean(right))
