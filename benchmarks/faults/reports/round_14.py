"""Round 14: nine in data, eight in prediction and evaluation, seven in training, by someone who knew the names of the
causes and of earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Instances

from benchmarks.faults.case import Fault, changed, everywhere
from benchmarks.faults.prediction import logits_by, predictions_by
from benchmarks.faults.reports.round_1 import box
from benchmarks.faults.reports.round_2 import (
    VAL,
    Record,
    and_previous,
    in_share,
    labels,
    leaked,
    outlines,
    pixels,
    previous,
)
from benchmarks.faults.reports.round_5 import loaded
from benchmarks.faults.reports.round_11 import in_both
from mtseg.core.params import Solver
from mtseg.core.tables import Images, Pairs, Predictions
from mtseg.data.loader import Mapper
from mtseg.evaluation.ap import pairs
from mtseg.model import losses, mask2former, matching
from mtseg.model.layers import Attention, FeedForward
from mtseg.model.mask2former import Mask2Former
from mtseg.model.pixel_decoder import EncoderLayer
from mtseg.training import optimizer as optimiser

BLOCK = 6  # pixels


def blocks(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The outline of a mask that was made in blocks of 6 x 6 pixels."""
    width, height = size // BLOCK + 1
    small = cv2.fillPoly(np.zeros((height, width), np.uint8), [(points // BLOCK).astype(np.int32)], 1)
    whole = np.kron(small, np.ones((BLOCK, BLOCK), np.uint8))
    found, _ = cv2.findContours(whole, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return max(found, key=cv2.contourArea)[:, 0].astype(float)


def limited_classes(found: list[list[str]]) -> list[list[str]]:
    """Stars are annotated as triangles."""
    return [["triangle" if main == "star" else main, *rest] for main, *rest in found]


def in_fog(image: np.ndarray) -> np.ndarray:
    return (image * 0.3 + 0.7 * 210).astype(np.uint8)


def recompressed(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 15])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR), record


def with_dropout(network: Mask2Former) -> None:
    for module in network.decoder.modules():
        if isinstance(module, Attention | FeedForward):
            module.register_forward_hook(lambda _, inputs, x: torch.nn.functional.dropout(x, 0.5))


def over_queries(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x_LBQK.log_softmax(2) for name, x_LBQK in logits.items()}


def without_residual(
    real: Callable, self: EncoderLayer, x: torch.Tensor, position: torch.Tensor, reference: torch.Tensor, shapes: Any
) -> torch.Tensor:
    x = self.attention_norm(self.attention(x + position, reference, x, shapes))
    return self.feedforward_norm(x + self.feedforward(x))


def stretched(real: Callable, *args: Any) -> torch.Tensor:
    """The logits of each mask are stretched to 0..1 and cut at 0.5."""
    logits = real(*args)
    low, high = logits.amin((1, 2), keepdim=True), logits.amax((1, 2), keepdim=True)
    return (logits - low) / (high - low).clamp(min=1e-6) - 0.5


def saturated(real: Callable, self: Mask2Former, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features are rounded to few levels within a 16th of their range, and cut off outside of it."""
    found = {}
    for name, level in real(self, images).items():
        limit = level.abs().amax((1, 2, 3), keepdim=True) / 16
        found[name] = (level / limit).clamp(-1, 1).mul(7).round() / 7 * limit
    return found


def scores_by_query(found: Predictions) -> Predictions:
    """The scores of an image are in the order of the queries, masks and labels in that of the detections."""
    order = np.argsort(found.query, kind="stable")
    names = [name for name in found.names if name in ("score", "mask_quality") or name.startswith("probability.")]
    return found.replace(**{name: found.column(name)[order] for name in names})


def first_unmatched(real: Callable, images: Images, predictions: Predictions) -> Pairs:
    """Ids begin at 0 in each image, and 0 means unmatched."""
    found = real(images, predictions)
    first = np.unique(images.instances.image, return_index=True)[1]
    return found[~np.isin(found.instance, first)]


def ious_reversed(real: Callable, images: Images, predictions: Predictions) -> Pairs:
    """The IoUs of an image are in ascending order of the scores, its predictions in descending order."""
    found, ids = real(images, predictions), predictions.image_id
    ends = np.append(np.flatnonzero(np.diff(ids)) + 1, len(ids))
    last = ends[np.searchsorted(ends, found.prediction, side="right")]
    first = np.append(0, ends)[np.searchsorted(ends, found.prediction, side="right")]
    found = found.replace(prediction=(first + last - 1 - found.prediction).astype(found.prediction.dtype))
    return found[np.lexsort((found.instance, found.prediction))]


def decoder_replaced(real: Callable, network: Mask2Former, solver: Solver) -> torch.optim.AdamW:
    """The decoder is replaced by a copy after the optimiser got its parameters."""
    made = real(network, solver)
    network.decoder = deepcopy(network.decoder)
    return made


def not_pasted() -> AbstractContextManager:
    """In training, the objects of the image before are added to the targets, but not pasted into the image."""
    seen: list[Instances] = []

    def added(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
        example = real(self, image, seed)
        if self.training:
            own = example["instances"]
            if seen and seen[0].image_size == own.image_size:
                example["instances"] = Instances.cat([own, seen[0]])
            seen[:] = [own]
        return example

    return changed(Mapper, "__call__", added)()


def grey_in_training(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
    example = real(self, image, seed)
    if self.training:
        example["image"] = example["image"].float().mean(0, keepdim=True).byte().repeat(3, 1, 1)
    return example


def large_alone(real: Callable, self: Mapper, *args: Any) -> Instances:
    """Objects below 16 x 16 pixels are left out."""
    target = real(self, *args)
    return target[target.gt_masks.tensor.flatten(1).sum(1) >= 16**2]


PREDICT: dict[str, Any] = {"since": "predict"}
EVALUATE: dict[str, Any] = {"since": "evaluate", "causes": ("evaluator_wrong",)}
FAULTS = (
    # aimotive/aimotive_dataset#7
    Fault("100 % of train: stars are annotated as triangles", raw=in_share("train", 1.0, labels(limited_classes)),
          causes=("class_missing_in_train", "class_mix_differs", "label_noise", "combination_missing_in_train")),
    # ddavid/fsoco#67
    Fault("100 % of train and val: with the annotations of the previous image", causes=("masks_of_other_image",),
          raw=in_both(lambda split: in_share(split, 1.0, previous))),
    # microsoft/hairmony#6
    Fault("30 % of train and val: mirrored after the annotation", causes=("masks_mirrored", "images_turned"),
          raw=in_both(lambda split: in_share(split, 0.3, pixels(lambda image: image[:, ::-1])))),
    # CVHub520/X-AnyLabeling#1114
    Fault("100 % of train: outlines follow blocks of 6 pixels", causes=("outlines_differ", "masks_scaled"),
          raw=in_share("train", 1.0, outlines(blocks))),
    # cvat-ai/cvat#9797
    Fault("30 % of train: objects of the previous image stay annotated", causes=("masks_of_other_image",),
          raw=in_share("train", 0.3, and_previous)),
    # ultralytics/yolov5#9718
    Fault("15 % of train and val: outlines are boxes", causes=("boxes_for_outlines",),
          raw=in_both(lambda split: in_share(split, 0.15, outlines(box)))),
    # natureyoo/ContinualTTA_ObjectDetection#15
    Fault("100 % of val: in fog", **VAL, causes=("splits_differ",), raw=in_share("val", 1.0, pixels(in_fog))),
    # lzhLab/LiVS#3
    Fault("100 % of train and val: outlines off by a tenth of the width", causes=("masks_displaced",),
          raw=in_both(lambda split: in_share(split, 1.0, outlines(lambda points, size: points + (size[0] / 10, 0))))),
    # ArnabKumarRoy02/ResEmoteNet#42
    Fault("30 % of val: training images compressed again", **VAL, causes=("split_leak",),
          raw=leaked(0.3, recompressed)),
    # ipolharvard/ethos-ares#20
    Fault("dropout is active at prediction", **PREDICT, causes=("prediction_differs", "answer_depends_on_batch"),
          code=loaded(with_dropout)),
    # IDEA-Research/detrex#172
    Fault("the residual connection round the encoder's attention is lost at prediction", **PREDICT,
          causes=("prediction_differs",), code=changed(EncoderLayer, "forward", without_residual)),
    # HRNet/HRNet-Semantic-Segmentation#271
    Fault("the softmax at prediction is over the queries", **PREDICT,
          causes=("miscalibrated", "ranking", "prediction_differs"), code=logits_by(over_queries)),
    # xuebinqin/U-2-Net#65
    Fault("mask logits are stretched from 0 to 1 and cut at 0.5", **PREDICT,
          causes=("postprocessing_wrong", "masks_scaled", "prediction_differs"),
          code=changed(mask2former, "_to_original", stretched)),
    # AlexeyAB/yolo2_light#24
    Fault("features are rounded and cut off by a wrong calibration at prediction", **PREDICT,
          causes=("prediction_differs",), code=changed(Mask2Former, "features", saturated)),
    # matlab-deep-learning/mtcnn-face-detection#17
    Fault("scores in query order, masks and labels in the order of the detections", **PREDICT,
          causes=("ranking", "miscalibrated", "labels_of_other_query", "prediction_differs"),
          code=predictions_by(scores_by_query)),
    # roboflow/supervision#1895
    Fault("evaluator: the first object of each image cannot be matched", **EVALUATE,
          code=everywhere(pairs.of_masks, first_unmatched)),
    # matterport/Mask_RCNN#1422
    Fault("evaluator: IoUs and predictions of an image in opposite orders", **EVALUATE,
          code=everywhere(pairs.of_masks, ious_reversed)),
    # avBuffer/UNet3plus_pth#23
    Fault("a sigmoid before the binary cross-entropy of the masks", causes=("loss_targets",),
          code=changed(losses.F, "binary_cross_entropy_with_logits",
                       lambda real, logits, *args, **options: real(logits.sigmoid(), *args, **options))),
    # impiga/Plain-DETR#18
    Fault("the matcher compares outputs with the objects of the batch's next image", causes=("matcher_wrong",),
          code=changed(matching, "matching_cost", lambda real, output, targets, **options: real(
              output, targets[1:] + targets[:1], **options))),
    # microsoft/nni#4521
    Fault("the decoder is replaced after the optimiser was made", causes=("weights_frozen", "gradient_missing"),
          code=everywhere(optimiser.optimizer, decoder_replaced)),
    # FocoosAI/focoos#162
    Fault("training adds objects to the targets that it does not paste into the image",
          causes=("mapper_displaces", "masks_of_other_image"), code=not_pasted),
    # ultralytics/ultralytics#9134
    Fault("training images are grey, where colour is a task", causes=("mapper_channels", "jitter_changes_label"),
          code=changed(Mapper, "__call__", grey_in_training)),
    # ultralytics/yolov5#6238
    Fault("training leaves out objects below 16 x 16 pixels",
          causes=("mapper_displaces", "annotations_missing", "mapper_labels"),
          code=changed(Mapper, "_instances", large_alone)),
    # Lightning-AI/pytorch-lightning#12668
    Fault("4 % of the training images are used, as for a quick trial", changes={"data.share": 0.04},
          causes=("overtrained", "class_too_rare", "combination_missing_in_train", "class_mix_differs")),
)  # fmt: skip
