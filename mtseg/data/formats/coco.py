"""COCO: annotations/NAME.json beside the images, images/NAME/FILE, images/FILE or FILE.

Polygons, compressed and uncompressed RLE, crowds. mtseg/data/labels.py describes how labels are read; the category's
name is the label. `labels` on the annotation are attributes too; `attributes` outrank them. train.json and val.json, if
both exist, are the split, and other files are left out. Categories that no annotation uses need no entry in a mapping.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mtseg.core.masks import Segmentation, rle
from mtseg.data.labels import Vocabulary
from mtseg.data.raw import BadRecord, RawData, RawImage, RawObject, checked_polygon, items, read_record, stated_size

SPLITS = {"train", "val"}


def read(folder: Path, vocabulary: Vocabulary) -> RawData:
    """Read every annotations/*.json of a folder, names that begin with a dot left alone."""
    data = RawData()
    files = sorted((folder / "annotations").glob("[!.]*.json"))
    given = {path.stem for path in files} >= SPLITS
    for path in files:
        if given and path.stem not in SPLITS:
            data.leave("annotation files beside train.json and val.json")
            continue
        where = path.relative_to(folder).as_posix()
        with data.refusing(where):
            raw = read_record(path)
            images, annotations, categories = (items(raw, key) for key in ("images", "annotations", "categories"))
            names = _names(categories)
            objects: dict[Any, list[RawObject]] = {image["id"]: [] for image in images if _has_id(image)}
            for number, annotation in enumerate(annotations, start=1):
                named = f"{where}, annotation {annotation.get('id', f'number {number}')}"
                with data.refusing(named):
                    _add_object(data, named, annotation, names, objects, vocabulary)
            for number, image in enumerate(images, start=1):
                named = f"{where}, image {image.get('id', f'number {number}')}"
                with data.refusing(named):
                    _add_image(data, named, image, folder, path.stem, given, objects)
    return data


def _has_id(value: dict[str, Any], key: str = "id") -> bool:
    return isinstance(value.get(key), int | str)


def _names(categories: list[dict[str, Any]]) -> dict[int | str, Any]:
    """Names of the categories by id. Which annotations an invalid or a double id affects is unknown: all fail."""
    for category in categories:
        if not _has_id(category):
            raise BadRecord("broken json", f"a category has the id {category.get('id')!r}, expected a number or text")
    names = {category["id"]: category.get("name") for category in categories}
    if len(names) < len(categories):
        ids = [category["id"] for category in categories]
        double = next(key for key in ids if ids.count(key) > 1)
        raise BadRecord("broken json", f"two categories have the id {double!r}")
    return names


def _add_image(
    data: RawData,
    where: str,
    image: dict[str, Any],
    folder: Path,
    split: str,
    given: bool,
    objects: dict[Any, list[RawObject]],
) -> None:
    name = image.get("file_name")
    if not isinstance(name, str) or not _has_id(image):
        raise BadRecord("broken json", "needs an id, a number or text, and a file_name")
    if image["id"] not in objects:
        raise BadRecord("broken json", "another image of this file has the same id")
    # by its name alone: files linked into the folder, as DVC may do, are in it
    for place in (f"images/{split}", "images", "."):
        file_name = os.path.normpath(f"{place}/{name}").replace(os.sep, "/")
        if not file_name.startswith(("/", "../")) and os.path.isfile(folder / file_name):
            break
    else:
        raise BadRecord("missing image", f"no image {name!r} in images/{split}/, images/ or the raw folder itself")
    size = stated_size(image.get("height"), image.get("width"))
    found = objects.pop(image["id"])  # popped, so that a second image with this id is noticed
    data.images.append(RawImage(where, file_name, size, split if given else None, tuple(found)))


def _add_object(
    data: RawData,
    where: str,
    annotation: dict[str, Any],
    names: dict[Any, Any],
    objects: dict[Any, list[RawObject]],
    vocabulary: Vocabulary,
) -> None:
    image, category, crowd = (annotation.get(key) for key in ("image_id", "category_id", "iscrowd"))
    if not _has_id(annotation, "image_id") or image not in objects:
        raise BadRecord("broken json", f"no image has id {image!r}")
    if not _has_id(annotation, "category_id") or category not in names:
        raise BadRecord("unknown label", f"no category has id {category!r}")
    if crowd not in (None, 0, 1):  # False and True count as 0 and 1, and some tools write them
        raise BadRecord("broken json", f"iscrowd is {crowd!r}, expected 0 or 1")
    attributes: dict[str, Any] = {}
    for given in (annotation.get("labels"), annotation.get("attributes")):
        attributes |= given if isinstance(given, dict) else {}
    labels = vocabulary.labels(names[category], attributes)
    if labels is None:
        data.leave("objects that data.mapping leaves out")
    else:
        objects[image].append(RawObject(where, labels, _segmentation(annotation.get("segmentation")), bool(crowd)))


def _segmentation(value: Any) -> Segmentation:
    if isinstance(value, list) and value and all(isinstance(polygon, list) for polygon in value):
        return [checked_polygon(polygon) for polygon in value]
    if not isinstance(value, dict):
        raise BadRecord("geometry", f"segmentation is {str(value)[:60]}, expected polygons or RLE")
    try:
        height, width = value["size"]
        counts = value["counts"] if isinstance(value["counts"], list) else _runs(value["counts"])
        if not all(isinstance(number, int) for number in (height, width, *counts)):
            raise ValueError("a size or a run is no whole number")
        if min(counts) < 0 or sum(counts) != height * width:
            raise ValueError(f"runs sum to {sum(counts)}, not to {height} x {width}")
        return rle({"size": [height, width], "counts": counts}, height, width)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise BadRecord("geometry", f"segmentation is no RLE ({type(error).__name__}: {error})") from None


def _runs(text: str) -> list[int]:
    """The runs of a compressed RLE. pycocotools reads past the end of a truncated one, so it is checked here first.
    Format: cocodataset/cocoapi, common/maskApi.c, rleFrString."""
    runs: list[int] = []
    codes = iter(ord(letter) - 48 for letter in text)
    for code in codes:
        run, shift = code & 31, 5
        while code & 32:
            code = next(codes, 0)
            run |= (code & 31) << shift
            shift += 5
        if code & 16:
            run -= 1 << shift
        runs.append(run + (runs[-2] if len(runs) > 2 else 0))
    return runs
