"""The working format, COCO plus labels: plain COCO that any COCO tool reads, with further labels beside the class.

Beyond COCO it has, on top, `tasks`: [{"name", "classes"}], the main task first, and in each annotation `labels`:
{further task: class name, or null where the instance has no label}. `category_id` - 1 is the main class's index.
detectron2 reads it with `load_coco_json(..., extra_annotation_keys=["labels"])`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import DecompressionBombError
from pydantic import ValidationError

from mtseg.core.errors import UserError
from mtseg.core.files import read_json, write_json
from mtseg.core.masks import areas, mask, rle  # noqa: F401
from mtseg.core.params import Task
from mtseg.core.tables import Image, Instance

# what Pillow raises on a picture that it cannot or will not decode
DECODE_ERRORS = (OSError, SyntaxError, TypeError, ValueError, DecompressionBombError)


def write(path: Path | str, images: Iterable[Image], tasks: Sequence[Task]) -> None:
    """Write one split. Annotations are numbered from 1 in order; every instance needs a label of the main task."""
    main, *further = tasks
    pictures: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        pictures.append({"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width})
        for instance in image.instances:
            label = instance.labels[main.name]
            assert label is not None, f"{image.file_name}: an instance has no {main.name}"
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.id,
                    "category_id": label + 1,
                    "bbox": list(instance.bbox),
                    "area": instance.area,
                    "iscrowd": int(instance.crowd),
                    "segmentation": instance.segmentation,
                    "labels": {task.name: _name(task, instance.labels[task.name]) for task in further},
                }
            )
    value = {
        "tasks": [{"name": task.name, "classes": list(task.classes)} for task in tasks],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(main.classes)],
        "images": pictures,
        "annotations": annotations,
    }
    write_json(path, value, indent=None)


def read(path: Path | str) -> tuple[list[Image], list[tuple[str, tuple[str, ...]]]]:
    """Read one split: its pictures, and (name, classes) of every task, the main one first.

    Every class is checked against its task's list. Raises UserError that names picture and annotation.
    """
    raw = read_json(path, made_by="convert")
    try:
        tasks = [(task["name"], tuple(task["classes"])) for task in raw["tasks"]]
        pictures = {picture["id"]: picture for picture in raw["images"]}
        instances: dict[int, list[Instance]] = {key: [] for key in pictures}
        for annotation in raw["annotations"]:
            if annotation["image_id"] not in pictures:
                raise UserError(f"{path}: annotation {annotation['id']}: no picture has id {annotation['image_id']}")
            where = f"{path}: {pictures[annotation['image_id']]['file_name']}, annotation {annotation['id']}"
            instances[annotation["image_id"]].append(_instance(annotation, tasks, where))
        images = [
            Image(key, picture["file_name"], picture["height"], picture["width"], tuple(instances[key]))
            for key, picture in pictures.items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not COCO plus labels ({type(error).__name__}: {error}): run `dvc repro convert` again"
        ) from None
    return images, tasks


def resolve(tasks: Sequence[Task], classes: Mapping[str, Sequence[str]]) -> tuple[Task, ...]:
    """The tasks with `classes` in place of `auto`. Raises UserError where flip_pairs names another class."""
    try:
        return tuple(Task.model_validate(task.model_dump() | {"classes": tuple(classes[task.name])}) for task in tasks)
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _name(task: Task, index: int | None) -> str | None:
    return None if index is None else task.classes[index]


def _instance(annotation: dict[str, Any], tasks: Sequence[tuple[str, tuple[str, ...]]], where: str) -> Instance:
    (main, names), *further = tasks
    category, given = annotation["category_id"], annotation["labels"]
    if category not in range(1, len(names) + 1):
        raise UserError(f"{where}: category_id {category!r} is not in 1..{len(names)}")
    if set(given) != {task for task, _ in further}:
        raise UserError(f"{where}: labels are of {sorted(given)}, expected {sorted(task for task, _ in further)}")
    labels: dict[str, int | None] = {main: category - 1}
    for task, classes in further:
        if given[task] is not None and given[task] not in classes:
            raise UserError(f"{where}: {task} has no class {given[task]!r}; it has {', '.join(classes)}")
        labels[task] = None if given[task] is None else classes.index(given[task])
    x, y, width, height = annotation["bbox"]
    return Instance(
        segmentation=annotation["segmentation"],
        bbox=(x, y, width, height),
        area=annotation["area"],
        labels=labels,
        crowd=bool(annotation["iscrowd"]),
        id=annotation["id"],
    )
