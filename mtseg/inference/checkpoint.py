"""Write a training checkpoint as a complete model file: the same weights, with all settings of inference in
metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import mtseg
from mtseg.core.errors import UserError
from mtseg.core.metadata import TRAINING_ONLY, Metadata, Square, check_version, recorded
from mtseg.core.params import Filter, Model, Test, faults
from mtseg.inference.torch_network import fill
from mtseg.model import weights
from mtseg.model.mask2former import Mask2Former


def complete(
    checkpoint: Path, out: Path, *, size: int, test: Test, filter: Filter, licence: str | None,
    scores: Mapping[str, Any] | None = None, assumed: Model | None = None,
) -> Metadata:  # fmt: skip
    """Write `out` (`.safetensors`). size, test, filter: of params.yaml; `filter` with thresholds that are numbers.
    scores: besides those of the training. assumed: `model` of params.yaml, of which, and of `size`, is taken what a
    checkpoint of an older version does not record; without, such a checkpoint is refused. Raises UserError when the
    checkpoint is none, or was trained with other settings."""
    state, known = weights.load(checkpoint)
    check_version(checkpoint, known.get("version"))
    if missing := [key for key in ("tasks", "model") if not known.get(key)]:
        raise UserError(f"{checkpoint} does not record its {missing[0]}: train again")
    if filter.thresholds == "auto":
        raise UserError("filter.thresholds: auto: thresholds are tuned in the pipeline, run `dvc repro export`")
    given = _within(known, "input", "size") or _within(known, "params", "input", "size")
    unrecorded = ["input.size"] * (given is None) + [
        f"model.{key}" for key in Model.model_fields if key not in TRAINING_ONLY and key not in known["model"]
    ]
    if unrecorded and assumed is None:
        raise UserError(
            f"{checkpoint} does not record {', '.join(unrecorded)}: if params.yaml has the values that it was trained "
            "with, run `python -m mtseg export` with --assume-params; if not, train again"
        )
    if given not in (None, size):
        raise UserError(f"{checkpoint} was trained with input.size {given}, params.yaml has {size}")
    own, of_training = known.get("scores", {}), _within(known, "scores", "training")
    try:
        metadata = Metadata(
            version=mtseg.__version__, licence=licence, tasks=known["tasks"], seen=known.get("seen", ()),
            model=({} if assumed is None else recorded(assumed)) | known["model"],
            input={"size": size, "pixel_mean": (0, 0, 0), "pixel_std": (1, 1, 1)},  # until the network is there
            detections=test.detections, ranking=test.ranking, filter=filter, data=known.get("data", {}),
            params=known.get("params", {}), step=known.get("step", 0),
            scores={"training": own if of_training is None else of_training} | dict(scores or {}),
        )  # fmt: skip
    except ValidationError as error:
        raise UserError(
            f"{checkpoint} and params.yaml do not make a model ({faults(error, Metadata)[0]}): correct params.yaml, "
            "use the version of mtseg that wrote the checkpoint, or train again"
        ) from None
    network = Mask2Former(metadata.predicted_tasks(), metadata.model, seen=metadata.seen)
    fill(network, state, checkpoint)
    square = Square(size=size, pixel_mean=network.backbone.pixel_mean, pixel_std=network.backbone.pixel_std)
    metadata = metadata.model_copy(update={"input": square})
    weights.write(out, state, metadata.text())
    return metadata


def _within(known: Any, *keys: str) -> Any:
    """A value of nested sections; None where one is missing."""
    for key in keys:
        known = known.get(key) if isinstance(known, Mapping) else None
    return known
