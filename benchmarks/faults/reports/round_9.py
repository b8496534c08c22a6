"""Round 9: nine in data, eight in prediction and evaluation, seven in training, by someone who knew the names of the
causes and of earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.faults.case import Fault, changed, everywhere
from benchmarks.faults.prediction import logits_by, predictions_by, with_masks
from benchmarks.faults.reports.round_2 import VAL, Record, in_share, labels, leaked, objects, outlines, pixels, read
from benchmarks.faults.reports.round_5 import loaded
from benchmarks.faults.reports.round_8 import rotated_box, sgd
from benchmarks.faults.training import losses_by
from mtseg.core.files import write_json
from mtseg.core.tables import Images, Pairs, Predictions
from mtseg.data import loader
from mtseg.data.loader import Mapper
from mtseg.evaluation.ap import average_precision, pairs
from mtseg.model import losses, mask2former
from mtseg.model.backbones._frozen_norm import FrozenNormAct
from mtseg.model.decoder import QueryOutput
from mtseg.model.mask2former import Mask2Former
from mtseg.model.matching import Matches
from mtseg.training import optimizer as optimiser

NEXT_SHAPE = {"circle": "square", "square": "star", "star": "triangle"}


def frames_before(found: list[Record]) -> list[Record]:
    """Each object's outline is where the object was some frames before: 8 pixels away, in a direction of its own."""
    behind = []
    for one in found:
        points = np.array(one["points"])
        angle = np.random.default_rng(round(points.sum())).uniform(0, 2 * np.pi)
        behind.append(one | {"points": points + 8 * np.array([np.cos(angle), np.sin(angle)])})
    return behind


def lower_too_high(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Outlines whose centre is in the lower half of the image are an eighth of its height too high."""
    _, height = size
    return points - (0, height / 8) if points[:, 1].mean() > height / 2 else points


def left_alone(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """Without the objects whose centre is in the right half of the image."""
    middle = image.shape[1] / 2
    return image, record | {"shapes": [one for one in record["shapes"] if np.mean(one["points"], axis=0)[0] <= middle]}


def squashed(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """Image and outlines at half their height."""
    half = cv2.resize(image, (image.shape[1], image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    scale = np.array([1, half.shape[0] / image.shape[0]])
    return half, outlines(lambda points, size: points * scale)(half, record, record)[1]


def random_crop(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
    """Three quarters of an image's height and width, at a random place, enlarged to the size of the image."""
    size = np.array(image.shape[1::-1])
    width, height = size * 3 // 4
    left, top = np.random.default_rng(int(image.sum())).integers(0, size - (width, height) + 1)
    crop = cv2.resize(image[top : top + height, left : left + width], size.tolist(), interpolation=cv2.INTER_LINEAR)
    scale = size / (width, height)
    return crop, outlines(lambda points, _: (points - (left, top)) * scale)(crop, record, record)[1]


def copies_of_twelve(raw: Path) -> None:
    """All images of train are copies of its first twelve."""
    paths = sorted((raw / "train").glob("*.json"))
    for number, path in enumerate(paths[12:]):
        source = paths[number % 12]
        shutil.copy(source.with_suffix(".jpg"), path.with_suffix(".jpg"))
        write_json(path, read(source)[1] | {"imagePath": path.with_suffix(".jpg").name}, indent=None)


def next_shape(found: list[list[str]]) -> list[list[str]]:
    return [[NEXT_SHAPE.get(shape, shape), *rest] for shape, *rest in found]


def second_softmax(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The logits are already probabilities."""
    return {name: x_LBQK.softmax(-1) for name, x_LBQK in logits.items()}


def viewed(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs, ordered by query and then image, are viewed as ordered by image and then query."""
    return {name: x_LBQK.transpose(1, 2).reshape(x_LBQK.shape) for name, x_LBQK in logits.items()}


def initial_statistics(network: Mask2Former) -> None:
    """Of the norms, weight and bias are loaded, but not the running mean and variance."""
    for module in network.backbone.modules():
        if isinstance(module, FrozenNormAct):
            module.running_mean.zero_()
            module.running_var.fill_(1)
            module.fold()


def in_two_tiles(found: Predictions) -> Predictions:
    """The left and the right half of an image are predicted apart, so that objects at the seam are two."""

    def half(right: bool) -> Predictions:
        def part(mask: np.ndarray) -> np.ndarray:
            inside = (np.arange(mask.shape[1]) >= mask.shape[1] // 2) == right
            return mask * inside.astype(np.uint8)

        return with_masks(found, part)

    right = half(right=True)
    both = Predictions.concatenate([half(right=False), right.replace(query=right.query + 100)])
    return both[np.argsort(-both.score, kind="stable")]


def hit_classes(real: Callable, scored: np.ndarray) -> np.ndarray:
    """At each IoU, classes without any true positive are left out of the mean."""
    return real(np.where(scored > 0, scored, np.nan))


def recall_for_iou(real: Callable, images: Images, predictions: Predictions) -> Pairs:
    """In place of the IoU, the share of the object that the prediction covers."""
    found = real(images, predictions)
    return found.replace(iou=found.intersection / images.instances.area[found.instance])


def negative_dice(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The dice coefficient is minimised (but for a constant)."""
    return {name: -value if name.startswith("loss_dice") else value for name, value in found.items()}


def masks_in_order(real: Callable, output: QueryOutput, targets: list, matches: Matches, **kwargs: Any) -> dict:
    """The mask losses of an image's matched queries take its masks in the order of the annotations."""
    if len(matches.query):
        layers, count = int(matches.layer.max()) + 1, int(matches.instance.max()) + 1
        key = (matches.image * layers + matches.layer) * count + matches.instance
        matches = replace(matches, instance=key.sort().values % count)
    return real(output, targets, matches, **kwargs)


def without_gradients(real: Callable, self: Mask2Former, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: level.detach() for name, level in real(self, images).items()}


def mixup(seen: list[torch.Tensor]) -> Callable[..., dict]:
    """In training, each image is the mean of itself and the image before, with its own targets alone."""

    def mixed(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
        example = real(self, image, seed)
        if self.training:
            own = example["image"]
            if seen and seen[0].shape == own.shape:
                example["image"] = ((own.float() + seen[0].float()) / 2).to(torch.uint8)
            seen[:] = [own]
        return example

    return mixed


def one_mask(real: Callable, self: Mapper, *args: Any) -> Any:
    """All objects of an image have the same mask, that of all together."""
    target = real(self, *args)
    masks = target.gt_masks.tensor
    masks[:] = masks.any(0, keepdim=True)
    return target


PREDICT: dict[str, Any] = {"since": "predict"}
EVALUATE: dict[str, Any] = {"since": "evaluate", "causes": ("evaluator_wrong",)}
FAULTS = (
    # voxel51/fiftyone#1285
    Fault("15 % of val: outlines where the objects were some frames before", **VAL, causes=("masks_displaced",),
          raw=in_share("val", 0.15, objects(frames_before))),
    # cvat-ai/cvat#6374
    Fault("100 % of val: outlines in the lower half of the image too high", **VAL, causes=("masks_displaced",),
          raw=in_share("val", 1.0, outlines(lower_too_high))),
    # HumanSignal/label-studio#4200
    Fault("30 % of val: outlines are rotated boxes", **VAL,
          causes=("boxes_for_outlines", "outlines_differ", "masks_scaled"),
          raw=in_share("val", 0.3, outlines(rotated_box))),
    # MIC-DKFZ/nnUNet#300
    Fault("30 % of val: the right half of the image not annotated", **VAL, causes=("annotations_missing",),
          raw=in_share("val", 0.3, left_alone)),
    # sertit/eoreader#246
    Fault("100 % of val: bands in the order green, blue, red", **VAL, causes=("channels_swapped", "splits_differ"),
          raw=in_share("val", 1.0, pixels(lambda image: image[..., [1, 2, 0]]))),
    # roboflow/roboflow-100-benchmark#42
    Fault("100 % of val: squashed to half the height, with the outlines", **VAL, causes=("splits_differ",),
          raw=in_share("val", 1.0, squashed)),
    # silburt/DeepMoon#33
    Fault("15 % of val: random crops of training images", **VAL, causes=("split_leak",),
          raw=leaked(0.15, random_crop)),
    # bcmi/Object-Shadow-Generation-Dataset-DESOBAv2#13
    Fault("100 % of train: copies of twelve images", raw=copies_of_twelve,
          causes=("overtrained", "combination_missing_in_train", "images_repeated")),
    # ilastik/ilastik#231
    Fault("30 % of train: shapes named as the next in the list", raw=in_share("train", 0.3, labels(next_shape)),
          causes=("label_noise", "labels_off_by_one", "labels_permuted")),
    # layer6ai-labs/TabDPT-inference#46
    Fault("a second softmax at prediction", **PREDICT, causes=("miscalibrated",), code=logits_by(second_softmax)),
    # qubvel-org/segmentation_models.pytorch#50
    Fault("a second sigmoid on the mask logits, so that all pixels are inside", **PREDICT,
          causes=("postprocessing_wrong", "masks_scaled", "prediction_differs"),
          code=changed(mask2former, "_to_original", lambda real, *args: real(*args).sigmoid())),
    # Jingkang50/OpenPSG#56
    Fault("queries and images of a batch exchanged by a view", **PREDICT,
          causes=("answer_depends_on_batch", "labels_of_other_image", "labels_of_other_query"),
          code=logits_by(viewed)),
    # torch/nn#1165
    Fault("the running statistics of the norms are not loaded", **PREDICT,
          causes=("weights_not_loaded", "prediction_differs"), code=loaded(initial_statistics)),
    # MASILab/S-EFOV#2
    Fault("images upside down at prediction", **PREDICT, causes=("masks_mirrored", "prediction_differs"),
          code=changed(loader, "read_image", lambda real, *args: np.ascontiguousarray(real(*args)[::-1]))),
    # MouseLand/cellpose#1482
    Fault("predicted objects cut in two at the seam of two tiles", **PREDICT,
          causes=("postprocessing_wrong", "masks_scaled", "prediction_differs", "duplicates"),
          code=predictions_by(in_two_tiles)),
    # Striveworks/valor#379
    Fault("evaluator: classes without a hit are left out of the mean", **EVALUATE,
          code=everywhere(average_precision.mean, hit_classes)),
    # huggingface/evaluate#692
    Fault("evaluator: recall of the object's pixels instead of IoU", **EVALUATE,
          code=everywhere(pairs.of_masks, recall_for_iou)),
    # IAmSuyogJadhav/3d-mri-brain-tumor-segmentation-using-autoencoder-regularization#7
    Fault("the dice coefficient is minimised", causes=("loss_targets",), code=losses_by(negative_dice)),
    # orrzohar/PROB#55
    Fault("the mask losses take masks in the order of the annotations", causes=("loss_targets",),
          code=changed(losses, "mask_losses", masks_in_order)),
    # catalyst-team/catalyst#346
    Fault("the backbone runs without gradients", causes=("gradient_missing",),
          code=changed(Mask2Former, "features", without_gradients)),
    # PeizeSun/SparseR-CNN#94
    Fault("SGD at the learning rate of AdamW", causes=("lr_too_low", "too_few_steps"),
          code=everywhere(optimiser.optimizer, sgd)),
    # timeseriesAI/tsai#791
    Fault("images mixed in training, their targets not", causes=("mapper_channels", "mapper_displaces"),
          code=changed(Mapper, "__call__", mixup([]))),
    # huggingface/transformers#20100
    Fault("all objects of an image have the same mask in training", causes=("mapper_displaces",),
          code=changed(Mapper, "_instances", one_mask)),
    # HRNet/HRNet-Semantic-Segmentation#267
    Fault("no-object has weight 0", causes=("no_object_weight",), changes={"loss.no_object": 0.0}),
)  # fmt: skip
