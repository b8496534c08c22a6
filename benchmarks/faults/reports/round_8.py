"""Round 8: nine in data, eight in prediction and evaluation, seven in training, by someone who knew the names of the
causes and of earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from benchmarks.faults.case import Fault, changed, everywhere
from benchmarks.faults.inputs import masks_by as training_masks_by
from benchmarks.faults.prediction import predictions_by, with_masks
from benchmarks.faults.reports import round_2
from benchmarks.faults.reports.round_2 import VAL, Record, in_share, leaked, objects, outlines, part, read, write
from mtseg.core import masks
from mtseg.core.params import Loss, Solver
from mtseg.core.tables import Predictions
from mtseg.data import loader
from mtseg.data.loader import Mapper
from mtseg.evaluation.ap import matching
from mtseg.model import losses
from mtseg.model.heads import Candidates, Head, softmax
from mtseg.model.mask2former import Mask2Former
from mtseg.training import optimizer as optimiser


def mirrored_copies(raw: Path) -> None:
    """30 % of train's images are there mirrored as well, with the outlines of the original."""
    paths = sorted((raw / "train").glob("*.json"))
    for index in part(paths, 0.3):
        image, record = read(paths[index])
        write(paths[index].with_stem(f"{paths[index].stem}_mirrored"), image[:, ::-1], record)


def one_class(found: list[Record]) -> list[Record]:
    """Only the objects of the first one's main class."""
    return [one for one in found if one["label"].split(",")[0] == found[0]["label"].split(",")[0]]


def dotted_as_striped(found: list[list[str]]) -> list[list[str]]:
    return [["striped" if name == "dotted" else name for name in parts] for parts in found]


def mosaics(raw: Path) -> None:
    """30 % of val's images show four, each at half its size, with the outlines of all."""
    paths = sorted((raw / "val").glob("*.json"))
    known = [read(path) for path in paths]
    for index in part(paths, 0.3):
        image, record = known[index]
        height, width = (length // 2 for length in image.shape[:2])
        whole, shapes = np.zeros((2 * height, 2 * width, 3), np.uint8), []
        for place in range(4):
            top, left = place // 2 * height, place % 2 * width
            shown, own = known[(index + 7 * place) % len(known)]
            tile = cv2.resize(shown, (width, height), interpolation=cv2.INTER_AREA)
            whole[top : top + height, left : left + width] = tile
            scale = np.array([width, height]) / shown.shape[1::-1]
            for one in own["shapes"]:
                group = None if one["group_id"] is None else 10 * one["group_id"] + place
                shapes.append(one | {"points": np.array(one["points"]) * scale + (left, top), "group_id": group})
        write(paths[index], whole, record | {"shapes": shapes})


def larger(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
    """1.5 times as large, with its outlines."""
    image = cv2.resize(image, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)
    return image, outlines(lambda points, size: points * 1.5)(image, record, record)[1]


def left_half(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    x, y = points.T
    return np.column_stack([np.minimum(x, (x.min() + x.max()) / 2), y])


def rotated_box(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The smallest box at any angle."""
    return cv2.boxPoints(cv2.minAreaRect(points.astype(np.float32)))


def third_and_back(image: np.ndarray) -> np.ndarray:
    """Made three times smaller and enlarged to its size."""
    small = cv2.resize(image, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def normalised_twice(real: Callable, self: Mask2Former, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return real(self, (images.float() - self.pixel_mean) / self.pixel_std)


def counted_with_no_object(real: Callable, self: Head, logits: dict[str, torch.Tensor], most: int) -> Candidates:
    """The index of a pair of query and class is divided by the number of outputs, which include no-object: masks and
    further labels are those of another query."""
    found, classes = real(self, logits, most), self.tasks[0].num_classes
    main = found.labels[..., :1]
    query = (found.query * classes + main[..., 0]) // (classes + 1)
    return replace(found, query=query, labels=torch.cat([main, self.labels(logits, query)[..., 1:]], -1))


def largest_first(found: Predictions) -> Predictions:
    """The score of a detection is the area of its mask, relative to the largest of the image."""
    share = found.area / found.area.max() if len(found) else found.score
    names = [name for name in found.names if name.startswith("probability.")]
    return found.replace(score=share, mask_quality=share, **{name: np.ones(len(found)) for name in names})


def as_centres(found: Predictions) -> Predictions:
    """Boxes are x and y of the centre, width, height."""
    return found.replace(box=np.column_stack([found.box[:, :2] + found.box[:, 2:] / 2, found.box[:, 2:]]))


def cut_at_seam(found: Predictions) -> Predictions:
    """As of two tiles, left and right, whose predictions are not joined."""
    left = with_masks(found, lambda mask: mask * (np.arange(mask.shape[1]) < mask.shape[1] // 2).astype(np.uint8))
    right = with_masks(found, lambda mask: mask * (np.arange(mask.shape[1]) >= mask.shape[1] // 2).astype(np.uint8))
    return Predictions.concatenate([left, right.replace(query=right.query + 100)])


def as_crowds(real: Callable, one: list[dict], other: list[dict]) -> np.ndarray:
    """The intersection is divided by the area of the prediction, as for crowds."""
    return np.asarray(coco_mask.iou(list(one), list(other), [True] * len(other))) if one and other else real(one, other)


def matched_again(real: Callable, *args: Any) -> tuple[np.ndarray, ...]:
    """An object counts for every prediction that matches it."""
    *before, reusable, thresholds = args
    return real(*before, np.ones_like(reusable), thresholds)


def frozen_pixel_decoder(real: Callable, self: Mask2Former, *args: Any, **kwargs: Any) -> None:
    """With its random weights."""
    real(self, *args, **kwargs)
    self.pixel_decoder.requires_grad_(False)


def dice_itself(real: Callable, *args: Any, loss: Loss, **kwargs: Any) -> dict[str, torch.Tensor]:
    found = real(*args, loss=loss, **kwargs)
    return found | {"loss_dice": loss.dice - found["loss_dice"]}


def smoothed(real: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Class weights count for the smoothed labels as well: all classes outweigh no-object, whose weight is small."""
    return real(*args, **kwargs | {"label_smoothing": 0.2})


def erased(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
    """In training, a random block half as high and wide is black; objects below it keep masks and labels."""
    example = real(self, image, seed)
    if self.training:
        side = example["image"].shape[-1]
        top, left = np.random.default_rng(seed).integers(side // 2 + 1, size=2)
        example["image"][:, top : top + side // 2, left : left + side // 2] = 0
    return example


def grown_by_one(mask: np.ndarray) -> np.ndarray:
    """Interpolated, and all above 0 is inside."""
    return cv2.blur(mask.astype(np.float32), (3, 3), borderType=cv2.BORDER_CONSTANT) > 1e-6


def sgd(real: Callable, network: Mask2Former, solver: Solver) -> torch.optim.SGD:
    """With the learning rate of AdamW."""
    names = ("params", "lr", "initial_lr", "weight_decay")
    groups = [{name: group[name] for name in names} for group in real(network, solver).param_groups]
    return torch.optim.SGD(groups, lr=solver.lr, momentum=0.9)


PREDICT: dict[str, Any] = {"since": "predict"}
EVALUATOR: dict[str, Any] = {"since": "evaluate", "causes": ("evaluator_wrong",)}
FAULTS = (
    # albumentations-team/albumentations#549
    Fault("30 % of train: there also mirrored, with the outlines not mirrored",
          causes=("masks_mirrored", "images_turned"), raw=mirrored_copies),
    # facebookresearch/detectron2#1423
    Fault("100 % of train: only the objects of one main class annotated in each image",
          causes=("annotations_missing",), raw=in_share("train", 1.0, objects(one_class))),
    # dbolya/yolact#665
    Fault("100 % of val: dotted is annotated as striped", **VAL, causes=("label_noise", "class_mix_differs"),
          raw=in_share("val", 1.0, round_2.labels(dotted_as_striped))),
    # roboflow/supervision#368
    Fault("15 % of val: each outline relative to its own box", **VAL, causes=("masks_displaced",),
          raw=in_share("val", 0.15, outlines(lambda points, size: points - points.min(0)))),
    # kornia/kornia#1063
    Fault("15 % of val: saved as HSV", **VAL, causes=("splits_differ",),
          raw=in_share("val", 0.15, round_2.pixels(lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2HSV)))),
    # ultralytics/yolov5#6646
    Fault("30 % of val: mosaics of four images", **VAL, causes=("splits_differ",), raw=mosaics),
    # GreatV/labelme2yolo#15
    Fault("5 % of val: training images at 1.5 times the size", **VAL, causes=("split_leak",), raw=leaked(0.05, larger)),
    # facebookresearch/segment-anything#474
    Fault("30 % of train: only the left half of each object outlined",
          causes=("outlines_differ", "masks_scaled", "masks_displaced"),
          raw=in_share("train", 0.3, outlines(left_half))),
    # ultralytics/ultralytics#7103
    Fault("100 % of train: outlines are rotated boxes", causes=("boxes_for_outlines", "outlines_differ"),
          raw=in_share("train", 1.0, outlines(rotated_box))),
    # mlverse/torchvision#314
    Fault("pixels normalised twice at prediction", **PREDICT, causes=("normalisation", "prediction_differs"),
          code=changed(Mask2Former, "features", normalised_twice)),
    # facebookresearch/Mask2Former#153
    Fault("queries of the detections counted with no-object", **PREDICT,
          causes=("labels_of_other_query", "prediction_differs"),
          code=changed(Head, "candidates", counted_with_no_object)),
    # Bing-su/adetailer#773
    Fault("the score of a detection is its area", **PREDICT, causes=("ranking", "miscalibrated"),
          code=predictions_by(largest_first)),
    # ultralytics/ultralytics#22440
    Fault("images made smaller and enlarged again at prediction", **PREDICT, causes=("prediction_differs",),
          code=changed(loader, "read_image", lambda real, *args: third_and_back(real(*args)))),
    # ultralytics/yolov5#3598
    Fault("predicted boxes begin at their centre", **PREDICT, causes=("boxes_not_of_masks",),
          code=predictions_by(as_centres)),
    # roboflow/supervision#500
    Fault("predictions cut in two at the seam of two tiles", **PREDICT, causes=("prediction_differs", "duplicates"),
          code=predictions_by(cut_at_seam)),
    # seanzhuh/SeqTR#19
    Fault("evaluator: all objects count as crowds in the IoU", **EVALUATOR, code=changed(masks, "iou", as_crowds)),
    # cocodataset/cocoapi#591
    Fault("evaluator: an object is matched by any number of predictions", **EVALUATOR,
          code=changed(matching, "_greedy", matched_again)),
    # pytorch/vision#2164
    Fault("the pixel decoder is frozen at its random weights", causes=("gradient_missing", "weights_frozen"),
          code=changed(Mask2Former, "__init__", frozen_pixel_decoder)),
    # akirasosa/mobile-semantic-segmentation#24
    Fault("dice is minimised instead of 1 - dice", causes=("loss_targets",),
          code=changed(losses, "mask_losses", dice_itself)),
    # pytorch/pytorch#104776
    Fault("label smoothing together with a small weight of no-object", causes=("loss_targets", "miscalibrated"),
          code=changed(softmax.F, "cross_entropy", smoothed)),
    # albumentations-team/albumentations#753
    Fault("a quarter of each training image erased, masks kept", causes=("mapper_channels", "mapper_displaces"),
          code=changed(Mapper, "__call__", erased)),
    # kornia/kornia#1676
    Fault("training masks interpolated, all above 0 is inside", causes=("mapper_displaces",),
          code=training_masks_by(grown_by_one)),
    # facebookresearch/detr#365
    Fault("unmatched queries learn nothing, no-object has weight 0", causes=("no_object_weight",),
          changes={"loss.no_object": 0.0}),
    # michuanhaohao/reid-strong-baseline#64
    Fault("SGD with the learning rate of AdamW", causes=("lr_too_low",), code=everywhere(optimiser.optimizer, sgd)),
)  # fmt: skip
