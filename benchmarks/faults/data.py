"""Faults of the data: raw annotations and images, or the converted files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.faults.case import Fault
from benchmarks.faults.images import edit, edit_labels
from mtseg.core.files import write_json
from mtseg.core.tables import Images

Record = dict[str, Any]


def first_label(change: Callable[[str], str]) -> Callable[[Path], None]:
    """Of the first train object alone."""

    def fault(raw: Path) -> None:
        done = []

        def each(record: Record, number: int) -> None:
            if record["shapes"] and not done:
                record["shapes"][0]["label"] = change(record["shapes"][0]["label"])
                done.append(number)

        edit(raw / "train", each)

    return fault


def shuffle_task(share: float, part: int) -> Callable[[Path], None]:
    """Give that share of all objects another object's label of one task."""

    def fault(raw: Path) -> None:
        pool: list[str] = []
        edit_labels(raw, lambda parts, rng: pool.append(parts[part]) or parts)

        def other(parts: list[str], rng: np.random.Generator) -> list[str]:
            if rng.random() < share:
                parts[part] = str(rng.choice([name for name in sorted(set(pool)) if name != parts[part]]))
            return parts

        edit_labels(raw, other)

    return fault


def in_val(fault: Callable[[Path], None]) -> Callable[[Path], None]:
    """Of val's annotations alone: the model is sound, what it is compared with is not."""
    return lambda raw: fault(raw / "val")


def permute_val(part: int) -> Callable[[Path], None]:
    """In val, every class of one task is called by the next one's name."""

    def fault(raw: Path) -> None:
        pool: set[str] = set()
        edit_labels(raw, lambda parts, rng: pool.add(parts[part]) or parts)
        names = sorted(pool)

        def other(parts: list[str], rng: np.random.Generator) -> list[str]:
            parts[part] = names[(names.index(parts[part]) + 1) % len(names)]
            return parts

        edit_labels(raw / "val", other)

    return fault


def drop_objects(*, of: str, keep: int, split: str = "train") -> Callable[[Path], None]:
    """Of the objects with that class in a split, keep the first few and take the images of the others away."""

    def fault(raw: Path) -> None:
        kept = 0
        for path in sorted((raw / split).glob("*.json")):
            found = sum(of in shape["label"].split(",") for shape in json.loads(path.read_bytes())["shapes"])
            if kept + found > keep:
                path.unlink()
                path.with_suffix(".jpg").unlink()
            else:
                kept += found

    return fault


def no_label(raw: Path) -> None:
    edit_labels(raw / "train", lambda parts, rng: [*parts[:-1], "-"])


def rare_typo(raw: Path) -> None:
    first_label(lambda label: label.replace("red", "redd").replace("blue", "bluee").replace("een", "eeen"))(raw)
    first_label(lambda label: label if "dd" in label or "ee" in label else label.replace("yellow", "yelow"))(raw)


def other_image(raw: Path) -> None:
    """Annotations move one image on, cut at its borders."""
    for split in ("train", "val"):
        shapes: dict[str, list] = {}
        edit(raw / split, lambda record, number, shapes=shapes: shapes.update({record["imagePath"]: record["shapes"]}))
        names = sorted(shapes)

        def move(record: Record, number: int, shapes: dict = shapes, names: list[str] = names) -> None:
            record["shapes"] = shapes[names[number - 1]]
            moved(record, lambda x, y: (x, y))

        edit(raw / split, move)


def moved(record: Record, place: Callable[[float, float], tuple[float, float]]) -> None:
    """Put every point elsewhere; what leaves the image is cut off."""
    for shape in record["shapes"]:
        points = np.array([place(x, y) for x, y in shape["points"]])
        shape["points"] = points.clip(0, (record["imageWidth"], record["imageHeight"])).tolist()
    record["shapes"] = [shape for shape in record["shapes"] if spread(shape["points"]) > 2]


def shift_points(dx: float, dy: float, *, split: str) -> Callable[[Path], None]:
    return lambda raw: edit(raw / split, lambda record, number: moved(record, lambda x, y: (x + dx, y + dy)))


def transpose_points(raw: Path) -> None:
    """(row, column) for (x, y)."""
    edit(raw, lambda record, number: moved(record, lambda x, y: (y, x)))


def spread(points: list[list[float]]) -> float:
    return float(np.ptp(np.array(points), axis=0).min())


def half_images(raw: Path) -> None:
    for path in raw.rglob("*.jpg"):
        with Image.open(path) as image:
            half = image.resize((image.width // 2, image.height // 2))
        half.save(path)


def val_images(change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    """Change every image file of val."""

    def fault(raw: Path) -> None:
        for path in (raw / "val").glob("*.jpg"):
            with Image.open(path) as image:
                changed = change(image)
            changed.save(path, quality=92, subsampling=0)

    return fault


def swapped_channels(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.asarray(image)[..., ::-1]))


def copy_to_val(count: int, *, replace: bool, mirror: bool = False) -> Callable[[Path], None]:
    def fault(raw: Path) -> None:
        if replace:
            shutil.rmtree(raw / "val")
            (raw / "val").mkdir()
        for path in sorted((raw / "train").glob("*.json"))[:count]:
            record = json.loads(path.read_bytes()) | {"imagePath": f"copy{path.stem}.jpg"}
            write_json(raw / "val" / f"copy{path.stem}.json", record, indent=None)
            shutil.copy(path.with_suffix(".jpg"), raw / "val" / f"copy{path.stem}.jpg")
            if mirror:
                moved(record, lambda x, y, width=record["imageWidth"]: (width - x, y))
                write_json(raw / "val" / f"copy{path.stem}.json", record, indent=None)
                with Image.open(path.with_suffix(".jpg")) as image:
                    ImageOps.mirror(image).save(raw / "val" / f"copy{path.stem}.jpg", quality=92)

    return fault


def empty_val(raw: Path) -> None:
    edit(raw / "val", lambda record, number: record.update(shapes=[]))


def half_unannotated(split: str) -> Callable[[Path], None]:
    """Every other object was never drawn."""
    return lambda raw: edit(raw / split, lambda record, number: record.update(shapes=record["shapes"][number % 2 :: 2]))


def every_object_twice(raw: Path) -> None:
    edit(raw, lambda record, number: record.update(shapes=[*record["shapes"], *record["shapes"]]))


def in_coco(split: str, change: Callable[[Record, int], None]) -> Callable[[Path], None]:
    """Apply `change` to every annotation of a converted split; the number is that of the main task's classes."""

    def fault(coco: Path) -> None:
        value = json.loads((coco / f"{split}.json").read_bytes())
        for annotation in value["annotations"]:
            change(annotation, len(value["categories"]))
        write_json(coco / f"{split}.json", value, indent=None)

    return fault


def next_category(annotation: Record, count: int) -> None:
    annotation["category_id"] += 1


def wrapped_category(annotation: Record, count: int) -> None:
    annotation["category_id"] = annotation["category_id"] % count + 1


def wrapped_in_val(coco: Path) -> None:
    """In the JSON and in the table."""
    in_coco("val", wrapped_category)(coco)
    images = Images.read(coco / "val.parquet")
    (main, names), *_ = images.classes
    labels = (images.instances.labels[main] + 1) % len(names)
    images.instances = images.instances.replace(**{f"labels.{main}": labels})
    images.write(coco / "val.parquet")


NOISE = ("label_noise",)
FAULTS = (
    Fault("a comma is missing in one label", failure="label_string",
          raw=first_label(lambda label: label.replace(",", " ", 1)),
          says=r"train/\d+\.json, shape 1: label .* has 2 parts, expected 3"),
    Fault("the last part of one label is missing", failure="label_string",
          raw=first_label(lambda s: s.rpartition(",")[0]),
          says=r"train/\d+\.json, shape 1: label .* has 2 parts, expected 3"),
    Fault("a loader that drops the further labels", failure="dropped_labels",
          coco=in_coco("train", lambda a, n: a.pop("labels")),
          causes=("task_unlabelled",), says="cannot be loaded by detectron2 .*labels"),
    Fault("a class is misspelt, classes listed", raw=first_label(lambda label: f"x{label}"),
          says=r"train/\d+\.json, shape 1: .*shape has no class 'x"),
    Fault("a class is misspelt, classes auto", raw=rare_typo, causes=("class_too_rare",)),
    Fault("parts of all labels in another order", raw=lambda raw: edit_labels(raw, lambda p, rng: p[::-1]),
          says="shape has no class"),
    Fault("category ids off by one in train", failure="no_object_slot", coco=in_coco("train", next_category),
          causes=("label_range",), says=r"category_id.*5"),
    Fault("category ids off by one in val, the last wrapped", coco=wrapped_in_val,
          causes=("labels_off_by_one", "labels_permuted")),
    Fault("one task's class names permuted in val", raw=permute_val(1),
          causes=("labels_permuted", "labels_off_by_one")),
    Fault("20 % of one task's labels wrong, 800 steps", raw=shuffle_task(0.2, 1), causes=NOISE,
          changes={"solver.max_iter": 800}),  # what a model errs in by itself hides them
    Fault("all labels of one task random", raw=shuffle_task(1.0, 1), causes=NOISE),
    Fault("annotations of the next image", raw=other_image, causes=("masks_of_other_image",)),
    Fault("annotations shifted by 8 pixels, train alone", raw=shift_points(8, 0, split="train"),
          causes=("masks_displaced",)),
    Fault("annotations shifted by 8 pixels everywhere", raw=shift_points(8, 0, split="."), causes=("masks_displaced",)),
    Fault("rows and columns of all outlines swapped", raw=transpose_points,
          causes=("masks_transposed",)),
    Fault("images halved after they were annotated", raw=half_images, causes=(), says=r"states \d+ x \d+, .* is"),
    Fault("red and blue swapped in the files of val", raw=val_images(swapped_channels),
          causes=("channels_swapped",)),
    Fault("images of val mirrored, outlines not", raw=val_images(ImageOps.mirror), causes=("masks_mirrored",)),
    Fault("images of val three times darker", raw=val_images(lambda p: p.point(lambda v: v // 3)),
          causes=("splits_differ",)),
    Fault("images of val three times lighter", raw=val_images(lambda p: p.point(lambda v: min(3 * v, 255))),
          causes=("splits_differ",)),
    Fault("images of val grey", raw=val_images(lambda p: p.convert("L").convert("RGB")),
          causes=("splits_differ",)),
    Fault("val is train", raw=copy_to_val(300, replace=True), causes=("split_leak",)),
    Fault("ten images of train are in val too", raw=copy_to_val(10, replace=False), causes=("split_leak",)),
    Fault("ten images of train are in val too, mirrored", raw=copy_to_val(10, replace=False, mirror=True),
          causes=("split_leak",)),
    Fault("val has no annotations", raw=empty_val, causes=("split_empty",)),
    Fault("a class is not in train", raw=drop_objects(of="star", keep=0), causes=("class_missing_in_train",)),
    Fault("a class has 2 examples", raw=drop_objects(of="star", keep=2), causes=("class_too_rare",)),
    Fault("a task without a label in train", raw=no_label, causes=("task_unlabelled",)),
    Fault("half the objects of train were not annotated", raw=half_unannotated("train"),
          causes=("annotations_missing",)),
    Fault("every object annotated twice", raw=every_object_twice, causes=("annotated_twice",)),
    Fault("30 % of one task's labels wrong in val alone", raw=in_val(shuffle_task(0.3, 1)), causes=NOISE),
    Fault("half the objects of val were not annotated", raw=half_unannotated("val"), causes=("annotations_missing",)),
)  # fmt: skip
