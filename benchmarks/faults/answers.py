"""Faults of the code that predicts and scores; they meet a model that was trained well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from pycocotools import mask as coco_mask

from benchmarks.faults.case import Fault
from benchmarks.faults.inputs import bgr
from benchmarks.faults.patches import Patch, replaced
from mtseg.core.files import read_json, write_json
from mtseg.core.tables import Prediction
from mtseg.data import loader
from mtseg.data.coco import mask as as_mask
from mtseg.evaluation import predictions
from mtseg.inference import predictor as predict
from mtseg.model import mask2former
from mtseg.model.decoder import QueryDecoder, QueryOutput
from mtseg.model.mask2former import Mask2Former

FURTHER = "colour"


def query_weights(real: Callable) -> Callable:
    """The further heads are fed the learnt queries, not the states that the decoder makes of them."""

    def forward(self: QueryDecoder, features: torch.Tensor, levels: list) -> QueryOutput:
        output = real(self, features, levels)
        shape = output.logits[FURTHER].shape
        states = self.norm(self.query_feature + self.query_position)
        changed = {
            name: self.heads[f"head_{name}"](states).expand(shape[0], shape[1], -1, -1)
            for name in list(output.logits)[1:]
        }
        return replace(output, logits=output.logits | changed)

    return forward


def detecting(change: Callable[[QueryOutput], dict[str, torch.Tensor]]) -> Patch:
    """Detection on the outputs with some logits changed."""

    def make(real: Callable) -> Callable:
        return lambda self, output, batch: real(self, replace(output, logits=output.logits | change(output)), batch)

    return replaced(Mask2Former, "detect", make)


def of_last_picture(output: QueryOutput) -> dict[str, torch.Tensor]:
    further = list(output.logits.items())[1:]
    return {name: x_LBQK[:, -1:].expand_as(x_LBQK) for name, x_LBQK in further}


def two_tasks_swapped(output: QueryOutput) -> dict[str, torch.Tensor]:
    """Of as many classes each; no-object stays."""
    one, other = list(output.logits)[:2]
    slots = output.logits[one].shape[-1] - 1
    classes = {name: output.logits[name][..., :slots] for name in (other, one)}
    return {
        name: torch.cat([own, output.logits[name][..., slots:]], dim=-1)
        for name, own in zip((one, other), classes.values(), strict=True)
    }


def query_order(real: Callable) -> Callable:
    """The further labels stay in the queries' order, the masks are in the detections'."""

    def detect(self: Mask2Former, output: QueryOutput, batch: list) -> list[Instances]:
        results = real(self, output, batch)
        for b, found in enumerate(results):
            for i, task in enumerate(self.tasks[1:], start=1):
                logits = self.heads.class_logits(output.last())[task.name][b]
                logits = logits[torch.arange(len(found)) % len(logits)]
                found.set(f"logits_{task.name}", logits)
                found.pred_labels[:, i] = logits[:, : task.num_classes].argmax(-1)
        return results

    return detect


def masks_of_last_picture(real: Callable) -> Callable:
    def detect(self: Mask2Former, output: QueryOutput, batch: list) -> list[Instances]:
        features = output.mask_features_BCHW
        return real(self, replace(output, mask_features_BCHW=features[-1:].expand_as(features)), batch)

    return detect


def half_the_size(real: Callable) -> Callable:
    def init(self: loader.Mapper, tasks: Any, input: Any, *, root: Any, training: bool) -> None:
        smaller = input if training else input.model_copy(update={"size": input.size // 2})
        real(self, tasks, smaller, root=root, training=training)

    return init


def padding_kept(real: Callable) -> Callable:
    """The whole square is resized to the picture, its padding too."""
    return lambda logits, picture: real(logits, picture | {"image_size": tuple(picture["image"].shape[-2:])})


def squashed(real: Callable) -> Callable:
    """At prediction the picture is resized to the square whatever its shape; masks are brought back as if it had kept
    its shape."""

    def call(self: loader.Mapper, image: Any, seed: int = 0) -> dict:
        example = real(self, image, seed)
        if not self.training:
            height, width = example["image_size"]
            whole = example["image"][None, :, :height, :width].float()
            example["image"] = torch.nn.functional.interpolate(whole, size=example["image"].shape[-2:])[0].byte()
        return example

    return call


def answers(change: Callable[[list[Prediction], np.random.Generator], list[Prediction]]) -> Patch:
    """What a picture's encoded predictions are changed into."""

    def make(real: Callable) -> Callable:
        return lambda instances, image_id, tasks: change(
            real(instances, image_id, tasks), np.random.default_rng(image_id)
        )

    return replaced(predict, "encode", make)


def with_mask(prediction: Prediction, mask: np.ndarray) -> Prediction:
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return replace(
        prediction, area=float(coco_mask.area(packed)), bbox=tuple(coco_mask.toBbox(packed).tolist()),
        segmentation={"size": prediction.segmentation["size"], "counts": packed["counts"].decode()},
    )  # fmt: skip


def each_mask(change: Callable[[np.ndarray], np.ndarray]) -> Patch:
    def all_of(found: list[Prediction], rng: np.random.Generator) -> list[Prediction]:
        moved = [with_mask(p, change(as_mask(p.segmentation, *p.segmentation["size"]))) for p in found]
        return [p for p in moved if p.area]

    return answers(all_of)


def transposed(mask: np.ndarray) -> np.ndarray:
    out = np.zeros_like(mask)
    height, width = (min(a, b) for a, b in zip(mask.shape, mask.T.shape, strict=True))
    out[:height, :width] = mask.T[:height, :width]
    return out


def grown(mask: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.dilate(np.ascontiguousarray(mask), np.ones((7, 7), np.uint8))


def three_times(found: list[Prediction], rng: np.random.Generator) -> list[Prediction]:
    return [replace(p, query=p.query + 100 * copy) for copy in range(3) for p in found]


def score_inverted(found: list[Prediction], rng: np.random.Generator) -> list[Prediction]:
    return [replace(p, mask_quality=max(1e-3, 1 - p.mask_quality)) for p in found]


def random_quality(found: list[Prediction], rng: np.random.Generator) -> list[Prediction]:
    return [replace(p, mask_quality=float(rng.uniform(1e-4, 1)) ** 4) for p in found]


def heated(by: float) -> Callable[[QueryOutput], dict[str, torch.Tensor]]:
    return lambda output: {name: x * by for name, x in output.logits.items()}


def main_rolled(output: QueryOutput) -> dict[str, torch.Tensor]:
    """The main classes one index on; no-object stays."""
    name, logits = next(iter(output.logits.items()))
    return {name: torch.cat([logits[..., :-1].roll(1, -1), logits[..., -1:]], -1)}


def no_checkpoint(real: Callable) -> Callable:
    """The trained weights are not loaded: those of the start predict."""

    def load_model(path: Any, *, tasks: Any, model: Any, detections: int) -> Mask2Former:
        heads = real(path, tasks=tasks, model=model, detections=detections).heads
        torch.manual_seed(0)
        return Mask2Former(tasks, model, detections=detections, heads=heads)

    return load_model


def wrong_pixels(real: Callable) -> Callable:
    def load_model(*args: Any, **kwargs: Any) -> Mask2Former:
        network = real(*args, **kwargs)
        network.pixel_mean.zero_()
        network.pixel_std.fill_(255.0)
        return network

    return load_model


def without_label(real: Callable) -> Callable:
    """The file is written without the labels of the last task."""

    def write(path: Any, *args: Any) -> None:
        real(path, *args)
        records, (*_, tasks) = read_json(path), args
        for record in records:
            del record["labels"][tasks[-1].name]
        write_json(path, records, indent=None)

    return write


SHIFTED = ("masks_displaced",)
FAULTS = (
    Fault("heads fed the query weights at prediction", number="F11", since="predict", causes=("labels_ignore_image",),
          code=replaced(QueryDecoder, "forward", query_weights)),
    Fault("further labels in query order, masks in top-k order", number="F12", since="predict",
          causes=("labels_of_other_query",), code=replaced(Mask2Former, "detect", query_order)),
    Fault("heads fed the query weights, in training too", number="F11", causes=("labels_ignore_image",),
          code=replaced(QueryDecoder, "forward", query_weights)),
    Fault("further labels in query order, seen before training", number="F12", causes=("labels_of_other_query",),
          code=replaced(Mask2Former, "detect", query_order)),
    Fault("further labels of the batch's last picture, seen before training", number="F12",
          causes=("labels_of_other_image", "answer_depends_on_batch"), code=detecting(of_last_picture)),
    Fault("further labels of the batch's last picture", number="F12", since="predict",
          causes=("labels_of_other_image", "answer_depends_on_batch"), code=detecting(of_last_picture)),
    Fault("padding left in the masks that are brought to size", number="F4", since="predict",
          causes=("masks_scaled", "masks_displaced"), code=replaced(mask2former, "_to_original", padding_kept)),
    Fault("masks 4 pixels off at prediction", number="F4", since="predict", causes=SHIFTED,
          code=each_mask(lambda mask: np.roll(mask, (2, 4), axis=(0, 1)))),
    Fault("pictures squashed to the square at prediction", since="predict", causes=("masks_scaled", *SHIFTED),
          code=replaced(loader.Mapper, "__call__", squashed)),
    Fault("masks transposed at prediction", since="predict", causes=("masks_transposed",),
          code=each_mask(transposed)),
    Fault("masks mirrored at prediction", since="predict", causes=("masks_mirrored",),
          code=each_mask(lambda mask: mask[:, ::-1])),
    Fault("masks 3 pixels too large all round", since="predict", causes=("masks_scaled",), code=each_mask(grown)),
    Fault("pictures read as BGR at prediction alone", since="predict", causes=("channels_swapped",),
          code=replaced(loader, "read_image", bgr)),
    Fault("another normalisation at prediction alone", since="predict", causes=("normalisation",),
          code=replaced(predict, "load_model", wrong_pixels)),
    Fault("the trained weights are not loaded", since="predict", causes=("weights_not_loaded",),
          code=replaced(predict, "load_model", no_checkpoint)),
    Fault("main classes off by one at prediction", since="predict", causes=("labels_off_by_one", "labels_permuted"),
          code=detecting(main_rolled)),
    Fault("two tasks' logits swapped at prediction", since="predict", causes=("labels_of_other_task",),
          code=detecting(two_tasks_swapped)),
    Fault("masks of the batch's last picture", since="predict", causes=("masks_of_other_image", "prediction_differs"),
          code=replaced(Mask2Former, "detect", masks_of_last_picture)),
    Fault("pictures half the size at prediction", since="predict", causes=("prediction_differs", "scale_mismatch"),
          code=replaced(loader.Mapper, "__init__", half_the_size)),
    Fault("each object predicted three times", number="F14", since="predict", causes=("duplicates",),
          code=answers(three_times)),
    Fault("scores inverted", number="F13", since="predict", causes=("ranking",), code=answers(score_inverted)),
    Fault("mask quality random", since="predict", causes=("ranking", "miscalibrated"), code=answers(random_quality)),
    Fault("logits 20 times too large", since="predict", causes=("miscalibrated",), code=detecting(heated(20.0))),
    Fault("logits 10 times too small", since="predict", causes=("miscalibrated",), code=detecting(heated(0.1))),
    Fault("predictions without one task's label", number="F15", since="predict", says="key '.*' is missing",
          code=replaced(predictions, "write", without_label)),
)  # fmt: skip
