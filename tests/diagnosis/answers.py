"""What a sound model would say of `scenes.scene`: right but for noise, a query an object and silent queries beside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from mtseg.evaluation.predictions import DECIMALS

from mtseg.core.params import Task
from mtseg.core.tables import Image, Instance, Prediction
from mtseg.diagnosis.case import Case
from mtseg.model.heads import Combinations
from tests.scenes import box_instance, make_tasks, predict, scene

QUERIES = 8


def healthy(
    tasks: tuple[Task, ...], *, pictures: int = 40, seed: int = 0, scattered: bool = False
) -> tuple[list[Image], list[Prediction]]:
    """Each object is found by a query of its own that changes from picture to picture; the others see nothing.

    scattered: one to three objects a picture, anywhere, in place of four in a grid.
    """
    rng = np.random.default_rng(seed)
    images, predictions = scene(tasks, pictures=pictures), []
    if scattered:
        images = [replace(image, instances=anywhere(image, rng)) for image in images]
    for image in images:
        queries = rng.permutation(QUERIES)
        for query, instance in zip(queries, image.instances, strict=False):
            found = predict(instance, tasks, image_id=image.id, query=int(query), shift=int(rng.integers(-1, 2)))
            predictions.append(jittered(found, rng, float(rng.uniform(0.8, 1))))
        for query in queries[len(image.instances) :]:
            labels = {task.name: int(rng.integers(task.num_classes)) for task in tasks}
            nothing = predict(box_instance((20, 20, 15, 15), labels), tasks, image_id=image.id, query=int(query))
            silent = {task.name: (*(0.0,) * task.num_classes, *((5.0,) * task.background)) for task in tasks}
            predictions.append(jittered(replace(nothing, logits=silent), rng, 0.5))
    return images, predictions


def anywhere(image: Image, rng: np.random.Generator) -> tuple[Instance, ...]:
    kept = image.instances[: rng.integers(1, 4)]
    places = rng.integers(1, 40, size=(len(kept), 2)).tolist()
    return tuple(
        box_instance((x, y, int(i.bbox[2]), int(i.bbox[3])), i.labels) for i, (x, y) in zip(kept, places, strict=True)
    )


def jittered(prediction: Prediction, rng: np.random.Generator, quality: float) -> Prediction:
    """With noise on every logit, and each label the class of the highest one."""
    logits = {
        name: tuple(float(value) for value in np.array(values) + rng.normal(0, 0.5, len(values)))
        for name, values in prediction.logits.items()
    }
    return replace(prediction, logits=logits, labels=said(logits), mask_quality=quality)


def said(logits: dict[str, tuple[float, ...]]) -> dict[str, int]:
    classes = {task.name: task.num_classes for task in make_tasks(4)}
    return {name: int(np.argmax(values[: classes[name]])) for name, values in logits.items()}


def relabelled(prediction: Prediction, name: str, values: tuple[float, ...]) -> Prediction:
    """Other logits of one task, and the label that they say."""
    logits = prediction.logits | {name: values}
    return replace(prediction, logits=logits, labels=said(logits))


def case(images: list[Image], predictions: list[Prediction], tasks: tuple[Task, ...]) -> Case:
    return Case(images, predictions, tasks)


def combined(
    predictions: list[Prediction], tasks: tuple[Task, ...], seen: list[tuple[int, ...]], most: int = 4
) -> list[Prediction]:
    """What a softmax over combinations makes of the heads' logits: each query with its likeliest labels."""
    head, found = Combinations(tasks, seen, unseen=0.01), []
    for p in predictions:
        logits = {task.name: torch.tensor([p.logits[task.name]]) for task in tasks}
        own = {name: tuple(round(v, DECIMALS) for v in x[0].tolist()) for name, x in head.class_logits(logits).items()}
        likeliest = head.candidates(logits, most)
        for row, steps in zip(likeliest.labels.tolist(), likeliest.fields["probabilities"].tolist(), strict=True):
            named = {task.name: label for task, label in zip(tasks, row, strict=True)}
            chances = {task.name: step for task, step in zip(tasks, steps, strict=True)}
            found.append(replace(p, labels=named, logits=own, probabilities=chances))
    return found
