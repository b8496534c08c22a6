"""Small scenes with known answers: rectangles with labels of any number of tasks, and predictions made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as coco_mask
from scipy.special import logit

from mtseg.core.params import Filter, Ranking, Task
from mtseg.core.tables import Image, Images, Instance, Predictions, task_columns
from mtseg.evaluation.ap.evaluation import Evaluation

SIZE = 64
CLASSES = {
    "shape": ("circle", "square", "star"),
    "colour": ("red", "green"),
    "fill": ("plain", "dotted", "striped"),
    "side": ("left", "right"),
}

FILTER = Filter(
    thresholds="given", drop_background=True, min_score=0.1, min_logit=2.0, largest_component=False, min_area=0,
    nms="agnostic", nms_iou=0.5, most=None,
)  # fmt: skip


def make_tasks(count: int, background: bool = True) -> tuple[Task, ...]:
    """The first is the main one, which always has its no-object slot."""
    return tuple(
        Task(
            name=name, classes=classes, loss_weight=1, match_weight=1, background=background or not i,
            class_weights=None, flip_pairs=(),
        )
        for i, (name, classes) in enumerate(list(CLASSES.items())[:count])
    )  # fmt: skip


def box_rle(x: int, y: int, width: int, height: int) -> dict:
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    mask[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = 1
    packed = coco_mask.encode(mask)
    return {"size": [SIZE, SIZE], "counts": packed["counts"].decode()}


def box_instance(box: tuple[int, int, int, int], labels: dict[str, int | None], crowd: bool = False) -> Instance:
    rle = box_rle(*box)
    return Instance(rle, tuple(map(float, box)), float(coco_mask.area(rle)), labels, crowd)


def logits_of(task: Task, label: int, strength: float = 6.0) -> tuple[float, ...]:
    return tuple(strength * (index == label) for index in range(task.num_outputs))


@dataclass(frozen=True)
class Row:
    """One prediction, for `table`. probabilities: of the labels, each given those before it, where one softmax over
    combinations serves all tasks; None where each task has its own."""

    image_id: int
    query: int
    box: tuple[float, ...]
    area: float
    segmentation: dict
    mask_quality: float
    labels: dict[str, int]
    logits: dict[str, Sequence[float]]
    probabilities: dict[str, float] | None = None


def table(rows: Sequence[Row], tasks: Sequence[Task]) -> Predictions:
    """The rows as a table, in their order."""
    columns = {
        "image_id": np.array([row.image_id for row in rows], dtype=int),
        "query": np.array([row.query for row in rows], dtype=int),
        "box": np.array([row.box for row in rows], dtype=float).reshape(-1, 4),
        "area": np.array([row.area for row in rows], dtype=float),
        "rle": np.array([row.segmentation["counts"] for row in rows], dtype=object),
        "height": np.array([row.segmentation["size"][0] for row in rows], dtype=int),
        "width": np.array([row.segmentation["size"][1] for row in rows], dtype=int),
        "mask_quality": np.array([row.mask_quality for row in rows], dtype=float),
    }
    for task in tasks:
        labels = np.array([row.labels[task.name] for row in rows], dtype=int)
        logits = np.array([row.logits[task.name] for row in rows], dtype=float).reshape(-1, task.num_outputs)
        columns |= task_columns(task.name, labels, logits)
        if rows and rows[0].probabilities:
            own = np.array([row.probabilities[task.name] for row in rows], dtype=float)
            columns |= {f"probability.{task.name}": own, f"logit.{task.name}": logit(own.clip(1e-7, 1 - 1e-7))}
    main = columns[f"probability.{tasks[0].name}"]
    return Predictions.of(columns | {"score": (main * columns["mask_quality"]).round(5)})


def predict(
    instance: Instance,
    tasks: tuple[Task, ...],
    *,
    image_id: int = 1,
    query: int = 0,
    quality: float = 0.9,
    strength: float = 6.0,
    shift: int = 0,
    **labels: int,
) -> Row:
    """A prediction of the instance: right in all (no label: 0) but the `labels` named, `shift` pixels to the right."""
    x, y, width, height = map(int, instance.bbox)
    rle = box_rle(x + shift, y, width, height)
    chosen = {task.name: labels.get(task.name, instance.labels[task.name] or 0) for task in tasks}
    return Row(
        image_id=image_id,
        query=query,
        box=tuple(map(float, coco_mask.toBbox(rle))),
        area=float(coco_mask.area(rle)),
        segmentation=rle,
        mask_quality=quality,
        labels=chosen,
        logits={task.name: logits_of(task, chosen[task.name], strength) for task in tasks},
    )


def images_of(records: Sequence[Image], tasks: Sequence[Task]) -> Images:
    return Images.from_records(records, [(task.name, task.classes) for task in tasks])


def scene(tasks: tuple[Task, ...], *, count: int = 6, partial: bool = False, crowds: bool = False) -> Images:
    """Images of four boxes in a grid, labels running through all classes; `partial`: some further labels missing.

    `crowds`: a crowd in every image. Image 1 is empty.
    """
    rng = np.random.default_rng(0)
    images = []
    for image_id in range(1, count + 1):
        instances = []
        for cell in range(0 if image_id == 1 else 4):
            labels = {task.name: int((image_id + cell * 5 + i) % task.num_classes) for i, task in enumerate(tasks)}
            for task in tasks[1:] if partial else ():
                if rng.random() < 0.4:
                    labels[task.name] = None
            width, height = rng.integers(12, 25, size=2).tolist()
            instances.append(box_instance((32 * (cell % 2) + 2, 32 * (cell // 2) + 2, width, height), labels))
        if crowds and instances:
            instances[-1] = replace(instances[-1], crowd=True)
        images.append(Image(image_id, f"{image_id}.jpg", SIZE, SIZE, tuple(instances)))
    return images_of(images, tasks)


def predict_all(images: Images, tasks: tuple[Task, ...], shift: int = 0) -> list[Row]:
    """The ground truth, crowds left out, as predictions."""
    return [
        predict(instance, tasks, image_id=image.id, query=query, shift=shift)
        for image in images
        for query, instance in enumerate(image.instances)
        if not instance.crowd
    ]


def noisy(images: Images, tasks: tuple[Task, ...], *, seed: int = 0, copies: int = 2, tied: bool = False) -> list[Row]:
    """Predictions of every object, moved, now and then with other labels, in any order; `tied`: of equal scores."""
    rng = np.random.default_rng(seed)
    found = []
    for image in images:
        for query, instance in enumerate(image.instances * copies):
            labels = {task.name: int(rng.integers(task.num_classes)) for task in tasks if rng.random() < 0.3}
            quality, strength = (0.5, 2.0) if tied else (float(rng.random()), float(rng.uniform(0.5, 5)))
            options = {"quality": quality, "strength": strength, "shift": int(rng.integers(-8, 9))}
            found.append(predict(instance, tasks, image_id=image.id, query=query, **options, **labels))
    return [found[place] for place in rng.permutation(len(found))]


def evaluation(
    images: Images | Sequence[Image], rows: Predictions | Sequence[Row], tasks: tuple[Task, ...], *,
    ranking: Ranking = "product_quality", max_dets: Sequence[int] = (1, 10, 100),
) -> Evaluation:  # fmt: skip
    """Of a table or of its rows."""
    images = images if isinstance(images, Images) else images_of(images, tasks)
    predictions = rows if isinstance(rows, Predictions) else table(rows, tasks)
    return Evaluation(images, predictions, tasks=tasks, ranking=ranking, max_dets=max_dets)


def one_image(*instances: Instance) -> list[Image]:
    return [Image(1, "a.jpg", SIZE, SIZE, instances)]
