"""Faults of the code that predicts and scores; they meet a model that was trained well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from pycocotools import mask as coco_mask

from benchmarks.faults.case import Fault
from benchmarks.faults.inputs import bgr
from benchmarks.faults.patches import Patch, changed
from mtseg.core.tables import Predictions
from mtseg.data import loader
from mtseg.inference import torch_network
from mtseg.model import mask2former
from mtseg.model.decoder import QueryDecoder, QueryOutput
from mtseg.model.mask2former import Mask2Former

FURTHER = "colour"


def query_weights(real: Callable, self: QueryDecoder, features: torch.Tensor, levels: list) -> QueryOutput:
    """The further heads are fed the learnt queries, not the states that the decoder makes of them."""
    output = real(self, features, levels)
    shape = output.logits[FURTHER].shape
    states = self.norm(self.query_feature + self.query_position)
    further = {
        name: self.heads[f"head_{name}"](states).expand(shape[0], shape[1], -1, -1) for name in list(output.logits)[1:]
    }
    return replace(output, logits=output.logits | further)


def detecting(change: Callable[[QueryOutput], dict[str, torch.Tensor]]) -> Patch:
    """Detection on the outputs with some logits changed."""

    def detect(real: Callable, self: Mask2Former, output: QueryOutput, batch: list) -> list[Instances]:
        return real(self, replace(output, logits=output.logits | change(output)), batch)

    return changed(Mask2Former, "detect", detect)


def of_last_image(output: QueryOutput) -> dict[str, torch.Tensor]:
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


def heated(by: float) -> Callable[[QueryOutput], dict[str, torch.Tensor]]:
    return lambda output: {name: x * by for name, x in output.logits.items()}


def main_rolled(output: QueryOutput) -> dict[str, torch.Tensor]:
    """The main classes one index on; no-object stays."""
    name, logits = next(iter(output.logits.items()))
    return {name: torch.cat([logits[..., :-1].roll(1, -1), logits[..., -1:]], -1)}


def query_order(real: Callable, self: Mask2Former, output: QueryOutput, batch: list) -> list[Instances]:
    """The further labels stay in the queries' order, the masks are in the detections'."""
    results = real(self, output, batch)
    for b, found in enumerate(results):
        for i, task in enumerate(self.tasks[1:], start=1):
            logits = self.heads.class_logits(output.last())[task.name][b]
            logits = logits[torch.arange(len(found)) % len(logits)]
            found.set(f"logits_{task.name}", logits)
            found.pred_labels[:, i] = logits[:, : task.num_classes].argmax(-1)
    return results


def masks_of_last_image(real: Callable, self: Mask2Former, output: QueryOutput, batch: list) -> list[Instances]:
    features = output.mask_features_BCHW
    return real(self, replace(output, mask_features_BCHW=features[-1:].expand_as(features)), batch)


def half_the_size(
    real: Callable, self: loader.Mapper, tasks: Any, input: Any, *, root: Any, training: bool
) -> None:  # fmt: skip
    smaller = input if training else input.model_copy(update={"size": input.size // 2})
    real(self, tasks, smaller, root=root, training=training)


def padding_kept(real: Callable, logits: Any, example: dict) -> Any:
    """The whole square is resized to the image, its padding too."""
    return real(logits, example | {"image_size": tuple(example["image"].shape[-2:])})


def squashed(real: Callable, self: loader.Mapper, image: Any, seed: int = 0) -> dict:
    """At prediction the image is resized to the square whatever its shape; masks are brought back as if it had kept
    its shape."""
    example = real(self, image, seed)
    if not self.training:
        height, width = example["image_size"]
        whole = example["image"][None, :, :height, :width].float()
        example["image"] = torch.nn.functional.interpolate(whole, size=example["image"].shape[-2:])[0].byte()
    return example


def no_checkpoint(real: Callable, path: Any, *, tasks: Any, model: Any, detections: int) -> Mask2Former:
    """The trained weights are not loaded: those of the start predict."""
    heads = real(path, tasks=tasks, model=model, detections=detections).heads
    torch.manual_seed(0)
    return Mask2Former(tasks, model, detections=detections, heads=heads)


def wrong_pixels(real: Callable, *args: Any, **kwargs: Any) -> Mask2Former:
    network = real(*args, **kwargs)
    network.pixel_mean.zero_()
    network.pixel_std.fill_(255.0)
    return network


def answers(change: Callable[[Predictions, np.random.Generator], Predictions]) -> Patch:
    """The predictions of each image are changed."""

    def encode(real: Callable, found: Instances, image_id: int, heads: Any) -> Predictions:
        return change(real(found, image_id, heads), np.random.default_rng(image_id))

    return changed(torch_network, "encode", encode)


def each_mask(change: Callable[[np.ndarray], np.ndarray]) -> Patch:
    def moved(found: Predictions, rng: np.random.Generator) -> Predictions:
        masks = [change(coco_mask.decode(rle)).astype(np.uint8) for rle in found.rles()]
        rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
        area = np.array([mask.sum() for mask in masks], dtype=np.float64)
        box = np.array([coco_mask.toBbox(rle) for rle in rles]).reshape(-1, 4)
        counts = np.array([rle["counts"].decode() for rle in rles], dtype=object)
        return found.replace(rle=counts, area=area, box=box)[area > 0]

    return answers(moved)


def transposed(mask: np.ndarray) -> np.ndarray:
    out = np.zeros_like(mask)
    height, width = (min(a, b) for a, b in zip(mask.shape, mask.T.shape, strict=True))
    out[:height, :width] = mask.T[:height, :width]
    return out


def grown(mask: np.ndarray) -> np.ndarray:
    return cv2.dilate(np.ascontiguousarray(mask), np.ones((7, 7), np.uint8))


def three_times(found: Predictions, rng: np.random.Generator) -> Predictions:
    return Predictions.concatenate([found.replace(query=found.query + 100 * copy) for copy in range(3)])


def with_quality(found: Predictions, quality: np.ndarray) -> Predictions:
    return found.replace(mask_quality=quality, score=found.score / found.mask_quality * quality)


def score_inverted(found: Predictions, rng: np.random.Generator) -> Predictions:
    return with_quality(found, np.maximum(1e-3, 1 - found.mask_quality))


def random_quality(found: Predictions, rng: np.random.Generator) -> Predictions:
    return with_quality(found, rng.uniform(1e-4, 1, len(found)) ** 4)


def without_label(real: Callable, self: Predictions, path: Any, tasks: Any) -> None:
    """The file is written without the labels of the last task."""
    names = [name for name in self.names if name != f"labels.{tasks[-1].name}"]
    real(Predictions(names, len(self), self.column), path, tasks)


SHIFTED = ("masks_displaced",)
OF_BATCH = ("labels_of_other_image", "answer_depends_on_batch")
FAULTS = (
    Fault("heads fed the query weights at prediction", failure="labels_ignore_image", since="predict",
          causes=("labels_ignore_image",), code=changed(QueryDecoder, "forward", query_weights)),
    Fault("further labels in query order, masks in top-k order", failure="label_readout", since="predict",
          causes=("labels_of_other_query",), code=changed(Mask2Former, "detect", query_order)),
    Fault("heads fed the query weights, in training too", failure="labels_ignore_image",
          causes=("labels_ignore_image",), code=changed(QueryDecoder, "forward", query_weights)),
    Fault("further labels in query order, seen before training", failure="label_readout",
          causes=("labels_of_other_query",), code=changed(Mask2Former, "detect", query_order)),
    Fault("further labels of the batch's last image, seen before training", failure="label_readout",
          causes=OF_BATCH, code=detecting(of_last_image)),
    Fault("further labels of the batch's last image", failure="label_readout", since="predict",
          causes=OF_BATCH, code=detecting(of_last_image)),
    Fault("padding left in the masks that are brought to size", failure="mapper_displaces", since="predict",
          causes=("masks_scaled", "masks_displaced"), code=changed(mask2former, "_to_original", padding_kept)),
    Fault("masks 4 pixels off at prediction", failure="mapper_displaces", since="predict", causes=SHIFTED,
          code=each_mask(lambda mask: np.roll(mask, (2, 4), axis=(0, 1)))),
    Fault("images squashed to the square at prediction", since="predict", causes=("masks_scaled", *SHIFTED),
          code=changed(loader.Mapper, "__call__", squashed)),
    Fault("masks transposed at prediction", since="predict", causes=("masks_transposed",),
          code=each_mask(transposed)),
    Fault("masks mirrored at prediction", since="predict", causes=("masks_mirrored",),
          code=each_mask(lambda mask: mask[:, ::-1])),
    Fault("masks 3 pixels too large all round", since="predict", causes=("masks_scaled",), code=each_mask(grown)),
    Fault("images read as BGR at prediction alone", since="predict", causes=("channels_swapped",),
          code=changed(loader, "read_image", bgr)),
    Fault("another normalisation at prediction alone", since="predict", causes=("normalisation",),
          code=changed(torch_network, "load_model", wrong_pixels)),
    Fault("the trained weights are not loaded", since="predict", causes=("weights_not_loaded",),
          code=changed(torch_network, "load_model", no_checkpoint)),
    Fault("main classes off by one at prediction", since="predict", causes=("labels_off_by_one", "labels_permuted"),
          code=detecting(main_rolled)),
    Fault("two tasks' logits swapped at prediction", since="predict", causes=("labels_of_other_task",),
          code=detecting(two_tasks_swapped)),
    Fault("masks of the batch's last image", since="predict", causes=("masks_of_other_image", "prediction_differs"),
          code=changed(Mask2Former, "detect", masks_of_last_image)),
    Fault("images half the size at prediction", since="predict", causes=("prediction_differs", "scale_mismatch"),
          code=changed(loader.Mapper, "__init__", half_the_size)),
    Fault("each object predicted three times", failure="contradictory_predictions", since="predict",
          causes=("duplicates",), code=answers(three_times)),
    Fault("scores inverted", failure="ranking", since="predict", causes=("ranking",), code=answers(score_inverted)),
    Fault("mask quality random", since="predict", causes=("ranking", "miscalibrated"), code=answers(random_quality)),
    Fault("logits 20 times too large", since="predict", causes=("miscalibrated",), code=detecting(heated(20.0))),
    Fault("logits 10 times too small", since="predict", causes=("miscalibrated",), code=detecting(heated(0.1))),
    Fault("predictions without one task's label", failure="overlay_labels", since="predict",
          says="column labels.* is missing", code=changed(Predictions, "write", without_label)),
)  # fmt: skip
