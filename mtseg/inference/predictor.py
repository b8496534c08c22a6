"""Model -> predictions. The only step after training that runs the network."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Instances
from pycocotools import mask as coco_mask
from rich.progress import track

from mtseg.core.errors import UserError
from mtseg.core.params import Input, Model, Task
from mtseg.core.tables import Image, Prediction
from mtseg.data.coco import areas
from mtseg.data.loader import Mapper, prediction_batches
from mtseg.model import weights
from mtseg.model.mask2former import Mask2Former


def load_model(path: Path, *, tasks: tuple[Task, ...], model: Model, detections: int) -> Mask2Former:
    """The trained model of a checkpoint. Raises UserError when it was trained for other tasks or another network."""
    state, metadata = weights.load(path)
    theirs, ours = _keys(metadata), _keys(description(tasks, model))
    if other := sorted(key for key in ours if theirs.get(key) != ours[key]):
        told = f"{other[0]} {theirs.get(other[0], 'unknown')}, params.yaml has {ours[other[0]]}"
        raise UserError(f"{path} was trained with {told}: train again")
    if "seen" not in metadata and model.unseen_combinations < 1:
        raise UserError(f"{path} does not say which combinations of labels it was trained with: train again")
    seen = [tuple(labels) for labels in metadata.get("seen", ())]
    network = Mask2Former(tasks, model.model_copy(update={"weights": None}), detections=detections, seen=seen)
    network.load_state_dict(state)
    return network


def _keys(description: Mapping[str, Any]) -> dict[str, Any]:
    return {"tasks": description.get("tasks")} | {f"model.{k}": v for k, v in description.get("model", {}).items()}


def description(tasks: Sequence[Task], model: Model) -> dict:
    """What a checkpoint has to say of itself: the tasks' heads and the network, as JSON values."""
    heads = [{"name": task.name, "classes": list(task.classes), "background": task.background} for task in tasks]
    return {"tasks": heads, "model": model.model_dump(exclude={"weights", "partial_weights", "recompute"})}


@torch.no_grad()
def predict(
    model: Mask2Former, images: Sequence[Image], *, root: Path, input: Input, batch: int, progress: bool = True
) -> list[Prediction]:
    """The predictions of every picture, in the pictures' order, each picture's best first."""
    mapper = Mapper(model.tasks, input, root=root, training=False)
    batches: Iterable = prediction_batches(images, mapper, batch=batch, workers=input.workers)
    training = model.training
    model.eval()
    try:
        found = []
        total = -(-len(images) // batch)
        for examples in track(batches, "predict", total=total, disable=not progress):
            for example, instances in zip(examples, model(examples), strict=True):
                found += encode(instances, example["image_id"], model.tasks)
        return found
    finally:
        model.train(training)


def encode(instances: Instances, image_id: int, tasks: Sequence[Task]) -> list[Prediction]:
    """Records of one picture's instances. Each query's mask is encoded once, its box and area are the mask's own; a
    mask without a pixel is nothing that was found and gives no record. Raises UserError where a label is no class."""
    instances = instances.to("cpu")
    queries, first = torch.unique(instances.query, return_inverse=True)
    representative = torch.zeros(len(queries), dtype=torch.long).scatter_(0, first, torch.arange(len(first)))
    # [N, H, W] -> contiguous [N, W, H], whose transpose is the Fortran-ordered [H, W, N] that pycocotools wants
    masks_NWH = instances.pred_masks[representative].transpose(1, 2).contiguous().numpy()
    rles = coco_mask.encode(masks_NWH.view("uint8").T) if len(queries) else []
    boxes, sizes = (coco_mask.toBbox(rles).tolist() if rles else []), areas(rles)
    segmentations = [{"size": list(map(int, rle["size"])), "counts": rle["counts"].decode()} for rle in rles]
    logits = {task.name: instances.get(f"logits_{task.name}").tolist() for task in tasks}
    combined = instances.probabilities.tolist() if instances.has("probabilities") else None
    labels, quality = instances.pred_labels.tolist(), instances.mask_quality.tolist()
    for task, own in zip(tasks, zip(*labels, strict=True), strict=False):
        if not 0 <= min(own) <= max(own) < task.num_classes:
            wrong = next(label for label in own if not 0 <= label < task.num_classes)
            raise UserError(
                f"picture {image_id}: the model answers {wrong} for task '{task.name}', whose classes are "
                f"0..{task.num_classes - 1}: mend Mask2Former.detect, which may not answer no-object"
            )
    return [
        Prediction(
            image_id=image_id, query=int(queries[q]), bbox=tuple(boxes[q]), area=float(sizes[q]),
            segmentation=segmentations[q], mask_quality=quality[i],
            labels={task.name: labels[i][t] for t, task in enumerate(tasks)},
            logits={task.name: array("d", logits[task.name][i]) for task in tasks},
            probabilities=combined and {task.name: combined[i][t] for t, task in enumerate(tasks)},
        )
        for i, q in enumerate(first.tolist()) if sizes[q]
    ]  # fmt: skip
