"""params.yaml, read and checked whole. An unknown key is an error.

Read with ruamel (YAML 1.2): PyYAML takes `1e-05`, which `dvc exp run -S` writes, for a string.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mtseg.errors import UserError
from mtseg.sections import Data, Filter, Generate, Input, Loss, Model, Section, Seed, Solver, Task, Test, Visualise

# what stands beside the tasks' names: columns of the predictions, names of losses and figures of training
RESERVED = set("file_name image_id query score x y width height area rle mask dice loss lr step".split())


class Params(Section):
    seed: Seed
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

    def _wrong(self) -> Iterator[str]:
        names = [task.name for task in self.tasks]
        reserved = RESERVED | {f"{name}_probability" for name in names}
        if len({*names} - reserved) < len(names):
            yield f"tasks: names must be distinct and none of {', '.join(sorted(reserved))}, got {names}"
        for key, limits in (("min_score", self.filter.min_score), ("min_logit", self.filter.min_logit)):
            if limits and isinstance(limits, dict) and self.data.flatten:
                yield f"filter.{key}: give a number; data.flatten leaves no task {next(iter(limits))} to name"
            for name in limits if isinstance(limits, dict) else ():
                if name not in names:
                    close = difflib.get_close_matches(name, names, n=1)
                    meant = f"did you mean 'filter.{key}.{close[0]}'?" if close else f"tasks are {', '.join(names)}"
                    yield f"unknown key 'filter.{key}.{name}', {meant}"
        if not self.tasks[0].background:
            yield f"tasks: the first task, '{names[0]}', is the main one and needs background: true"
        slots = [task.name for task in self.tasks[1:] if task.background]
        if slots and self.model.unseen_combinations < 1:
            yield (
                f"task '{slots[0]}': background: true needs model.unseen_combinations: 1; under one softmax over "
                "combinations the main task's no-object stands for all"
            )
        if self.data.raw == Path():
            yield "data.raw should name a folder"
        if (mapping := self.data.mapping) and not mapping.resolve().is_relative_to(Path("recipes/mappings").resolve()):
            yield f"data.mapping: {mapping} is not in recipes/mappings, the folder on which convert depends"


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check the whole file. Raises UserError that names every key at fault and what is allowed there."""
    try:
        raw = YAML(typ="safe").load(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror.lower()}; stages run in the folder that holds params.yaml") from None
    except (YAMLError, UnicodeDecodeError) as error:
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
        raise UserError(f"{source}:" + (" " if len(faults) == 1 else "\n  ") + "\n  ".join(faults)) from None


def _faults(error: ValidationError) -> list[str]:
    """Pydantic's errors in the words of params.yaml: misspelt keys first, then one line for each other key."""
    unknown, missing, wrong, given = {}, [], {}, {}
    for item in error.errors():
        # a union's alternatives, such as "literal['auto']" and "constrained-float", are no part of the key
        parts = [part for part in map(str, item["loc"]) if not re.match(r"[\w-]+\[|constrained-|float$", part)]
        key = ".".join(parts)
        if item["type"] == "extra_forbidden":
            unknown[key] = _meant(parts)
        elif item["type"] == "missing":
            missing.append(key)
        else:
            message = re.sub("^Value error, |^(Input|String) (?=should)", "", item["msg"])
            wrong.setdefault(key, []).append(message.split(", unable to parse")[0])
            given[key] = "" if item["type"] == "value_error" else f", got {item['input']!r}"
    told = {key: " or ".join(messages).replace(" or should be", " or") for key, messages in wrong.items()}
    return [
        *(f"unknown key '{key}'" + (f", did you mean '{meant}'?" if meant else "") for key, meant in unknown.items()),
        *(f"missing key '{key}'" for key in missing if key not in unknown.values()),
        *(f"{key}: " * bool(key) + message + given[key] for key, message in told.items()),
    ]


def _meant(parts: list[str]) -> str | None:
    """The key that an unknown one most resembles, of those that belong in its place."""
    *place, name = parts
    section = Params if not place else Task if place[0] == "tasks" else Params.model_fields[place[0]].annotation
    close = difflib.get_close_matches(name, list(section.model_fields), n=1)
    return ".".join([*place, *close]) if close else None
