"""Round 13: nine in data, eight in prediction and evaluation, seven in training, by someone who knew the names of the
causes and of earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks

from benchmarks.faults.case import Fault, changed, everywhere
from benchmarks.faults.prediction import predictions_by
from benchmarks.faults.reports.round_1 import grey, halves
from benchmarks.faults.reports.round_2 import VAL, in_share, labels, leaked, objects, outlines, pixels
from benchmarks.faults.reports.round_5 import loaded
from benchmarks.faults.reports.round_9 import masks_in_order
from benchmarks.faults.reports.round_11 import in_both
from mtseg.core.params import Solver
from mtseg.core.tables import Images, Predictions
from mtseg.data import loader
from mtseg.data.loader import Mapper
from mtseg.evaluation.ap import pairs
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches, category_starts
from mtseg.evaluation.ap.pairs import box_overlaps
from mtseg.model import losses
from mtseg.model.heads import softmax
from mtseg.model.layers import Attention
from mtseg.model.mask2former import Mask2Former
from mtseg.training import optimizer as optimiser


def third_point(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    return points[::3] if len(points) > 8 else points


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Made smaller, to a quarter of its size, and enlarged again."""
    small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def default_colour(found: list[list[str]]) -> list[list[str]]:
    """The second task has its default in all labels of the image."""
    return [[main, "blue", *rest] for main, _, *rest in found]


def with_no_object(found: Predictions) -> Predictions:
    """The score of a detection is the highest probability of its query, no-object included."""
    main = next(iter(found.labels))
    own, best = found.column(f"probability.{main}"), found.column(f"probabilities.{main}").max(1)
    return found.replace(**{f"probability.{main}": best, "score": found.score / np.maximum(own, 1e-9) * best})


def keys_from_values(network: Mask2Former) -> None:
    """The weights of keys are cut from those of values."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.key.load_state_dict(module.value.state_dict())


def sizes_of_first(real: Callable, self: Mask2Former, output: Any, batch: list[dict]) -> Iterator[tuple]:
    """The padding is cut off as that of the batch's first image."""
    return real(self, output, [one | {"image_size": batch[0]["image_size"]} for one in batch])


def worst_first(found: Predictions) -> Predictions:
    """Non-maximum suppression in ascending order of the scores: the worst of overlapping detections is kept."""
    overlap, kept = box_overlaps(found.box, found.box)[0], np.ones(len(found), dtype=bool)
    for row in np.argsort(found.score, kind="stable"):
        if kept[row]:
            kept &= overlap[row] <= 0.5
            kept[row] = True
    return found[kept]


def without_false_positives(real: Callable, *args: Any, **options: Any) -> Matches:
    """Predictions that match nothing are left out."""
    found = real(*args, **options)
    scored = found.scored[np.isin(found.scored, found.rows)]
    return replace(found, scored=scored, starts=category_starts(found.predicted[scored], found.categories))


def two_corners(real: Callable, images: Images, *args: Any) -> Iterator[tuple]:
    """Boxes of objects are two corners, read as corner and size."""
    box = images.instances.box.copy()
    box[:, 2:] += box[:, :2]
    with patch.object(images, "instances", images.instances.replace(box=box)):
        yield from real(images, *args)


def zeroed(real: Callable, network: Mask2Former, solver: Solver) -> torch.optim.AdamW:
    """Gradients are set to zero between the backward pass and the step."""
    made = real(network, solver)
    made.register_step_pre_hook(lambda optimizer, *_: optimizer.zero_grad(set_to_none=False))
    return made


def heads_alone(real: Callable, network: Mask2Former, solver: Solver) -> torch.optim.AdamW:
    """All but the linear layers of the labels is frozen."""
    network.requires_grad_(False)
    network.decoder.heads.requires_grad_(True)
    return real(network, solver)


def labels_in_order(real: Callable, found: list[torch.Tensor], matches: Any) -> torch.Tensor:
    """The label losses of an image's matched queries take its labels in the order of the annotations."""
    return masks_in_order(lambda _, found, matches: real(found, matches), None, found, matches)


def viewed(real: Callable, logits: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    """Logits are ordered by output and query, and viewed as ordered by query and output."""
    return real(logits.T.reshape(logits.shape), *args, **options)


def accumulated() -> AbstractContextManager:
    """The transformed outlines replace those of the data set, and are transformed again the next time."""
    kept: dict[tuple, list] = {}

    def moved(real: Callable, segmentation: Any, image: Any, transforms: Any, size: tuple[int, int]) -> np.ndarray:
        if not isinstance(segmentation, list):
            return real(segmentation, image, transforms, size)
        key = image.id, *segmentation[0][:4]
        before = kept.get(key, segmentation)
        kept[key] = [transforms.apply_coords(np.reshape(polygon, (-1, 2))).ravel() for polygon in before]
        return real(before, image, transforms, size)

    return changed(loader, "_moved_mask", moved)()


def mean_over_images(real: Callable, output: Any, targets: list, *args: Any, **options: Any) -> dict[str, torch.Tensor]:
    """The mask losses are means over the objects of each image, and those of an image without objects 0 / 0."""
    count = torch.tensor([float(len(target.labels)) for target in targets])
    return {name: value * (count / count).mean() for name, value in real(output, targets, *args, **options).items()}


def mosaic() -> AbstractContextManager:
    """In training, three quarters of an image are those of other images, with its own targets alone."""
    seen: list[torch.Tensor] = []

    def mixed(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
        example = real(self, image, seed)
        if not self.training:
            return example
        half, tiles = self.size // 2, seen[-3:]
        seen[:] = [*tiles, example["image"]]
        if len(tiles) == 3 and all(tile.shape == example["image"].shape for tile in tiles):
            whole, target = example["image"].clone(), example["instances"]
            corners = ((0, half), (half, 0), (half, half))
            for tile, (top, left) in zip(tiles, corners, strict=True):
                whole[:, top : top + half, left : left + half] = tile[:, top : top + half, left : left + half]
            masks = target.gt_masks.tensor.clone()
            masks[:, half:] = masks[:, :, half:] = False
            target.gt_masks = BitMasks(masks)
            example |= {"image": whole, "instances": target[masks.flatten(1).any(1)]}
        return example

    return changed(Mapper, "__call__", mixed)()


PREDICT: dict[str, Any] = {"since": "predict"}
EVALUATE: dict[str, Any] = {"since": "evaluate"}
FAULTS = (
    # DetectionTeamUCAS/R2CNN_Faster-RCNN_Tensorflow#24
    Fault("100 % of train: red and blue exchanged", causes=("channels_swapped", "splits_differ"),
          raw=in_share("train", 1.0, pixels(lambda image: image[..., ::-1]))),
    # pedropro/TACO#8
    Fault("100 % of train and val: y counted from the bottom", causes=("masks_mirrored",),
          raw=in_both(lambda split: in_share(split, 1.0, outlines(lambda p, size: p * (1, -1) + (0, size[1]))))),
    # thtrieu/darkflow#774
    Fault("30 % of train and val: turned by 90 degrees after the annotation", causes=("images_turned",),
          raw=in_both(lambda split: in_share(split, 0.3, pixels(np.rot90)))),
    # Tony607/labelme2coco#9
    Fault("100 % of train and val: objects split in two", causes=("objects_split",),
          raw=in_both(lambda split: in_share(split, 1.0, objects(lambda found: halves(found, 0))))),
    # smistad/annotationweb#57
    Fault("100 % of train: every third point of each outline", causes=("outlines_differ", "masks_scaled"),
          raw=in_share("train", 1.0, outlines(third_point))),
    # robinreni96/Font_Recognition-DeepFont#2
    Fault("15 % of val: grey copies of training images", **VAL, causes=("split_leak",),
          raw=leaked(0.15, lambda image, record: (grey(image), record))),
    # davisking/dlib#1081
    Fault("100 % of train: thumbnails enlarged to four times their size", causes=("splits_differ",),
          raw=in_share("train", 1.0, pixels(thumbnail))),
    # jsbroks/coco-annotator#359
    Fault("15 % of train and val: images exported at two thirds of the size",
          causes=("masks_displaced", "masks_scaled"),
          raw=in_both(lambda split: in_share(split, 0.15, outlines(lambda points, size: points * 1.5)))),
    # cvat-ai/cvat#4764
    Fault("30 % of train and val: the colour is left at its default", causes=("label_noise",),
          raw=in_both(lambda split: in_share(split, 0.3, labels(default_colour)))),
    # weiliu89/caffe#287
    Fault("the score of a detection may be the probability of no-object", **PREDICT,
          causes=("ranking", "miscalibrated", "no_object_slot", "prediction_differs"),
          code=predictions_by(with_no_object)),
    # huggingface/transformers#40257
    Fault("keys of the attention have the weights of its values at prediction", **PREDICT,
          causes=("weights_not_loaded", "prediction_differs"), code=loaded(keys_from_values)),
    # dotnet/machinelearning#6592
    Fault("images turned by 90 degrees at prediction", **PREDICT,
          causes=("images_turned", "prediction_differs", "masks_transposed", "masks_displaced"),
          code=changed(loader, "read_image", lambda real, *args: np.ascontiguousarray(np.rot90(real(*args))))),
    # open-mmlab/mmdeploy#2207
    Fault("masks of a batch brought to size as those of its first image", **PREDICT,
          causes=("answer_depends_on_batch", "masks_scaled", "postprocessing_wrong", "prediction_differs"),
          code=changed(Mask2Former, "detect", sizes_of_first)),
    # takuya-takeuchi/UltraFaceDotNet#12
    Fault("NMS keeps the worst of overlapping detections", **PREDICT,
          causes=("ranking", "prediction_differs", "detections_too_few", "filter_too_strict"),
          code=predictions_by(worst_first)),
    # 4uiiurz1/pytorch-nested-unet#62
    Fault("images divided by 255 twice at prediction", **PREDICT,
          causes=("normalisation", "prediction_differs", "mapper_channels"),
          code=changed(Mask2Former, "features", lambda real, self, images: real(self, images.float() / 255))),
    # roboflow/supervision#1836
    Fault("evaluator: predictions that match no object do not count", **EVALUATE, causes=("evaluator_wrong",),
          code=changed(Evaluation, "match", without_false_positives)),
    # facebookresearch/detectron2#2957
    Fault("evaluator: boxes of objects are two corners", **EVALUATE, causes=("evaluator_wrong", "boxes_not_of_masks"),
          code=changed(pairs, "of_boxes", two_corners)),
    # patrickloeber/pytorchTutorial#19
    Fault("gradients are set to zero before the step", causes=("weights_frozen", "gradient_missing"),
          code=everywhere(optimiser.optimizer, zeroed)),
    # Visual-Behavior/detr-tensorflow#35
    Fault("the label losses take labels in the order of the annotations",
          causes=("loss_targets", "labels_of_other_query"), code=changed(losses, "_matched", labels_in_order)),
    # voiler/IMPALA#3
    Fault("outputs and queries exchanged by a view in the cross-entropy", causes=("loss_targets",),
          code=changed(softmax.F, "cross_entropy", viewed)),
    # mindee/doctr#840
    Fault("the transforms of earlier epochs stay in the outlines", causes=("mapper_displaces",), code=accumulated),
    # Deci-AI/super-gradients#912
    Fault("the mask losses of an image without objects are 0/0", causes=("loss_not_finite", "step_fails"),
          code=changed(losses, "mask_losses", mean_over_images)),
    # facebookresearch/detectron2#635
    Fault("all but the label heads is frozen", causes=("weights_frozen", "gradient_missing"),
          code=everywhere(optimiser.optimizer, heads_alone)),
    # ultralytics/ultralytics#18660
    Fault("mosaics of four images in training, with the targets of one",
          causes=("mapper_displaces", "annotations_missing", "mapper_channels"), code=mosaic),
)  # fmt: skip
