"""Round 15: nine in data, eight in prediction and evaluation, seven in training, by someone who knew the names of the
causes and of earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from benchmarks.faults.case import Fault, changed, everywhere
from benchmarks.faults.prediction import logits_by, masks_by, predictions_by
from benchmarks.faults.reports.round_2 import (
    VAL,
    in_share,
    labels,
    leaked,
    objects,
    outlines,
    part,
    pixels,
    read,
    write,
)
from benchmarks.faults.reports.round_5 import loaded
from benchmarks.faults.reports.round_11 import in_both
from mtseg.core.tables import Images, Pairs, Predictions
from mtseg.data.loader import Mapper
from mtseg.evaluation.ap import pairs
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches
from mtseg.model import losses, matching
from mtseg.model.decoder import QueryDecoder, QueryOutput
from mtseg.model.mask2former import Mask2Former

OTHER_ORDER = {"dotted": "solid", "solid": "striped", "striped": "dotted"}  # of the sorted names, and as they are drawn
TYPOS = ("sold", "soild", "sollid")


def overwritten(raw: Path) -> None:
    """30 % of val's images are those of train of the same name, with the annotations of val."""
    paths = sorted((raw / "val").glob("*.json"))
    for index in part(paths, 0.3):
        write(paths[index], read(raw / "train" / paths[index].name)[0], read(paths[index])[1])


def shifted(raw: Path) -> None:
    """The last 30 % of train's images have the annotations of the next, as after a frame that was left out."""
    paths = sorted((raw / "train").glob("*.json"))
    first = round(0.7 * len(paths))
    known = [read(path) for path in paths[first:]]
    for path, (image, _), (_, record) in zip(paths[first:], known, known[1:], strict=False):
        write(path, image, record)


def shaky(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Each point is off by up to 4 pixels in x and y."""
    return points + np.random.default_rng(round(points.sum())).uniform(-4, 4, points.shape)


def misspelt(found: list[list[str]]) -> list[list[str]]:
    """`solid` is written in three wrong ways."""
    names = (TYPOS[(len(found) + number) % len(TYPOS)] for number in range(len(found)))
    return [[typo if part == "solid" else part for part in parts] for parts, typo in zip(found, names, strict=True)]


def layers_of_first(network: Mask2Former) -> None:
    """Tensors are found by a part of their name, so that all layers of the decoder get those of the first."""
    first, *others = network.decoder.layers
    for layer in others:
        layer.load_state_dict(first.state_dict())


def one_image_late(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The logits of the second task are those of the image before in the batch."""
    _, (name, x_LBQK), *_ = logits.items()
    return {name: x_LBQK.roll(1, 1)}


def of_all_layers(real: Callable, self: Mask2Former, output: QueryOutput, batch: list[dict]) -> Iterator[tuple]:
    """The detections of all decoder layers, which have auxiliary losses in training, are joined."""
    parts = []
    for count in range(1, len(output.mask_embed_LBQC) + 1):
        logits = {name: x_LBQK[:count] for name, x_LBQK in output.logits.items()}
        parts.append(real(self, replace(output, logits=logits, mask_embed_LBQC=output.mask_embed_LBQC[:count]), batch))
    for found in zip(*parts, strict=True):
        first = 0
        for number, (one, masks) in enumerate(found):
            one.query = one.query + 100 * number
            one.mask = one.mask + first
            first += len(masks)
        joined = Instances.cat([one for one, _ in found])
        yield joined[joined.scores.argsort(descending=True, stable=True)], torch.cat([masks for _, masks in found])


def left_to_right(found: Predictions) -> Predictions:
    """Detections are sorted by their left edge, and their scores are not."""
    names = [name for name in found.names if name in ("score", "mask_quality") or name.startswith("probability.")]
    order = np.argsort(found.box[:, 0], kind="stable")
    return found[order].replace(**{name: found.column(name) for name in names})


def found_alone(real: Callable, *args: Any, **options: Any) -> Matches:
    """Objects that no prediction matches are left out."""
    found = real(*args, **options)
    matched = np.zeros_like(found.objects)
    matched[found.hit[found.hit >= 0]] = True
    return replace(found, objects=found.objects & matched)


def dice_for_iou(real: Callable, images: Images, predictions: Predictions) -> Pairs:
    found = real(images, predictions)
    return found.replace(iou=2 * found.iou / (1 + found.iou))


def statistics_of_shares(real: Callable, self: Mask2Former, *args: Any, **kwargs: Any) -> None:
    """Mean and deviation are those of pixels from 0 to 1, and pixels are from 0 to 255."""
    real(self, *args, **kwargs)
    self.pixel_mean /= 255
    self.pixel_std /= 255


def features_detached(real: Callable, self: QueryDecoder, *args: Any) -> QueryOutput:
    output = real(self, *args)
    return replace(output, mask_features_BCHW=output.mask_features_BCHW.detach())


def at_other_points(real: Callable, maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Masks of objects are sampled at the points in reverse order."""
    return real(maps, points.flip(1) if ((maps == 0) | (maps == 1)).all() else points)


def half_inverted(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
    """In training, the colours of half of the images are inverted."""
    example = real(self, image, seed)
    if self.training and np.random.default_rng(seed).random() < 0.5:
        example["image"] = 255 - example["image"]
    return example


def pasted_alone() -> AbstractContextManager:
    """In training, the objects of the image before are pasted into an image, but not added to its targets."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def pasted(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
        example = real(self, image, seed)
        if self.training:
            own, shown = example["image"], example["instances"].gt_masks.tensor.any(0)
            if seen and seen[0][0].shape == own.shape:
                before, objects_of_it = seen[0]
                example["image"] = torch.where(objects_of_it, before, own)
            seen[:] = [(own, shown)]
        return example

    return changed(Mapper, "__call__", pasted)()


PREDICT: dict[str, Any] = {"since": "predict"}
EVALUATE: dict[str, Any] = {"since": "evaluate", "causes": ("evaluator_wrong",)}
FAULTS = (
    # wujixiu/helmet-detection#29
    Fault("15 % of val: training images under other names", **VAL, causes=("split_leak",),
          raw=leaked(0.15, lambda image, record: (image, record))),
    # ashnair1/COCO-Assistant#20
    Fault("30 % of val: images overwritten by those of train with the same names", **VAL,
          causes=("masks_of_other_image", "split_leak"), raw=overwritten),
    # HumanSignal/label-studio#7757
    Fault("30 % of train: with the annotations of the next image, from a frame on that was left out",
          causes=("masks_of_other_image",), raw=shifted),
    # HumanSignal/label-studio#2886
    Fault("100 % of train: fills named by another order of their list", causes=("labels_permuted", "labels_off_by_one"),
          raw=in_share("train", 1.0, labels(lambda found: [[*rest, OTHER_ORDER[fill]] for *rest, fill in found]))),
    # cai4cai/cholec_instance_seg#8
    Fault("100 % of val: points of outlines off by up to 4 pixels, each in another direction", **VAL,
          causes=("outlines_differ",), raw=in_share("val", 1.0, outlines(shaky))),
    # CSAILVision/ADE20K#53
    Fault("30 % of train and val: one fill is written in three wrong ways", causes=("classes_alike",),
          raw=in_both(lambda split: in_share(split, 0.3, labels(misspelt)))),
    # wkentaro/labelme#419
    Fault("100 % of train and val: only the last object of each image annotated", causes=("annotations_missing",),
          raw=in_both(lambda split: in_share(split, 1.0, objects(lambda found: found[-1:])))),
    # NVIDIA/DIGITS#484
    Fault("30 % of val: the blue channel is a copy of the red", **VAL, causes=("splits_differ", "channels_swapped"),
          raw=in_share("val", 0.3, pixels(lambda image: image[..., [0, 1, 0]]))),
    # HumanSignal/label-studio#411
    Fault("15 % of train and val: outlines in percent of the image's size, read as pixels",
          causes=("masks_displaced", "masks_scaled"),
          raw=in_both(lambda split: in_share(split, 0.15, outlines(lambda points, size: points / size * 100)))),
    # deepspeedai/DeepSpeed#3305
    Fault("all layers of the decoder have the weights of the first at prediction", **PREDICT,
          causes=("weights_not_loaded", "prediction_differs"), code=loaded(layers_of_first)),
    # gakkiri/simple-centernet-pytorch#2
    Fault("the decoder gets the levels of features in reverse order at prediction", **PREDICT,
          causes=("prediction_differs",),
          code=changed(QueryDecoder, "forward", lambda real, self, features, levels: real(
              self, features, levels[::-1]))),
    # AlexeyAB/darknet#5975
    Fault("one task's labels are those of the batch's image before", **PREDICT,
          causes=("labels_of_other_image", "answer_depends_on_batch"), code=logits_by(one_image_late)),
    # thodan/bop_toolkit#103
    Fault("predicted masks are inverted, as runs are read as if they began inside", **PREDICT,
          causes=("postprocessing_wrong", "prediction_differs", "masks_scaled"), code=masks_by(lambda mask: 1 - mask)),
    # timmeinhardt/trackformer#42
    Fault("the detections of all decoder layers are joined", **PREDICT, causes=("duplicates", "prediction_differs"),
          code=changed(Mask2Former, "detect", of_all_layers)),
    # DayBreak-u/chineseocr_lite#340
    Fault("detections are sorted from left to right, their scores are not", **PREDICT,
          causes=("ranking", "miscalibrated"), code=predictions_by(left_to_right)),
    # JdeRobot/PerceptionMetrics#396
    Fault("evaluator: objects that no prediction matches do not count", **EVALUATE,
          code=changed(Evaluation, "match", found_alone)),
    # megvii-research/PETR#44
    Fault("evaluator: Dice coefficient instead of IoU", **EVALUATE, code=everywhere(pairs.of_masks, dice_for_iou)),
    # BoyuanJiang/context_encoder_pytorch#4
    Fault("pixels from 0 to 255 normalised by mean and deviation of those from 0 to 1", causes=("normalisation",),
          code=changed(Mask2Former, "__init__", statistics_of_shares)),
    # daniel03c1/masked_wavelet_nerf#10
    Fault("the mask features are detached", causes=("gradient_missing",),
          code=changed(QueryDecoder, "forward", features_detached)),
    # facebookresearch/Mask2Former
    Fault("the matcher samples predicted masks and objects at different points", causes=("matcher_wrong",),
          code=changed(matching, "sample", at_other_points)),
    # roboflow/rf-detr#262
    Fault("the label losses count classes from one", causes=("loss_targets", "labels_off_by_one", "no_object_slot"),
          code=changed(losses, "_matched", lambda real, *args: real(*args) + 1)),
    # jhu-lcsr/costar_plan#387
    Fault("the colours of half of the training images are inverted, where colour is a task",
          causes=("jitter_changes_label", "mapper_channels"), code=changed(Mapper, "__call__", half_inverted)),
    # nshaud/DeepHyperX#40
    Fault("the first main class has weight 0", causes=("class_weights",),
          changes={"tasks.shape.class_weights": {"circle": 0.0}}),
    # ultralytics/ultralytics#18660
    Fault("training pastes objects into images without adding them to the targets",
          causes=("annotations_missing", "mapper_displaces", "mapper_channels"), code=pasted_alone),
)  # fmt: skip
