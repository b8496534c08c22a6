"""Register the data set in detectron2's catalogs, for other tools. The pipeline itself reads the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from json import JSONDecoder
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from mtseg.core.errors import UserError, first_line
from mtseg.core.files import write_json
from mtseg.core.tables import Images
from mtseg.data.manifest import Manifest, counts

MOST = 5000  # images of a split that `check` loads: detectron2 needs 10 GB for the annotations of 100,000
CHUNK = 1 << 20  # characters of a file at a time


def register(manifest: Manifest, root: Path) -> dict[str, str]:
    """Register every split, replacing older entries, and return {split: name in the catalogs}. The name includes the
    hash of the split's annotations.

    Records have detectron2's format; each annotation also has `labels` {further task: class name or None}.
    """
    names = {split: f"mtseg_{split}_{facts['sha256'][:12]}" for split, facts in manifest.splits.items()}
    for split, name in names.items():
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        path = manifest.splits[split]["json"]
        DatasetCatalog.register(
            name, lambda path=path, name=name: load_coco_json(path, str(root), name, extra_annotation_keys=["labels"])
        )
        tasks = {task: list(classes) for task, classes in manifest.classes}
        MetadataCatalog.get(name).set(
            json_file=path, image_root=str(root), thing_classes=tasks[manifest.classes[0][0]], tasks=tasks
        )
    return names


def check(manifest: Manifest, root: Path) -> None:
    """Register every split, load it with detectron2 and compare counts with the manifest. Of a split with more than
    `MOST` images, only the first of them are loaded, to save memory.

    Raises UserError when a key of the JSON or an image file is missing, or when the JSON has other counts than the
    table, of which one was changed.
    """
    tasks = {task: list(classes) for task, classes in manifest.classes}
    for split, name in register(manifest, root).items():
        facts = manifest.splits[split]
        try:
            if facts["images"] > MOST:
                first = manifest.images(split, outlines=False)[:MOST]
                facts = facts | counts(first)
                records = _first_records(facts["json"], first, root, manifest, name)
            else:
                records = DatasetCatalog.get(name)
            found = _counts(records, tasks)
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:  # not as it was written
            raise UserError(
                f"{facts['json']} cannot be loaded by detectron2 ({first_line(error)}): run `dvc repro convert` again"
            ) from None
        absent = [record["file_name"] for record in records if not Path(record["file_name"]).is_file()]
        if absent:
            raise UserError(
                f"{absent[0]} is missing ({len(absent)} images of {split} are): is {root} (data.raw) the folder that "
                "was converted?"
            )
        if wrong := [key for key in found if found[key] != facts[key]]:
            raise UserError(
                f"{facts['json']} has other {wrong[0]} ({found[wrong[0]]}, as detectron2 reads it) than "
                f"{facts['table']} ({facts[wrong[0]]}): one of them was changed after `convert`; run `dvc repro "
                "convert` again, and correct annotations in data.raw"
            )


def _first_records(path: str, images: Images, root: Path, manifest: Manifest, name: str) -> list[dict[str, Any]]:
    """detectron2's records of the first images of the split in the JSON `path`, which is registered as `name`."""
    columns = (images.id.tolist(), images.file_name.tolist(), images.height.tolist(), images.width.tolist())
    value = {
        "images": [
            dict(zip(("id", "file_name", "height", "width"), row, strict=True)) for row in zip(*columns, strict=True)
        ],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(manifest.classes[0][1])],
        "annotations": list(_annotations(Path(path), last=columns[0][-1])),
    }
    with TemporaryDirectory() as folder:
        first = Path(folder) / "first.json"
        write_json(first, value, indent=None)
        return load_coco_json(str(first), str(root), name, extra_annotation_keys=["labels"])


def _annotations(path: Path, last: int) -> Iterator[dict[str, Any]]:
    """The annotations of a JSON that `coco.write` wrote, which begins with them, up to those of the image with id
    `last`."""
    decode = JSONDecoder().raw_decode
    with path.open(encoding="utf-8") as file:
        text = file.read(CHUNK)
        at = text.index("[") + 1
        while text[at : at + 1] != "]":
            try:
                value, end = decode(text, at)
            except ValueError:  # the rest of it is in the next chunk
                more = file.read(CHUNK)
                if not more:
                    raise UserError(f"{path} is cut off: run `dvc repro convert` again") from None
                text, at = text[at:] + more, 0
                continue
            if value["image_id"] > last:
                return
            yield value
            if end == len(text):
                text += file.read(1)
            at = end + (text[end] == ",")


def _counts(records: list[dict[str, Any]], tasks: dict[str, list[str]]) -> dict[str, Any]:
    """The counts that the manifest has of a split, from detectron2's records."""
    main, *_ = tasks
    every = [annotation for record in records for annotation in record["annotations"]]
    instances = [annotation for annotation in every if not annotation["iscrowd"]]
    labels = [one["labels"] | {main: tasks[main][one["category_id"]]} for one in instances]
    counts = {task: Counter(one[task] for one in labels) for task in tasks}
    return {
        "images": len(records),
        "instances": len(instances),
        "crowds": len(every) - len(instances),
        "labels": {task: {name: counts[task][name] for name in classes} for task, classes in tasks.items()},
        "unlabelled": {task: counts[task][None] for task in tasks},
    }
