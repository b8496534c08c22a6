"""The sections of params.yaml, typed. Scientific values have their one default there, none here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

SLIMMEST = 16  # times as long as wide that a picture may be; at this many pixels it is still one pixel wide


def _names(folder: str) -> tuple[str, ...]:  # of the files there, none of which is imported
    return tuple(sorted(path.stem for path in (Path(__file__).parent / folder).glob("[!_]*.py")))


NO_BOOL = BeforeValidator(lambda value: str(value) if isinstance(value, bool) else value)  # true is not the number 1
Whole = Annotated[int, NO_BOOL]
Number = Annotated[float, NO_BOOL]
Finite = Annotated[Number, Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**31)]
Ranking = Literal["main", "sum", "product", "main_quality", "sum_quality", "product_quality"]


def _or_mapping(kind: Any) -> Any:  # kind, or {name: kind}; by tags, so that a wrong one is told once
    tagged = Annotated[kind, Tag("float")] | Annotated[dict[str, kind], Tag("dict[float]")]
    return Annotated[tagged, Discriminator(lambda value: "dict[float]" if isinstance(value, dict) else "float")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _check(self) -> Section:
        for fault in self._wrong():
            raise ValueError(fault)
        return self

    def _wrong(self) -> Iterator[str]:  # what of the section does not fit together; the first thing is told
        return iter(())


class Generate(Section):
    train: Count
    val: Count
    size: Annotated[Whole, Field(ge=32)]
    max_objects: Count
    scale: Annotated[Number, Field(gt=0, le=2)]  # at 2 the largest fill the picture
    unseen: Annotated[Whole, Field(ge=0, le=36)]  # of 48; with 11 classes, that leaves each an example
    alike: Share
    seed: Seed


class Data(Section):
    raw: Path
    format: Literal[_names("data/formats")]
    mapping: Path | None
    split: Annotated[Number, Field(gt=0, lt=1)]
    share: Annotated[Number, Field(gt=0, le=1)]
    seed: Seed
    on_error: Literal["error", "skip"]
    flatten: bool


class Task(Section):
    """One label that every instance carries. `classes` is `auto` until `convert` has read the data."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    classes: Literal["auto"] | tuple[str, ...]
    loss_weight: NonNegative
    match_weight: NonNegative
    background: bool
    class_weights: Literal["auto"] | dict[str, NonNegative] | None
    flip_pairs: tuple[tuple[str, str], ...]

    @classmethod
    def predicted(cls, *, name: str, classes: tuple[str, ...], background: bool) -> Task:
        """A task as far as predictions need it: what training alone reads is neutral."""
        neutral = {"loss_weight": 1, "match_weight": 1, "class_weights": None, "flip_pairs": ()}
        return cls(name=name, classes=classes, background=background, **neutral)

    def _wrong(self) -> Iterator[str]:
        flat = [name for pair in self.flip_pairs for name in pair]
        if len(set(flat)) < len(flat):
            yield f"task '{self.name}': a class stands in two flip_pairs"
        if self.classes == "auto":
            return
        if not self.classes or len({name.strip() for name in self.classes} - {"", "-"}) < len(self.classes):
            yield f"task '{self.name}': classes must be auto or a list of distinct names, none of them blank or -"
        weighted = self.class_weights if isinstance(self.class_weights, dict) else {}
        for key, named in (("class_weights", weighted), ("flip_pairs", flat)):
            if unknown := sorted({*named} - {*self.classes}):
                yield f"task '{self.name}': {key} names {unknown}, classes are {list(self.classes)}"

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
    backbone: Literal[_names("model/backbones")] | Annotated[str, Field(pattern="^timm/.+")]
    weights: str | None
    partial_weights: bool
    freeze_norm: bool
    num_queries: Count
    hidden_dim: Annotated[Whole, Field(ge=32, multiple_of=32)]  # group norm has 32 groups
    num_heads: Count
    encoder_layers: Count
    encoder_feedforward_dim: Count
    decoder_layers: Count
    decoder_feedforward_dim: Count
    unseen_combinations: Annotated[Number, Field(gt=0, le=1)]
    recompute: Literal["none", "backbone", "pixel_decoder", "both"]

    def _wrong(self) -> Iterator[str]:
        if self.hidden_dim % self.num_heads:
            yield f"hidden_dim {self.hidden_dim} must be a multiple of num_heads {self.num_heads}"
        if self.recompute in ("backbone", "both") and not self.freeze_norm:
            yield f"recompute: {self.recompute} needs freeze_norm: true: batch norm would count every picture twice"
        if Path(self.weights or "").resolve().is_relative_to(Path("models").resolve()):
            yield f"weights {self.weights} is in models, which is emptied before training: copy it elsewhere first"


class Input(Section):
    size: Annotated[Whole, Field(ge=32, multiple_of=32)]
    min_scale: Positive
    max_scale: Positive
    flip: Share
    workers: Annotated[Whole, Field(ge=0)]

    def _wrong(self) -> Iterator[str]:
        if self.min_scale > self.max_scale:
            yield f"min_scale {self.min_scale} is above max_scale {self.max_scale}"
        if self.min_scale * self.size < SLIMMEST:
            yield f"min_scale {self.min_scale} leaves of size {self.size} less than {SLIMMEST} pixels: raise either"


class Solver(Section):
    base_lr: Literal["auto"] | Positive
    reference_lr: Positive
    reference_batch: Count
    ims_per_batch: Count
    accumulate: Count
    max_iter: Annotated[Whole, Field(ge=0)]
    schedule: Literal["cosine", "steps"]
    steps: tuple[Share, ...]
    warmup: Annotated[Whole, Field(ge=0)]
    weight_decay: NonNegative
    backbone_multiplier: NonNegative
    clip: NonNegative
    amp: bool
    log_period: Count
    eval_period: Count

    def _wrong(self) -> Iterator[str]:
        drops = [round(share * self.max_iter) for share in self.steps]
        if self.schedule == "steps" and self.max_iter and any(a >= b for a, b in pairwise([0, *drops, self.max_iter])):
            yield f"steps of {self.max_iter} iterations are {drops}, which must ascend strictly between 0 and max_iter"

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
    labels: NonNegative
    no_object: NonNegative
    num_points: Count
    oversample: Annotated[Number, Field(ge=1)]
    importance: Share


class Test(Section):
    checkpoint: Literal["best", "last"]
    ims_per_batch: Count
    detections: Count
    max_dets: Annotated[tuple[Count, ...], Field(min_length=1)]
    ranking: Ranking


class Filter(Section):
    """min_score: a number for the main task, min_logit one for every further task; each may be {task: number}."""

    thresholds: Literal["given", "auto"]
    drop_background: bool
    min_score: _or_mapping(Share)
    min_logit: _or_mapping(Finite)
    largest_component: bool
    min_area: Annotated[Whole, Field(ge=0)]
    nms: Literal["agnostic", "class", "matrix", "none"]
    nms_iou: Share
    most: Count | None


class Visualise(Section):
    pictures: Count
    min_score: Share
    size: Annotated[Whole, Field(ge=64)]
