"""Study files and the runs that they define.

ablations/studies/NAME.yaml has these keys:
  question  what the study asks
  params    changes to the params of all runs
  at        {scale: params}, further changes at a scale (optional)
  vary      {factor: {level: params}}; the runs are the product of all levels. The params of a level may contain `at`
  seeds     the number of seeds, or {scale: number}; 0: not run at that scale
  only      {scale: {factor: [levels]}}, the levels that are run at a scale (default: all)
  metrics   {column: FILE:key}, a key of metrics/FILE.json; `*` in the key is the mean over all keys at that place. The
            stage that writes the file is part of the run
  against   {factor: level or levels}, the reference levels; each adds a column of differences (optional)
  plot      {x: factor, series: factor, y: column} (default: the first column by level)

ablations/scales/NAME.yaml has the params that all runs of a scale share. They are applied in this order: params.yaml,
embedded.yaml, recipes/`recipe`.yaml (if the scale names one), the scale, the study, the level. embedded.yaml sets all
params but device, launch, input.workers, export and visualise, so edits of params.yaml for other data do not change
studies.

Params are sections of params.yaml, as in a recipe, with two additions: `tasks` may be {index: {key: value}}, which
changes keys of those tasks, and `main: index` makes that task the first, with the weights of the previous first task.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mtseg.core.errors import UserError
from mtseg.core.params import Params, validate

HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes"
SCALES = ("embedded", "carparts")
STAGES = {"diagnosis": "diagnose", "evaluate": "evaluate", "filter": "filter", "train": "train"}  # by file of metrics/
SCORED = ("evaluate", "filter")  # stages that every run needs
NOT_TRAINED = ("test", "filter", "export", "visualise")  # sections that training does not depend on
Overlay = dict[str, Any]


class Level(BaseModel):
    """Params of a level, and `at`: {scale: params}, further params at a scale."""

    model_config = ConfigDict(extra="allow", frozen=True)

    at: dict[Literal[SCALES], Overlay] = {}

    def params(self, scale: str) -> Overlay:
        return merged(self.model_extra, self.at.get(scale, {}), top=False)


class Plot(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    x: str
    series: str
    y: str


class Study(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    question: str
    params: Overlay = {}
    vary: dict[str, dict[str | int | float, Level | None]]
    seeds: NonNegativeInt | dict[Literal[SCALES], NonNegativeInt]
    only: dict[Literal[SCALES], dict[str, list[str | int | float]]] = {}
    metrics: dict[str, str]
    against: dict[str, str | int | float | list[str | int | float]] = {}
    plot: Plot | None = None
    at: dict[Literal[SCALES], Overlay] = {}

    def levels(self, scale: str) -> dict[str, list[str]]:
        """{factor: levels} that are run at a scale, in the order of the file."""
        chosen = self.only.get(scale, {})
        return {
            factor: [str(level) for level in levels if str(level) in map(str, chosen.get(factor, levels))]
            for factor, levels in self.vary.items()
        }

    @property
    def stages(self) -> list[str]:
        """The stages that a run needs."""
        return sorted({*SCORED, *(STAGES[source.partition(":")[0]] for source in self.metrics.values())})

    def count(self, scale: str) -> int:
        """The number of seeds at a scale."""
        return self.seeds if isinstance(self.seeds, int) else self.seeds.get(scale, 0)

    def references(self, scale: str) -> list[tuple[str, str]]:
        """(factor, reference level) pairs, as far as they are run at a scale."""
        given = [
            (factor, level) for factor, at in self.against.items() for level in (at if isinstance(at, list) else [at])
        ]
        levels = self.levels(scale)
        return [(factor, str(level)) for factor, level in given if str(level) in levels[factor]]


@dataclass(frozen=True)
class Run:
    """One experiment. stages: those that are run. factors: {factor: level}. params: the whole params.yaml."""

    study: str
    stages: list[str]
    scale: str
    factors: dict[str, str]
    seed: int
    params: Overlay

    @property
    def name(self) -> str:
        """The name of the experiment."""
        mark = "" if self.scale == SCALES[0] else f"{self.scale}-"
        return f"{self.study}-{mark}{'-'.join(self.factors.values())}-s{self.seed}".replace("_", "-")

    @property
    def training(self) -> str:
        """A key that is equal for runs with the same training. data.mapping does not change labels here."""
        trained = {key: self.params[key] for key in sorted(self.params) if key not in NOT_TRAINED}
        return json.dumps(trained | {"data": trained["data"] | {"mapping": None}})

    @cached_property
    def checked(self) -> Params:
        """The validated params. Raises UserError, which names the run."""
        return validate(copy.deepcopy(self.params), Path(self.name))

    @property
    def digest(self) -> str:
        return digest(self.checked)


def digest(params: Params) -> str:
    """Hash of the params that affect results, 8 hex digits: without data folder, device, export and the like."""
    excluded = dict.fromkeys(("device", "launch", "export", "visualise"), True)
    excluded |= {"data": {"raw"}, "input": {"workers"}}
    found = params.model_dump(mode="json", exclude=excluded, exclude_defaults=True)  # as before a key was added
    found["tasks"] = [task.model_dump(mode="json") for task in params.tasks]  # as before their keys had defaults
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8]


def names() -> list[str]:
    return sorted(path.stem for path in (HERE / "studies").glob("*.yaml"))


def read(name: str) -> Study:
    """A study by name. Raises UserError for a name, key, level or metric that does not exist."""
    if name not in names():
        raise UserError(f"there is no study '{name}'; there are: {', '.join(names())}")
    try:
        study = Study.model_validate({**read_params(HERE / "studies" / f"{name}.yaml"), "name": name})
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))} {fault['msg']}" for fault in error.errors())
        raise UserError(f"ablations/studies/{name}.yaml: {'; '.join(faults)}") from None
    named = [*study.against.items(), *(item for chosen in study.only.values() for item in chosen.items())]
    for factor, at in named:
        levels = [str(level) for level in study.vary.get(factor, ())]
        if wrong := [str(level) for level in (at if isinstance(at, list) else [at]) if str(level) not in levels]:
            there = f"level {wrong[0]} of {factor}; there are: {', '.join(levels)}" if levels else f"factor {factor}"
            raise UserError(f"ablations/studies/{name}.yaml: there is no {there}")
    if (plot := study.plot) and not ({plot.x, plot.series} <= {*study.vary} and plot.y in study.metrics):
        raise UserError(f"ablations/studies/{name}.yaml: plot names an unknown factor or column")
    for column, source in study.metrics.items():
        if source.partition(":")[0] not in STAGES or source.count(":") != 1:
            there = ", ".join(f"{known}:key" for known in STAGES)
            raise UserError(f"ablations/studies/{name}.yaml: metric '{column}' is {source}; valid: {there}")
    return study


def runs(study: Study, scale: str, *, params: Path, raw: Path | None = None) -> list[Run]:
    """All runs of a study at a scale, given the path of params.yaml. raw: folder of the raw data, if not the scale's.

    They are ordered by seed, so that a study that is stopped early has all levels of the first seeds."""
    first, own = (read_params(HERE / "scales" / f"{name}.yaml") for name in (SCALES[0], scale))
    recipe = own.pop("recipe", None)
    base = read_params(params)
    below = read_params(RECIPES / f"{recipe}.yaml") if recipe else {}
    for overlay in (first, below, own, study.params, study.at.get(scale, {})):
        base = merged(base, overlay)
    if raw:
        base["data"]["raw"] = str(raw.resolve())  # experiments run in other folders
    found = []
    levels = study.levels(scale)
    overlays = {
        factor: {str(level): given.params(scale) if given else {} for level, given in study.vary[factor].items()}
        for factor in levels
    }
    for seed, *chosen in itertools.product(range(study.count(scale)), *levels.values()):
        factors = dict(zip(levels, chosen, strict=True))
        whole = base
        for factor, level in factors.items():
            whole = merged(whole, overlays[factor][level])
        found.append(Run(study.name, study.stages, scale, factors, seed, merged(whole, _drawn(seed, scale))))
    if len({run.name for run in found}) < len(found):
        raise UserError(f"ablations/studies/{study.name}.yaml: two runs would have the same name")
    return found


def _drawn(seed: int, scale: str) -> Overlay:
    """Params that a seed sets. The data depend on it, so that intervals include the variance of the data."""
    drawn: Overlay = {"seed": seed, "data": {"seed": seed}}
    return drawn | {"generate": {"seed": seed}} if scale == SCALES[0] else drawn


def merged(base: Overlay, overlay: Overlay, *, top: bool = True) -> Overlay:
    """A copy of `base` with the values of `overlay`, section by section. Lists are replaced as a whole.

    At the top, tasks may be given by index, and `main`. Raises UserError for a task that does not exist."""
    result = copy.deepcopy(base)
    for key, value in overlay.items():
        if top and key == "main":
            result["tasks"] = _with_main(_checked(result["tasks"], value), int(value))
        elif top and key == "tasks" and isinstance(value, dict):
            for index, keys in value.items():
                task = _checked(result["tasks"], index)[int(index)]
                if not isinstance(keys, dict):
                    raise UserError(f"task {index} is given {keys!r}: expected keys, such as 'loss_weight: 1.0'")
                task |= keys
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value, top=False)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _checked(tasks: list[Overlay], index: int | str) -> list[Overlay]:
    if str(index) not in map(str, range(len(tasks))):
        raise UserError(f"no task {index}: params.yaml, recipe and scale have tasks 0 to {len(tasks) - 1}")
    return tasks


def _with_main(tasks: list[Overlay], index: int) -> list[Overlay]:
    role = ("loss_weight", "match_weight", "background")
    weights = [{key: task[key] for key in role} for task in tasks]
    order = [index, *(i for i in range(len(tasks)) if i != index)]
    return [tasks[i] | weights[place] for place, i in enumerate(order)]


def read_params(path: Path) -> Overlay:
    """The content of a YAML file, not validated. Raises UserError if it cannot be read or is no mapping."""
    try:
        found = YAML(typ="safe").load(path)
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a mapping, found {type(found).__name__}")
    return found
