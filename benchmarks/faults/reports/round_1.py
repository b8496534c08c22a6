"""Round 1, by someone who knew a part of the checks. Where a fault concerns a part of the images, it is in the name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.faults.case import Fault, changed
from benchmarks.faults.images import edit, edit_labels
from mtseg.core.files import write_json
from mtseg.model import backbones, mask2former
from mtseg.model.safe_read import read

Record = dict[str, Any]
Change = Callable[[np.ndarray, Record], tuple[np.ndarray, Record]]  # of an image and its LabelMe record


def chosen(number: int, share: float) -> bool:
    return np.random.default_rng([1, number]).random() < share


def each(folder: str, share: float, change: Change, *, quality: int = 92) -> Callable[[Path], None]:
    """Change images and records of that share of a split."""

    def fault(raw: Path) -> None:
        for number, path in enumerate(sorted((raw / folder).glob("*.json"))):
            if not chosen(number, share):
                continue
            file, record = path.with_suffix(".jpg"), json.loads(path.read_bytes())
            pixels, record = change(np.asarray(Image.open(file)), record)
            record["imageHeight"], record["imageWidth"] = pixels.shape[:2]
            Image.fromarray(pixels).save(file, quality=quality, subsampling=0)
            write_json(path, record, indent=None)

    return fault


def pixels(folder: str, share: float, change: Callable[[np.ndarray], np.ndarray], quality: int = 92) -> Callable:
    """Change images and keep the annotations."""
    return each(folder, share, lambda image, record: (np.ascontiguousarray(change(image)), record), quality=quality)


def outlines(
    folder: str, share: float, change: Callable[[np.ndarray, tuple[int, int]], np.ndarray]
) -> Callable[[Path], None]:
    """Change the points [n, 2] of every polygon, given also (height, width)."""

    def moved(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
        height, width = image.shape[:2]
        for shape in record["shapes"]:
            points = np.clip(change(np.array(shape["points"]), (height, width)), 0, (width, height))
            shape["points"] = points.round(2).tolist()
        record["shapes"] = [shape for shape in record["shapes"] if np.ptp(shape["points"], axis=0).min() > 1]
        return image, record

    return each(folder, share, moved)


def neighbour(folder: str, share: float) -> Callable[[Path], None]:
    """Exchange the annotations of pairs of images, which then lie on the wrong image."""

    def fault(raw: Path) -> None:
        paths = sorted((raw / folder).glob("*.json"))
        for number, (one, other) in enumerate(zip(paths[::2], paths[1::2], strict=False)):
            if chosen(number, share):
                a, b = json.loads(one.read_bytes()), json.loads(other.read_bytes())
                a["shapes"], b["shapes"] = b["shapes"], a["shapes"]
                for path, record in ((one, a), (other, b)):
                    size = np.array([record["imageWidth"], record["imageHeight"]])
                    for shape in record["shapes"]:
                        shape["points"] = np.clip(shape["points"], 0, size).tolist()
                    kept = [s for s in record["shapes"] if np.ptp(s["points"], axis=0).min() > 1]
                    write_json(path, record | {"shapes": kept}, indent=None)

    return fault


def shapes(folder: str, change: Callable[[list[Record], int], list[Record]]) -> Callable[[Path], None]:
    """Change the list of an image's shapes, given also the image's number."""
    return lambda raw: edit(raw / folder, lambda record, number: record.update(shapes=change(record["shapes"], number)))


def area(shape: Record) -> float:
    return abs(float(cv2.contourArea(np.array(shape["points"], dtype=np.float32))))


def largest(found: list[Record], number: int) -> list[Record]:
    return sorted(found, key=area)[-1:]


def box(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def loose(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    centre = points.mean(0)
    return centre + (points - centre) * 1.3


def merged(found: list[Record], number: int) -> list[Record]:
    """All objects of an image become the parts of one."""
    return [shape | {"label": found[0]["label"], "group_id": 1} for shape in found]


def halves(found: list[Record], number: int) -> list[Record]:
    """Each outline is cut at its middle into two objects."""
    cut = []
    for shape in found:
        points = np.array(shape["points"])
        middle = (points[:, 0].min() + points[:, 0].max()) / 2
        sides = np.minimum(points[:, 0], middle), np.maximum(points[:, 0], middle)
        for part, x in enumerate(sides):
            own = {"points": np.column_stack([x, points[:, 1]]).round(2).tolist()}
            group = shape["group_id"]
            cut.append(shape | own | {"group_id": group if group is None else 2 * group + part})
    return [shape for shape in cut if np.ptp(shape["points"], axis=0).min() > 1]


def enlarged(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
    """The middle 60 % of an image, at the size of the whole."""
    height, width = image.shape[:2]
    margin = np.array([width, height]) * 0.2
    top, left = round(margin[1]), round(margin[0])
    part = image[top : height - top, left : width - left]
    scale = np.array([width / part.shape[1], height / part.shape[0]])
    for shape in record["shapes"]:
        points = (np.array(shape["points"]) - (left, top)) * scale
        shape["points"] = np.clip(points, 0, (width, height)).round(2).tolist()
    record["shapes"] = [shape for shape in record["shapes"] if np.ptp(shape["points"], axis=0).min() > 3]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC), record


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(int(image.sum())).normal(0, 25, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def labels(folder: str, change: Callable[[list[str], np.random.Generator], list[str]]) -> Callable[[Path], None]:
    return lambda raw: edit_labels(raw / folder, change)


def stripped(parts: list[str], rng: np.random.Generator) -> list[str]:
    return [*parts[:2], "stripped" if parts[2] == "striped" and rng.random() < 0.4 else parts[2]]


def squares_for_stars(parts: list[str], rng: np.random.Generator) -> list[str]:
    return ["square" if parts[0] == "star" and rng.random() < 0.5 else parts[0], *parts[1:]]


def motor(parts: list[str], rng: np.random.Generator) -> list[str]:
    return [parts[0], "yelow" if parts[1] == "yellow" else parts[1], *parts[2:]]


def by_size(raw: Path) -> None:
    """The last label says whether an object is large or small."""

    def each_record(record: Record, number: int) -> None:
        whole = record["imageHeight"] * record["imageWidth"]
        for shape in record["shapes"]:
            word = "large" if area(shape) > 0.09 * whole else "small"
            shape["label"] = ",".join([*shape["label"].split(",")[:2], word])

    edit(raw, each_record)


def turned_by_exif(share: float) -> Callable[[Path], None]:
    """An EXIF orientation says upside down; images were annotated as stored."""

    def fault(raw: Path) -> None:
        for number, file in enumerate(sorted(raw.rglob("*.jpg"))):
            if chosen(number, share):
                image = Image.open(file)
                image.load()
                exif = image.getexif()
                exif[0x0112] = 3
                image.save(file, quality=95, subsampling=0, exif=exif)

    return fault


def nearest(real: Callable, logits: torch.Tensor, example: dict) -> torch.Tensor:
    """Decide at a quarter of the resolution, then enlarge."""
    height, width = example["image_size"]
    hard = (logits > 0).float() * 2 - 1
    side = example["image"].shape[-2:]
    square = torch.nn.functional.interpolate(hard[None], size=side, mode="nearest")
    size = (example["height"], example["width"])
    return torch.nn.functional.interpolate(square[..., :height, :width], size=size, mode="nearest")[0] * 8


def corners(real: Callable, logits: torch.Tensor, example: dict) -> torch.Tensor:
    """Interpolate with aligned corners."""
    height, width = example["image_size"]
    option = {"mode": "bilinear", "align_corners": True}
    square = torch.nn.functional.interpolate(logits[None], size=example["image"].shape[-2:], **option)
    size = (example["height"], example["width"])
    return torch.nn.functional.interpolate(square[..., :height, :width], size=size, **option)[0]


def sides_exchanged(real: Callable, logits: torch.Tensor, example: dict) -> torch.Tensor:
    """Cut the padding off with height and width exchanged."""
    height, width = example["image_size"]
    return real(logits, example | {"image_size": (width, height)})


def half_of_weights(raw: Path) -> None:
    """A file with the earlier half of the backbone's pretrained tensors."""
    state = read(backbones.imagenet("efficientnet_lite0"))
    half = [*state.items()][: len(state) // 2]
    save_file({name: value.contiguous() for name, value in half}, raw.parent / "half.safetensors")


BLURRED = ("splits_differ",)
MISSING = ("annotations_missing",)
VAL = {"since": "predict"}  # the model of the healthy run: only val changes
FAULTS = (
    # wkentaro/labelme#1529, coralnet/coralnet#330
    Fault("15 % of the images have an EXIF orientation and were annotated as stored", raw=turned_by_exif(0.15),
          causes=("images_turned",), says="EXIF orientation"),
    # Weed-AI/Weed-AI#674
    Fault("30 % of val upside down against their annotations", **VAL, causes=("images_turned", "masks_mirrored"),
          raw=pixels("val", 0.3, lambda image: image[::-1, ::-1])),
    # cvat-ai/cvat#8269
    Fault("15 % of val with the annotations of the next image", **VAL, causes=("masks_of_other_image",),
          raw=neighbour("val", 0.15)),
    # fizyr/keras-retinanet#829
    Fault("only the largest object of each image annotated in train", causes=MISSING, raw=shapes("train", largest)),
    # dbolya/yolact#735
    Fault("no star annotated in the second half of train", causes=MISSING, raw=shapes("train", lambda found, number:
          [one for one in found if number % 2 or not one["label"].startswith("star")])),
    # open-edge-platform/geti_v2#1619
    Fault("a fifth of train's images unannotated", causes=MISSING,
          raw=shapes("train", lambda found, number: found if chosen(number, 0.8) else [])),
    # matterport/Mask_RCNN#1816
    Fault("boxes for outlines in 30 % of train", causes=("boxes_for_outlines",), raw=outlines("train", 0.3, box)),
    # matterport/Mask_RCNN#2516
    Fault("boxes for outlines in val", **VAL, causes=("boxes_for_outlines",), raw=outlines("val", 1.0, box)),
    # wkentaro/labelme#2224, with the offset of a larger image
    Fault("outlines of 30 % of val 3 pixels off", **VAL, causes=("masks_displaced",),
          raw=outlines("val", 0.3, lambda points, size: points + 3)),
    # jsbroks/coco-annotator#359
    Fault("outlines of a third of val drawn for another size", **VAL, causes=("masks_displaced", "masks_scaled"),
          raw=outlines("val", 0.33, lambda points, size: points * 0.7)),
    # HumanSignal/label-studio-evalme#19
    Fault("outlines of val loose by 30 %", **VAL, causes=("masks_scaled", "outlines_differ"),
          raw=outlines("val", 1.0, loose)),
    # DiamondLightSource/SuRVoS#30
    Fault("objects of val merged", **VAL, causes=("objects_merged",), raw=shapes("val", merged)),
    # HumanSignal/label-studio#8832
    Fault("objects of val split in two", **VAL, causes=("objects_split",), raw=shapes("val", halves)),
    # facebookresearch/detectron2#4655
    Fault("a class is also written with a typo in train", causes=("classes_alike",), raw=labels("train", stripped)),
    # ucbdrive/bdd100k#32
    Fault("a class has another name in val", causes=("classes_alike", "class_missing_in_train"),
          raw=labels("val", motor)),
    # nikitalpopov/vedai#3
    Fault("classes by size, with scale jitter", causes=("jitter_changes_label",), raw=by_size),
    # openimages/dataset#31
    Fault("half of one class mislabelled in val", **VAL, causes=("label_noise",), raw=labels("val", squares_for_stars)),
    # ultralytics/yolov5#1125
    Fault("val blurred", **VAL, causes=BLURRED,
          raw=pixels("val", 1.0, lambda image: cv2.GaussianBlur(image, (0, 0), 1.5))),
    # hendrycks/robustness#16
    Fault("val with JPEG quality 10", **VAL, causes=BLURRED, raw=pixels("val", 1.0, lambda image: image, quality=10)),
    # AlexeyAB/darknet#5160
    Fault("val noisy", **VAL, causes=BLURRED, raw=pixels("val", 1.0, noisy)),
    # AlexeyAB/darknet#1028
    Fault("objects of val 1.7 times larger", **VAL, causes=BLURRED, raw=each("val", 1.0, enlarged)),
    # facebookresearch/detectron2#3298
    Fault("val grey", **VAL, causes=BLURRED, raw=pixels("val", 1.0, grey)),
    # luxonis/depthai-nodes#329
    Fault("masks decided before they are enlarged", since="predict", causes=("postprocessing_wrong",),
          code=changed(mask2former, "_to_original", nearest)),
    # lucasjinreal/yolov7_d2#195
    Fault("masks enlarged with aligned corners", causes=("postprocessing_wrong",),
          code=changed(mask2former, "_to_original", corners)),
    # open-mmlab/mmdetection#11230
    Fault("padding of masks cut off with height and width exchanged",
          causes=("postprocessing_wrong", "masks_displaced", "masks_scaled"),
          code=changed(mask2former, "_to_original", sides_exchanged)),
    # ultralytics/yolov5#493
    Fault("the filter's min_score is 0.97", since="evaluate", causes=("filter_too_strict",),
          changes={"filter.min_score": 0.97}),
    # facebookresearch/MaskFormer#46
    Fault("the dice loss has weight 0", causes=("loss_muted",), changes={"loss.dice": 0.0}),
    # facebookresearch/Mask2Former#203
    Fault("no-object has weight 1", causes=("no_object_weight",), changes={"loss.no_object": 1.0}),
    # facebookresearch/maskrcnn-benchmark#1098
    Fault("the backbone is partly loaded and frozen", causes=("weights_partly_loaded", "weights_frozen"),
          raw=half_of_weights, changes={"model.weights": "half.safetensors", "model.partial_weights": True,
                                        "solver.backbone_multiplier": 0.0}),
)  # fmt: skip
