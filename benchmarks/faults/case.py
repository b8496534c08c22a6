"""Cases: a run without a fault, or the same run with one fault in its data, params or code."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from mtseg.core.params import Params, load, validate

ROOT = Path(__file__).parents[2]
FAILURES = (  # the headings of docs/failures.md, in order
    "label_string", "dropped_labels", "loss_not_scalar", "mapper_displaces", "backbone_level", "lr_for_batch",
    "query_count", "no_object_slot", "zero_loss_weight", "task_untrained_in_matching", "labels_ignore_image",
    "label_readout", "ranking", "contradictory_predictions", "overlay_labels", "evaluator_wrong",
)  # fmt: skip
PHASES = ("convert", "check", "training", "predict", "evaluate", "diagnosis")
Phase = Literal["convert", "check", "training", "predict", "evaluate", "diagnosis"]

Patch = Callable[[], AbstractContextManager]
TINY = {  # changes to params.yaml, so that a training takes a minute on one core
    "generate": {"train": 300, "val": 60, "size": 64, "max_objects": 3},
    "model": {"num_queries": 10, "hidden_dim": 64, "encoder_feedforward_dim": 128, "decoder_layers": 2,
              "decoder_feedforward_dim": 128},
    "input": {"size": 64},
    "solver": {"reference_lr": 4e-3, "max_iter": 500, "eval_period": 100, "warmup": 20},
    "loss": {"num_points": 256},
    "device": "cpu",
}  # fmt: skip
TASK = {"classes": "auto", "loss_weight": 1.0, "match_weight": 1.0, "background": False, "class_weights": None}
MAIN = TASK | {"loss_weight": 2.0, "background": True, "classes": ["circle", "square", "star", "triangle"]}
SEPARATE = {"model.unseen_combinations": 1.0}  # a softmax for each task
COMBINED = {"model.unseen_combinations": 0.01}  # one softmax over the combinations of labels


@cache
def defaults() -> Params:
    return load(ROOT / "params.yaml")


@dataclass(frozen=True)
class Case:
    """A run from raw data to diagnosis.

    tasks: names, the main task first. With separate softmaxes the further tasks have a no-object slot. changes:
    `section.key` or `tasks.NAME.key` -> value, applied after `TINY`. raw: edits the raw folder. plain: plain
    backgrounds, which need fewer training steps. since: the phase from which the run differs from `healthy.BASE`; if
    that is after training, it has the model of that case.
    """

    name: str
    tasks: tuple[str, ...] = ("shape", "colour", "fill")
    changes: dict[str, Any] = field(default_factory=dict)
    raw: Callable[[Path], None] | None = None
    plain: bool = True
    since: Phase = "convert"

    @property
    def after_training(self) -> bool:
        return PHASES.index(self.since) > PHASES.index("training")

    def params(self) -> Params:
        """The run's params, validated."""
        given = defaults().model_dump(mode="json")
        for section, values in TINY.items():
            given[section] = given[section] | values if isinstance(values, dict) else values
        given["data"]["raw"] = "raw"
        separate = self.changes.get("model.unseen_combinations", given["model"]["unseen_combinations"]) == 1
        given["tasks"] = [
            {"name": name, **(TASK | {"background": separate} if number else MAIN),
             "flip_pairs": [["left", "right"]] if name == "side" else []}
            for number, name in enumerate(self.tasks)
        ]  # fmt: skip
        tasks = {task["name"]: task for task in given["tasks"]}
        for key, value in self.changes.items():
            *place, last = key.split(".")
            node = given
            for part in place:
                node = tasks if part == "tasks" else node[part]
            node[last] = value
        return validate(given, ROOT / "params.yaml")


@dataclass(frozen=True)
class Fault(Case):
    """A run with one fault, described by its name.

    failure: its heading in docs/failures.md, empty if none. causes: the causes that count as correct. says: regex of
    the error, if a stage is expected to reject the fault. coco: edits data/coco after convert. code: patches the code
    from phase `since` on.
    """

    failure: str = ""
    causes: tuple[str, ...] = ()
    says: str | None = None
    coco: Callable[[Path], None] | None = None
    code: Callable[[], AbstractContextManager] | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a case.

    when: the first phase that reported something, or None. named: (cause, severity), errors first. text: the output of
    that phase. crash: whether an unexpected exception ended it. seconds: wall-clock time of the run.
    """

    case: Case
    when: Phase | None
    named: tuple[tuple[str, str], ...]
    text: str
    crash: bool
    seconds: float

    @property
    def refused(self) -> bool:
        """Whether a stage rejected the fault with the expected error."""
        says = getattr(self.case, "says", None)
        return bool(says and self.when and not self.crash and re.search(says, self.text))

    @property
    def right(self) -> bool:
        """Whether the most severe cause and all errors are correct, or the fault was rejected as expected."""
        first = [cause for cause, _ in self.named[:1]]
        reported = {*first, *(cause for cause, severity in self.named if severity == "error")}
        return self.refused or bool(first) and not self.crash and reported <= set(self.case.causes)

    @property
    def line(self) -> str:
        """The line of the output that matters most."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        severe = [line for line in lines if re.match(r"(error|warning): ", line)]
        named = [line for line in lines if self.named and f"{self.named[0][0]}: " in line]
        return next(iter(named + severe + lines), "") if self.when else ""


def changed(owner: Any, name: str, change: Callable) -> Patch:
    """A patch: a call of `owner.name(...)` becomes `change(original, ...)`."""

    def instead(original: Callable) -> Callable:
        return lambda *args, **kwargs: change(original, *args, **kwargs)

    return lambda: patch.object(owner, name, instead(getattr(owner, name)))


def together(*patches: Patch) -> Patch:
    @contextmanager
    def fault() -> Iterator[None]:
        with ExitStack() as stack:
            for one in patches:
                stack.enter_context(one())
            yield

    return fault


def everywhere(original: Callable, change: Callable) -> Patch:
    """As `changed`, under every name by which a module of mtseg has imported the function."""

    @contextmanager
    def fault() -> Iterator[None]:
        for name in ("training.loop", "checks.run", "inference.splits", "diagnosis.run"):
            import_module(f"mtseg.{name}")  # before the patch, or its name would stay the patched one
        modules = [module for name, module in sys.modules.items() if name.startswith("mtseg")]
        places = [(module, name) for module in modules for name, value in vars(module).items() if value is original]
        with together(*(changed(module, name, change) for module, name in places))():
            yield

    return fault
