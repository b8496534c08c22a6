"""The working format. A split is written twice: as PATH.parquet, the table that stages read (`core.tables.Images`), and
as PATH.json for other tools: COCO, extended by the labels of further tasks.

In addition to COCO's keys, the JSON has `tasks` at the top level: [{"name", "classes"}], the main task first. Each
annotation has `labels`: {further task: class name, or null if unlabelled}. `category_id` - 1 is the index of the main
class. detectron2 reads the file with `load_coco_json(..., extra_annotation_keys=["labels"])`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtseg.core.errors import UserError
from mtseg.core.files import write_json
from mtseg.core.params import Task
from mtseg.core.tables import Image, Images


def write(path: Path | str, images: Sequence[Image], tasks: Sequence[Task]) -> None:
    """Write the JSON and the table. Annotation ids count from 1. Every instance must have a label of the main task."""
    main, *further = tasks
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        records.append({"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width})
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
        "images": records,
        "annotations": annotations,
    }
    write_json(path, value, indent=None)
    table = Images.from_records(images, [(task.name, task.classes) for task in tasks])
    table.write(Path(path).with_suffix(".parquet"))


def resolve(tasks: Sequence[Task], classes: Mapping[str, Sequence[str]]) -> tuple[Task, ...]:
    """The tasks with `auto` replaced by `classes`. Raises UserError if flip_pairs has an unknown class."""
    try:
        return tuple(Task.model_validate(task.model_dump() | {"classes": tuple(classes[task.name])}) for task in tasks)
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _name(task: Task, index: int | None) -> str | None:
    return None if index is None else task.classes[index]
