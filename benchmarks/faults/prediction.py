"""Faults of the code that predicts and evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from benchmarks.faults.case import Fault, Patch, changed, everywhere
from benchmarks.faults.inputs import bgr
from mtseg.core.masks import areas
from mtseg.core.tables import Images, Pairs, Predictions
from mtseg.data import loader
from mtseg.evaluation.ap import pairs
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference import torch_network
from mtseg.model import mask2former
from mtseg.model.decoder import QueryDecoder, QueryOutput
from mtseg.model.mask2former import Mask2Former


def query_weights(real: Callable, self: QueryDecoder, features: torch.Tensor, levels: list) -> QueryOutput:
    """Feed the further heads the learned query embeddings instead of the decoder output."""
    output = real(self, features, levels)
    main, *further = output.logits
    layers, images = output.logits[main].shape[:2]
    states = self.norm(self.query_feature + self.query_position)
    logits = {name: self.heads[f"head_{name}"](states).expand(layers, images, -1, -1) for name in further}
    return replace(output, logits=output.logits | logits)


def logits_by(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Patch:
    """In detection, replace the logits of some tasks."""

    def detect(real: Callable, self: Mask2Former, output: QueryOutput, batch: list) -> Iterator[tuple]:
        return real(self, replace(output, logits=output.logits | change(output.logits)), batch)

    return changed(Mask2Former, "detect", detect)


def labels_of_last_image(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give every image the further labels of the batch's last image."""
    _, *further = logits.items()
    return {name: x_LBQK[:, -1:].expand_as(x_LBQK) for name, x_LBQK in further}


def main_classes_rolled(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Shift the classes of the main task by one; no-object stays."""
    name, x_LBQK = next(iter(logits.items()))
    return {name: torch.cat([x_LBQK[..., :-1].roll(1, -1), x_LBQK[..., -1:]], -1)}


def two_tasks_swapped(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Swap the classes of the first two tasks, which have equally many; no-object stays."""
    (one, a), (other, b) = list(logits.items())[:2]
    k = a.shape[-1] - 1
    return {one: torch.cat([b[..., :k], a[..., k:]], -1), other: torch.cat([a[..., :k], b[..., k:]], -1)}


def logits_times(factor: float) -> Patch:
    return logits_by(lambda logits: {name: x * factor for name, x in logits.items()})


def masks_of_last_image(real: Callable, self: Mask2Former, output: QueryOutput, batch: list) -> Iterator[tuple]:
    features = output.mask_features_BCHW
    return real(self, replace(output, mask_features_BCHW=features[-1:].expand_as(features)), batch)


def query_order(real: Callable, self: Mask2Former, output: QueryOutput, batch: list) -> Iterator[tuple]:
    """Leave the further labels in the order of the queries, while masks are in the order of the detections."""
    for b, (found, masks) in enumerate(real(self, output, batch)):
        for i, task in enumerate(self.tasks[1:], start=1):
            logits = self.heads.class_logits(output.last())[task.name][b]
            logits = logits[torch.arange(len(found)) % len(logits)]
            found.set(f"logits_{task.name}", logits)
            found.pred_labels[:, i] = logits[:, : task.num_classes].argmax(-1)
        yield found, masks


def half_the_size(
    real: Callable, self: loader.Mapper, tasks: Any, input: Any, *, root: Any, training: bool
) -> None:  # fmt: skip
    smaller = input if training else input.model_copy(update={"size": input.size // 2})
    real(self, tasks, smaller, root=root, training=training)


def padding_kept(real: Callable, logits: Any, example: dict) -> Any:
    """Resize the whole padded square to the size of the image."""
    return real(logits, example | {"image_size": tuple(example["image"].shape[-2:])})


def squashed(real: Callable, self: loader.Mapper, image: Any, seed: int = 0) -> dict:
    """At prediction, resize images to the square without keeping their aspect ratio, and masks as if it was kept."""
    example = real(self, image, seed)
    if not self.training:
        height, width = example["image_size"]
        whole = example["image"][None, :, :height, :width].float()
        example["image"] = torch.nn.functional.interpolate(whole, size=example["image"].shape[-2:])[0].byte()
    return example


def not_loaded(real: Callable, path: Any, *, tasks: Any, model: Any, detections: int) -> Mask2Former:
    """Predict with the weights from before training."""
    torch.manual_seed(0)
    heads = real(path, tasks=tasks, model=model, detections=detections).heads
    return Mask2Former(tasks, model, detections=detections, heads=heads)


def other_normalisation(real: Callable, *args: Any, **kwargs: Any) -> Mask2Former:
    """Scale pixels to 0..1, without mean and standard deviation of the backbone."""
    network = real(*args, **kwargs)
    network.pixel_mean.zero_()
    network.pixel_std.fill_(255.0)
    return network


def predictions_by(change: Callable[[Predictions], Predictions]) -> Patch:
    """Change the predictions of each image."""
    return changed(torch_network, "encode", lambda real, *args: change(real(*args)))


def with_masks(found: Predictions, change: Callable[[np.ndarray], np.ndarray]) -> Predictions:
    """The predictions with changed masks, uint8 [height, width], without those whose mask becomes empty."""
    rles = [coco_mask.encode(np.asfortranarray(change(coco_mask.decode(rle)))) for rle in found.rles()]
    box = np.array([coco_mask.toBbox(rle) for rle in rles]).reshape(-1, 4)
    counts, area = np.array([rle["counts"].decode() for rle in rles], dtype=object), areas(rles)
    return found.replace(rle=counts, area=area, box=box)[area > 0]


def masks_by(change: Callable[[np.ndarray], np.ndarray]) -> Patch:
    """Change the predicted masks."""
    return predictions_by(lambda found: with_masks(found, change))


def in_a_third(change: Callable[[np.ndarray], np.ndarray]) -> Patch:
    """Change the predicted masks of every third image."""
    return predictions_by(lambda found: with_masks(found, change) if (found.image_id[:1] % 3 == 0).all() else found)


def lowest_third_lost(mask: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(mask.any(1))
    mask = mask.copy()
    mask[rows[-1] - len(rows) // 3 + 1 :] = 0
    return mask


def by_rows(mask: np.ndarray) -> np.ndarray:
    """Written row by row and read column by column."""
    return mask.reshape(-1).reshape(mask.shape, order="F")


def transposed(mask: np.ndarray) -> np.ndarray:
    """The mask transposed, cut to its size."""
    side, out = min(mask.shape), np.zeros_like(mask)
    out[:side, :side] = mask.T[:side, :side]
    return out


def grown(mask: np.ndarray) -> np.ndarray:
    return cv2.dilate(np.ascontiguousarray(mask), np.ones((7, 7), np.uint8))


def three_times(found: Predictions) -> Predictions:
    return Predictions.concatenate([found.replace(query=found.query + 100 * copy) for copy in range(3)])


def with_quality(found: Predictions, quality: np.ndarray) -> Predictions:
    return found.replace(mask_quality=quality, score=found.score / found.mask_quality * quality)


def quality_inverted(found: Predictions) -> Predictions:
    return with_quality(found, np.maximum(1e-3, 1 - found.mask_quality))


def quality_random(found: Predictions) -> Predictions:
    rng = np.random.default_rng(found.image_id[:1])
    return with_quality(found, rng.uniform(1e-4, 1, len(found)) ** 4)


def without_label(real: Callable, self: Predictions, path: Any, tasks: Any) -> None:
    """Write the file of a split without the labels of the last task; the stage's own parts are complete."""
    lost = f"labels.{tasks[-1].name}" if path.stem == "val" else None
    real(Predictions([name for name in self.names if name != lost], len(self), self.column), path, tasks)


def matched(change: Callable[[np.ndarray, int, dict], tuple[np.ndarray, dict]]) -> Patch:
    """In evaluation, match predictions with other labels or options where there are several classes."""

    def match(real: Callable, self: Evaluation, true: Any, found: Any, *, categories: int, **options: Any) -> Any:
        if categories > 1:
            options = {"rank": self.rank} | options
            found, options = change(found, categories, options)
        return real(self, true, found, categories=categories, **options)

    return changed(Evaluation, "match", match)


def lowest_first(found: np.ndarray, categories: int, options: dict) -> tuple[np.ndarray, dict]:
    return found, options | {"rank": len(found) - 1 - options["rank"]}


def displaced(real: Callable, images: Images, predictions: Predictions) -> Pairs:
    return real(images, with_masks(predictions, lambda mask: np.roll(mask, 6, axis=1)))


OF_BATCH = ("labels_of_other_image", "answer_depends_on_batch")
EVALUATOR = {"failure": "evaluator_wrong", "since": "evaluate", "causes": ("evaluator_wrong",)}
FAULTS = (
    Fault("heads fed the query weights at prediction", failure="labels_ignore_image", since="predict",
          causes=("labels_ignore_image",), code=changed(QueryDecoder, "forward", query_weights)),
    Fault("heads fed the query weights, in training too", failure="labels_ignore_image",
          causes=("labels_ignore_image",), code=changed(QueryDecoder, "forward", query_weights)),
    Fault("further labels in query order, masks in top-k order", failure="label_readout", since="predict",
          causes=("labels_of_other_query",), code=changed(Mask2Former, "detect", query_order)),
    Fault("further labels in query order, seen before training", failure="label_readout",
          causes=("labels_of_other_query",), code=changed(Mask2Former, "detect", query_order)),
    Fault("further labels of the batch's last image", failure="label_readout", since="predict",
          causes=OF_BATCH, code=logits_by(labels_of_last_image)),
    Fault("further labels of the batch's last image, seen before training", failure="label_readout",
          causes=OF_BATCH, code=logits_by(labels_of_last_image)),
    Fault("padding left in the masks that are brought to size", failure="mapper_displaces", since="predict",
          causes=("masks_scaled", "masks_displaced"), code=changed(mask2former, "_to_original", padding_kept)),
    Fault("masks 4 pixels off at prediction", failure="mapper_displaces", since="predict",
          causes=("masks_displaced",), code=masks_by(lambda mask: np.roll(mask, 4, axis=1))),
    Fault("masks transposed at prediction", since="predict", causes=("masks_transposed",), code=masks_by(transposed)),
    Fault("masks mirrored at prediction", since="predict", causes=("masks_mirrored",),
          code=masks_by(lambda mask: mask[:, ::-1])),
    Fault("masks joined with their mirror image at prediction", since="predict", causes=("masks_mirrored",),
          code=masks_by(lambda mask: mask | mask[:, ::-1])),
    Fault("a third of the images: the lowest third of each predicted mask is lost", since="predict",
          causes=("masks_scaled",), code=in_a_third(lowest_third_lost)),
    Fault("a third of the images: predicted masks written by rows and read by columns", since="predict",
          causes=("masks_transposed",), code=in_a_third(by_rows)),
    Fault("masks 3 pixels too large all round", since="predict", causes=("masks_scaled",), code=masks_by(grown)),
    Fault("masks of the batch's last image", since="predict", causes=("masks_of_other_image", "prediction_differs"),
          code=changed(Mask2Former, "detect", masks_of_last_image)),
    Fault("images squashed to the square at prediction", since="predict", causes=("masks_scaled", "masks_displaced"),
          code=changed(loader.Mapper, "__call__", squashed)),
    Fault("images read as BGR at prediction alone", since="predict", causes=("channels_swapped",),
          code=changed(loader, "read_image", bgr)),
    Fault("another normalisation at prediction alone", since="predict", causes=("normalisation",),
          code=everywhere(torch_network.load_model, other_normalisation)),
    Fault("the trained weights are not loaded", since="predict", causes=("weights_not_loaded",),
          code=everywhere(torch_network.load_model, not_loaded)),
    Fault("main classes off by one at prediction", since="predict", causes=("labels_off_by_one", "labels_permuted"),
          code=logits_by(main_classes_rolled)),
    Fault("two tasks' logits swapped at prediction", since="predict", causes=("labels_of_other_task",),
          code=logits_by(two_tasks_swapped)),
    Fault("images half the size at prediction", since="predict", causes=("prediction_differs", "scale_mismatch"),
          code=changed(loader.Mapper, "__init__", half_the_size)),
    Fault("each object predicted three times", failure="contradictory_predictions", since="predict",
          causes=("duplicates",), code=predictions_by(three_times)),
    Fault("scores inverted", failure="ranking", since="predict", causes=("ranking",),
          code=predictions_by(quality_inverted)),
    Fault("mask quality random", since="predict", causes=("ranking", "miscalibrated"),
          code=predictions_by(quality_random)),
    Fault("logits 20 times too large", since="predict", causes=("miscalibrated",), code=logits_times(20.0)),
    Fault("logits 10 times too small", since="predict", causes=("miscalibrated",), code=logits_times(0.1)),
    Fault("predictions without one task's label", failure="overlay_labels", since="predict",
          says="column labels.* is missing", code=changed(Predictions, "write", without_label)),
    Fault("evaluator: predicted classes off by one", **EVALUATOR,
          code=matched(lambda found, categories, options: ((found + 1) % categories, options))),
    Fault("evaluator: true masks 6 pixels off", **EVALUATOR, code=changed(pairs, "of_masks", displaced)),
    Fault("evaluator: one detection per image", **EVALUATOR,
          code=matched(lambda found, categories, options: (found, options | {"max_dets": 1}))),
    Fault("evaluator: lowest score first", **EVALUATOR, code=matched(lowest_first)),
)  # fmt: skip
