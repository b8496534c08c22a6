"""Round 12: nine in data, eight in prediction and evaluation, seven in training, by someone who knew the names of the
causes and of earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from benchmarks.faults.case import Fault, changed, everywhere
from benchmarks.faults.prediction import logits_by, predictions_by, with_masks
from benchmarks.faults.reports.round_1 import box, grey
from benchmarks.faults.reports.round_2 import (
    VAL,
    Record,
    in_share,
    labels,
    objects,
    outlines,
    pixels,
    previous,
    read,
    some_missing,
    write,
)
from benchmarks.faults.reports.round_5 import loaded
from benchmarks.faults.reports.round_11 import in_both
from mtseg.core.tables import UNLABELLED, Images, Pairs, Predictions
from mtseg.data import loader
from mtseg.data.loader import Mapper
from mtseg.evaluation.ap import pairs
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches
from mtseg.inference import torch_network
from mtseg.model import losses
from mtseg.model.mask2former import Mask2Former


def one_object(found: list[Record]) -> list[Record]:
    """All objects are the parts of one, with the labels of the first."""
    return [one | {"label": found[0]["label"], "group_id": 0} for one in found]


def two_images(raw: Path) -> None:
    for path in sorted((raw / "val").glob("*.json"))[2:]:
        path.unlink()
        path.with_suffix(".jpg").unlink()


def frames(raw: Path) -> None:
    """All images of train are frames of its first fifteen, up to 2 pixels apart."""
    paths = sorted((raw / "train").glob("*.json"))
    scenes = [read(path) for path in paths[:15]]
    for number, path in enumerate(paths):
        image, record = scenes[number % 15]
        x, y = (step % 5 - 2 for step in divmod(number // 15, 5))
        moved = cv2.warpAffine(
            image, np.float32([[1, 0, x], [0, 1, y]]), image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE
        )
        shapes = [one | {"points": np.array(one["points"]) + (x, y)} for one in record["shapes"]]
        write(path, moved, record | {"shapes": shapes})


def without_no_object(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """No-object is left out before the softmax instead of after it."""
    return {name: torch.cat([x[..., :-1], torch.full_like(x[..., -1:], -50)], -1) for name, x in logits.items()}


def by_reshape(real: Callable, *args: Any) -> np.ndarray:
    """The channels of all pixels, in the order of the pixels, are read as three planes."""
    image = real(*args)
    return np.ascontiguousarray(image.reshape(3, *image.shape[:2]).transpose(1, 2, 0))


def backbone_before_training(real: Callable, path: Any, *, tasks: Any, model: Any, detections: int) -> Mask2Former:
    network = real(path, tasks=tasks, model=model, detections=detections)
    network.backbone = Mask2Former(tasks, model, detections=detections, heads=network.heads).backbone
    return network


def new_queries(network: Mask2Former) -> None:
    torch.manual_seed(0)
    network.decoder.query_feature.normal_()
    network.decoder.query_position.normal_()


def fused(found: Predictions) -> Predictions:
    """Each confident detection has the masks of all confident ones of its main class together."""
    main, sure, rles = next(iter(found.labels.values())), found.score >= 0.3, found.rles()
    whole = {
        label: coco_mask.merge([rles[row] for row in np.flatnonzero(sure & (main == label))])
        for label in set(main[sure].tolist())
    }
    joined = (whole[main[row]] if sure[row] else rles[row] for row in range(len(found)))
    return with_masks(found, lambda mask: coco_mask.decode(next(joined)))


def twice_the_size(real: Callable, self: Mapper, tasks: Any, input: Any, *, root: Any, training: bool) -> None:
    larger = input if training else input.model_copy(update={"size": input.size * 2})
    real(self, tasks, larger, root=root, training=training)


def sum_for_union(real: Callable, images: Images, predictions: Predictions) -> Pairs:
    """The intersection is not subtracted from the sum of the areas."""
    found = real(images, predictions)
    areas = images.instances.area[found.instance] + predictions.area[found.prediction]
    return found.replace(iou=found.intersection / areas)


def confident(real: Callable, self: Evaluation, *args: Any, kept: np.ndarray | None = None, **options: Any) -> Matches:
    """Predictions of scores below 0.5 do not take part."""
    sure = self.scores >= 0.5
    return real(self, *args, kept=sure if kept is None else kept & sure, **options)


def same_class_joined(real: Callable, self: Mapper, *args: Any) -> Any:
    """Each object has the masks of all objects of its main class in the image together, as in a semantic mask."""
    target = real(self, *args)
    masks, main = target.gt_masks.tensor, target.gt_labels[:, 0]
    joined = [masks[main == label].any(0) for label in main]
    for mask, own in zip(masks, joined, strict=True):
        mask.copy_(own)
    return target


def needs_objects(real: Callable, output: Any, targets: list, **kwargs: Any) -> Any:
    for target in targets:
        torch.stack(list(target.masks))  # raises an error if there are none
    return real(output, targets, **kwargs)


def dice_of_logits(real: Callable, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    with patch.object(torch.Tensor, "sigmoid", lambda logits: logits):
        return real(*args, **kwargs)


PREDICT: dict[str, Any] = {"since": "predict"}
EVALUATE: dict[str, Any] = {"since": "evaluate"}
FAULTS = (
    # Dana-Farber-AIOS/pathml#56
    Fault("100 % of train: with the annotations of the previous image", causes=("masks_of_other_image",),
          raw=in_share("train", 1.0, previous)),
    # AlexeyAB/darknet#7756
    Fault("100 % of train: grey", causes=("splits_differ",), raw=in_share("train", 1.0, pixels(grey))),
    # dbolya/yolact#141
    Fault("30 % of train: all objects of an image are one", causes=("objects_merged",),
          raw=in_share("train", 0.3, objects(one_object))),
    # SkalskiP/make-sense#181
    Fault("100 % of train and val: outlines are boxes", causes=("boxes_for_outlines",),
          raw=in_both(lambda split: in_share(split, 1.0, outlines(box)))),
    # AlexeyAB/darknet#2374
    Fault("val has two images", **VAL, causes=("split_small",), raw=two_images),
    # AlexeyAB/darknet#2611
    Fault("100 % of train: frames of fifteen scenes", raw=frames,
          causes=("images_repeated", "overtrained", "combination_missing_in_train")),
    # facebookresearch/VLPart#2
    Fault("15 % of train and val: outlines with a further point at the origin",
          causes=("outlines_differ", "masks_scaled", "masks_displaced"),
          raw=in_both(lambda split: in_share(split, 0.15, outlines(lambda points, _: np.append(points, [[0, 0]], 0))))),
    # abdubakr77/dental-xray-ai#13
    Fault("100 % of train and val: labels of an image's objects sorted, their outlines not",
          causes=("label_noise", "labels_of_other_query"),
          raw=in_both(lambda split: in_share(split, 1.0, labels(sorted)))),
    # dbolya/yolact#562
    Fault("100 % of train and val: 3 in 10 objects not annotated", causes=("annotations_missing",),
          raw=in_both(lambda split: in_share(split, 1.0, objects(some_missing)))),
    # NVIDIA/TensorRT-Model-Connect#1181
    Fault("no-object is left out before the softmax at prediction", **PREDICT,
          causes=("no_object_slot", "ranking", "miscalibrated", "prediction_differs"),
          code=logits_by(without_no_object)),
    # maria-larchenko/modflows#10
    Fault("channels and pixels exchanged by a reshape at prediction", **PREDICT,
          causes=("prediction_differs", "mapper_channels"), code=changed(loader, "read_image", by_reshape)),
    # hasanirtiza/PedesFormer-Transformer-Networks-For-Pedestrian-Detection#4
    Fault("the trained weights of the backbone are not loaded", **PREDICT,
          causes=("weights_not_loaded", "prediction_differs"),
          code=everywhere(torch_network.load_model, backbone_before_training)),
    # facebookresearch/Mask2Former#163
    Fault("the trained queries are not loaded", **PREDICT, causes=("weights_not_loaded", "prediction_differs"),
          code=loaded(new_queries)),
    # huggingface/transformers#15954
    Fault("predicted masks of a main class in an image are joined", **PREDICT,
          causes=("postprocessing_wrong", "masks_scaled", "duplicates", "prediction_differs"),
          code=predictions_by(fused)),
    # lightly-ai/lightly-train#523
    Fault("images twice the size at prediction", **PREDICT, causes=("prediction_differs", "scale_mismatch"),
          code=changed(Mapper, "__init__", twice_the_size)),
    # Striveworks/valor#5
    Fault("evaluator: the union is the sum of the areas", **EVALUATE, causes=("evaluator_wrong",),
          code=everywhere(pairs.of_masks, sum_for_union)),
    # facebookresearch/detr#319
    Fault("evaluator: predictions of scores below 0.5 do not count", **EVALUATE,
          causes=("evaluator_wrong", "filter_too_strict", "detections_too_few"),
          code=changed(Evaluation, "match", confident)),
    # open-mmlab/mmsegmentation#3787
    Fault("training takes the first class of each task for unlabelled, and the others one lower",
          causes=("mapper_labels", "labels_off_by_one", "loss_targets"),
          code=changed(Mapper, "_label", lambda real, *args: max(real(*args) - 1, UNLABELLED))),
    # tue-mps/eomt#42
    Fault("an image without objects fails in training", causes=("step_fails",),
          code=changed(losses, "match", needs_objects)),
    # Rikorose/DeepFilterNet#52
    Fault("only the first tenth of train's images is drawn", causes=("overtrained",),
          code=changed(loader._Steps, "__init__",
                       lambda real, self, images, **kwargs: real(self, max(1, images // 10), **kwargs))),
    # facebookresearch/detr#95
    Fault("the lr of the backbone is 10 times the others'", causes=("lr_too_high",),
          changes={"solver.backbone_multiplier": 10.0}),
    # open-mmlab/mmdetection#1523
    Fault("images are trained at three to four times their size", causes=("scale_mismatch",),
          changes={"input.min_scale": 3.0, "input.max_scale": 4.0}),
    # ScrollPrize/villa#1644
    Fault("the dice loss takes logits for probabilities", causes=("loss_targets", "loss_not_finite"),
          code=changed(losses, "mask_losses", dice_of_logits)),
    # NielsRogge/Transformers-Tutorials#227
    Fault("objects of a main class in an image are joined in training", causes=("mapper_displaces", "objects_merged"),
          code=changed(Mapper, "_instances", same_class_joined)),
)  # fmt: skip
