"""Predictions of a correct model for `scenes.scene`: one query per object with noise, the other queries no-object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mtseg.core.params import Task
from mtseg.core.tables import DECIMALS, Image, Instance
from mtseg.diagnosis.split import Split
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.model.heads import Combinations
from tests.scenes import CLASSES, Row, box_instance, images_of, predict, scene, table

QUERIES = 8


def healthy(
    tasks: tuple[Task, ...], *, images: int = 40, seed: int = 0, scattered: bool = False
) -> tuple[list[Image], list[Row]]:
    """Each object is detected by one query, another one in each image; the other queries predict no-object.

    scattered: one to three objects per image at random places, instead of four in a grid.
    """
    rng = np.random.default_rng(seed)
    records, rows = list(scene(tasks, count=images)), []
    if scattered:
        records = [replace(image, instances=anywhere(image, rng)) for image in records]
    for image in records:
        queries = rng.permutation(QUERIES)
        for query, instance in zip(queries, image.instances, strict=False):
            found = predict(instance, tasks, image_id=image.id, query=int(query), shift=int(rng.integers(-1, 2)))
            rows.append(jittered(found, rng, float(rng.uniform(0.8, 1))))
        for query in queries[len(image.instances) :]:
            labels = {task.name: int(rng.integers(task.num_classes)) for task in tasks}
            nothing = predict(box_instance((20, 20, 15, 15), labels), tasks, image_id=image.id, query=int(query))
            silent = {task.name: (*(0.0,) * task.num_classes, *((5.0,) * task.background)) for task in tasks}
            rows.append(jittered(replace(nothing, logits=silent), rng, 0.5))
    return records, rows


def anywhere(image: Image, rng: np.random.Generator) -> tuple[Instance, ...]:
    kept = image.instances[: rng.integers(1, 4)]
    places = rng.integers(1, 40, size=(len(kept), 2)).tolist()
    return tuple(
        box_instance((x, y, int(i.bbox[2]), int(i.bbox[3])), i.labels) for i, (x, y) in zip(kept, places, strict=True)
    )


def jittered(row: Row, rng: np.random.Generator, quality: float) -> Row:
    """The row with noise on every logit, and the labels with the highest logits."""
    logits = {
        name: tuple(float(value) for value in np.array(values) + rng.normal(0, 0.5, len(values)))
        for name, values in row.logits.items()
    }
    return replace(row, logits=logits, labels=highest(logits), mask_quality=quality)


def highest(logits: dict[str, tuple[float, ...]]) -> dict[str, int]:
    return {name: int(np.argmax(values[: len(CLASSES[name])])) for name, values in logits.items()}


def relabelled(row: Row, name: str, values: tuple[float, ...]) -> Row:
    """The row with other logits of one task, and the label with the highest."""
    logits = row.logits | {name: values}
    return replace(row, logits=logits, labels=highest(logits))


def split(images: Sequence[Image], rows: Sequence[Row], tasks: tuple[Task, ...], **given) -> Split:
    given = {"ranking": "product_quality", "max_dets": (1, 10, 100)} | given
    return Split(Evaluation(images_of(images, tasks), table(rows, tasks), tasks=tasks, **given))


def combined(rows: Sequence[Row], tasks: tuple[Task, ...], seen: list[tuple[int, ...]], most: int = 4) -> list[Row]:
    """Predictions of a softmax over combinations: each query with its most probable labels. rows: logits of the
    heads."""
    head, found = Combinations(tasks, seen, unseen=0.01), []
    logits = {task.name: torch.tensor([row.logits[task.name] for row in rows]) for task in tasks}
    own = {name: x.numpy().round(DECIMALS).tolist() for name, x in head.class_logits(logits).items()}
    for number, row in enumerate(rows):
        likeliest = head.candidates({name: x[None, number : number + 1] for name, x in logits.items()}, most)[0]
        for labels, steps in zip(likeliest.labels.tolist(), likeliest.fields["probabilities"].tolist(), strict=True):
            named = {task.name: label for task, label in zip(tasks, labels, strict=True)}
            chances = {task.name: step for task, step in zip(tasks, steps, strict=True)}
            here = {name: tuple(values[number]) for name, values in own.items()}
            found.append(replace(row, labels=named, logits=here, probabilities=chances))
    return found
