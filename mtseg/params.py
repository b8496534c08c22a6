"""params.yaml, typed. Scientific values have their one default there; an unknown key is an error here.

Read with ruamel (YAML 1.2): PyYAML takes `1e-05`, which `dvc exp run -S` writes, for a string.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mtseg.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Generate(Section):
    train: Count
    val: Count
    size: Annotated[int, Field(ge=32)]
    max_objects: Count


class Data(Section):
    raw: Path
    format: str
    mapping: Path | None
    split: Annotated[float, Field(gt=0, lt=1)]
    on_error: Literal["error", "skip"]


class Task(Section):
    """One label that every instance carries. `classes` is `auto` until `convert` has read the data."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    classes: Literal["auto"] | tuple[str, ...]
    loss_weight: NonNegative
    match_weight: NonNegative
    background: bool
    class_weights: Literal["auto"] | dict[str, NonNegative] | None
    flip_pairs: tuple[tuple[str, str], ...]

    @model_validator(mode="after")
    def _check(self) -> Task:
        if self.classes != "auto":
            weighted = [] if self.class_weights in (None, "auto") else sorted({*self.class_weights} - {*self.classes})
            if weighted:
                raise ValueError(
                    f"task '{self.name}': class_weights names {weighted}, classes are {list(self.classes)}"
                )
            if not self.classes or len(set(self.classes)) < len(self.classes):
                raise ValueError(f"task '{self.name}': classes must be auto or a list of distinct names")
            unknown = sorted({name for pair in self.flip_pairs for name in pair} - set(self.classes))
            if unknown:
                raise ValueError(f"task '{self.name}': flip_pairs names {unknown}, classes are {list(self.classes)}")
        flat = [name for pair in self.flip_pairs for name in pair]
        if len(set(flat)) < len(flat):
            raise ValueError(f"task '{self.name}': a class stands in two flip_pairs")
        return self

    @property
    def num_classes(self) -> int:
        """Classes of the task, the no-object slot left out."""
        assert self.classes != "auto", "classes are known after convert: use the tasks of the data set"
        return len(self.classes)

    @property
    def num_outputs(self) -> int:
        """Columns of the task's head: its classes and, if it has a background slot, no-object as the last."""
        return self.num_classes + self.background

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each class in the task's loss; 1 where none is given."""
        assert self.class_weights != "auto", "class_weights are known after register: use the tasks of the data set"
        return tuple((self.class_weights or {}).get(name, 1.0) for name in self.classes)

    def index(self, name: str) -> int:
        """Class index, 0-based, of a class name. Raises ValueError that lists the valid names."""
        if name not in self.classes:
            raise ValueError(f"task '{self.name}' has no class {name!r}; it has {', '.join(self.classes)}")
        return self.classes.index(name)

    def flipped(self) -> tuple[int, ...]:
        """For each class index, the index that a horizontal flip of the picture turns it into."""
        swap = {a: b for pair in self.flip_pairs for a, b in (pair, pair[::-1])}
        return tuple(self.index(swap.get(name, name)) for name in self.classes)


class Model(Section):
    backbone: str
    weights: str | None
    partial_weights: bool
    freeze_norm: bool
    num_queries: Count
    hidden_dim: Annotated[int, Field(ge=32, multiple_of=32)]  # group norm has 32 groups
    num_heads: Count
    encoder_layers: Count
    encoder_feedforward_dim: Count
    decoder_layers: Count
    decoder_feedforward_dim: Count
    recompute: Literal["none", "backbone", "pixel_decoder", "both"]

    @model_validator(mode="after")
    def _check(self) -> Model:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be a multiple of num_heads {self.num_heads}")
        if self.recompute in ("backbone", "both") and not self.freeze_norm:
            raise ValueError(
                f"recompute: {self.recompute} needs freeze_norm: true, since batch norm would count every picture twice"
            )
        return self


class Input(Section):
    size: Annotated[int, Field(ge=32, multiple_of=32)]
    min_scale: Positive
    max_scale: Positive
    flip: Share
    workers: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _check(self) -> Input:
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale {self.min_scale} is above max_scale {self.max_scale}")
        return self


class Solver(Section):
    base_lr: Literal["auto"] | Positive
    reference_lr: Positive
    reference_batch: Count
    ims_per_batch: Count
    accumulate: Count
    max_iter: Count
    schedule: Literal["cosine", "steps"]
    steps: tuple[Share, ...]
    warmup: Annotated[int, Field(ge=0)]
    weight_decay: NonNegative
    backbone_multiplier: NonNegative
    clip: NonNegative
    amp: bool
    log_period: Count
    eval_period: Count

    @property
    def rule_lr(self) -> float:
        """The lr that the linear rule gives: reference_lr x effective batch / reference_batch (F6)."""
        return self.reference_lr * self.ims_per_batch * self.accumulate / self.reference_batch

    @property
    def lr(self) -> float:
        """The lr a step uses."""
        return self.rule_lr if self.base_lr == "auto" else self.base_lr


class Loss(Section):
    mask: NonNegative
    dice: NonNegative
    no_object: NonNegative
    num_points: Count
    oversample: Annotated[float, Field(ge=1)]
    importance: Share


class Test(Section):
    checkpoint: Literal["best", "last"]
    ims_per_batch: Count
    detections: Count
    max_dets: Annotated[tuple[Count, ...], Field(min_length=1)]
    ranking: Literal["main", "sum", "product"]


class Filter(Section):
    drop_background: bool
    min_score: Share
    min_logit: float
    nms_iou: Share


class Visualise(Section):
    pictures: Count
    min_score: Share
    size: Annotated[int, Field(ge=64)]


class Params(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
    generate: Generate
    data: Data
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    model: Model
    input: Input
    solver: Solver
    loss: Loss
    test: Test
    filter: Filter
    visualise: Visualise

    @model_validator(mode="after")
    def _check(self) -> Params:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"tasks: two tasks share a name in {names}")
        if not self.tasks[0].background:
            raise ValueError(f"tasks: the first task, '{names[0]}', is the main one and needs background: true")
        return self


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check the whole file. Raises UserError that names every key at fault and what is allowed there."""
    try:
        raw = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; stages run in the folder that holds params.yaml") from None
    except YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return validate(raw, path)


def validate(raw: Any, source: Path) -> Params:
    """Check all that was read from `source`. Raises UserError as `load` does."""
    if not isinstance(raw, dict):
        raise UserError(f"{source}: expected sections such as 'solver:', found {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        faults = _faults(error)
        raise UserError(
            f"{source}: {faults[0]}" if len(faults) == 1 else "\n  ".join([f"{source}:", *faults])
        ) from None


def _faults(error: ValidationError) -> list[str]:
    """Pydantic's errors in the words of params.yaml: misspelt keys first, then one line for each other key."""
    unknown: dict[str, str | None] = {}
    missing: list[str] = []
    wrong: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    for item in error.errors():
        # a union's alternatives, such as "literal['auto']" and "constrained-float", are no part of the key
        key = ".".join(str(part) for part in item["loc"] if not re.match(r"\w+\[|constrained-|float$", str(part)))
        if item["type"] == "extra_forbidden":
            unknown[key] = _meant(key)
        elif item["type"] == "missing":
            missing.append(key)
        else:
            message = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
            wrong.setdefault(key, []).append(message.split(", unable to parse")[0])
            given[key] = "" if item["type"] == "value_error" else f", got {item['input']!r}"
    return [
        *(f"unknown key '{key}'" + (f", did you mean '{meant}'?" if meant else "") for key, meant in unknown.items()),
        *(f"missing key '{key}'" for key in missing if key not in unknown.values()),
        *(
            (f"{key}: " if key else "") + " or ".join(messages).replace(" or should be", " or") + given[key]
            for key, messages in wrong.items()
        ),
    ]


def _meant(key: str) -> str | None:
    """The known key that an unknown one most resembles; items of the list of tasks keep their number."""
    close = difflib.get_close_matches(re.sub(r"\.\d+\.", ".N.", key), list(_keys(Params)), n=1)
    number = re.search(r"\.\d+\.", key)
    return close[0].replace(".N.", number[0]) if close and number else close[0] if close else None


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of params.yaml; an item of the list of tasks has N for its number."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
    if model is Params:
        yield from _keys(Task, "tasks.N.")
