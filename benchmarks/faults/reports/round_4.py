"""Round 4, most in code, by someone who had read the checks of the settings and the known answers, but no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.faults.case import Fault, changed, everywhere
from benchmarks.faults.data import in_coco
from benchmarks.faults.images import edit_labels
from benchmarks.faults.inputs import masks_by as training_masks_by
from benchmarks.faults.prediction import by_rows, logits_by, lowest_third_lost, masks_by
from benchmarks.faults.reports.round_1 import turned_by_exif
from benchmarks.faults.reports.round_2 import VAL, read, write
from mtseg.data import loader
from mtseg.inference import torch_network
from mtseg.model import decoder
from mtseg.model.decoder import QueryOutput
from mtseg.model.mask2former import Mask2Former


def one_pixel_off(mask: np.ndarray) -> np.ndarray:
    return np.roll(mask, (1, 1), axis=(0, 1))


def colours_named_otherwise(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of the second task's classes in reverse order; no-object stays."""
    name, x_LBQK = list(logits.items())[1]
    return {name: torch.cat([x_LBQK[..., :-1].flip(-1), x_LBQK[..., -1:]], -1)}


def one_class(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The best logit of the main classes is always that of the second."""
    name, x_LBQK = next(iter(logits.items()))
    classes, rest = x_LBQK[..., :-1], x_LBQK[..., -1:]
    best = classes.amax(-1, keepdim=True)
    found = torch.full_like(classes, -10.0)
    found[..., 1:2] = best
    return {name: torch.cat([found, rest], -1)}


def unsorted_classes(real: Callable, self: Mask2Former, output: QueryOutput, batch: list) -> Any:
    """The main class of each detection is that of the place which the detection had before sorting."""
    name = self.tasks[0].name
    for found, masks in real(self, output, batch):
        before = found.query.argsort()
        found.pred_labels[:, 0] = found.pred_labels[before, 0]
        found.pred_classes = found.pred_labels[:, 0]
        found.set(f"logits_{name}", found.get(f"logits_{name}")[before])
        yield found, masks


def with_mirrored(real: Callable, self: Mask2Former, output: QueryOutput, batch: list) -> Any:
    """Average the mask features with those of the mirrored image, which are not mirrored back."""
    features = output.mask_features_BCHW
    return real(self, replace(output, mask_features_BCHW=(features + features.flip(-1)) / 2), batch)


def first_of_batch(real: Callable, self: Mask2Former, output: QueryOutput, batch: list) -> Any:
    """Every image of a batch has the detections of its first."""
    logits = {name: x_LBQK[:, :1].expand_as(x_LBQK) for name, x_LBQK in output.logits.items()}
    embed, features = output.mask_embed_LBQC, output.mask_features_BCHW
    output = QueryOutput(logits, embed[:, :1].expand_as(embed), features[:1].expand_as(features))
    return real(self, output, batch)


def half_initial(real: Callable, path: Any, *, tasks: Any, model: Any, detections: int) -> Mask2Former:
    """The mean of the trained weights and of those before training, as of a moving average that is too slow."""
    network = real(path, tasks=tasks, model=model, detections=detections)
    torch.manual_seed(0)
    before = Mask2Former(tasks, model, detections=detections, heads=network.heads)
    with torch.no_grad():
        for own, other in zip(network.parameters(), before.parameters(), strict=True):
            own.lerp_(other, 0.5)
    return network


def axes_exchanged(real: Callable, height: int, width: int, *args: Any) -> torch.Tensor:
    return real(width, height, *args).transpose(1, 2)


def as_crowd(annotation: dict[str, Any], count: int) -> None:
    annotation["iscrowd"] = 1


def at_half_resolution(raw: Path) -> None:
    for path in sorted((raw / "val").glob("*.json")):
        image, record = read(path)
        for shape in record["shapes"]:
            shape["points"] = (np.array(shape["points"]) / 2).tolist()
        write(path, cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), record)


def paired_by_name(raw: Path) -> None:
    """Annotations of val in the order of unpadded numbers (1, 10, 11, ..., 2) for images in the order of numbers."""
    paths = sorted((raw / "val").glob("*.json"))
    shapes = [read(path)[1]["shapes"] for path in paths]
    order = sorted(range(len(paths)), key=lambda number: str(number + 1))
    for path, other in zip(paths, order, strict=True):
        image, record = read(path)
        write(path, image, record | {"shapes": shapes[other]})


def one_channel_mirrored(real: Callable, self: loader.Mapper, *args: Any) -> dict:
    example = real(self, *args)
    if self.training:
        example["image"][0] = example["image"][0].flip(-1)
    return example


def boxes_if_mirrored(real: Callable, segmentation: Any, image: Any, transforms: Any, size: tuple[int, int]) -> Any:
    mask = real(segmentation, image, transforms, size)
    if any("Flip" in type(one).__name__ for one in transforms.transforms) and mask.any():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return mask


def mirrored_each(mask: np.ndarray) -> np.ndarray:
    """Each mask is mirrored or not on its own."""
    return mask[:, ::-1] if mask.sum() % 2 else mask


def unit_deviation(real: Callable, self: Mask2Former, *args: Any, **kwargs: Any) -> None:
    real(self, *args, **kwargs)
    self.pixel_std.fill_(1.0)


def blue_ignored(raw: Path) -> None:
    """The first colour counts as unlabelled in train."""
    edit_labels(raw / "train", lambda parts, rng: [parts[0], "-" if parts[1] == "blue" else parts[1], *parts[2:]])


PREDICT: dict[str, Any] = {"since": "predict"}
FAULTS = (
    # ultralytics/ultralytics#20953
    Fault("masks one pixel to the right and down at prediction", **PREDICT, causes=("masks_displaced",),
          code=masks_by(one_pixel_off)),
    # PaddlePaddle/PaddleFormers#732
    Fault("classes of a further task named in another order at prediction", **PREDICT,
          causes=("labels_permuted", "labels_off_by_one"), code=logits_by(colours_named_otherwise)),
    # baaivision/EVA#133
    Fault("trained weights averaged with those before training", **PREDICT,
          causes=("weights_not_loaded", "prediction_differs"),
          code=everywhere(torch_network.load_model, half_initial)),
    # matterport/Mask_RCNN#1768
    Fault("one main class is predicted for everything", **PREDICT, causes=("collapse_to_class",),
          code=logits_by(one_class)),
    # dbolya/yolact#377
    Fault("the lowest third of each predicted mask is lost", **PREDICT, causes=("masks_scaled", "masks_displaced"),
          code=masks_by(lowest_third_lost)),
    # airockchip/rknn_model_zoo#106
    Fault("main classes in the order before sorting", **PREDICT, causes=("labels_of_other_query",),
          code=changed(Mask2Former, "detect", unsorted_classes)),
    # open-mmlab/mmdetection#1466
    Fault("masks averaged with those of the mirrored image, not mirrored back", **PREDICT,
          causes=("masks_mirrored", "masks_scaled"), code=changed(Mask2Former, "detect", with_mirrored)),
    # open-mmlab/mmdeploy#2125
    Fault("all images of a batch have the detections of its first", **PREDICT,
          causes=("masks_of_other_image", "prediction_differs", "answer_depends_on_batch"),
          code=changed(Mask2Former, "detect", first_of_batch)),
    # fundamentalvision/Deformable-DETR#6
    Fault("x and y of the position encoding exchanged at prediction", **PREDICT,
          causes=("prediction_differs", "weights_not_loaded"),
          code=everywhere(decoder.sine_position, axes_exchanged)),
    # cocodataset/cocoapi#91
    Fault("masks written by rows and read by columns at prediction", **PREDICT, causes=("masks_transposed",),
          code=masks_by(by_rows)),
    # WXinlong/SOLO#84
    Fault("all objects of val are marked as crowds", **VAL, causes=("split_empty",), coco=in_coco("val", as_crowd),
          says="has other instances"),  # raw annotations that are all crowds are read as objects, with a note
    # instanseg/instanseg#17
    Fault("val at half the resolution", **VAL, causes=("splits_differ",), raw=at_half_resolution),
    # vana77/Market-1501_Attribute#7
    Fault("annotations of val paired with images by names sorted as text", **VAL, causes=("masks_of_other_image",),
          raw=paired_by_name),
    # roboflow/rf-detr#189
    Fault("all images have an EXIF orientation and were annotated as stored", **VAL, causes=("images_turned",),
          raw=turned_by_exif(1.0)),
    # divamgupta/image-segmentation-keras#191
    Fault("one channel of the image mirrored in training", causes=("mapper_channels", "mapper_displaces"),
          code=changed(loader.Mapper, "__call__", one_channel_mirrored)),
    # matterport/Mask_RCNN#2018
    Fault("each mask mirrored on its own in training", causes=("mapper_displaces",),
          code=training_masks_by(mirrored_each)),
    # tongtybj/TrTr#13
    Fault("boxes for masks where training mirrors the image", causes=("mapper_displaces",),
          code=changed(loader, "_moved_mask", boxes_if_mirrored)),
    # facebookresearch/detectron2#1726
    Fault("pixels divided by 1 instead of the deviation", causes=("normalisation",),
          code=changed(Mask2Former, "__init__", unit_deviation)),
    # open-mmlab/mmsegmentation#2425
    Fault("the first class of a task counts as unlabelled in train", causes=("class_missing_in_train",),
          raw=blue_ignored),
    # EvolvingLMMs-Lab/OneVision-Encoder#82
    Fault("the lr falls ten times as early as meant", causes=("lr_too_low", "too_few_steps"),
          changes={"solver.schedule": "steps", "solver.steps": [0.09, 0.095]}),
)  # fmt: skip
