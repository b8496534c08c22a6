"""Label Studio's export in JSON: lists of tasks, with the images in images/ or where the task's URL ends.

Objects are polygons, rectangles and ellipses, also rotated, brush masks and bitmasks. The region's label is the main
class; its choices, ratings and numbers (`perRegion`) are the further ones, by the name of their tag, which is that of
the task. Of several annotations of an image, the one marked as ground truth is read, otherwise the first that is not
skipped. A file whose tasks have predictions only, such as mtseg's own, is read like annotations. An image without an
annotation is not used. Lost: choices of whole images, relations, and further annotations.
Formats: labelstud.io/guide/export; the RLE is that of thi.ng/rle-pack, of RGBA pixels, as in
HumanSignal/label-studio-converter, label_studio_converter/brush.py; bitmasks are those of HumanSignal/label-studio,
web/libs/editor/src/regions/BitmaskRegion.jsx.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mtseg.core.errors import quoted
from mtseg.core.masks import Segmentation
from mtseg.data.files import Files
from mtseg.data.formats._rasters import pasted
from mtseg.data.formats._reading import LIST, Reading, Shapes, begins, json_with, refuse_shape
from mtseg.data.images import DECODE_ERRORS, MOST_PIXELS, open_lazily, pillow, suffixes
from mtseg.data.labels import Vocabulary
from mtseg.data.polygons import ellipse, rectangle, turned
from mtseg.data.raw import (
    BadRecord,
    Fault,
    RawData,
    RawImage,
    by,
    checked_polygon,
    items,
    named_by,
    read_value,
)
from mtseg.data.splits import names_splits

MOST = 110  # percent of a side that an outline may reach, beyond what imprecise drawing explains
PERCENTS = "if coordinates are from 0 to 1, multiply them by 100: Label Studio has percents"
UPLOADED = re.compile(r"[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file


def recognises(files: Files) -> str | None:
    return json_with(files, r'\[\s*\{.*"(annotations|predictions|data|[a-z]+labels)"\s*:')


def read(folder: Path, vocabulary: Vocabulary) -> RawData:
    """Read every .json of a folder that is a list of tasks."""
    reading = Reading(folder, vocabulary)
    reading.data.relative = True
    names = reading.files.ending(".json")
    reading.data.unused_files = [name for name in names if begins(folder / name, LIST)]
    names = [name for name in names if name not in reading.data.unused_files]
    for where, split in reading.splits.of_files(names).items():
        with reading.data.refusing(where):
            tasks = read_value(folder / where)
            if _is_other(tasks):
                reading.data.unused_files.append(where)
                continue
            tasks = tasks if isinstance(tasks, list) else [tasks]
            if not all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks):
                raise BadRecord(
                    "broken json", "is not a list of tasks with `data`: export it as 'JSON', not 'JSON-MIN'"
                )
            key = "annotations" if any("annotations" in task for task in tasks) else "predictions"
            for number, task in enumerate(tasks, start=1):
                named = f"{where}, task {named_by(task, number)}"
                with reading.data.refusing(named):
                    _add_image(reading, named, task, key, PurePosixPath(where).parent, split)
    return reading.finished()


def _is_other(value: Any) -> bool:
    """Whether a file has no tasks, but another JSON object, or records of splits."""
    first = value[0] if isinstance(value, list) and value else value
    named = isinstance(first, dict) and "data" not in first
    return named and (first is value or any(map(names_splits, first)))


def _add_image(
    reading: Reading, where: str, task: dict[str, Any], key: str, beside: PurePosixPath, split: str | None
) -> None:
    data = reading.data
    given = [item for item in items(task, key) if not item.get("was_cancelled")] if key in task else []
    if not given:
        data.leave("images without an annotation")
        with suppress(BadRecord):  # of a file that is missing: it is not needed
            reading.listed.add(_image(reading.files, task, beside))
        return
    chosen = max(given, key=lambda item: item.get("ground_truth") is True)  # the first of equals
    if len(given) > 1:
        data.leave("further annotations of an image", len(given) - 1)
    results = items(chosen, "result")
    image = _image(reading.files, task, beside, results)
    reading.listed.add(image)
    regions: dict[Any, list[dict[str, Any]]] = {}
    for number, item in enumerate(results):
        if isinstance(item.get("value"), dict):
            regions.setdefault(str(item.get("id", number)), []).append(item)
        elif item.get("type") != "relation":
            raise BadRecord("broken json", f"a result has the value {quoted(item.get('value'))}, expected an object")
    sizes = {reading.stated_size(item.get("original_height"), item.get("original_width")) for item in results} - {None}
    if len(sizes) > 1:
        raise BadRecord("size", f"the regions state several sizes of the image: {', '.join(map(by, sorted(sizes)))}")
    size = next(iter(sizes), None)
    if size and not any(_kind(item["value"]) == "mask" for region in regions.values() for item in region):
        height, width = reading.files.size(image)
        if (height, width) != size and abs(width * size[0] / (height * size[1]) - 1) < 0.02:
            data.note(
                "images of another size than Label Studio states, of equal proportions: its percents hold for both"
            )
            size = None
    shapes, before = reading.shapes(image, size), len(data.faults)
    for number, region in enumerate(regions.values(), start=1):
        outline = next((item for item in region if _kind(item["value"])), None)
        if outline is None and any(key.endswith("labels") for item in region for key in item["value"]):
            kind = next(str(item.get("type")) for item in region)
            data.faults.append(Fault("geometry", f"{where}, region {number}", f"{kind} is no outline that can be read"))
            continue
        if outline is None:
            data.leave("choices and texts of whole images")
            continue
        named = f"{where}, region {outline.get('id', number)}"
        with data.refusing(named):
            _add_region(shapes, named, region, outline, lambda: reading.files.size(image))
    meta = task["meta"] if isinstance(task.get("meta"), dict) else {}
    split = split or reading.splits.of_record(task["data"] | meta, data) or reading.splits.of_folders(image)
    objects = shapes.objects()
    data.images.append(RawImage(where, image, size, split, objects, invalid=len(data.faults) - before))
    if key == "predictions":
        data.note("objects of predictions, read as annotations", len(regions))


def _image(files: Files, task: dict[str, Any], beside: PurePosixPath, results: Sequence[dict[str, Any]] = ()) -> str:
    """The image of a task, and of the outlines among its results. Raises BadRecord, also if these are on several."""
    given = task["data"]
    drawn = [item for item in results if isinstance(item.get("value"), dict) and _kind(item["value"])]
    tags, pages = ({str(item[key]) for item in drawn if key in item} for key in ("to_name", "item_index"))
    texts = [value for value in given.values() if isinstance(value, str)]
    images = [text for text in texts if PurePosixPath(text.split("?")[0]).suffix.lower() in suffixes()]
    if pages - {"0"} or (len(tags) > 1 and len(images) > 1):
        named = ", ".join(sorted(tags if len(tags) > 1 else pages))
        raise BadRecord("several images", f"has several images (regions on {named}): make a task for each image")
    own = [given[tag] for tag in tags if isinstance(given.get(tag), str)]  # the tag is often called as its value is
    stated = next(iter([*own, *filter(None, [given.get("image")]), *images, *texts]), None)
    names = [stated, task.get("file_upload")]
    names += [UPLOADED.sub("", name.rpartition("/")[2], count=1) for name in names if isinstance(name, str)]
    missing: BadRecord | None = None
    for name in names:
        try:
            return files.image(name, [str(beside / "images"), str(beside), "images", "."])
        except BadRecord as error:
            missing = missing or error
    raise missing


def _add_region(
    shapes: Shapes,
    where: str,
    region: list[dict[str, Any]],
    outline: dict[str, Any],
    actual: Callable[[], tuple[int, int]],
) -> None:
    if outline.get("image_rotation") not in (None, 0):
        raise BadRecord("geometry", "the image was rotated in Label Studio: rotate the image file, and annotate it")
    values = [(item.get("from_name"), item["value"]) for item in region]
    named = [value[key] for _, value in values for key in value if key.endswith("labels") and value[key]]
    labels = [label for own in named if isinstance(own, list) for label in own]
    if any(label != labels[0] for label in labels):
        raise BadRecord("ambiguous label", f"has several labels: {', '.join(map(str, labels))}")
    attributes = {}
    for name, value in values:
        for key in ("choices", "rating", "number", "taxonomy", "text"):
            given = value.get(key)
            if key == "taxonomy" and isinstance(given, list):
                given = [path[-1] for path in given if isinstance(path, list) and path]
            if isinstance(given, list) and len(given) > 1:
                raise BadRecord("ambiguous label", f"has several values of {name}: {', '.join(map(str, given))}")
            if given not in (None, []):
                attributes[str(name)] = given[0] if isinstance(given, list) else given
                if not isinstance(attributes[str(name)], str | int | float):
                    raise BadRecord("missing label", f"the value of {name} is {quoted(given)}, expected text")
    value, kind = outline["value"], _kind(outline["value"])

    def drawn() -> Segmentation:
        try:
            if kind == "mask":
                size = shapes.size()
                if size != actual():
                    text = f"original_width and original_height are {by(size)}, the image is {by(actual())}"
                    raise BadRecord("size", text)
                return _brush(value["rle"], size) if "rle" in value else _bitmask(value["imageDataURL"], size)
            polygon = checked_polygon(_polygon(kind, value, *shapes.size()))
            if max(polygon[::2]) <= shapes.size()[1] / 100 and max(polygon[1::2]) <= shapes.size()[0] / 100:
                if max(polygon) <= 1:
                    raise BadRecord("normalised coordinates", f"lies within a pixel of the top left corner: {PERCENTS}")
                shapes.warn(f"outlines in the first hundredth of width and height: {PERCENTS}")
            return [polygon]
        except (KeyError, TypeError, ValueError, OverflowError):
            given = {key: part for key, part in value.items() if not key.endswith("labels")}
            raise BadRecord("geometry", f"the {kind} has no valid coordinates: {quoted(given)}") from None

    shapes.add(where, kind, labels[0] if labels else None, drawn, attributes=attributes)


def _kind(value: dict[str, Any]) -> str | None:
    """The kind of an outline, None for what is none."""
    if "rle" in value or "imageDataURL" in value:
        return "mask"
    if "vertices" in value:
        return "vector"
    if "points" in value:
        return "polygon" if value.get("closed", True) else "line"
    if "radiusX" in value:
        return "ellipse"
    if "x" in value:
        return "rectangle" if "height" in value else "keypoint"
    return None


def _polygon(kind: str, value: dict[str, Any], height: int, width: int) -> list[float]:
    """[x0, y0, ...] in pixels. Label Studio has percents of the image's width and height. Raises BadRecord for values
    that are none, such as pixels."""
    sizes = [value[key] for key in ("width", "height", "radiusX", "radiusY") if key in value and kind != "polygon"]
    for number in sizes:
        if not 0 < number <= 2 * MOST:
            raise BadRecord("geometry", f"a size is {quoted(number)}, expected a percent above 0 (not pixels)")
    places = value["points"] if kind == "polygon" else [(value["x"], value["y"])] if "x" in value else []
    for number in (number for place in places for number in place):
        if not 100 - MOST <= number <= MOST:
            raise BadRecord("geometry", f"a coordinate is {quoted(number)}, expected a percent, 0 to 100 (not pixels)")
    if kind == "polygon":
        return [number * side / 100 for x, y in value["points"] for number, side in ((x, width), (y, height))]
    if kind not in ("rectangle", "ellipse"):
        raise refuse_shape(kind, len(value.get("points", ())), "a polygon, rectangle, ellipse or mask")
    x, y = value["x"] * width / 100, value["y"] * height / 100
    angle = math.radians(value.get("rotation") or 0)
    if kind == "ellipse":
        return ellipse(x, y, value["radiusX"] * width / 100, value["radiusY"] * height / 100, angle)
    corners = rectangle(x, y, x + value["width"] * width / 100, y + value["height"] * height / 100)
    return turned(corners, x, y, angle)  # it is rotated about its top left corner


def _bitmask(address: str, size: tuple[int, int]) -> Segmentation:
    """RLE of a bitmask: a PNG in base64, transparent outside the object."""
    try:
        content = base64.b64decode(address.partition("base64,")[2], validate=True)
        drawn = open_lazily(io.BytesIO(content), MOST_PIXELS)
        if drawn.size != size[::-1]:
            raise BadRecord("size", f"the bitmask is {drawn.width} x {drawn.height}, the image is {by(size)}")
        with pillow():
            drawn.load()
        alpha = np.array(drawn.convert("RGBA"))[..., 3]
    except (*DECODE_ERRORS, AttributeError):
        raise BadRecord("geometry", "the bitmask is not a PNG in base64") from None
    return pasted(alpha > 0, 0, 0, size)


def _brush(packed: list[int], size: tuple[int, int]) -> Segmentation:
    """RLE of a brush mask. Its layout is that of `_pack` in mtseg/inference/export/label_studio.py."""
    bits = "".join(f"{byte:08b}" for byte in bytes(packed))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)  # ValueError at the end

    count, word = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    if count != 4 * size[0] * size[1]:
        raise BadRecord("geometry", f"the mask has {count} values, expected 4 for each of {size[1]} x {size[0]} pixels")
    values: list[int] = []
    runs: list[int] = []
    left = count
    while left:
        equal = take(1)
        run = min(take(lengths[take(2)]) + 1, left)
        left -= run
        values += [take(word)] if equal else [take(word) for _ in range(run)]
        runs += [run] if equal else [1] * run
    drawn = np.repeat(np.array(values) > 0, runs)[3::4].reshape(size)
    return pasted(drawn, 0, 0, size)
