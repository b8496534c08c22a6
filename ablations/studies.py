"""A study as a file, and the runs it stands for.

ablations/studies/NAME.yaml:
  question  what the study asks
  params    of all its runs, laid over the scale's; `at`: {scale: params} of all its runs there
  vary      {factor: {level: params}}, `at` among them as above: the runs are the product of the factors' levels
  seeds     how many, or {scale: how many}; 0: not run at that scale
  only      {scale: {factor: [levels]}}: the levels run there; all by default
  metrics   {column: FILE:key} of what a run left, FILE a file of metrics/, whose stage is run then, `*` in the key the
            mean over all that stand there
  against   {factor: level, or levels}: what the others are compared with, seed by seed, a column each (optional)
  plot      {x: factor, series: factor, y: column}; by default the first column by level (optional)

ablations/scales/NAME.yaml: what all runs of that scale share, laid over recipes/`recipe`.yaml where it names one, and
that over embedded.yaml, which sets all but device, input.workers and visualise: no result of a study depends on what
params.yaml holds for one's own data.

Params are sections of params.yaml, as in a recipe, and two things more: `tasks` may be {index: {key: value}}, which
sets keys of those tasks, and `main: index` puts that task first, with the weights of the one that was.
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
SCORED = ("evaluate", "filter")  # stages of every run
NOT_TRAINED = ("test", "filter", "visualise")  # sections that training does not depend on
Overlay = dict[str, Any]


class Level(BaseModel):
    """Params of a level, and `at`: {scale: params} that it has there besides."""

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
        """The levels of each factor that are run at a scale, in the order of the file."""
        chosen = self.only.get(scale, {})
        return {
            factor: [str(level) for level in levels if str(level) in map(str, chosen.get(factor, levels))]
            for factor, levels in self.vary.items()
        }

    @property
    def stages(self) -> list[str]:
        """Those that a run has to reach."""
        return sorted({*SCORED, *(STAGES[source.partition(":")[0]] for source in self.metrics.values())})

    def count(self, scale: str) -> int:
        """Of seeds."""
        return self.seeds if isinstance(self.seeds, int) else self.seeds.get(scale, 0)

    def references(self, scale: str) -> list[tuple[str, str]]:
        """The levels that others are compared with, each with its factor, as far as they are run at a scale."""
        given = [
            (factor, level) for factor, at in self.against.items() for level in (at if isinstance(at, list) else [at])
        ]
        levels = self.levels(scale)
        return [(factor, str(level)) for factor, level in given if str(level) in levels[factor]]


@dataclass(frozen=True)
class Run:
    """One experiment. stages: those it has to reach. factors: {factor: level}. params: the whole of params.yaml that it
    runs with."""

    study: str
    stages: list[str]
    scale: str
    factors: dict[str, str]
    seed: int
    params: Overlay

    @property
    def name(self) -> str:
        """Of the experiment."""
        mark = "" if self.scale == SCALES[0] else f"{self.scale}-"
        return f"{self.study}-{mark}{'-'.join(self.factors.values())}-s{self.seed}".replace("_", "-")

    @property
    def training(self) -> str:
        """The same for runs that share a training. A mapping names the labels and does not change them."""
        trained = {key: self.params[key] for key in sorted(self.params) if key not in NOT_TRAINED}
        return json.dumps(trained | {"data": trained["data"] | {"mapping": None}})

    @cached_property
    def checked(self) -> Params:
        """Raises UserError that names the run."""
        return validate(copy.deepcopy(self.params), Path(self.name))

    @property
    def digest(self) -> str:
        return digest(self.checked)


def digest(params: Params) -> str:
    """Short, of all that decides a result: where the data lie, on which device and how they are shown does not."""
    aside = {"data": {"raw"}, "device": True, "input": {"workers"}, "visualise": True}
    found = params.model_dump(mode="json", exclude=aside)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8]


def names() -> list[str]:
    return sorted(path.stem for path in (HERE / "studies").glob("*.yaml"))


def read(name: str) -> Study:
    """A study by name. Raises UserError."""
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
        raise UserError(f"ablations/studies/{name}.yaml: plot names what is neither factor nor column")
    for column, source in study.metrics.items():
        if source.partition(":")[0] not in STAGES or source.count(":") != 1:
            there = ", ".join(f"{known}:key" for known in STAGES)
            raise UserError(f"ablations/studies/{name}.yaml: metric '{column}' is {source}; may be: {there}")
    return study


def runs(study: Study, scale: str, *, params: Path, raw: Path | None = None) -> list[Run]:
    """Every run of a study at a scale, over the params.yaml at `params`, seed by seed: what is stopped early compares
    all levels. raw: the data's folder, if it is another."""
    first, own = (read_params(HERE / "scales" / f"{name}.yaml") for name in (SCALES[0], scale))
    recipe = own.pop("recipe", None)
    base = read_params(params)
    below = read_params(RECIPES / f"{recipe}.yaml") if recipe else {}
    for overlay in (first, below, own, study.params, study.at.get(scale, {})):
        base = merged(base, overlay)
    if raw:
        base["data"]["raw"] = str(raw.resolve())  # experiments run in another folder
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
    """A seed draws the data too, so that intervals cover what they happen to show; runs of one seed share them."""
    drawn: Overlay = {"seed": seed, "data": {"seed": seed}}
    return drawn | {"generate": {"seed": seed}} if scale == SCALES[0] else drawn


def merged(base: Overlay, overlay: Overlay, *, top: bool = True) -> Overlay:
    """`overlay` laid over `base`, key by key, neither changed; a list as a whole, but at the top tasks by index too.
    Raises UserError for a task that is not there."""
    result = copy.deepcopy(base)
    for key, value in overlay.items():
        if top and key == "main":
            result["tasks"] = _with_main(_having(result["tasks"], value), int(value))
        elif top and key == "tasks" and isinstance(value, dict):
            for index, keys in value.items():
                task = _having(result["tasks"], index)[int(index)]
                if not isinstance(keys, dict):
                    raise UserError(f"task {index} is given {keys!r}: expected keys, such as 'loss_weight: 1.0'")
                task |= keys
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value, top=False)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _having(tasks: list[Overlay], index: int | str) -> list[Overlay]:
    if str(index) not in map(str, range(len(tasks))):
        raise UserError(f"there is no task {index}: params.yaml, recipe and scale have tasks 0 to {len(tasks) - 1}")
    return tasks


def _with_main(tasks: list[Overlay], index: int) -> list[Overlay]:
    role = ("loss_weight", "match_weight", "background")
    weights = [{key: task[key] for key in role} for task in tasks]
    order = [index, *(i for i in range(len(tasks)) if i != index)]
    return [tasks[i] | weights[place] for place, i in enumerate(order)]


def read_params(path: Path) -> Overlay:
    """A file of params as it stands, unchecked. Raises UserError where there is none, or nothing of the kind in it."""
    try:
        found = YAML(typ="safe").load(path)
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected keys and what they hold, found {type(found).__name__}")
    return found
