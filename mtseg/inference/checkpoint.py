"""Write a training checkpoint as a complete model file: the same weights, with all settings of inference in
metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import mtseg
from mtseg.core.errors import UserError
from mtseg.core.metadata import Metadata
from mtseg.core.params import Filter, Model, Task, Test
from mtseg.model import weights
from mtseg.model.mask2former import Mask2Former

NOT_RECORDED = {
    "weights": None,
    "partial_weights": False,
    "recompute": "none",
}  # keys of `model` that prediction ignores


def complete(
    checkpoint: Path, out: Path, *, size: int, test: Test, filter: Filter, licence: str | None,
    scores: Mapping[str, Any] | None = None, model: Model | None = None,
) -> Metadata:  # fmt: skip
    """Write `out` (`.safetensors`). size, test, filter: of params.yaml; `filter` with thresholds that are numbers.
    scores: besides those of the training. model: for the settings of the network that a checkpoint of an older version
    does not record. Raises UserError when the checkpoint is none, or was trained with other settings."""
    state, known = weights.load(checkpoint)
    if missing := [key for key in ("tasks", "model") if not known.get(key)]:
        raise UserError(f"{checkpoint} does not record its {missing[0]}: train again")
    if filter.thresholds == "auto":
        raise UserError("filter.thresholds: auto: thresholds are tuned in the pipeline, run `dvc repro export`")
    training = known.get("params", {})
    if size != (trained := training.get("input", {}).get("size", size)):
        raise UserError(f"{checkpoint} was trained with input.size {trained}, params.yaml has {size}")
    tasks = [task["name"] for task in known["tasks"]]
    limits = (limit for limit in (filter.min_score, filter.min_logit) if isinstance(limit, dict))
    if unknown := sorted({name for limit in limits for name in limit} - {*tasks}):
        raise UserError(f"{checkpoint} has tasks {tasks}, the filter of params.yaml has limits of '{unknown[0]}'")
    described = ({} if model is None else _recorded(model)) | known["model"]
    network = _network(checkpoint, state, known, described)
    square = {
        "size": size, "pixel_mean": tuple(network.backbone.pixel_mean), "pixel_std": tuple(network.backbone.pixel_std)
    }  # fmt: skip
    of_training = known.get("scores", {})
    metadata = Metadata(
        version=mtseg.__version__, licence=licence, tasks=known["tasks"], model=described,
        seen=known.get("seen", ()), input=square, detections=test.detections, ranking=test.ranking,
        filter=filter, data=known.get("data", {}), params=training, step=known.get("step", 0),
        scores={"training": of_training.get("training", of_training)} | dict(scores or {}),
    )  # fmt: skip
    weights.write(out, state, metadata.text())
    return metadata


def _recorded(model: Model) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude=set(NOT_RECORDED))


def _network(
    checkpoint: Path, state: Mapping[str, Any], known: Mapping[str, Any], described: Mapping[str, Any]
) -> Mask2Former:
    """The network of the checkpoint, to know that a predictor can load it."""
    try:
        model = Model.model_validate(NOT_RECORDED | described)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("model", *first["loc"])))
        raise UserError(f"{checkpoint} is of another version ({key}: {first['msg'].lower()}): train again") from None
    if model.unseen_combinations < 1 and "seen" not in known:
        raise UserError(f"{checkpoint} does not record which combinations of labels it was trained with: train again")
    tasks = tuple(Task.predicted(**task) for task in known["tasks"])
    network = Mask2Former(tasks, model, seen=[tuple(labels) for labels in known.get("seen", ())])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(f"{checkpoint}: its tensors do not fit the network that it records ({reason})") from None
    return network
