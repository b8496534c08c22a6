"""Round 6: nine in data, eight in prediction and evaluation, seven in training, by someone who knew the names of the
causes and of earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.faults.case import Fault, changed, everywhere
from benchmarks.faults.prediction import logits_by, masks_by, predictions_by
from benchmarks.faults.reports.round_1 import box
from benchmarks.faults.reports.round_2 import (
    VAL,
    Record,
    in_share,
    labels,
    leaked,
    objects,
    outlines,
    part,
    pixels,
    read,
)
from mtseg.core.files import write_json
from mtseg.core.params import Loss
from mtseg.core.tables import UNLABELLED, Images, Pairs, Predictions
from mtseg.data.images import PAD
from mtseg.data.loader import Mapper
from mtseg.evaluation.ap import pairs
from mtseg.inference import torch_network
from mtseg.inference.postprocess import Detections
from mtseg.model import losses
from mtseg.model.heads.softmax import Softmax

NEXT_FILL = {"solid": "striped", "striped": "dotted", "dotted": "solid"}


def sides_exchanged(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Relative coordinates multiplied by the image's size with height and width exchanged."""
    return points / size * size[::-1]


def joined_by_class(found: list[Record]) -> list[Record]:
    """All objects of a main class are the parts of one."""
    first: dict[str, Record] = {}
    for one in found:
        first.setdefault(one["label"].split(",")[0], one)
    classes = list(first)
    parts = [(one, one["label"].split(",")[0]) for one in found]
    return [one | {"label": first[name]["label"], "group_id": classes.index(name)} for one, name in parts]


def capital(found: list[list[str]]) -> list[list[str]]:
    return [[shape, colour.capitalize(), *rest] for shape, colour, *rest in found]


def tile(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
    """Three quarters of an image: a quarter is cut off at the left or the top of its longer side."""
    height, width = image.shape[:2]
    left, top = (width // 4, 0) if width > height else (0, height // 4)
    return image[top:, left:], outlines(lambda points, size: points - (left, top))(image, record, record)[1]


def without_triangles(raw: Path) -> None:
    """The images of train were sorted by class before the split: those with a triangle are in val alone."""
    for path in sorted((raw / "train").glob("*.json")):
        if any(one["label"].startswith("triangle,") for one in read(path)[1]["shapes"]):
            path.unlink()
            path.with_suffix(".jpg").unlink()


def star_boxes(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    def outline(one: Record) -> Record:
        return one | {"points": box(np.array(one["points"]), image.shape[:2])}

    return image, record | {
        "shapes": [outline(one) if one["label"].startswith("star,") else one for one in record["shapes"]]
    }


def eroded(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """Two pixels of each object are removed all round, so that no two touch."""
    shapes = []
    for one in record["shapes"]:
        mask = np.zeros(image.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.array(one["points"]).round().astype(np.int32)], 1)
        inner = cv2.erode(mask, np.ones((5, 5), np.uint8), borderValue=1)
        found, _ = cv2.findContours(inner, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        shapes += [one | {"points": max(found, key=cv2.contourArea)[:, 0].astype(float)}] if found else []
    return image, record | {"shapes": shapes}


def twice_with_other_fill(raw: Path) -> None:
    """30 % of train's images are there twice, under two names; in the copy, all objects have another fill."""
    paths = sorted((raw / "train").glob("*.json"))
    for index in part(paths, 0.3):
        path = paths[index]
        copy = path.with_stem(f"{path.stem}_copy")
        shutil.copy(path.with_suffix(".jpg"), copy.with_suffix(".jpg"))
        record = read(path)[1]
        for one in record["shapes"]:
            *kept, fill = one["label"].split(",")
            one["label"] = ",".join([*kept, NEXT_FILL[fill]])
        write_json(copy, record | {"imagePath": copy.with_suffix(".jpg").name}, indent=None)


def as_corners(found: Predictions) -> Predictions:
    """Boxes are x, y of two corners where x, y, width, height are expected."""
    return found.replace(box=np.column_stack([found.box[:, :2], found.box[:, :2] + found.box[:, 2:]]))


def centred(real: Callable, self: Mapper, *args: Any) -> dict:
    """At prediction, the image lies in the middle of its square, and masks are cut out as if it lay in the corner."""
    example = real(self, *args)
    if not self.training:
        (height, width), side = example["image_size"], example["image"].shape[-1]
        example["image"] = example["image"].roll(((side - height) // 2, (side - width) // 2), (1, 2))
    return example


def one_map(real: Callable, fields: dict[str, np.ndarray], masks_NWH: np.ndarray, tasks: Any) -> Detections:
    """All masks of an image are drawn into one map, the best first, so that each hides parts of the better ones."""
    drawn, hidden = masks_NWH.copy(), np.zeros(masks_NWH.shape[1:], bool)
    for number in reversed(dict.fromkeys(fields["mask"].tolist())):
        drawn[number] &= ~hidden
        hidden |= drawn[number]
    return real(fields, drawn, tasks)


def fifth_twice(found: Predictions) -> Predictions:
    """Every fifth image is predicted twice, as by processes whose shares are filled up."""
    return Predictions.concatenate([found, found]) if (found.image_id % 5 == 0).all() else found


def outside_filled(mask: np.ndarray) -> np.ndarray:
    """All outside of the mask's box is foreground."""
    out = np.ones_like(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    place = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    out[place] = mask[place]
    return out


def no_object_first(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The first output of the main task is taken for no-object, and its no-object for the last class."""
    name, x_LBQK = next(iter(logits.items()))
    return {name: x_LBQK.roll(-1, -1)}


def off_the_border(found: Predictions) -> Predictions:
    """Without the predictions that touch the border of the image."""
    low, high = found.box[:, :2], found.box[:, :2] + found.box[:, 2:]
    size = np.column_stack([found.width, found.height])
    return found[((low >= 1) & (high <= size - 1)).all(1)]


def by_boxes(real: Callable, images: Images, predictions: Predictions) -> Pairs:
    """Masks are matched by the IoU of their boxes."""
    parts = pairs.of_boxes(images, predictions, pairs.check(images, predictions))
    prediction, instance, iou, inside = map(np.concatenate, zip(*parts, strict=True))
    intersection = (inside * predictions.area[prediction]).astype(int)
    return Pairs.of({"prediction": prediction, "instance": instance, "iou": iou, "intersection": intersection})


def labels_unfiltered(real: Callable, self: Mapper, image: Any, transforms: Any, size: Any) -> Any:
    """Masks of which the crop leaves less than 120 pixels are left out, but not their labels, so that all masks behind
    one have the labels of an earlier object."""
    target = real(self, image, transforms, size)
    kept = target.gt_masks.tensor.flatten(1).sum(1) >= 120
    every, count = target.gt_labels, int(kept.sum())
    target = target[kept]
    target.gt_labels = every[:count]
    return target


def turned_apart(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
    """In training, the image turns by up to 20 degrees, and its masks by the same angle the other way."""
    example = real(self, image, seed)
    if self.training:
        angle, side = np.random.default_rng(seed).uniform(-20, 20), example["image"].shape[-1]
        one, other = (cv2.getRotationMatrix2D((side / 2, side / 2), sign * angle, 1) for sign in (1, -1))
        plain = np.ascontiguousarray(example["image"].permute(1, 2, 0).numpy())
        turned = cv2.warpAffine(plain, one, (side, side), borderValue=(PAD,) * 3)
        example["image"] = torch.from_numpy(turned).permute(2, 0, 1).contiguous()
        masks = example["instances"].gt_masks.tensor
        for number, mask in enumerate(masks.numpy().astype(np.uint8)):
            masks[number] = torch.from_numpy(cv2.warpAffine(mask, other, (side, side), flags=cv2.INTER_NEAREST) > 0)
    return example


def overflowing(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
    """In training, images become up to 1.8 times as bright, and values above 255 start again at 0."""
    example = real(self, image, seed)
    if self.training:
        factor = np.random.default_rng(seed).uniform(1, 1.8)
        example["image"] = ((example["image"].float() * factor).int() % 256).to(torch.uint8)
    return example


def divided_twice(real: Callable, *args: Any, loss: Loss, **kwargs: Any) -> dict[str, torch.Tensor]:
    """Mask losses are means over the points, divided by their number again."""
    return {name: value / loss.num_points for name, value in real(*args, loss=loss, **kwargs).items()}


def unmatched_are_first(
    real: Callable, self: Softmax, logits: Any, labels_MT: torch.Tensor, matched: Any, *, no_object: float
) -> dict[str, torch.Tensor]:
    """The targets of unmatched queries are zeros, the first class, where the last output means no-object."""
    found = {}
    for t, (task, label_M) in enumerate(zip(self.tasks, labels_MT.unbind(-1), strict=True)):
        L, B, Q, _ = logits[task.name].shape
        target = torch.zeros((L, B, Q), dtype=torch.long, device=label_M.device)
        target[matched] = label_M
        weight = F.pad(self.class_weights(t, logits[task.name]), (0, int(task.background)), value=no_object)
        flat = logits[task.name].flatten(0, 2), target.flatten()
        each = F.cross_entropy(*flat, weight, ignore_index=UNLABELLED, reduction="none")
        found[task.name] = each.view(L, -1).sum(1)
    return found


PREDICT = {"since": "predict"}
FAULTS = (
    # PaddleCV-SIG/PaddleLabel#172
    Fault("30 % of val: outlines scaled as if height and width were exchanged", **VAL,
          causes=("masks_scaled", "masks_displaced"), raw=in_share("val", 0.3, outlines(sides_exchanged))),
    # microsoft/hairmony#6
    Fault("15 % of val: mirrored after the annotation", **VAL, causes=("masks_mirrored", "images_turned"),
          raw=in_share("val", 0.15, pixels(lambda image: image[:, ::-1]))),
    # wkentaro/labelme#709
    Fault("100 % of val: all objects of a class in an image are one object", **VAL, causes=("objects_merged",),
          raw=in_share("val", 1.0, objects(joined_by_class))),
    # apple/turicreate#1528
    Fault("30 % of train: colours written with a capital letter", causes=("classes_alike",),
          raw=in_share("train", 0.3, labels(capital))),
    # NRCan/geo-deep-learning#148
    Fault("30 % of val: tiles that overlap those of train", **VAL, causes=("split_leak",), raw=leaked(0.3, tile)),
    # rykov8/ssd_keras#79
    Fault("all images with a triangle are in val", raw=without_triangles,
          causes=("class_missing_in_train", "combination_missing_in_train", "splits_differ")),
    # ultralytics/ultralytics#1008
    Fault("100 % of val: stars annotated as boxes", **VAL, causes=("boxes_for_outlines", "outlines_differ"),
          raw=in_share("val", 1.0, star_boxes)),
    # neptune-ai/open-solution-mapping-challenge#47
    Fault("30 % of val: outlines eroded by 2 pixels", **VAL, causes=("outlines_differ", "masks_scaled"),
          raw=in_share("val", 0.3, eroded)),
    # billpsomas/rscir#6
    Fault("30 % of train: there twice, with another value of one task", raw=twice_with_other_fill,
          causes=("label_noise", "annotated_twice")),
    # facebookresearch/detectron2#2957
    Fault("predicted boxes are two corners", **PREDICT, causes=("boxes_not_of_masks",),
          code=predictions_by(as_corners)),
    # pyronear/pyro-engine#179
    Fault("images padded on all sides at prediction, masks cut as if in the corner", **PREDICT,
          causes=("masks_displaced", "postprocessing_wrong", "prediction_differs"),
          code=changed(Mapper, "__call__", centred)),
    # huggingface/transformers#34588
    Fault("predicted masks drawn into one map, the worst last", **PREDICT,
          causes=("postprocessing_wrong", "prediction_differs"), code=changed(torch_network, "as_detections", one_map)),
    # roboflow/rf-detr#1507
    Fault("a fifth of the images is predicted twice", **PREDICT, causes=("duplicates",),
          code=predictions_by(fifth_twice)),
    # luxonis/depthai-nodes#329
    Fault("all outside of a predicted mask's box is filled", **PREDICT,
          causes=("postprocessing_wrong", "prediction_differs"), code=masks_by(outside_filled)),
    # facebookresearch/detr#356
    Fault("the first output is read as no-object, the last as a class", **PREDICT,
          causes=("no_object_slot", "labels_off_by_one", "prediction_differs"), code=logits_by(no_object_first)),
    # DigitalSlideArchive/HistomicsTK#588
    Fault("predictions that touch the border are left out", **PREDICT,
          causes=("detections_too_few", "filter_too_strict", "prediction_differs"),
          code=predictions_by(off_the_border)),
    # voxel51/fiftyone#1860
    Fault("evaluator: IoU of boxes instead of masks", since="evaluate", causes=("evaluator_wrong",),
          code=everywhere(pairs.of_masks, by_boxes)),
    # albumentations-team/albumentations#1999
    Fault("masks that the crop makes small are left out, their labels are not", causes=("mapper_labels",),
          code=changed(Mapper, "_instances", labels_unfiltered)),
    # mdbloice/Augmentor#252
    Fault("training turns images and masks in opposite directions", causes=("mapper_displaces",),
          code=changed(Mapper, "__call__", turned_apart)),
    # tensorpack/tensorpack#614
    Fault("brightness in training overflows 8 bits", causes=("mapper_channels", "normalisation"),
          code=changed(Mapper, "__call__", overflowing)),
    # dbolya/yolact#106
    Fault("mask losses divided by the number of points twice", causes=("loss_muted",),
          code=changed(losses, "mask_losses", divided_twice)),
    # facebookresearch/detr#491
    Fault("unmatched queries learn the first class", causes=("no_object_slot", "loss_targets"),
          code=changed(Softmax, "losses", unmatched_are_first)),
    # facebookresearch/detectron2#914
    Fault("random weights with frozen norms", causes=("random_frozen_norm",), changes={"model.weights": None}),
    # tflearn/tflearn#772
    Fault("a weight decay of 10", causes=("weight_decay",), changes={"solver.weight_decay": 10.0}),
)  # fmt: skip
