"""Load and validate params.yaml. The whole file is checked; an unknown key is an error.

Scientific values have their defaults in params.yaml only. Keys added since version 0.1 have defaults here, so that
older files stay valid, and so have those of a task but its name, since a project writes its own list.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from mtseg.core import yaml
from mtseg.core.errors import QUOTED, UserError, one_line, quoted
from mtseg.core.names import clean, control

SLIMMEST = 16  # largest aspect ratio of an image: resized to 16 pixels, such an image is still one pixel wide

# names that tasks may not have: columns of the predictions and their CSV, losses and other training metrics
RESERVED = {
    *"image_id query score box area rle height width mask_quality file_name x y".split(),
    *"mask dice loss lr step".split(),
}

# kinds of shapes that `data.ignore_shapes` may name, as LabelMe, X-AnyLabeling, CVAT and Label Studio call them
SHAPES = tuple(
    "box circle cuboid ellipse keypoint line linestrip mask oriented_rectangle point points polyline quadrilateral "
    "rectangle rotation skeleton vector".split()
)


def _names(folder: str) -> tuple[str, ...]:  # module names in the folder; nothing is imported
    return tuple(sorted(path.stem for path in (Path(__file__).parents[1] / folder).glob("[!_]*.py")))


def _class_name(value: Any) -> Any:
    """A class name in its clean form. YAML reads an unquoted 0 as a number and true as a boolean: both are taken as
    their text; 1.0 and 1.00 would be the same number, and are refused."""
    if isinstance(value, float):
        raise ValueError(f"class {value}: put a name that is a number with a fraction in quotes")
    if isinstance(value, bool | int):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    if found := control(clean(value)):
        raise ValueError(f"class {quoted(value)} has the control character {found}")
    return clean(value)


NO_BOOL = BeforeValidator(lambda value: str(value) if isinstance(value, bool) else value)  # true is not the number 1
Whole = Annotated[int, NO_BOOL]
ClassName = Annotated[str, BeforeValidator(_class_name)]
Number = Annotated[float, NO_BOOL]
Finite = Annotated[Number, Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
Logit = Annotated[Number, Field(ge=-1e6, le=1e6)]
Positive = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[Number, Field(ge=0, le=1e6)]
Count = Annotated[Whole, Field(ge=1)]
Batch = Annotated[Count, Field(le=10_000)]
Detections = Annotated[Count, Field(le=100_000)]  # of an image
Steps = Annotated[Whole, Field(ge=0, le=10**8)]
Seed = Annotated[Whole, Field(ge=0, le=2**31 - 1)]
Ranking = Literal["main", "sum", "product", "main_quality", "sum_quality", "product_quality"]


def _or_mapping(kind: Any) -> Any:  # kind or {name: kind}; tagged, so that an invalid value is reported once
    tagged = Annotated[kind, Tag("float")] | Annotated[dict[str, kind], Tag("dict[float]")]
    return Annotated[tagged, Discriminator(lambda value: "dict[float]" if isinstance(value, dict) else "float")]


def _to(most: int) -> Any:  # 1 to `most`
    return Annotated[Count, Field(le=most)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _check(self) -> Section:
        for fault in self._wrong():
            raise ValueError(one_line(fault))
        return self

    def _wrong(self) -> Iterator[str]:  # contradictions between keys; the first is reported
        return iter(())


class Generate(Section):
    train: _to(10**6)
    val: _to(10**6)
    size: Annotated[Whole, Field(ge=32, le=4096)]
    max_objects: _to(1000)
    scale: Annotated[Number, Field(gt=0, le=2)]  # at 2 the largest objects fill the image
    unseen: Annotated[Whole, Field(ge=0, le=36)]  # of 48 combinations; at least one is left for each of the 11 classes
    alike: Share
    seed: Seed


class Data(Section):
    raw: Path
    format: Literal["auto", *_names("data/formats")]
    mapping: Path | None
    split: _or_mapping(Annotated[Number, Field(gt=0, lt=1)])  # of val, or {val: share, test: share}
    share: Annotated[Number, Field(gt=0, le=1)]
    seed: Seed
    on_error: Literal["error", "skip"]
    ignore_shapes: tuple[Literal[SHAPES], ...] = ()
    max_megapixels: Annotated[Number, Field(gt=0, le=1000)] = 100.0  # above, an area does not fit into an RLE's 32 bits
    max_file_mb: Annotated[Number, Field(gt=0, le=10**5)] = 2000.0
    follow_links: bool = False
    flatten: bool

    def _wrong(self) -> Iterator[str]:
        shares = self.split if isinstance(self.split, dict) else {"val": self.split}
        if not {"val"} <= {*shares} <= {"val", "test"}:
            yield f"split: a mapping has val and, optionally, test, got {', '.join(map(str, shares)) or 'none'}"
        if sum(shares.values()) >= 1:
            yield f"split: the shares add up to {sum(shares.values()):g}, which leaves no image to train"


class Task(Section):
    """One kind of label that every instance has. `classes` is `auto` until `convert` has read the data."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    classes: Literal["auto"] | tuple[ClassName, ...] = "auto"
    loss_weight: Weight = 1.0
    match_weight: Weight = 1.0
    background: bool = True
    class_weights: Literal["auto"] | dict[ClassName, Weight] | None = None
    flip_pairs: tuple[tuple[ClassName, ClassName], ...] = ()

    def _wrong(self) -> Iterator[str]:
        flat = [name for pair in self.flip_pairs for name in pair]
        if len(set(flat)) < len(flat):
            yield f"task '{self.name}': a class occurs twice in flip_pairs"
        if self.classes == "auto":
            return
        if not self.classes or len({name.strip() for name in self.classes} - {"", "-"}) < len(self.classes):
            yield f"task '{self.name}': classes must be auto or a list of distinct names; a name cannot be empty or '-'"
        weighted = self.class_weights if isinstance(self.class_weights, dict) else {}
        for key, named in (("class_weights", weighted), ("flip_pairs", flat)):
            if unknown := sorted({*named} - {*self.classes}):
                yield f"task '{self.name}': {key} has unknown classes {unknown}, valid: {list(self.classes)}"

    @property
    def num_classes(self) -> int:
        """Number of classes, without the no-object slot."""
        assert self.classes != "auto", "classes are known after convert: use the tasks of the data set"
        return len(self.classes)

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the task's head: its classes and, with `background`, no-object as the last."""
        return self.num_classes + self.background

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each class in the task's loss. Default: 1."""
        assert self.class_weights != "auto", "class_weights are known after register: use the tasks of the data set"
        return tuple((self.class_weights or {}).get(name, 1.0) for name in self.classes)

    def index(self, name: str) -> int:
        """The 0-based index of a class. Raises ValueError, which lists the valid names."""
        if name not in self.classes:
            raise ValueError(f"task '{self.name}' has no class {name!r}, valid: {', '.join(self.classes)}")
        return self.classes.index(name)

    def flip(self, name: str) -> str:
        """The class that a class becomes after a horizontal flip of the image."""
        swap = {a: b for pair in self.flip_pairs for a, b in (pair, pair[::-1])}
        return swap.get(name, name)

    def flipped(self) -> tuple[int, ...]:
        """For each class index, the index after a horizontal flip of the image."""
        return tuple(self.index(self.flip(name)) for name in self.classes)


def with_flips(combinations: Iterable[Sequence[int]], tasks: Sequence[Task]) -> set[tuple[int, ...]]:
    """Combinations of class indices, one of each task, and what a horizontal flip makes of them."""
    given, flipped = {tuple(labels) for labels in combinations}, [task.flipped() for task in tasks]
    return given | {tuple(flip[label] for flip, label in zip(flipped, labels, strict=True)) for labels in given}


class Model(Section):
    backbone: Literal[_names("model/backbones")] | Annotated[str, Field(pattern="^timm/.+")]
    weights: str | None
    partial_weights: bool
    freeze_norm: bool
    num_queries: _to(10_000)
    hidden_dim: Annotated[Whole, Field(ge=32, le=4096, multiple_of=32)]  # group norm has 32 groups
    num_heads: _to(4096)
    encoder_layers: _to(100)
    encoder_feedforward_dim: _to(2**16)
    decoder_layers: _to(100)
    decoder_feedforward_dim: _to(2**16)
    unseen_combinations: Annotated[Number, Field(gt=0, le=1)]
    recompute: Literal["none", "backbone", "pixel_decoder", "both"]

    def _wrong(self) -> Iterator[str]:
        if self.hidden_dim % self.num_heads:
            yield f"hidden_dim {self.hidden_dim} must be a multiple of num_heads {self.num_heads}"
        if self.recompute in ("backbone", "both") and not self.freeze_norm:
            yield f"recompute: {self.recompute} requires freeze_norm: true, or batch norm would count every image twice"
        if Path(self.weights or "").resolve().is_relative_to(Path("models").resolve()):
            yield f"weights {self.weights} is in models/, which DVC empties before training: copy it elsewhere first"


class Input(Section):
    size: Annotated[Whole, Field(ge=32, le=8192, multiple_of=32)]
    min_scale: Annotated[Number, Field(gt=0, le=10)]
    max_scale: Annotated[Number, Field(gt=0, le=10)]
    flip: Share
    workers: Literal["auto"] | Annotated[Whole, Field(ge=0, le=256)] = "auto"

    def _wrong(self) -> Iterator[str]:
        if self.min_scale > self.max_scale:
            yield f"min_scale {self.min_scale} is above max_scale {self.max_scale}"
        if self.min_scale * self.size < SLIMMEST:
            yield f"min_scale {self.min_scale} x size {self.size} is less than {SLIMMEST} pixels: raise either"


class Solver(Section):
    base_lr: Literal["auto"] | Annotated[Number, Field(gt=0, le=100)]
    reference_lr: Annotated[Number, Field(gt=0, le=100)]
    reference_batch: _to(10**6)
    ims_per_batch: Batch
    accumulate: Batch
    max_iter: Steps
    schedule: Literal["cosine", "steps"]
    steps: tuple[Share, ...]
    warmup: Steps
    weight_decay: Annotated[Number, Field(ge=0, le=100)]
    backbone_multiplier: Annotated[Number, Field(ge=0, le=1000)]
    clip: Weight
    amp: bool
    tf32: bool = False
    log_period: _to(10**8)
    eval_period: _to(10**8)
    save_minutes: Annotated[Number, Field(ge=0, le=10_000)] = 2

    def _wrong(self) -> Iterator[str]:
        drops = [round(share * self.max_iter) for share in self.steps]
        if self.schedule == "steps" and self.max_iter and any(a >= b for a, b in pairwise([0, *drops, self.max_iter])):
            yield f"steps of {self.max_iter} iterations are {drops}, which must ascend strictly between 0 and max_iter"

    @property
    def rule_lr(self) -> float:
        """Learning rate by the linear scaling rule: reference_lr x effective batch / reference_batch."""
        return self.reference_lr * self.ims_per_batch * self.accumulate / self.reference_batch

    @property
    def lr(self) -> float:
        """The learning rate in use."""
        return self.rule_lr if self.base_lr == "auto" else self.base_lr


class Loss(Section):
    mask: Weight
    dice: Weight
    labels: Weight
    no_object: Weight
    num_points: _to(10**6)
    oversample: Annotated[Number, Field(ge=1, le=100)]
    importance: Share


class Launch(Section):
    nproc_per_node: Annotated[Whole, Field(ge=1, le=1024)] = 1
    nnodes: Annotated[Whole, Field(ge=1, le=1024)] = 1
    timeout: Annotated[Number, Field(ge=1, le=86_400)] = 600

    @property
    def processes(self) -> int:
        return self.nproc_per_node * self.nnodes


class Test(Section):
    checkpoint: Literal["best", "last"]
    ims_per_batch: Batch
    detections: Detections
    max_dets: Annotated[tuple[Detections, ...], Field(min_length=1)]
    ranking: Ranking


class Filter(Section):
    """min_score applies to the main task, min_logit to all further tasks; {task: number} sets single tasks."""

    thresholds: Literal["given", "auto"]
    drop_background: bool
    min_score: _or_mapping(Share)
    min_logit: _or_mapping(Logit)
    largest_component: bool
    min_area: Annotated[Whole, Field(ge=0, le=10**9)]
    nms: Literal["agnostic", "class", "matrix", "none"]
    nms_iou: Share
    most: _to(10**5) | None


class Visualise(Section):
    pictures: _to(10**5)
    min_score: Share
    size: Annotated[Whole, Field(ge=64, le=8192)]


class Export(Section):
    licence: str | None = None
    onnx: bool = False
    precision: Literal["float32", "float16", "int8"] = "float32"


class Params(Section):
    seed: Seed
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")]
    generate: Generate
    data: Data
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    model: Model
    input: Input
    solver: Solver
    loss: Loss
    launch: Launch = Launch()
    test: Test
    filter: Filter
    export: Export = Export()
    visualise: Visualise

    def _wrong(self) -> Iterator[str]:
        names = [task.name for task in self.tasks]
        reserved = RESERVED | {f"{name}_probability" for name in names}
        if len({*names} - reserved) < len(names):
            yield f"tasks: names must be distinct and not one of {', '.join(sorted(reserved))}, got {names}"
        for key, limits in (("min_score", self.filter.min_score), ("min_logit", self.filter.min_logit)):
            if limits and isinstance(limits, dict) and self.data.flatten:
                yield f"filter.{key}: must be a number: with data.flatten there is no task {next(iter(limits))}"
            for name in limits if isinstance(limits, dict) else ():
                if name not in names:
                    close = difflib.get_close_matches(name, names, n=1)
                    meant = f"did you mean 'filter.{key}.{close[0]}'?" if close else f"tasks are {', '.join(names)}"
                    yield f"unknown key 'filter.{key}.{name}', {meant}"
        if not self.tasks[0].background:
            yield f"tasks: the first task, '{names[0]}', is the main task and requires background: true"
        slots = [task.name for task in self.tasks[1:] if task.background]
        if slots and self.model.unseen_combinations < 1:
            yield (
                f"task '{slots[0]}': background: true requires model.unseen_combinations: 1; with a softmax over "
                "combinations, only the main task has a no-object slot"
            )
        if self.data.raw == Path():
            yield "data.raw must be the path of a folder"
        tracked = [Path("recipes/mappings").resolve(), self.data.raw.resolve()]
        if (mapping := self.data.mapping) and not any(map(mapping.resolve().is_relative_to, tracked)):
            place = Path("recipes/mappings") / mapping.name
            there = "" if place.is_file() else ", and move the file there"
            yield f"data.mapping: {mapping} is in neither folder that convert tracks: set it to {place}{there}"


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check the whole file. Raises UserError, which lists every invalid key and its valid values."""
    try:
        raw = yaml.read(path)
        if _names_classes(raw):
            _restore_names(raw, yaml.read(path, "base"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror.lower()}; run stages in the folder of params.yaml") from None
    except ValueError as error:
        raise UserError(f"{path} {error}") from None
    return validate(raw, path)


def _names_classes(raw: Any) -> bool:
    """Whether the content has class names; with `auto` there are none."""
    tasks = raw.get("tasks") if isinstance(raw, dict) else None
    keys = ("classes", "flip_pairs", "class_weights")
    own = [task.get(key) for task in tasks if isinstance(task, dict) for key in keys] if isinstance(tasks, list) else []
    return any(isinstance(value, list | dict) and value for value in own)


def _restore_names(raw: Any, text: Any) -> None:
    """Put class names into `raw` as they are written: 01, 1.0 and True are names without quotes, too. `text` is the
    same content with all scalars as text."""
    tasks, texts = (content.get("tasks") if isinstance(content, dict) else None for content in (raw, text))
    if not isinstance(tasks, list):
        return
    for task, own in zip(tasks, texts, strict=True):
        if not isinstance(task, dict) or "<<" in own:  # keys of another task, by YAML's merge
            continue
        for key in ("classes", "flip_pairs"):
            if isinstance(task.get(key), list):
                task[key] = _as_written(task[key], own[key])
        if isinstance(weights := task.get("class_weights"), dict) and "<<" not in own["class_weights"]:
            task["class_weights"] = dict(zip(own["class_weights"], weights.values(), strict=True))


def _as_written(value: Any, text: Any) -> Any:
    if isinstance(value, list):
        return [_as_written(*pair) for pair in zip(value, text, strict=True)]
    return text if isinstance(value, bool | int | float) else value


def validate(raw: Any, source: Path) -> Params:
    """Check the parsed content of the file `source`. Raises UserError as `load` does."""
    if not isinstance(raw, dict):
        raise UserError(f"{source}: expected sections such as 'solver:', found {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        listed = faults(error)
        raise (UserError(f"{source}: {listed[0]}") if len(listed) == 1 else UserError(f"{source}:", *listed)) from None


def faults(error: ValidationError, model: type[BaseModel] = Params) -> list[str]:
    """Pydantic's errors in the words of YAML and JSON: unknown keys first, then one line for each other key. model:
    whose errors they are."""
    unknown, missing, wrong, given = {}, [], {}, {}
    places = [item["loc"] for item in error.errors()]
    for item in error.errors():
        place = item["loc"]
        if item["type"] == "too_short" and any(other[: len(place)] == place != other for other in places):
            continue  # a list whose items are all wrong is reported as empty, too
        # alternatives of a union, such as "literal['auto']" and "constrained-float", are not part of the key
        parts = [part for part in map(str, place) if not re.match(r"[\w-]+\[|constrained-|float$", part)]
        parts = [part if len(part) <= QUOTED else f"{part[:QUOTED]}..." for part in parts]
        key = ".".join(parts)
        if item["type"] == "extra_forbidden":
            unknown[key] = _meant(parts, model)
        elif item["type"] == "missing":
            missing.append(key)
        else:
            message = re.sub("^Value error, |^(Input|String|Tuple) (?=should)", "", item["msg"])
            wrong.setdefault(key, []).append(re.split(", unable to parse| after validation", message)[0])
            given[key] = "" if item["type"] in ("value_error", "json_invalid") else f", got {quoted(item['input'])}"
    # a fault in a mapping or list stands for that of its key, which could have been another kind of value
    wrong = {key: own for key, own in wrong.items() if not any(other.startswith(f"{key}.") for other in wrong)}
    lines = {key: " or ".join(messages).replace(" or should be", " or") for key, messages in wrong.items()}
    return [
        *(f"unknown key '{key}'" + (f", did you mean '{meant}'?" if meant else "") for key, meant in unknown.items()),
        *(f"missing key '{key}'" for key in missing if key not in unknown.values()),
        *(f"{key}: " * bool(key) + message + given[key] for key, message in lines.items()),
    ]


def _meant(parts: list[str], model: type[BaseModel]) -> str | None:
    """The valid key of the same section that is most similar to an unknown one."""
    *place, name = parts
    kind = model.model_fields[place[0]].annotation if place else model  # of `tasks` a tuple of sections
    known = next((list(own.model_fields) for own in (kind, *get_args(kind)) if hasattr(own, "model_fields")), [])
    close = difflib.get_close_matches(name, known, n=1)
    return ".".join([*place, *close]) if close else None
