"""COCO: .json files with `images`, `annotations` and `categories`, in the layouts that tools write.

    annotations/NAME.json       images in images/NAME/, NAME/, images/, or as `file_name` says
    annotations/instances_NAME.json                                     COCO itself, CVAT
    NAME/_annotations.coco.json beside its images                       Roboflow
    result.json                 beside images/                          Label Studio

Polygons, uncompressed and compressed RLE (also in base64), and crowds are supported. The category name is the label,
see mtseg/data/labels.py. Further ones are read from the annotation's `attributes` (CVAT; the ids of attr-eomt become
names by the file's list `attributes`) and `labels`, from `attribute_ids` (PACO, Fashionpedia) and from `category_id_1`,
`category_id_2`, ... (DENTEX). `attributes` take precedence over `labels`. The split is that of the file's name, its
folder's, or the image's folder. Unused categories need no entry in a mapping. Lost: keypoints, captions, and several
values of one attribute.
"""

from __future__ import annotations

import ast
import base64
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from mtseg.core.errors import quoted
from mtseg.core.masks import Segmentation, rle
from mtseg.data.files import Files
from mtseg.data.formats._reading import (
    LIST,
    Reading,
    begins,
    by_name,
    json_with,
    leave_inner,
    note_duplicates,
    text,
    texts,
)
from mtseg.data.formats._sidecars import Beside
from mtseg.data.labels import Labels, Vocabulary
from mtseg.data.raw import (
    BadRecord,
    RawData,
    RawImage,
    RawObject,
    checked_polygons,
    items,
    named_by,
    no_object,
    read_value,
    whole,
)
from mtseg.data.splits import names_splits

OTHER = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")  # kinds of files in COCO's own folder
UNKNOWN = "values of attributes that the file's list `attributes` lacks, read as unlabelled"
NO_ATTRIBUTES = "the file's list `attributes`, or attr_type_to_attr_idxs, is not as attr-eomt or PACO write it"
NO_RLE = "segmentation is not a valid RLE"
NUMBER, POLYGON = (int, float), (list, array)  # faster than int | float
LETTERS = 7  # of a run length in a compressed RLE, at most: 35 bits
KEYPOINTS_ONLY = "keypoints without a segmentation: outlines are needed"
BOXES_ONLY = "a bbox without a segmentation: it is a box only, and outlines are needed"
FIX_PANOPTIC = "use the file of instances, such as instances_train2017.json, or export COCO instances"
FIX_BOXES = (
    "export polygons or masks (Roboflow: format 'COCO Segmentation'), or draw them from the boxes, for example with "
    "SAM in CVAT or X-AnyLabeling"
)


def recognises(files: Files) -> str | None:
    return json_with(files, r'\{(?!.*("(shapes|slots)"\s*:|"image"\s*:\s*\{)).*"(images|annotations)"\s*:\s*\[')


def read(folder: Path, vocabulary: Vocabulary) -> RawData:
    """Read every COCO .json of a folder."""
    reading = Reading(folder, vocabulary)
    data, files = reading.data, reading.files
    names = files.ending(".json")
    beside = Beside(files)
    names = [name for name in names if name not in beside.values]
    used = [name for name in names if not PurePosixPath(name).name.startswith(OTHER)] or names
    if len(used) < len(names):
        data.leave("annotation files of captions, keypoints or panoptic segments", len(names) - len(used))
    data.unused_files = [name for name in used if begins(folder / name, LIST)]
    given = reading.splits.of_files([name for name in used if name not in data.unused_files])
    for where, split in given.items():
        if split is None and {"train", "val"} <= {*given.values()}:
            data.leave("annotation files that are of no split, beside those of train and val")
            continue
        with data.refusing(where):
            raw = read_value(folder / where)
            if isinstance(raw, list) and raw and isinstance(raw[0], dict) and "image_id" in raw[0]:
                raise BadRecord("other format", "is of COCO's format of results: the file of annotations is needed")
            if raw and isinstance(raw, dict | list) and _is_other(raw):
                data.unused_files.append(where)
                continue
            beside.add(data, where, raw)
            _File(reading, where, split, raw).read()
    return reading.finished()


def _is_other(raw: dict[str, Any] | list[Any]) -> bool:
    """Whether a file has no key of COCO's, or images with their splits alone."""
    keys = {"images", "annotations", "categories"} & {*map(str, raw)}
    if keys != {"images"}:
        return not keys
    first = raw["images"][0] if isinstance(raw["images"], list) and raw["images"] else None
    return isinstance(first, dict) and any(map(names_splits, first))


@dataclass
class _Schema:
    """How the labels of a file's annotations are stored.

    levels    category names by id, of `category_id`, or of `category_id_1`, ... by key
    ids       of an attribute by name: names by id (attr-eomt)
    typed     name and type of an attribute by id (PACO, Fashionpedia)
    """

    levels: dict[str, dict[Any, Any]]
    ids: dict[str, dict[Any, Any]]
    typed: dict[Any, tuple[Any, Any]]

    @classmethod
    def of(cls, raw: dict[str, Any]) -> _Schema:
        numbered = {f"category_id{key[10:]}": key for key in sorted(raw) if key.startswith("categories_")}
        levels = {key: _names(items(raw, source)) for key, source in numbered.items()}
        attributes = items(raw, "attributes") if isinstance(raw.get("attributes"), list) else []
        try:
            ids = {
                attribute.get("name"): {whole(item.get("id")): item.get("name") for item in attribute["categories"]}
                for attribute in attributes
                if isinstance(attribute.get("categories"), list) and attribute["categories"]
            }
            kinds = {whole(id): kind for kind, own in (raw.get("attr_type_to_attr_idxs") or {}).items() for id in own}
            typed = {
                whole(item["id"]): (item.get("name"), kinds.get(whole(item["id"]), item.get("supercategory")))
                for item in attributes
                if "id" in item and "categories" not in item
            }
        except (AttributeError, TypeError):
            raise BadRecord("broken json", NO_ATTRIBUTES) from None
        return cls(levels or {"category_id": _names(items(raw, "categories"))}, ids, typed)


@dataclass
class _File:
    """One annotation file."""

    reading: Reading
    where: str
    split: str | None
    raw: Any
    shared: dict[Any, Labels | None] = field(default_factory=dict)
    invalid: Counter[Any] = field(default_factory=Counter)  # objects of an image that are faults
    split_of_id: dict[str, str] = field(default_factory=dict)  # the splits of images, by id, that the file itself lists

    def read(self) -> None:
        """Add its images to the data, or a fault. Raises BadRecord if the file as a whole is invalid."""
        if not isinstance(self.raw, dict):
            raise no_object(self.raw)
        if "items" in self.raw and "images" not in self.raw:
            raise BadRecord("other format", "is of Datumaro's own format: export it as COCO (instances)")
        images, annotations = items(self.raw, "images"), items(self.raw, "annotations")
        if any("segments_info" in item for item in annotations):
            raise BadRecord("other format", f"is of the format COCO panoptic (segments_info): {FIX_PANOPTIC}")
        self.schema = _Schema.of(self.raw)
        self.stated = [image.get("file_name") or image.get("coco_url") for image in images]  # LVIS has URLs only
        if annotations and not any(item.get("segmentation") for item in annotations):
            if all(item.get("bbox") for item in annotations):
                raise BadRecord("boxes only", f"all {len(annotations)} annotations have {BOXES_ONLY}: {FIX_BOXES}")
            if all(item.get("keypoints") for item in annotations):
                raise BadRecord("keypoints only", f"all {len(annotations)} annotations have {KEYPOINTS_ONLY}")
        if count := sum(bool(item.get("keypoints")) for item in annotations):
            self.reading.data.leave("keypoints of objects", count)
        if count := sum("ignore" in item and whole(item["ignore"]) == 1 for item in annotations):
            self.reading.data.note("annotations with `ignore` 1, read as objects", count)
        self.crowds = _has_crowds(annotations)
        if not self.crowds and (count := sum(_crowd(item) for item in annotations)):
            self.reading.data.note("annotations with iscrowd 1, which CVAT gives to masks, read as objects", count)
        objects: dict[Any, list[RawObject]] = {_id(image): [] for image in images if _has_id(image)}
        lists = self.raw.get("splits")
        for name, ids in lists.items() if isinstance(lists, dict) else ():
            if isinstance(ids, list) and (split := self.reading.splits.of_name(str(name))):
                self.split_of_id |= dict.fromkeys(map(str, ids), split)
        annotations.reverse()
        number = 0
        while annotations:  # which frees the memory of each one that was read
            annotation, number = annotations.pop(), number + 1
            where = f"{self.where}, annotation {named_by(annotation, number)}"
            try:
                self._add_object(where, annotation, objects)
            except BadRecord as bad:
                self.reading.data.refuse(where, bad)
                if _has_id(annotation, "image_id"):
                    self.invalid[_id(annotation, "image_id")] += 1
        for number, image in enumerate(images, start=1):
            where = f"{self.where}, image {named_by(image, number)}"
            with self.reading.data.refusing(where):
                self._add_image(where, image, objects)

    def _add_image(self, where: str, image: dict[str, Any], objects: dict[Any, list[RawObject]]) -> None:
        name = image.get("file_name") or image.get("coco_url")
        if not isinstance(name, str) or not _has_id(image):
            raise BadRecord("broken json", "expected an id (a number or text) and a file_name")
        if _id(image) not in objects:
            raise BadRecord("broken json", "another image has the same id")
        file_name = self.reading.files.image(name, self._places)
        self.reading.listed.add(file_name)
        size = self.reading.stated_size(image.get("height"), image.get("width"))
        own = self.reading.splits.of_record(image, self.reading.data) or self.split_of_id.get(str(_id(image)))
        if own and self.split and own != self.split:
            raise BadRecord("several splits", f"is of {own} by its own split, and of {self.split} by the file's name")
        split = self.split or own or self.reading.splits.of_folders(file_name)
        found = objects.pop(_id(image))  # popped, so that a second image with this id is noticed
        invalid = self.invalid[_id(image)]
        note_duplicates(self.reading.data, found)
        self.reading.data.ids[str(_id(image))] = file_name
        self.reading.data.images.append(RawImage(where, file_name, size, split, tuple(found), invalid=invalid))

    def _add_object(self, where: str, annotation: dict[str, Any], objects: dict[Any, list[RawObject]]) -> None:
        image = whole(annotation.get("image_id"))
        if not isinstance(image, int | str) or image not in objects:
            example = f", the images' ids are like {quoted(next(iter(objects)))}" if objects else ""
            raise BadRecord("broken json", f"no image has id {quoted(annotation.get('image_id'))}{example}")
        if whole(annotation.get("iscrowd")) not in (None, 0, 1):  # False and True count as 0 and 1
            raise BadRecord("broken json", f"iscrowd is {quoted(annotation['iscrowd'])}, expected 0 or 1")
        labels = self._labels(annotation)
        if labels is None:
            self.reading.data.leave("objects that data.mapping leaves out")
            return
        outline, left_out = _outline(annotation, self.reading.vocabulary.max_megapixels)
        box, area = _box(annotation.get("bbox")), annotation.get("area")
        if (annotation.get("bbox") and not box) or not (area is None or _is_number(area)):
            self.reading.data.note("objects whose bbox or area is not of valid numbers, and is not compared")
        box = box if box and any(box) else None  # 0 means not stated
        area = float(area) or None if _is_number(area) else None
        if (
            isinstance(outline, list) and len(outline) > 1 and area is None
        ):  # with an area, which is compared, it is known
            leave_inner(self.reading.data, outline)
        crowd = self.crowds and _crowd(annotation)
        objects[image].append(RawObject(where, labels, outline, crowd, box, area, left_out))

    def _labels(self, annotation: dict[str, Any]) -> Labels | None:
        if self.schema.typed or len(self.schema.levels) > 1 or annotation.get("attributes") or annotation.get("labels"):
            return self._read_labels(annotation)
        category = whole(annotation.get("category_id"))  # alone: objects of a category share their labels, for memory
        if not isinstance(category, int | str) or category not in self.shared:
            self.shared[category] = self._read_labels(annotation)
        return self.shared[category]

    def _read_labels(self, annotation: dict[str, Any]) -> Labels | None:
        attributes: dict[str, Any] = {}
        for given in (annotation.get("labels"), annotation.get("attributes")):
            named = by_name(given)
            attributes |= named if isinstance(named, dict) else {}
        for name, names in self.schema.ids.items():
            attributes[name] = self._of_list(names, attributes.get(name))
        if self.schema.typed:
            attributes = self._of_types(annotation.get("attribute_ids")) | attributes
        label, further = self._categories(annotation)
        if label is None and len(self.schema.levels) == 1:
            key = next(iter(self.schema.levels))
            raise BadRecord("no label", f"category {quoted(annotation.get(key))} has no name")
        return self.reading.vocabulary.labels(text(label), texts(further | attributes))

    @cached_property
    def _places(self) -> list[str]:
        """Folders that the images can be in, the most specific first."""
        path = PurePosixPath(self.where)
        names, folder = [path.stem, path.stem.removeprefix("instances_")], path.parent
        if _of_annotations(folder.parent):  # annotations/train/instances.json
            names, folder = [*names, folder.name], folder.parent
        beside = folder.parent if _of_annotations(folder) else path.parent
        below = [*(f"images/{name}" for name in names), *names, "images", "."]
        places = [(root / place).as_posix() for root in (beside, PurePosixPath(".")) for place in below]
        places = list(dict.fromkeys([*places, path.parent.as_posix()]))
        if any(self._is_in(places, name) for name in self.stated[:100]):
            return places
        return self._only_place(beside) or places

    def _only_place(self, beside: PurePosixPath) -> list[str]:
        """The folder below `beside` that has all the images and is of no other split, such as DENTEX's xrays/; none if
        several are."""
        names = {str(name) for name in self.stated}
        found = [
            place.as_posix()
            for place in {PurePosixPath(image).parent for image in self.reading.files.images}
            if place.is_relative_to(beside)
            and self.reading.splits.meant_by_folders(f"{place}/") in (None, self.split)
            and all(f"{place}/{name}" in self.reading.files.images for name in names)
        ]
        return found if len(found) == 1 else []

    def _is_in(self, places: list[str], name: Any) -> bool:
        try:
            return bool(self.reading.files.image(name, places))
        except BadRecord:
            return False

    def _of_list(self, names: dict[Any, Any], value: Any) -> Any:
        """The class of an attribute by the file's list: a name or an id. Others are unlabelled there, and counted."""
        if isinstance(value, str) and value in names.values():
            return value
        if isinstance(whole(value), int | str) and whole(value) in names:
            return names[whole(value)]
        if value is not None:
            self.reading.data.note(UNKNOWN)
        return None

    def _of_types(self, ids: Any) -> dict[str, Any]:
        """Labels of the tasks that are types of attributes, none if the annotation has no value or several."""
        types = {kind for _, kind in self.schema.typed.values()} & {*self.reading.vocabulary.classes}
        found: dict[str, list[Any]] = {kind: [] for kind in types}
        if not isinstance(ids, list | None):
            raise BadRecord("broken json", f"attribute_ids is {quoted(ids)}, expected a list of ids")
        for id in ids or ():
            if not isinstance(whole(id), int | str) or whole(id) not in self.schema.typed:
                self.reading.data.note(UNKNOWN)
                continue
            name, kind = self.schema.typed[whole(id)]
            if kind in found:
                found[kind].append(name)
        if several := sum(len(names) > 1 for names in found.values()):
            self.reading.data.note("labels of a task with several values, read as unlabelled", several)
        return {kind: names[0] if len(names) == 1 else None for kind, names in found.items()}

    def _categories(self, annotation: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The label and, with several categories per annotation, the labels of further tasks: those that are named
        category_1, category_2, ..., or all tasks in their order."""
        found = {}
        for key, names in self.schema.levels.items():
            if not _has_id(annotation, key) or _id(annotation, key) not in names:
                if len(self.schema.levels) == 1 or annotation.get(key) is not None:
                    valid = ", ".join(map(str, [*names][:20])) or "none"
                    raise BadRecord(
                        "unknown label", f"no category has id {quoted(annotation.get(key))}, valid: {valid}"
                    )
                found[key.replace("_id", "")] = None
            else:
                found[key.replace("_id", "")] = names[_id(annotation, key)]
        tasks = list(self.reading.vocabulary.classes)
        if len(found) == 1:
            return next(iter(found.values())), {}
        if self.reading.vocabulary.categories is not None:
            return ",".join(str(name or "-") for name in found.values()), {}
        if tasks[0] not in found:
            if len(tasks) != len(found):
                keys = ", ".join(found)
                raise BadRecord("missing label", f"expected {len(found)} tasks, or tasks of these names: {keys}")
            found = dict(zip(tasks, found.values(), strict=True))
        return found[tasks[0]], found


def _of_annotations(folder: PurePosixPath) -> bool:
    return folder.name.lower().startswith("annotation")


def _has_id(value: dict[str, Any], key: str = "id") -> bool:
    return isinstance(whole(value.get(key)), int | str)


def _id(value: dict[str, Any], key: str = "id") -> Any:
    return whole(value[key])


def _names(categories: list[dict[str, Any]]) -> dict[int | str, Any]:
    """Category names by id. An invalid or duplicate id fails the whole file: the affected annotations are unknown."""
    for category in categories:
        if not _has_id(category):
            raise BadRecord("broken json", f"a category has id {quoted(category.get('id'))}, expected a number or text")
    names = {_id(category): category.get("name") for category in categories}
    if len(names) < len(categories):
        ids = [_id(category) for category in categories]
        double = next(key for key, count in Counter(ids).items() if count > 1)
        raise BadRecord("broken json", f"two categories have id {quoted(double)}")
    return names


def _crowd(annotation: dict[str, Any]) -> bool:
    return whole(annotation.get("iscrowd")) == 1


def _has_crowds(annotations: Iterable[dict[str, Any]]) -> bool:
    """Whether iscrowd 1 means a crowd. CVAT gives it to every mask, and `occluded` to every annotation; and where every
    annotation has it, it tells nothing."""
    cvat = all(isinstance(item.get("attributes"), dict) and "occluded" in item["attributes"] for item in annotations)
    return not cvat and not all(_crowd(item) for item in annotations)


def _box(values: Any) -> tuple[float, ...] | None:
    if not isinstance(values, list) or len(values) != 4 or not all(map(_is_number, values)):
        return None
    return tuple(map(float, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, NUMBER) and -1e15 < value < 1e15


def _outline(annotation: dict[str, Any], max_megapixels: float) -> tuple[Segmentation, int]:
    """The segmentation, and how many invalid polygons of it are left out."""
    value = annotation.get("segmentation")
    if not value and annotation.get("bbox"):
        raise BadRecord("boxes only", f"has {BOXES_ONLY}: {FIX_BOXES}")
    if isinstance(value, list) and value and all(isinstance(polygon, POLYGON) for polygon in value):
        return checked_polygons(_flat(polygon) for polygon in value)
    if isinstance(value, list) and all(isinstance(number, int | float) for number in value) and value:
        raise BadRecord("geometry", "segmentation is one polygon, expected polygons or an RLE: write [[x, y, ...]]")
    return _rle(value, max_megapixels), 0


def _flat(polygon: Any) -> Any:
    """[x0, y0, x1, y1, ...] of a polygon that is written that way or as [[x0, y0], [x1, y1], ...]."""
    if isinstance(polygon, list) and all(isinstance(point, list) and len(point) == 2 for point in polygon):
        return [value for point in polygon for value in point]
    return polygon


def _rle(value: Any, max_megapixels: float) -> dict[str, Any]:
    if not isinstance(value, dict):
        hint = ", not text" if isinstance(value, str) else ""
        hint += ": write it without quotes" if str(value).lstrip().startswith(("[", "{")) else ""
        raise BadRecord("geometry", f"segmentation is {quoted(value)}, expected polygons or an RLE{hint}")
    try:
        height, width = (whole(side) for side in value["size"])
        counts = value["counts"]
        if isinstance(counts, str) and counts.startswith(("b'", 'b"')):  # str() of bytes, as Python prints them
            counts = ast.literal_eval(counts).decode()
        if isinstance(height, int) and isinstance(width, int):
            if min(height, width) < 1 or height * width > max_megapixels * 1e6:  # pycocotools would overflow
                text = f"its size is {quoted(value['size'])}, expected height and width above 0"
                raise BadRecord("geometry", f"{NO_RLE}: {text}, of at most {max_megapixels:g} megapixels")
            if len(counts) > LETTERS * (height * width + 2):
                raise BadRecord("geometry", f"{NO_RLE}: it has more run lengths than {width} x {height} pixels")
        counts = [whole(count) for count in counts] if isinstance(counts, list) else _runs(counts, height * width)
        if not all(isinstance(number, int) for number in (height, width, *counts)):
            raise BadRecord("geometry", f"{NO_RLE}: a size or a run length is not a whole number")
        if min(counts) < 0 or sum(counts) != height * width:
            text = f"run lengths add up to {quoted(sum(counts))}, expected {width} x {height}"
            raise BadRecord("geometry", f"{NO_RLE}: {text}")
        return rle({"size": [height, width], "counts": counts}, height, width)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, SyntaxError):
        raise BadRecord("geometry", f"{NO_RLE} of size and counts: {quoted(value)}") from None


def _runs(text: str, pixels: int) -> list[int]:
    """Run lengths of a compressed RLE, which some tools write in base64, also deflated, as JSON has no bytes."""
    for form in (text, *_decoded(text, LETTERS * (pixels + 2))):
        with suppress(BadRecord):
            if sum(runs := _uncompressed(form)) == pixels:
                return runs
    return _uncompressed(text)


def _decoded(text: str, most: int) -> Iterator[str]:
    with suppress(ValueError, zlib.error):
        content = base64.b64decode(text, validate=True)
        if content.startswith(b"x"):  # of zlib, and no letter of an RLE
            content = zlib.decompressobj().decompress(content, most)
        yield content.decode("ascii")


def _uncompressed(text: str) -> list[int]:
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
            if shift > 5 * LETTERS:
                raise BadRecord("geometry", f"{NO_RLE}: a run length has too many digits")
        if code & 16:
            run -= 1 << shift
        runs.append(run + (runs[-2] if len(runs) > 2 else 0))
    return runs
