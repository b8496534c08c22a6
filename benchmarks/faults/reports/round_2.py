"""Rounds 2 and 3, most of them in shares of 5, 15, 30 and 100 % of a split's images. Round 2 is by someone who had not
looked at the checks, round 3 by someone who knew them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.faults.case import TINY, Fault
from benchmarks.faults.postprocessing import quality_by
from benchmarks.faults.prediction import predictions_by
from benchmarks.faults.reports.round_1 import area, box, grey, halves, largest, loose, merged, noisy
from mtseg.core.files import write_json
from mtseg.core.tables import Predictions

Record = dict[str, Any]
Kind = Callable[[np.ndarray, Record, Record], tuple[np.ndarray, Record]]  # of an image, its record and another record


def read(path: Path) -> tuple[np.ndarray, Record]:
    return np.asarray(Image.open(path.with_suffix(".jpg"))), json.loads(path.read_bytes())


def write(path: Path, image: np.ndarray, record: Record, quality: int = 92) -> None:
    """Write image and record, without the objects that lie outside the image."""
    height, width = image.shape[:2]
    shapes = [
        one | {"points": np.clip(one["points"], 0, (width, height)).round(2).tolist()} for one in record["shapes"]
    ]
    shapes = [one for one in shapes if np.ptp(one["points"], axis=0).min() > 2 and area(one) > 4]
    Image.fromarray(np.ascontiguousarray(image)).save(path.with_suffix(".jpg"), quality=quality, subsampling=0)
    size = {"imageHeight": height, "imageWidth": width, "imagePath": path.with_suffix(".jpg").name}
    write_json(path, record | size | {"shapes": shapes}, indent=None)


def part(paths: Sequence[Path], share: float) -> list[int]:
    """Indices of a random share of the images, of those with objects first: a fault of outlines or labels is none in
    the others."""
    order = np.random.default_rng(2).permutation(len(paths)).tolist()
    order.sort(key=lambda index: not read(paths[index])[1]["shapes"])
    return sorted(order[: round(share * len(paths))])


def in_share(split: str, share: float, kind: Kind, quality: int = 92) -> Callable[[Path], None]:
    def fault(raw: Path) -> None:
        paths = sorted((raw / split).glob("*.json"))
        records = [read(path)[1] for path in paths]
        for index in part(paths, share):
            image, record = kind(*read(paths[index]), records[index - 1])
            write(paths[index], image, record, quality)

    return fault


def outlines(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Kind:
    """Change the points [n, 2] of every outline, given also (width, height)."""

    def kind(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
        size = np.array(image.shape[1::-1])
        shapes = [one | {"points": change(np.array(one["points"]), size)} for one in record["shapes"]]
        return image, record | {"shapes": shapes}

    return kind


def objects(change: Callable[[list[Record]], list[Record]]) -> Kind:
    """Change the list of an image's objects."""
    return lambda image, record, other: (image, record | {"shapes": change(record["shapes"])})


def labels(change: Callable[[list[list[str]]], list[list[str]]]) -> Kind:
    """Change the parts of the labels of all objects of an image."""

    def changed(found: list[Record]) -> list[Record]:
        names = change([one["label"].split(",") for one in found])
        return [one | {"label": ",".join(parts)} for one, parts in zip(found, names, strict=True)]

    return objects(changed)


def pixels(change: Callable[[np.ndarray], np.ndarray]) -> Kind:
    return lambda image, record, other: (change(image), record)


def previous(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    return image, record | {"shapes": other["shapes"]}


def letterboxed(image: np.ndarray) -> np.ndarray:
    """The image at 75 % of its size, in the middle of a grey one."""
    height, width = image.shape[:2]
    small = cv2.resize(image, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    whole = np.full_like(image, 114)
    whole[top : top + small.shape[0], left : left + small.shape[1]] = small
    return whole


def cropped(image: np.ndarray) -> np.ndarray:
    """Without the left and the upper eighth."""
    height, width = image.shape[:2]
    return image[height // 8 :, width // 8 :]


def lower_half_lost(image: np.ndarray) -> np.ndarray:
    whole = image.copy()
    whole[len(whole) // 2 :] = 128
    return whole


def smaller_half_missing(found: list[Record]) -> list[Record]:
    return sorted(found, key=area)[len(found) // 2 :]


def twice(found: list[Record]) -> list[Record]:
    return found + [one | {"group_id": None} for one in found]


def no_squares(found: list[Record]) -> list[Record]:
    return [one for one in found if not one["label"].startswith("square")]


def also_boxes(found: list[Record]) -> list[Record]:
    boxes = [one | {"points": box(np.array(one["points"]), (0, 0)), "group_id": None} for one in found]
    return [*found, *boxes]


def whole_image(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    height, width = image.shape[:2]
    corners = [[0, 0], [width, 0], [width, height], [0, height]]
    further = [one | {"points": corners, "group_id": None} for one in record["shapes"][:1]]
    return image, record | {"shapes": record["shapes"] + further}


def specks(found: list[Record]) -> list[Record]:
    """Beside each object a square of 3 pixels has its label."""
    square = np.array([[0, 0], [3, 0], [3, 3], [0, 3]])
    return found + [one | {"points": np.array(one["points"]).min(0) + square, "group_id": None} for one in found]


def corners(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The four outermost points of an outline."""
    found = points[[points[:, 0].argmin(), points[:, 1].argmin(), points[:, 0].argmax(), points[:, 1].argmax()]]
    return found if area({"points": found}) > 1 else points


def exchanged(parts: list[str]) -> list[str]:
    names = {"circle": "square", "square": "circle"}
    return [names.get(parts[0], parts[0]), *parts[1:]]


def and_previous(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    return image, record | {"shapes": record["shapes"] + other["shapes"]}


def some_missing(found: list[Record]) -> list[Record]:
    rng = np.random.default_rng(len(found) + round(sum(map(area, found))))
    return [one for one in found if rng.random() > 0.3]


def some_relabelled(found: list[list[str]]) -> list[list[str]]:
    rng = np.random.default_rng(sum(len(part) for parts in found for part in parts))
    names = ("circle", "square", "star", "triangle")
    return [[str(rng.choice(names)) if rng.random() < 0.4 else parts[0], *parts[1:]] for parts in found]


def garbled(image: np.ndarray) -> np.ndarray:
    """Each row begins a pixel further on: read with a wrong length of rows."""
    return np.stack([np.roll(row, place, axis=0) for place, row in enumerate(image)])


def lower_third_lost(image: np.ndarray) -> np.ndarray:
    whole = image.copy()
    whole[2 * len(whole) // 3 :] = 128
    return whole


def bluish(image: np.ndarray) -> np.ndarray:
    return np.clip(image * np.array([0.5, 0.9, 1.4]), 0, 255).astype(np.uint8)


def leaked(share: float, change: Callable[[np.ndarray, Record], tuple[np.ndarray, Record]]) -> Callable[[Path], None]:
    """A share of val are changed copies of training images."""

    def fault(raw: Path) -> None:
        paths, train = (sorted((raw / split).glob("*.json")) for split in ("val", "train"))
        for index in part(paths, share):
            write(paths[index], *change(*read(train[index])))

    return fault


def mirrored(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
    return outlines(lambda points, size: points * (-1, 1) + (size[0], 0))(image[:, ::-1], record, record)


def brighter(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
    return (image * 0.8 + 50).astype(np.uint8), record


def without_last(share: float) -> Callable[[Predictions], Predictions]:
    """No predictions for the last images of val, whose numbers follow those of train."""
    train, val = (TINY["generate"][split] for split in ("train", "val"))
    return lambda found: found[found.image_id <= train + val * (1 - share)]


VAL = {"since": "predict"}  # the model of the healthy run: only val changes
LABELS = ("label_noise",)
OTHER = ("splits_differ",)
MOVED = ("masks_displaced", "masks_scaled")
KINDS: tuple[tuple[str, tuple[int, ...], Kind, tuple[str, ...]], ...] = (
    # jsbroks/coco-annotator#89
    ("y counted from the bottom", (5, 15, 30, 100), outlines(lambda p, size: p * (1, -1) + (0, size[1])),
     ("masks_mirrored",)),
    # brianmanderson/Dicom_RT_and_Images_to_Mask#13
    ("x and y exchanged", (15, 30, 100), outlines(lambda p, size: p[:, ::-1]), ("masks_transposed",)),
    # cvat-ai/cvat#738
    ("turned by 90 degrees after the annotation", (15, 30, 100), pixels(np.rot90), ("images_turned",)),
    # wkentaro/labelme#1614
    ("with the outlines of the previous image", (5, 30, 100), previous, ("masks_of_other_image",)),
    # DeepMicroscopy/SlideRunner#4
    ("outlines off by a tenth of the width", (5, 15, 100), outlines(lambda p, size: p + (size[0] / 10, 0)),
     ("masks_displaced",)),
    # aleju/imgaug#187
    ("shrunk onto a grey image after the annotation", (15, 30, 100), pixels(letterboxed), MOVED),
    # mdbloice/Augmentor#111
    ("cropped after the annotation", (15, 30, 100), pixels(cropped), MOVED),
    # commaai/comma10k#1402
    ("outlines drawn at a zoom of 130 %", (5, 15, 100), outlines(lambda p, size: p * 1.3), MOVED),
    # darrenjkt/MS3D#26
    ("the smaller half of the objects not annotated", (30, 100), objects(smaller_half_missing),
     ("annotations_missing",)),
    # nutonomy/nuscenes-devkit#366
    ("squares not annotated", (30, 100), objects(no_squares), ("annotations_missing", "class_missing_in_train")),
    # cvat-ai/cvat#5496
    ("each object annotated as a box as well", (15, 30, 100), objects(also_boxes),
     ("annotated_twice", "boxes_for_outlines")),
    # chrise96/image-to-coco-json-converter#1
    ("the whole image annotated as a further object", (15, 100), whole_image, ("boxes_for_outlines", *OTHER)),
    # VIPriors/vipriors-challenges-toolkit#31
    ("specks of 3 pixels annotated beside the objects", (30, 100), objects(specks), ("objects_too_small", *OTHER)),
    # wkentaro/labelme#2720
    ("outlines simplified to four corners", (30, 100), outlines(corners), ("outlines_differ", "masks_scaled")),
    # open-mmlab/playground#65, ultralytics/ultralytics#8737
    ("all objects labelled circle", (15, 30, 100), labels(lambda found: [["circle", *p[1:]] for p in found]), LABELS),
    # CVHub520/X-AnyLabeling#1298
    ("all objects with the labels of the image's first", (30, 100), labels(lambda found: found[:1] * len(found)),
     LABELS),
    # doc-analysis/DocBank#41
    ("circle and square exchanged", (15, 30, 100), labels(lambda found: [exchanged(parts) for parts in found]),
     ("labels_permuted", *LABELS)),
    # cvat-ai/cvat#3360
    ("labels of an image's objects exchanged", (15, 30, 100), labels(lambda found: found[1:] + found[:1]),
     ("labels_of_other_query", *LABELS)),
    # haraldk/TwelveMonkeys#147
    ("colours inverted", (5, 15, 30, 100), pixels(lambda image: 255 - image), OTHER),
    # VSLAM-LAB/VSLAM-LAB#132
    ("red and blue exchanged", (15, 30, 100), pixels(lambda image: image[..., ::-1]), ("channels_swapped",)),
    # AlexeyAB/darknet#3931
    ("dark, as at night", (15, 30, 100), pixels(lambda image: (image * 0.25).astype(np.uint8)), OTHER),
    # tengyu1998/SCI#39
    ("overexposed", (30, 100), pixels(lambda image: np.clip(image * 2.2, 0, 255).astype(np.uint8)), OTHER),
    # ultralytics/yolov5#916
    ("lower half lost", (15, 30, 100), pixels(lower_half_lost), OTHER),
    # AlexeyAB/darknet#8418
    ("grey", (5, 30), pixels(grey), OTHER),
    # ultralytics/yolov5#1125
    ("blurred", (30,), pixels(lambda image: cv2.GaussianBlur(image, (0, 0), 1.5)), OTHER),
    # AlexeyAB/darknet#5160
    ("noisy", (30,), pixels(noisy), OTHER),
)  # fmt: skip
# Written after the checks had been extended for those above, by someone who knew them, and before they were run
LATER: tuple[tuple[str, tuple[int, ...], Kind, tuple[str, ...]], ...] = (
    # HumanSignal/labelImg#395
    ("turned by 270 degrees after the annotation", (30, 100), pixels(lambda image: np.rot90(image, 3)),
     ("images_turned",)),
    # jsbroks/coco-annotator#228
    ("turned upside down after the annotation", (15, 100), pixels(lambda image: image[::-1, ::-1]),
     ("images_turned",)),
    # kornia/kornia#4485
    ("outlines moved as if the image was padded", (30,), outlines(lambda p, size: p + size / (16, 8)),
     ("masks_displaced",)),
    # ryouchinsa/Rectlabel-support#277
    ("images exported at two thirds of the size", (30, 100), outlines(lambda p, size: p * 1.5), MOVED),
    # wkentaro/labelme#1614
    ("with the outlines of the previous image as well", (30, 100), and_previous, ("masks_of_other_image",)),
    # suhaisheng/RoboSense#5
    ("3 in 10 objects not annotated", (30, 100), objects(some_missing), ("annotations_missing",)),
    # vlfeat/matconvnet#91
    ("rows read with a wrong length", (15, 30, 100), pixels(garbled), ("splits_differ", "masks_displaced")),
    # lbasek/image-denoising-benchmark#11
    ("black", (5, 15), pixels(np.zeros_like), OTHER),
    # ultralytics/yolov5#3638
    ("lower third lost", (30,), pixels(lower_third_lost), OTHER),
    # ipazc/mtcnn#51
    ("with a blue tint", (15, 30, 100), pixels(bluish), OTHER),
    # the-database/traiNNer-redux#193
    ("16 bits cut to the lower 8", (15, 100), pixels(lambda image: image * np.uint8(4)), OTHER),
    # bdd100k/bdd100k#345
    ("4 in 10 objects with a random shape", (30, 100), labels(some_relabelled), LABELS),
    # DiamondLightSource/SuRVoS#30
    ("objects merged", (30,), objects(lambda found: merged(found, 0)), ("objects_merged",)),
    # HumanSignal/label-studio#8832
    ("objects split in two", (30,), objects(lambda found: halves(found, 0)), ("objects_split",)),
    # fizyr/keras-retinanet#829
    ("only the largest object annotated", (30, 100), objects(lambda found: largest(found, 0)),
     ("annotations_missing",)),
    # open-edge-platform/geti_v2#1619
    ("not annotated", (15, 30), objects(lambda found: []), ("annotations_missing",)),
    # HumanSignal/label-studio-evalme#19
    ("outlines loose by 30 %", (30,), outlines(loose), ("outlines_differ", "masks_scaled")),
)  # fmt: skip
BY_NAME = {name: (kind, causes) for name, _, kind, causes in KINDS}
TRAIN = (  # the same kinds in a share of train, which take a training
    (30, "y counted from the bottom"), (30, "outlines drawn at a zoom of 130 %"), (30, "red and blue exchanged"),
    (30, "all objects labelled circle"), (30, "labels of an image's objects exchanged"),
    (100, "the smaller half of the objects not annotated"), (100, "squares not annotated"),
)  # fmt: skip
FAULTS = (
    *(Fault(f"{share} % of val: {name}", **VAL, causes=causes, raw=in_share("val", share / 100, kind))
      for name, shares, kind, causes in KINDS + LATER for share in shares),
    # hendrycks/robustness#16
    Fault("30 % of val: JPEG quality 10", **VAL, causes=OTHER,
          raw=in_share("val", 0.3, pixels(lambda image: image), quality=10)),
    *(Fault(f"{share} % of train: {name}", causes=BY_NAME[name][1],
            raw=in_share("train", share / 100, BY_NAME[name][0])) for share, name in TRAIN),
    # cvat-ai/cvat#5496
    *(Fault(f"{share} % of train: each object annotated twice", causes=("annotated_twice",),
            raw=in_share("train", share / 100, objects(twice)))
      for share in (5, 15, 30, 100)),
    # robinreni96/Font_Recognition-DeepFont#2
    *(Fault(f"{share} % of val: mirrored copies of training images", **VAL, causes=("split_leak",),
            raw=leaked(share / 100, mirrored)) for share in (5, 15, 30, 100)),
    # rsarka34/RDLINet#1
    *(Fault(f"{share} % of val: brighter copies of training images", **VAL, causes=("split_leak",),
            raw=leaked(share / 100, brighter)) for share in (5, 15, 30, 100)),
    # tensorflow/tfjs-models#857
    Fault("a second sigmoid on the mask quality", causes=("postprocessing_wrong",), code=quality_by(torch.sigmoid)),
    Fault("a second sigmoid on the mask quality, at prediction", since="predict", causes=("ranking", "miscalibrated"),
          code=quality_by(torch.sigmoid)),
    # weecology/DeepForest#1232, ChEB-AI/python-chebai#129
    *(Fault(f"no predictions for the last {share} % of val", since="predict", causes=("prediction_differs",),
            code=predictions_by(without_last(share / 100))) for share in (15, 30)),
    # fizyr/keras-retinanet#680
    Fault("the filter's min_logit is 12", since="evaluate", causes=("filter_too_strict",),
          changes={"filter.min_logit": 12.0}),
    Fault("the filter's min_area is 400 pixels", since="evaluate", causes=("filter_too_strict",),
          changes={"filter.min_area": 400}),
    Fault("the filter keeps one prediction an image", since="evaluate", causes=("filter_too_strict",),
          changes={"filter.most": 1}),
    # facebookresearch/detectron2#2385
    Fault("two detections an image", since="predict", causes=("detections_too_few", "queries_saturated"),
          changes={"test.detections": 2}),
    # facebookresearch/d2go#19
    Fault("the warm-up takes as long as the training", causes=("warmup_too_long",), changes={"solver.warmup": 500}),
    # open-mmlab/mmdetection#1411
    Fault("the lr of eight GPUs on one", causes=("lr_for_batch",), changes={"solver.base_lr": 1.6e-2}),
)  # fmt: skip
