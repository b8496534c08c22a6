"""Faults of the data: raw annotations, or the converted files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.faults.case import Fault
from benchmarks.faults.images import edit, edit_labels
from mtseg.core.files import write_json
from mtseg.core.tables import Images

LEAST = 16  # pixels: smaller outlines are no objects
COLOUR = 1  # index of the task whose labels are changed


def first_label(change: Callable[[str], str]) -> Callable[[Path], None]:
    """Change the label of the first training object."""

    def fault(raw: Path) -> None:
        done = []

        def each(record: dict[str, Any], number: int) -> None:
            if record["shapes"] and not done:
                record["shapes"][0]["label"] = change(record["shapes"][0]["label"])
                done.append(number)

        edit(raw / "train", each)

    return fault


def colours(folder: Path) -> list[str]:
    shapes = [shape for path in folder.rglob("*.json") for shape in json.loads(path.read_bytes())["shapes"]]
    return sorted({shape["label"].split(",")[COLOUR] for shape in shapes})


def wrong_colours(share: float, split: str = ".") -> Callable[[Path], None]:
    """Give that share of a split's objects (default: of both splits) another colour, chosen at random."""

    def fault(raw: Path) -> None:
        names = colours(raw / split)

        def other(parts: list[str], rng: np.random.Generator) -> list[str]:
            if rng.random() < share:
                parts[COLOUR] = str(rng.choice([name for name in names if name != parts[COLOUR]]))
            return parts

        edit_labels(raw / split, other)

    return fault


def permuted_in_val(raw: Path) -> None:
    """Every colour in the validation split gets the name of the next one."""
    names = colours(raw)

    def other(parts: list[str], rng: np.random.Generator) -> list[str]:
        parts[COLOUR] = names[(names.index(parts[COLOUR]) + 1) % len(names)]
        return parts

    edit_labels(raw / "val", other)


def red_for_blue(raw: Path) -> None:
    names = {"red": "blue", "blue": "red"}
    edit_labels(raw / "val", lambda parts, rng: [names.get(part, part) for part in parts])


def val_is_train(raw: Path) -> None:
    shutil.rmtree(raw / "val")
    shutil.copytree(raw / "train", raw / "val")


def half_unannotated(split: str) -> Callable[[Path], None]:
    """Remove every other annotation."""
    return lambda raw: edit(raw / split, lambda record, number: record.update(shapes=record["shapes"][number % 2 :: 2]))


def outlines(split: str, change: Callable[[np.ndarray, np.ndarray], np.ndarray], *, every: int = 1,
             colour: str = "") -> Callable[[Path], None]:  # fmt: skip
    """Change the outline (points, width and height of the image) of every so many objects of a split, or of those of
    one colour."""

    def fault(raw: Path) -> None:
        count = iter(range(1_000_000))

        def each(record: dict[str, Any], number: int) -> None:
            size = np.array([record["imageWidth"], record["imageHeight"]])
            for shape in record["shapes"]:
                if shape["label"].split(",")[COLOUR] == colour if colour else next(count) % every == 0:
                    points = change(np.array(shape["points"]), size).clip(0, size)
                    if cv2.contourArea(points.astype(np.float32)) >= LEAST:
                        shape["points"] = points.tolist()

        edit(raw / split, each)

    return fault


def mirrored(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.column_stack([size[0] - points[:, 0], points[:, 1]])


def upper_half(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.column_stack([points[:, 0], points[:, 1].clip(max=(points[:, 1].min() + points[:, 1].max()) / 2)])


def in_coco(split: str, change: Callable[[dict[str, Any], int], None]) -> Callable[[Path], None]:
    """Apply `change(annotation, number of categories)` to every annotation of a converted split."""

    def fault(coco: Path) -> None:
        value = json.loads((coco / f"{split}.json").read_bytes())
        for annotation in value["annotations"]:
            change(annotation, len(value["categories"]))
        write_json(coco / f"{split}.json", value, indent=None)

    return fault


def next_category(annotation: dict[str, Any], count: int) -> None:
    annotation["category_id"] += 1


def wrapped_category(annotation: dict[str, Any], count: int) -> None:
    annotation["category_id"] = annotation["category_id"] % count + 1


def wrapped_in_val(coco: Path) -> None:
    """Shift the classes of the main task by one, in the JSON file and in the table."""
    in_coco("val", wrapped_category)(coco)
    images = Images.read(coco / "val.parquet")
    (main, names), *_ = images.classes
    labels = (images.instances.labels[main] + 1) % len(names)
    images.instances = images.instances.replace(**{f"labels.{main}": labels})
    images.write(coco / "val.parquet")


PARTS = r"train/\d+\.json, shape 1: label .* has 2 parts, expected 3"
NOISE = ("label_noise",)
MISSING = ("annotations_missing",)
FAULTS = (
    Fault("a comma is missing in one label", failure="label_string",
          raw=first_label(lambda label: label.replace(",", " ", 1)), says=PARTS),
    Fault("the last part of one label is missing", failure="label_string",
          raw=first_label(lambda label: label.rpartition(",")[0]), says=PARTS),
    Fault("a loader that drops the further labels", failure="dropped_labels",
          coco=in_coco("train", lambda annotation, count: annotation.pop("labels")),
          causes=("task_unlabelled",), says="cannot be loaded by detectron2 .*labels"),
    Fault("category ids off by one in train", failure="no_object_slot", coco=in_coco("train", next_category),
          causes=("label_range",), says=r"category_id.*5"),
    Fault("category ids off by one in val, the last wrapped", since="predict", coco=wrapped_in_val,
          causes=("labels_off_by_one", "labels_permuted")),
    Fault("one task's class names permuted in val", raw=permuted_in_val,
          causes=("labels_permuted", "labels_off_by_one")),
    Fault("red is named blue in val, and blue red", since="predict", raw=red_for_blue, causes=("labels_permuted",)),
    # 800 steps: the errors of a model that was trained for fewer hide these
    Fault("20 % of one task's labels wrong, 800 steps", raw=wrong_colours(0.2), causes=NOISE,
          changes={"solver.max_iter": 800}),
    Fault("all labels of one task random", raw=wrong_colours(1.0), causes=NOISE),
    Fault("val is train", raw=val_is_train, causes=("split_leak",)),
    Fault("half the objects of train were not annotated", raw=half_unannotated("train"), causes=MISSING),
    Fault("30 % of one task's labels wrong in val alone", since="predict", raw=wrong_colours(0.3, "val"),
          causes=NOISE),
    Fault("every third outline of val is mirrored", since="predict", raw=outlines("val", mirrored, every=3),
          causes=("masks_mirrored",)),
    Fault("x and y of every sixth outline of val are swapped", since="predict", causes=("masks_transposed",),
          raw=outlines("val", lambda points, size: points[:, ::-1], every=6)),
    Fault("the blue outlines of val are drawn for another size", since="predict", causes=("masks_displaced",),
          raw=outlines("val", lambda points, size: points * 0.7, colour="blue")),
    Fault("the red outlines of val lie 12 pixels to the right", since="predict", causes=("masks_displaced",),
          raw=outlines("val", lambda points, size: points + [12, 0], colour="red")),
    Fault("every fourth outline of val ends at half its height", since="predict", causes=("masks_scaled",),
          raw=outlines("val", upper_half, every=4)),
    Fault("every fourth outline of train is turned by 180 degrees", causes=("images_turned",),
          raw=outlines("train", lambda points, size: size - points, every=4)),
    Fault("half the objects of val were not annotated", since="predict", raw=half_unannotated("val"),
          causes=MISSING),
)  # fmt: skip
