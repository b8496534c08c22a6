"""What a model's file says about itself. Read without PyTorch, from a checkpoint (safetensors) or an ONNX file.

A training writes checkpoints for the pipeline, which lack what later stages settle: the ranking, the filter, the
scores. `export` adds it; only such a file is complete enough to predict with anywhere.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from mtseg.core.errors import UserError
from mtseg.core.params import Filter, Ranking, Task

KEY = "mtseg"  # the one entry of a file's metadata: with two, a safetensors header would vary in their order
MODELS = (".safetensors", ".onnx")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskClasses(_Section):
    name: str
    classes: tuple[str, ...]
    background: bool


class Square(_Section):
    """The network's input: an RGB square of `size` pixels, normalised as (pixel - mean) / std with pixels of 0..255."""

    size: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]


class Metadata(_Section):
    """A model that can predict anywhere.

    version: of mtseg. licence: of the model, as its maker states it. model: section `model` of params.yaml. seen:
    combinations of class indices in the training data, where the network ranks by combinations. detections: most
    of an image. filter: rules that every prediction passes, with their thresholds. data: of each split the SHA-256 of
    its annotations and counts. params: the settings of the training. scores: in percent, on the validation split.
    precision: of the weights.
    """

    version: str
    licence: str | None
    tasks: tuple[TaskClasses, ...]
    model: dict[str, Any]
    seen: tuple[tuple[int, ...], ...]
    input: Square
    detections: int
    ranking: Ranking
    filter: Filter
    data: dict[str, dict[str, Any]]
    params: dict[str, Any]
    scores: dict[str, Any]
    step: int
    precision: str = "float32"

    def predicted_tasks(self) -> tuple[Task, ...]:
        return tuple(Task.predicted(**task.model_dump()) for task in self.tasks)

    def text(self) -> str:
        """As JSON, the same for the same content."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, allow_nan=False)


def read(path: Path | str) -> Metadata:
    """The metadata of a model. Raises UserError when the file is missing, broken, or not a complete model."""
    path = Path(path)
    text = read_text(path)
    try:
        return Metadata.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        reason = ".".join(map(str, first["loc"])) + ": " * bool(first["loc"]) + first["msg"].lower()
        raise UserError(f"{path} cannot predict by itself ({reason}): {_remedy(path)}") from None


def _remedy(path: Path) -> str:
    if path.suffix == ".onnx":
        return "it is of another version; export it again from its .safetensors file"
    out = shlex.quote(f"{path.stem}-complete{path.suffix}")
    return (
        "it is a checkpoint of a training, or of another version; complete it with "
        f"`mtseg export {shlex.quote(str(path))} --params params.yaml --out {out}`"
    )


def read_text(path: Path) -> str:
    """The metadata as JSON text. Raises UserError when the file is missing, broken, or not one of this project."""
    if path.suffix not in MODELS:
        raise UserError(f"{path}: a model is a file of {' or '.join(MODELS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    entries = _of_onnx(path) if path.suffix == ".onnx" else _of_safetensors(path)
    if KEY not in entries:
        raise UserError(f"{path} is not a model of mtseg: its metadata have no entry '{KEY}'")
    return entries[KEY]


def _of_safetensors(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is broken or not a safetensors file ({error})") from None


def _of_onnx(path: Path) -> dict[str, str]:
    import onnxruntime  # here: only for a file of that kind

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise UserError(f"{path} is broken or not an ONNX file ({error})") from None
    return session.get_modelmeta().custom_metadata_map
