"""The working format. A split is written twice: as PATH.parquet, the table that stages read (`core.tables.Images`), and
as PATH.json for other tools: COCO, extended by the labels of further tasks.

In addition to COCO's keys, the JSON has `tasks` at the top level: [{"name", "classes"}], the main task first. Each
annotation has `labels`: {further task: class name, or null if unlabelled}. `category_id` - 1 is the index of the main
class. detectron2 reads the file with `load_coco_json(..., extra_annotation_keys=["labels"])`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtseg.core.errors import UserError
from mtseg.core.files import write_json_with
from mtseg.core.params import Task, faults
from mtseg.core.tables import Classes, Image, Images

AT_ONCE = 1024  # images whose instances become columns at once, to save memory


def write(path: Path | str, images: Sequence[Image], tasks: Sequence[Task]) -> None:
    """Write the JSON and the table. Annotation ids count from 1. Every instance must have a label of the main task."""
    main = tasks[0]
    rest = {
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(main.classes)],
        "images": [
            {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
            for image in images
        ],
        "tasks": [{"name": task.name, "classes": list(task.classes)} for task in tasks],
    }
    write_json_with(path, "annotations", _annotations(images, tasks), rest)
    classes = [(task.name, task.classes) for task in tasks]
    ordered = sorted(images, key=lambda image: image.id)
    Images.write_parts(Path(path).with_suffix(".parquet"), _parts(ordered, classes))


def _parts(images: Sequence[Image], classes: Classes) -> Iterator[Images]:
    first = 1
    for start in range(0, len(images), AT_ONCE) or (0,):
        yield (part := Images.from_records(images[start : start + AT_ONCE], classes, first=first))
        first += len(part.instances)


def _annotations(images: Sequence[Image], tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    main, *further = tasks
    number = 0
    for image in images:
        for instance in image.instances:
            number += 1
            label = instance.labels[main.name]
            assert label is not None, f"{image.file_name}: an instance has no {main.name}"
            yield {
                "id": number,
                "image_id": image.id,
                "category_id": label + 1,
                "bbox": list(instance.bbox),
                "area": instance.area,
                "iscrowd": int(instance.crowd),
                "segmentation": instance.segmentation,
                "labels": {task.name: _name(task, instance.labels[task.name]) for task in further},
            }


def resolve(tasks: Sequence[Task], classes: Mapping[str, Sequence[str]]) -> tuple[Task, ...]:
    """The tasks with `auto` replaced by `classes`. Raises UserError if flip_pairs has an unknown class."""
    try:
        return tuple(Task.model_validate(task.model_dump() | {"classes": tuple(classes[task.name])}) for task in tasks)
    except ValidationError as error:
        raise UserError(faults(error)[0]) from None


def _name(task: Task, index: int | None) -> str | None:
    return None if index is None else task.classes[index]
