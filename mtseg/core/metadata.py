"""What a model's file says about itself. Read without PyTorch, from a checkpoint (safetensors) or an ONNX file.

A training writes checkpoints for the pipeline, which lack what later stages settle: the ranking, the filter, the
scores. `export` adds it; only such a file is complete enough to predict with anywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

import mtseg
from mtseg.core.errors import UserError, first_line
from mtseg.core.params import Detections, Filter, Finite, Model, Positive, Ranking, Section, Task, faults

VERSION = r"^(\d+)\.(\d+)"
KEY = "mtseg"  # the one entry of a file's metadata: with two, a safetensors header would vary in their order
SEAL = "sha256"  # the entry of the metadata that is the hash of the file, as it is with UNSEALED in its place
UNSEALED = hashlib.sha256().hexdigest()
MODELS = (".safetensors", ".onnx")
TRAINING_ONLY = {"weights": None, "partial_weights": False, "recompute": "none"}  # of `model`: not recorded in files


def recorded(model: Model) -> dict[str, Any]:
    """The settings of a network as files record them."""
    return model.model_dump(mode="json", exclude={*TRAINING_ONLY})


def trained(settings: Any) -> Model:
    """The network of recorded settings. Raises ValidationError."""
    known = recorded(settings) if isinstance(settings, Model) else settings
    return Model.model_validate({**known, **TRAINING_ONLY} if isinstance(known, dict) else known)


# of files of the pipeline: how they are made
MADE = {
    "export/segmenter.safetensors": "run `dvc repro export`, which writes it",
    "export/segmenter.onnx": "set export.onnx: true in params.yaml and run `dvc repro export`, which writes it",
    "models/best.safetensors": "run `dvc repro train`, which writes it",
    "models/last.safetensors": "run `dvc repro train`, which writes it",
}


class TaskClasses(Section):
    name: str
    classes: tuple[str, ...]
    background: bool

    def _wrong(self) -> Iterator[str]:
        try:
            Task(**self.model_dump())
        except ValidationError as error:
            yield faults(error, Task)[0]


class Square(Section):
    """The network's input: an RGB square of `size` pixels, normalised as (pixel - mean) / std with pixels of 0..255."""

    size: Annotated[int, Field(ge=32, le=8192, multiple_of=32)]
    pixel_mean: tuple[Finite, Finite, Finite]
    pixel_std: tuple[Positive, Positive, Positive]


class Metadata(Section):
    """A model that can predict anywhere.

    version: of mtseg. licence: of the model, as its maker states it. model: section `model` of params.yaml. seen:
    combinations of class indices in the training data, where the network ranks by combinations. detections: most of an
    image, up to 100,000. filter: rules that every prediction passes, with their thresholds. data: of each split the
    SHA-256 of its annotations and counts. params: the settings of the training. scores: in percent, on the validation
    split. precision: of the weights.
    """

    version: Annotated[str, Field(pattern=VERSION)]
    licence: str | None
    tasks: Annotated[tuple[TaskClasses, ...], Field(min_length=1)]
    model: Annotated[Model, BeforeValidator(trained), PlainSerializer(recorded)]
    seen: tuple[tuple[int, ...], ...]
    input: Square
    detections: Detections
    ranking: Ranking
    filter: Filter
    data: dict[str, dict[str, Any]]
    params: dict[str, Any]
    scores: dict[str, Any]
    step: int
    precision: Literal["float32", "float16", "int8"] = "float32"

    @model_validator(mode="before")
    @classmethod
    def _unsealed(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if key != SEAL} if isinstance(given, dict) else given

    def _wrong(self) -> Iterator[str]:
        names = [task.name for task in self.tasks]
        if len({*names}) < len(names):
            yield f"tasks: names must be distinct, got {names}"
        if not self.tasks[0].background:
            yield f"tasks: the first, '{names[0]}', must have background: true"
        if len(names) > 1 and self.model.unseen_combinations < 1 and not self.seen:
            yield "seen: empty, but model.unseen_combinations is below 1"
        classes = [len(task.classes) for task in self.tasks]
        for labels in self.seen:
            if len(labels) != len(names) or not all(0 <= i < k for i, k in zip(labels, classes, strict=True)):
                yield f"seen: {list(labels)} is no combination of classes of the tasks {names}"
        for key in ("min_score", "min_logit"):
            limits = getattr(self.filter, key)
            for name in limits if isinstance(limits, dict) else ():
                if name not in names:
                    yield f"filter.{key}: there is no task '{name}', only {', '.join(names)}"

    def predicted_tasks(self) -> tuple[Task, ...]:
        return tuple(Task(**task.model_dump()) for task in self.tasks)

    def text(self) -> str:
        """As JSON, the same for the same content."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, allow_nan=False)


def read(path: Path | str) -> Metadata:
    """The metadata of a model. Raises UserError when the file is missing, damaged, not a complete model, or of a newer
    version."""
    path = Path(path)
    text = read_text(path)
    check_version(path, _version(text))
    try:
        known = Metadata.model_validate_json(text)
    except ValidationError as error:
        if _version(text) is None and error.errors()[0]["type"] not in ("json_invalid", "model_type"):
            raise UserError(
                f"{path} is a checkpoint of a training, which cannot predict by itself: complete it with "
                f"`{_command(path)}`"
            ) from None
        raise UserError(
            f"{path} cannot predict by itself ({faults(error, Metadata)[0]}): {_remedy(path, text)}"
        ) from None
    check_seal(path, text)
    return known


def sealed(make: Callable[[str], bytes], text: str) -> bytes:
    """What `make` gives for these metadata with the file's own hash among them, see `check_seal`."""
    data = make(json.dumps(json.loads(text) | {SEAL: UNSEALED}, sort_keys=True, ensure_ascii=False, allow_nan=False))
    return data.replace(UNSEALED.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def check_seal(path: Path, text: str) -> None:
    """Raise UserError when a file is not as it was written: weights of damaged bytes are numbers like others. Files of
    older versions have no seal. text: its metadata."""
    stated = json.loads(text).get(SEAL)
    if stated is None:
        return
    data = path.read_bytes().replace(str(stated).encode(), UNSEALED.encode(), 1)
    if hashlib.sha256(data).hexdigest() != stated:
        raise UserError(
            f"{path} is damaged: its bytes are not those that were written (SHA-256): copy it again, or make it again"
        )


def check_version(path: Path, version: Any) -> None:
    """Raise UserError when a newer version wrote a file, since its entries may mean something else; a last number that
    is higher does not matter."""
    found, own = (re.match(VERSION, text) for text in (str(version), mtseg.__version__))
    if found and [*map(int, found.groups())] > [*map(int, own.groups())]:
        raise UserError(f"{path}: mtseg {version} wrote it, and this is {mtseg.__version__}: install that version")


def _remedy(path: Path, text: str) -> str:
    again = f"write it again with `{_command(path)}`"
    if path.suffix == ".onnx":
        again = "export it again from its .safetensors file"
    if (version := _version(text)) not in (None, mtseg.__version__):
        return f"mtseg {version} wrote it, and this is {mtseg.__version__}; use that version, or {again}"
    return f"it was changed since it was written; {again}"


def _command(path: Path) -> str:
    out = shlex.quote(f"{path.stem}-complete{path.suffix}")
    return f"python -m mtseg export {shlex.quote(str(path))} --params params.yaml --out {out}"


def _version(text: str) -> str | None:
    """The version of mtseg that completed a model."""
    try:
        known = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return known.get("version") if isinstance(known, dict) else None


def missing(path: Path) -> UserError:
    """The error for a model that is not there; of the pipeline, with what makes it."""
    made = [how for name, how in MADE.items() if path.parts[-2:] == Path(name).parts]
    return UserError(": ".join([f"{path}: no such file", *made]))


def read_text(path: Path) -> str:
    """The metadata as JSON text. Raises UserError when the file is missing, broken, or not one of this project."""
    if path.suffix not in MODELS:
        raise UserError(f"{path} is not a model: the name of a model's file ends with {' or '.join(MODELS)}")
    if not path.is_file():
        raise missing(path)
    path.open("rb").close()  # safetensors and ONNX Runtime do not say why they cannot open a file
    entries = _of_onnx(path) if path.suffix == ".onnx" else _of_safetensors(path)
    if KEY not in entries:
        raise UserError(f"{path} is not a model of mtseg, whose files have an entry '{KEY}' in their metadata")
    return entries[KEY]


def _of_safetensors(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is broken or not a safetensors file ({first_line(error)})") from None


def _of_onnx(path: Path) -> dict[str, str]:
    import onnxruntime  # here: only for a file of that kind

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise UserError(f"{path} is broken or not an ONNX file ({first_line(error)})") from None
    return session.get_modelmeta().custom_metadata_map
