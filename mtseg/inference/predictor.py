"""Checkpoint -> model -> predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from mtseg.core.errors import UserError
from mtseg.core.params import Input, Model, Task
from mtseg.core.tables import Image, Predictions
from mtseg.data.loader import Mapper, prediction_batches
from mtseg.inference.postprocess import encode
from mtseg.model import weights
from mtseg.model.mask2former import Mask2Former


def load_model(path: Path, *, tasks: tuple[Task, ...], model: Model, detections: int) -> Mask2Former:
    """The trained model of a checkpoint. Raises UserError when it was trained for other tasks or another network."""
    state, metadata = weights.load(path)
    theirs, ours = _keys(metadata), _keys(description(tasks, model))
    if other := sorted(key for key in ours if theirs.get(key) != ours[key]):
        trained = f"{other[0]} {theirs.get(other[0], 'unknown')}, params.yaml has {ours[other[0]]}"
        raise UserError(f"{path} was trained with {trained}: train again")
    if "seen" not in metadata and model.unseen_combinations < 1:
        raise UserError(f"{path} does not record which combinations of labels it was trained with: train again")
    seen = [tuple(labels) for labels in metadata.get("seen", ())]
    network = Mask2Former(tasks, model.model_copy(update={"weights": None}), detections=detections, seen=seen)
    network.load_state_dict(state)
    return network


def description(tasks: Sequence[Task], model: Model) -> dict[str, Any]:
    """What a checkpoint records: the tasks and the network, as JSON values."""
    heads = [{"name": task.name, "classes": list(task.classes), "background": task.background} for task in tasks]
    return {"tasks": heads, "model": model.model_dump(exclude={"weights", "partial_weights", "recompute"})}


def _keys(description: Mapping[str, Any]) -> dict[str, Any]:
    return {"tasks": description.get("tasks")} | {f"model.{k}": v for k, v in description.get("model", {}).items()}


@torch.no_grad()
def predict(
    model: Mask2Former, images: Sequence[Image], *, root: Path, input: Input, batch: int, progress: bool = True
) -> Predictions:
    """The predictions of every image, in the images' order, each image's best first. `root`: folder of the images."""
    mapper = Mapper(model.tasks, input, root=root, training=False)
    batches = prediction_batches(images, mapper, batch=batch, workers=input.workers)
    training = model.training
    model.eval()
    try:
        found = []
        total = -(-len(images) // batch)
        for examples in track(batches, "predict", total=total, disable=not progress):
            detected = zip(examples, model(examples), strict=True)
            found += [encode(instances, example["image_id"], model.heads) for example, instances in detected]
        return Predictions.concatenate(found)
    finally:
        model.train(training)
