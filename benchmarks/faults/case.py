"""What the benchmark runs: a healthy data set and params, or the same with one fault put in."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mtseg.core.params import Params, load, validate

ROOT = Path(__file__).parents[2]
FAILURES = (  # of docs/failures.md, in its order
    "label_string", "dropped_labels", "loss_not_scalar", "mapper_displaces", "backbone_level", "lr_for_batch",
    "query_count", "no_object_slot", "zero_loss_weight", "task_untrained_in_matching", "labels_ignore_image",
    "label_readout", "ranking", "contradictory_predictions", "overlay_labels", "evaluator_wrong",
)  # fmt: skip
PHASES = ("convert", "check", "training", "predict", "evaluate", "diagnosis")
Phase = Literal["convert", "check", "training", "predict", "evaluate", "diagnosis"]

TINY = {  # changes to params.yaml, to learn in a minute on one core
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
APART = {"model.unseen_combinations": 1.0}  # a softmax for every head, whatever params.yaml says
JOINED = {"model.unseen_combinations": 0.01}  # one over the combinations of labels


@cache
def defaults() -> Params:
    return load(ROOT / "params.yaml")


@dataclass(frozen=True)
class Case:
    """A run from raw data to diagnosis. tasks: names, the first the main one. changes: `section.key` or
    `tasks.NAME.key` -> value, on top of `TINY`. With heads apart further tasks have a no-object slot."""

    name: str
    tasks: tuple[str, ...] = ("shape", "colour", "fill")
    changes: dict[str, Any] = field(default_factory=dict)
    raw: Callable[[Path], None] | None = None  # edits the raw folder
    calm: bool = True  # plain backgrounds, learnt in fewer steps

    def params(self) -> Params:
        """Checked as the file is."""
        given = defaults().model_dump(mode="json")
        for section, values in TINY.items():
            given[section] = given[section] | values if isinstance(values, dict) else values
        given["data"]["raw"] = "raw"
        apart = self.changes.get("model.unseen_combinations", given["model"]["unseen_combinations"]) == 1
        given["tasks"] = [
            {"name": name, **(TASK | {"background": apart} if number else MAIN),
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
    """One thing that is wrong. Its name tells what was done.

    failure: its name in docs/failures.md, if it has one. causes: the right names, the best first. says: where a stage
    refuses it with an error of its own, a regex of its text. coco: edits data/coco after convert. code: what is
    patched, from the phase `since` on; a fault of a later phase than training meets a model that was trained well.
    """

    failure: str = ""
    causes: tuple[str, ...] = ()
    says: str | None = None
    coco: Callable[[Path], None] | None = None
    code: Callable[[], AbstractContextManager] | None = None
    since: Phase = "convert"

    @property
    def after_training(self) -> bool:
        return PHASES.index(self.since) > PHASES.index("training")


@dataclass(frozen=True)
class Outcome:
    """when: the first phase that reported something, None if none did. named: causes with their severity, errors first.
    text: all that it printed. crash: it ended in a traceback. seconds: wall clock of the whole."""

    case: Case
    when: Phase | None
    named: tuple[tuple[str, str], ...]
    text: str
    crash: bool
    seconds: float

    @property
    def refused(self) -> bool:
        """A stage stopped with an error of its own, with the text that the fault asks for."""
        says = getattr(self.case, "says", None)
        return bool(says and self.when and not self.crash and re.search(says, self.text))

    @property
    def right(self) -> bool:
        """Whether the gravest cause is right and no error beside it wrong, or the fault is refused as it must be."""
        first = [cause for cause, _ in self.named[:1]]
        reported = {*first, *(cause for cause, severity in self.named if severity == "error")}
        return self.refused or bool(first) and not self.crash and reported <= set(self.case.causes)

    @property
    def line(self) -> str:
        """The line to show."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        graver = [line for line in lines if re.match(r"(error|warning): ", line)]
        named = [line for line in lines if self.named and f"{self.named[0][0]}: " in line]
        return next(iter(named + graver + lines), "") if self.when else ""
