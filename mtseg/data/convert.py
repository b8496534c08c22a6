"""Convert raw annotations to the working format and check every record. Readers are the modules of mtseg/data/formats.

Invalid records stop the run with a list of them, by kind. With `data.on_error: skip` they are skipped and counted: an
invalid image with all its objects; an image of which every object is invalid; any other invalid object, which becomes
background of its image, with a warning.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import textwrap
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.progress import track

from mtseg.core import forks
from mtseg.core.errors import UserError, one_line
from mtseg.core.files import remove, replace_file, replace_folder, uncollected, write_json
from mtseg.core.masks import Box, rle
from mtseg.core.names import difference, means_background, twins, unscrambled
from mtseg.core.params import SLIMMEST, Data, Task
from mtseg.core.tables import Image, Instance
from mtseg.data import coco, duplicates, facts, flatten, formats, label_order, labels, polygons, splitting
from mtseg.data.files import check_files
from mtseg.data.images import DECODE_ERRORS, DEEP, open_lazily, pillow
from mtseg.data.labels import Labels
from mtseg.data.polygons import Measure
from mtseg.data.raw import BadRecord, Fault, RawData, RawImage, RawObject, by, check_megapixels
from mtseg.data.splits import SPLITS

SHOWN = 5  # invalid records of a kind that an error lists
WIDE = 120  # characters of a printed line
AT_ONCE = 1024  # images whose files are read ahead of their objects
CALL = 255  # masks at once, the most of which pycocotools returns the areas

Mask = tuple[str, float, Box]  # counts of the compressed RLE, area and box
Contents = tuple[int, int, int, np.ndarray, bool]  # of an image file, see `_read`
Reader = Callable[[Iterable[Sequence[str]]], Iterator[Iterable[Contents | BadRecord]]]  # of files in parts, by name


@dataclass
class Seen:
    """An image that was read: actual size, EXIF orientation, thumbnail, and objects with checked masks, not yet
    labelled. The objects of `raw` are left out, to save memory."""

    raw: RawImage
    height: int
    width: int
    orientation: int
    thumbnail: np.ndarray
    objects: list[tuple[Labels, Instance]] = field(default_factory=list)


@uncollected()  # saves a tenth of the time, and no memory is lost
def convert(data: Data, tasks: Sequence[Task], out: Path, *, seed: int) -> None:
    """Write `out`/{train,val}.{json,parquet}, of test too if there is a test split, and report.json, and print a
    summary. Raises UserError."""
    if data.raw.is_file():
        raise UserError(f"{data.raw} (data.raw) is a file: unpack it, and set data.raw to the folder")
    if not data.raw.is_dir():
        raise UserError(f"{data.raw} (data.raw) is missing: run `dvc repro generate`, or set data.raw to your data")
    count = len(check_files(data.raw, follow_links=data.follow_links, most=data.max_file_mb).images)
    if data.format == "auto":
        name, evidence = formats.recognise(data.raw)
        print(one_line(f"{data.raw}: format {name}, recognised by {evidence}"))
        data = data.model_copy(update={"format": name})
    vocabulary = replace(
        labels.vocabulary(tasks, data.mapping),
        ignored_shapes=data.ignore_shapes,
        max_megapixels=data.max_megapixels,
    )
    counts: Counter[str] = Counter()
    remarks = facts.Remarks()
    with _readers(data.raw, data.max_megapixels, count) as read:  # now, while this process is small
        raw: RawData = importlib.import_module(f"mtseg.data.formats.{data.format}").read(data.raw, vocabulary)
        images = _read_images(raw, read, counts, remarks)
    if raw.faults and data.on_error == "error":
        raise _listed(raw.faults, data, out)
    if not images:
        message = f"{data.raw} (data.raw) has no annotated image in the format '{data.format}'{_other_format(data)}"
        unused = ", ".join(f"{reason}: {count}" for reason, count in sorted(raw.unused.items()))
        raise UserError(message + _left_out(raw.faults) + (f"; not used: {unused}" if unused else ""))
    images = _without_skipped(raw, images)
    if len(images) == 1:
        raise UserError(
            f"{data.raw} (data.raw) has a single annotated image, {images[0].raw.file_name}: training and validation "
            "need one each; to see whether the model can fit it, copy it and its annotation into train/ and into val/"
            + _left_out(raw.faults)
        )
    similar = duplicates.groups(np.stack([image.thumbnail for image in images]))
    assigned = splitting.assign(raw, [image.raw for image in images], similar, data, seed)
    if raw.unused_files:
        raw.leave(f"files in no form of the format, such as {raw.unused_files[0]}", len(raw.unused_files))
    splits = _without_bare_test(raw, images, assigned.splits)
    kept = [index for index, split in enumerate(splits) if split]
    images, similar, splits = [images[index] for index in kept], similar[kept], [*filter(None, splits)]
    classes = _classes(tasks, vocabulary, images)
    if absent := [task for task, names in classes.items() if not names]:
        message = f"task '{absent[0]}' has no labelled object in the data"
        raise UserError(message + _left_out(raw.faults))
    free = [task.name for task in tasks if vocabulary.classes[task.name] is None]
    named = ((image.raw.file_name, found) for image in images for found, _ in image.objects)
    turned = label_order.warnings(free, tasks[0].name, named) if len(free) > 1 else []
    tasks = coco.resolve(tasks, classes)
    facts.of_images(images, data.raw, remarks, relative=raw.relative)
    used = _used(splits, data.share, seed)
    converted: dict[str, list[Image]] = {name: [] for name in SPLITS if name in splits}
    shared: dict[tuple, dict[str, int | None]] = {}
    # test is numbered last: other images in it leave the ids of train and val as they are
    for number, index in enumerate(sorted(range(len(images)), key=lambda index: splits[index] == "test"), start=1):
        if index in used:
            converted[splits[index]].append(_labelled(images[index], number, tasks, shared, data.follow_links))
    report = {
        "alike_classes": {task.name: twins(task.classes) for task in tasks},
        "classes": {task.name: list(task.classes) for task in tasks},
        "clipped_objects": counts["clipped"],
        "empty_images": sum(not image.instances for own in converted.values() for image in own),
        "faults": [*map(str, raw.faults)],
        "images": {name: len(own) for name, own in converted.items()},
        "instances": {name: sum(len(image.instances) for image in own) for name, own in converted.items()},
        "left_out": dict(Counter(fault.reason for fault in raw.faults)),
        "notes": raw.notes,
        "split": assigned.source,
        "straddling": _straddling(images, splits, similar),
        "unused": raw.unused,
        "warnings": [f"{text}: {count}" for text, count in sorted(raw.warnings.items())] + remarks.lines(),
    }
    report["warnings"] += [*_scrambled(tasks)]
    report["warnings"] += turned + facts.of_splits(converted)
    report["warnings"] += [
        f"task '{tasks[0].name}' has the class '{name}', which is learnt like any object: if it means that there is "
        "none, leave it out by null in data.mapping"
        for name in tasks[0].classes
        if means_background(name)
    ]
    if data.flatten and len(tasks) > 1:
        converted, flat, report["flat"] = flatten.flatten(converted, tasks)
        tasks = (flat,)
    with replace_folder(out) as temporary:
        for name in converted:
            coco.write(temporary / f"{name}.json", converted[name], tasks)
        write_json(temporary / "report.json", report)
    remove(_faults_file(out))  # of an earlier run
    _print(report, data, out)


def _without_skipped(raw: RawData, images: Sequence[Seen]) -> list[Seen]:
    """The images without those of which every object is invalid, which would be learnt as background. Where another
    object of the image is valid, this is warned of. If no object is valid, all images, for the message."""
    if not any(image.objects for image in images):
        return [*images]
    if lost := sum(image.raw.invalid > 0 and not image.objects for image in images):
        raw.leave("images of which every object was skipped", lost)
    if count := sum(image.raw.invalid for image in images if image.objects):
        raw.warn("skipped objects are learnt as background, as their images have others: correct or remove them", count)
    return [image for image in images if image.objects or not image.raw.invalid]


def _without_bare_test(raw: RawData, images: Sequence[Seen], splits: Sequence[str | None]) -> list[str | None]:
    """The splits, without test if none of its images has an object that is no crowd: these are counted and left out.
    There is nothing to score; the annotations of a test split are often kept secret."""
    test = [image for image, split in zip(images, splits, strict=True) if split == "test"]
    if not test or any(not instance.crowd for image in test for _, instance in image.objects):
        return [*splits]
    crowds = " but crowds" if any(image.objects for image in test) else ""
    raw.leave(f"images of test, of which none has an object{crowds}", len(test))
    return [None if split == "test" else split for split in splits]


@contextmanager
def _readers(folder: Path, max_megapixels: float, count: int) -> Iterator[Reader]:
    """What reads the image files: processes if there are many, else threads. count: of the images in the folder."""

    def read(name: str) -> Contents | BadRecord:
        return _read(folder / name, max_megapixels)

    processes = forks.cores() if count > AT_ONCE else 1
    if processes > 1:
        with forks.forked(lambda names: [*map(read, names)], processes) as each:
            yield each
    else:
        with ThreadPoolExecutor() as pool:
            yield lambda parts: (pool.map(read, names) for names in parts)


def _read_images(raw: RawData, read: Reader, counts: Counter[str], remarks: facts.Remarks) -> list[Seen]:
    """The images that decode and have the annotated size, sorted by file name, with their valid objects.

    `counts` gets the number of objects that are clipped, and `remarks` what is in doubt. `raw.images` is emptied."""
    images: list[Seen] = []
    pixels = facts.in_pixels(item.segmentation for image in raw.images for item in image.objects)
    before: dict[str, str] = {}
    total = len(raw.images)
    progress = track(_files(raw, read), "images", total, console=Console(stderr=True), disable=not sys.stderr.isatty())
    for image, result, measures in progress:
        with raw.refusing(image.where):
            if image.file_name in before:
                raise BadRecord("annotated twice", f"{image.file_name} is annotated in {before[image.file_name]} too")
            before[image.file_name] = image.where
            if isinstance(result, BadRecord):
                raise result
            height, width, orientation, thumbnail, animated = result
            if animated:
                raw.note("images of several frames or pages, of which the first is read")
            if image.size not in (None, (height, width)):
                stated = f"states {image.size[1]} x {image.size[0]}, {image.file_name} is {width} x {height}"
                raise BadRecord("size", f"{stated}; {facts.size_cause(image.size, height, width, orientation)}")
            faults = len(raw.faults)
            objects = list(_objects(raw, image, measures, height, width, counts, remarks, pixels=pixels))
            bare = replace(image, objects=(), invalid=image.invalid + len(raw.faults) - faults)
            images.append(Seen(bare, height, width, orientation, thumbnail, objects))
    return images


def _files(raw: RawData, read: Reader) -> Iterator[tuple[RawImage, Contents | BadRecord, list[Measure]]]:
    """The images in the order of their file names, each with what `_read` returns and the measures of its objects."""
    raw.images.sort(key=lambda image: (image.file_name, image.where), reverse=True)
    names = [image.file_name for image in reversed(raw.images)]
    for results in read(names[low : low + AT_ONCE] for low in range(0, len(names), AT_ONCE)):
        # popping frees the memory of each image that was read
        some = [raw.images.pop() for _ in range(min(AT_ONCE, len(raw.images)))]
        measures = iter(polygons.measure([item.segmentation for image in some for item in image.objects]))
        for image, result in zip(some, results, strict=True):
            yield image, result, [*itertools.islice(measures, len(image.objects))]


def _read(path: Path, max_megapixels: float) -> Contents | BadRecord:
    """Height and width of the image, rotated by its EXIF orientation, that orientation, its thumbnail, and whether it
    has several frames; or why it cannot be used."""
    try:
        with open_lazily(path, sys.maxsize) as opened:
            width, height = opened.size
            check_megapixels(path.name, width, height, max_megapixels)
            if opened.mode.startswith(DEEP):  # Pillow would clip it to white
                message = f"{path.name} has mode {opened.mode} with more than 8 bits per channel: save it with 8 bits"
                return BadRecord("bit depth", message)
            if max(width, height) > SLIMMEST * min(width, height):
                message = f"{path.name} is {width} x {height}, an aspect ratio above {SLIMMEST}: crop it"
                return BadRecord("size", message)
            with pillow():
                # a phone's JPEG may have a preview as second frame
                animated = getattr(opened, "is_animated", False) and opened.format != "MPO"
                orientation = opened.getexif().get(0x0112, 1)
            (height, width), thumbnail = duplicates.upright(opened)
    except BadRecord as bad:
        return bad
    except FileNotFoundError:
        return BadRecord("missing image", f"{path.name} is a link to a file that does not exist")
    except DECODE_ERRORS as error:
        return BadRecord("broken image", f"{path.name} does not decode: {error}")
    return height, width, orientation, thumbnail, animated


def _objects(
    raw: RawData,
    image: RawImage,
    measures: Sequence[Measure],
    height: int,
    width: int,
    counts: Counter[str],
    remarks: facts.Remarks,
    *,
    pixels: bool,
) -> Iterator[tuple[Labels, Instance]]:
    """Labels and instances of the objects with valid masks. pixels: see `facts.check_outline`."""
    pairs = [*zip(image.objects, measures, strict=True)]
    boxes = [(item.box, measure.extent) for item, measure in pairs if item.box is not None]
    single = [len(own.rounded) == 1 and not own.leaves(height, width) for own in measures]
    masks = _masks([own.rounded[0] for own in itertools.compress(measures, single)], height, width)
    known = [next(masks) if one else None for one in single]
    for (item, measure), mask in zip(pairs, known, strict=True):
        try:
            facts.check_outline(item, measure, height, width, of_image=boxes, relative=raw.relative, pixels=pixels)
            instance, cut = instance_of(item, measure, height, width, mask, relative=raw.relative)
        except BadRecord as bad:
            raw.refuse(item.where, bad)
            continue
        counts["clipped"] += cut
        if text := facts.remark(item, measure, instance, height, width, of_image=boxes, relative=raw.relative):
            remarks.add(text, f"{item.where} ({image.file_name})")
        if item.parts_left_out:
            raw.leave("invalid parts of objects, such as a polygon of two points", item.parts_left_out)
        yield item.labels, instance


def instance_of(
    item: RawObject, measure: Measure, height: int, width: int, known: Mask | None = None, *, relative: bool = False
) -> tuple[Instance, bool]:
    """The unlabelled object, with box and area of its mask, and whether it was clipped at the image border. measure: of
    its outline. known: its mask. relative: see `facts.check_outline`. Raises BadRecord where it has no pixel in the
    image."""
    segmentation, cut = item.segmentation, False
    if isinstance(segmentation, list):
        cut = measure.leaves(height, width)
        if cut:
            clipped = [polygons.clip(polygon, height, width) for polygon in segmentation]
            segmentation = [array("d", (round(value, 2) for value in part)) for part in clipped if len(part) >= 6]
        else:
            segmentation = [*measure.rounded]
        if not segmentation:
            raise BadRecord("geometry", facts.outside(measure.extent, height, width, relative=relative))
    elif segmentation["size"] != [height, width]:
        raise BadRecord("size", f"the RLE is {by(segmentation['size'])}, the image is {width} x {height}")
    if known is None:
        packed = rle(segmentation, height, width)
        known = packed["counts"], float(coco_mask.area(packed)), tuple(coco_mask.toBbox(packed).tolist())
    counts, area, box = known
    if not area:
        outside = f"is outside the image of {width} x {height} pixels"
        raise BadRecord("geometry", outside if cut else "the mask has no pixel")
    return Instance(segmentation, box, area, {}, item.crowd, rle=counts), cut


def _masks(outlines: Sequence[array], height: int, width: int) -> Iterator[Mask]:
    """The masks of polygons in an image, in half of the time of one after the other."""
    for low in range(0, len(outlines), CALL):
        packed = coco_mask.frPyObjects([*outlines[low : low + CALL]], height, width)
        areas, boxes = coco_mask.area(packed).tolist(), coco_mask.toBbox(packed).tolist()
        for own, area, box in zip(packed, areas, boxes, strict=True):
            yield own["counts"].decode(), float(area), tuple(box)


def _classes(
    tasks: Sequence[Task], vocabulary: labels.Vocabulary, images: Sequence[Seen]
) -> dict[str, tuple[str, ...]]:
    """Classes of every task: as listed, or, for `auto`, all that occur, sorted (none if no object is labelled)."""
    classes = {}
    for task in tasks:
        found = {labels[task.name] for image in images for labels, _ in image.objects} - {None}
        classes[task.name] = (vocabulary.classes[task.name] or tuple(sorted(found))) if found else ()
    return classes


def _scrambled(tasks: Sequence[Task]) -> Iterator[str]:
    """Warnings of class names that were escaped, or read in another encoding than they were written in."""
    fix = "export or copy the annotations again, or correct them"
    for task in tasks:
        likely = {name: unscrambled(name) or name for name in task.classes}
        if lost := [name for name in likely if "\ufffd" in likely[name]]:
            yield f"task '{task.name}' has class names of which letters were lost (U+FFFD): {', '.join(lost)}; {fix}"
        pairs = [f"'{name}' (likely '{likely[name]}')" for name in likely if likely[name] != name and name not in lost]
        if pairs:
            text = f"task '{task.name}' has class names that were escaped or read in another encoding"
            yield f"{text}: {', '.join(pairs)}; {fix}"


def _labelled(
    image: Seen, number: int, tasks: Sequence[Task], shared: dict[tuple, dict[str, int | None]], follow_links: bool
) -> Image:
    """The image as it is written, with class indices in place of names. To save memory, objects with equal labels share
    them (`shared`), and the objects of `image` are freed."""
    instances = []
    for named, own in image.objects:
        names = tuple(named[task.name] for task in tasks)
        if names not in shared:
            pairs = zip(tasks, names, strict=True)
            shared[names] = {task.name: None if name is None else task.index(name) for task, name in pairs}
        found = shared[names]  # `replace` would take five times as long
        instances.append(Instance(own.segmentation, own.bbox, own.area, found, own.crowd, rle=own.rle))
    image.objects.clear()
    return Image(number, image.raw.file_name, image.height, image.width, tuple(instances), follow_links)


def _used(splits: Sequence[str], share: float, seed: int) -> set[int]:
    """Indices of the images to convert: all of val and a random `share` of train, at least one image.

    The random order does not depend on the share: a smaller share is a subset of a larger one.
    """
    train = [index for index, split in enumerate(splits) if split == "train"]
    order = np.random.default_rng([seed, len(train)]).permutation(train)
    left_out = order[max(1, round(share * len(train))) :]
    return {*range(len(splits))} - {*left_out.tolist()}


def _straddling(images: Sequence[Seen], splits: Sequence[str], similar: np.ndarray) -> list[list[str]]:
    """File names of near-identical images that are in several splits, one list per group."""
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(similar):
        groups.setdefault(int(group), []).append(index)
    return [
        [images[index].raw.file_name for index in group]
        for group in groups.values()
        if len({splits[index] for index in group}) > 1
    ]


def _listed(faults: Sequence[Fault], data: Data, out: Path) -> UserError:
    """One error that lists the first `SHOWN` faults of each reason. If there are more, a file beside `out` has all."""
    kinds: dict[str, list[str]] = {}
    for fault in sorted(faults, key=lambda fault: fault.reason):
        kinds.setdefault(fault.reason, []).append(str(fault))
    lines = []
    for reason, own in kinds.items():
        lines += [*own[:SHOWN], f"... and {len(own) - SHOWN:,} more ({reason})"] if len(own) > SHOWN else own
    count = f"{len(faults):,} invalid record" + "s" * (len(faults) > 1)
    headline = f"{data.raw}: {count}: fix or, with data.on_error: skip, leave out{_other_format(data)}"
    if any(len(own) > SHOWN for own in kinds.values()):
        path = _faults_file(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as temporary:
            text = "".join(f"{line}\n" for own in kinds.values() for line in own)
            temporary.write_text(text, encoding="utf-8")
        headline += f"; {path} lists all"
    return UserError.many(headline, lines, shown=len(lines))


def _faults_file(out: Path) -> Path:
    return out.with_name(f"{out.name}-faults.txt")


def _other_format(data: Data) -> str:
    """Advice for a message, empty if the folder looks to be in the format of `data`."""
    found = formats.recognised(data.raw)
    if not found:
        return f"; {formats.contents(data.raw)}"
    if data.format in found:
        return ""
    instead = " or ".join(found)
    return f"; it looks like {instead}, and data.format is {data.format}: set data.format to {instead}"


def _left_out(faults: Sequence[Fault]) -> str:
    """The number of skipped records by reason, and an example, to append to a message."""
    counts = sorted(Counter(fault.reason for fault in faults).items())
    listed = ", ".join(f"{reason} {count}" for reason, count in counts)
    return f" (skipped: {listed}, such as {faults[0]})" if counts else ""


def _print(report: dict[str, Any], data: Data, out: Path) -> None:
    counts = [f"{name} {count} images, {report['instances'][name]} objects" for name, count in report["images"].items()]
    print(f"{data.raw} ({data.format}) -> {out}: {'; '.join(counts)}")
    images = ", ".join(f"{name} {count}" for name, count in report["images"].items())
    print(one_line(f"  split: {report['split']}: {images} images"))
    for reason, count in sorted(report["left_out"].items()):
        print(f"  skipped, {reason}: {count}")
    for reason, count in sorted(report["unused"].items()):
        _wrapped(f"not used, {reason}: {count}")
    for text, count in sorted(report["notes"].items()):
        _wrapped(f"note, {text}: {count}")
    if bare := report["empty_images"]:
        print(f"  images without objects: {bare}")
    if report["clipped_objects"]:
        print(f"  clipped at the image border: {report['clipped_objects']} objects")
    if flat := report.get("flat"):
        print(f"  flattened to {len(flat['classes'])} classes; ignored, label missing: {flat['ignored']} objects")
    for task, groups in report["alike_classes"].items():
        for first, *others in groups:
            alike = ", ".join(f"'{name}' ({difference(first, name)})" for name in others)
            _warn(f"classes of task '{task}' that differ little from '{first}': {alike}")
    for line in report["warnings"]:
        _warn(line)
    if report["straddling"]:
        example = " and ".join(report["straddling"][0][:2])
        _warn(
            f"{' and '.join(report['images'])} share {len(report['straddling'])} near-identical images, "
            f"such as {example}; scores will be optimistic ({out}/report.json lists them)"
        )


def _warn(text: str) -> None:
    _wrapped(f"warning: {text}")


def _wrapped(text: str) -> None:
    """Print an item of the summary, in lines of at most `WIDE` characters."""
    whole = {"break_long_words": False, "break_on_hyphens": False}
    print(textwrap.fill(one_line(text), WIDE, initial_indent="  ", subsequent_indent="      ", **whole))
