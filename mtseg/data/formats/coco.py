"""COCO: annotations/NAME.json; images in images/NAME/FILE, images/FILE or FILE.

Polygons, compressed and uncompressed RLE, and crowds are supported. The category name is the label (see
mtseg/data/labels.py). `labels` of an annotation are read like `attributes`, which take precedence. If both train.json
and val.json exist, they are the split and other files are not used. Unused categories need no entry in a mapping.
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
    """Read every annotations/*.json of a folder, except hidden files."""
    data = RawData()
    files = sorted((folder / "annotations").glob("[!.]*.json"))
    given = {path.stem for path in files} >= SPLITS
    for path in files:
        if given and path.stem not in SPLITS:
            data.leave("annotation files other than train.json and val.json")
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
    """Category names by id. An invalid or duplicate id fails the whole file: the affected annotations are unknown."""
    for category in categories:
        if not _has_id(category):
            raise BadRecord("broken json", f"a category has id {category.get('id')!r}, expected a number or text")
    names = {category["id"]: category.get("name") for category in categories}
    if len(names) < len(categories):
        ids = [category["id"] for category in categories]
        double = next(key for key in ids if ids.count(key) > 1)
        raise BadRecord("broken json", f"two categories have id {double!r}")
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
        raise BadRecord("broken json", "expected an id (a number or text) and a file_name")
    if image["id"] not in objects:
        raise BadRecord("broken json", "another image has the same id")
    # the path is checked without resolving links: DVC may link files into the folder
    for place in (f"images/{split}", "images", "."):
        file_name = os.path.normpath(f"{place}/{name}").replace(os.sep, "/")
        if not file_name.startswith(("/", "../")) and os.path.isfile(folder / file_name):
            break
    else:
        raise BadRecord("missing image", f"no image {name!r} in images/{split}/, images/ or data.raw")
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
        raise BadRecord("geometry", f"segmentation is {str(value)[:60]}, expected polygons or an RLE")
    try:
        height, width = value["size"]
        counts = value["counts"] if isinstance(value["counts"], list) else _runs(value["counts"])
        if not all(isinstance(number, int) for number in (height, width, *counts)):
            raise ValueError("a size or a run length is not an integer")
        if min(counts) < 0 or sum(counts) != height * width:
            raise ValueError(f"run lengths add up to {sum(counts)}, expected {height} x {width}")
        return rle({"size": [height, width], "counts": counts}, height, width)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise BadRecord("geometry", f"segmentation is not a valid RLE ({type(error).__name__}: {error})") from None


def _runs(text: str) -> list[int]:
    """Run lengths of a compressed RLE. pycocotools reads past the end of a truncated one, so it is checked first.
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
