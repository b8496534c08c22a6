"""Write a training checkpoint as a complete model file: the same weights, with all settings of inference in
metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mtseg
from mtseg.core.errors import UserError
from mtseg.core.metadata import Metadata
from mtseg.core.params import Filter, Model, Test
from mtseg.model import backbones, weights


def complete(
    checkpoint: Path, out: Path, *, size: int, test: Test, filter: Filter, licence: str | None,
    scores: Mapping[str, Any] | None = None,
) -> Metadata:  # fmt: skip
    """Write `out` (`.safetensors`). size, test, filter: of params.yaml; thresholds of `filter` must be numbers. scores:
    added to those of the training. Raises UserError if `checkpoint` is no checkpoint, or was trained with other
    settings."""
    state, known = weights.load(checkpoint)
    if filter.thresholds == "auto":
        raise UserError("filter.thresholds: auto: thresholds are tuned in the pipeline, run `dvc repro export`")
    training = known.get("params", {})
    if size != (trained := training.get("input", {}).get("size", size)):
        raise UserError(f"{checkpoint} was trained with input.size {trained}, params.yaml has {size}")
    tasks = [task["name"] for task in known["tasks"]]
    limits = (limit for limit in (filter.min_score, filter.min_logit) if isinstance(limit, dict))
    if unknown := sorted({name for limit in limits for name in limit} - {*tasks}):
        raise UserError(f"{checkpoint} has tasks {tasks}, the filter of params.yaml has limits of '{unknown[0]}'")
    model = Model.model_validate(known["model"] | {"weights": None, "partial_weights": False, "recompute": "none"})
    backbone = backbones.build(model.backbone, freeze_norm=model.freeze_norm)
    square = {"size": size, "pixel_mean": tuple(backbone.pixel_mean), "pixel_std": tuple(backbone.pixel_std)}
    metadata = Metadata(
        version=mtseg.__version__, licence=licence, tasks=known["tasks"], model=known["model"],
        seen=known.get("seen", ()), input=square, detections=test.detections, ranking=test.ranking,
        filter=filter, data=known.get("data", {}), params=training, step=known.get("step", 0),
        scores={"training": known.get("scores", {})} | dict(scores or {}),
    )  # fmt: skip
    weights.write(out, state, metadata.text())
    return metadata
