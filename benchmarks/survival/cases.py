"""The cases of each kind. A case returns None if everything survived, else what did not."""

from __future__ import annotations

import csv
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

from benchmarks.intake import ROOT, environment
from benchmarks.survival import faults, fuzz, spoil
from benchmarks.survival.child import Fault, Outcome, run, start
from benchmarks.survival.project import STAGES, Project, outs, set_params, tree
from benchmarks.survival.queue import two_experiments

SOME = 18  # one of so many changes of files
SIZES = (0, 300, 5_000, 100_000)  # bytes that a file may have
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# changes of params.yaml, and megabytes that a stage may take more than now
LARGE = {"model": {"num_queries": 10_000}, "loss": {"num_points": 10**6}, "solver": {"ims_per_batch": 64}}
RANKS = {"solver": {"max_iter": 20, "eval_period": 20, "ims_per_batch": 2, "accumulate": 2, "reference_lr": 1e-5}}
MEMORY = {"train": (LARGE, 300), "check": (LARGE, 100), "predict": ({}, 0)}


@dataclass(frozen=True)
class Case:
    """count: number of faults in it."""

    kind: str
    name: str
    survives: Callable[[], str | None]
    count: int = 1


def every(project: Project, *, inputs: int, quick: bool) -> Iterator[Case]:
    """inputs: mutated inputs of each kind."""
    case = partial(_at, project)
    for stage in project.disturbed:
        for number in range(1, project.changes[stage] + 1):
            if project.copies and number % SOME != 1:
                yield case("kill", f"{stage}, change {number}", go_on, stage, number)
            else:
                yield case("kill", f"{stage}, change {number}", killed, stage, number)
        numbers = range(1, project.changes[stage] + 1, SOME if quick else 1)
        for number, which in zip(numbers, cycle(STOPS), strict=False):
            for times in (1, 2) if stage == "train" else (1,):  # the second cuts a step short
                yield case("signal", f"{stage}, {which.name}{' twice' * (times - 1)} at change {number}", disturb,
                           stage, faults.signalled(number, which, times))  # fmt: skip
            yield case("full disk", f"{stage}, from change {number}", disturb, stage, faults.full_disk(number))
        yield case("read-only", stage, disturb, stage, faults.read_only())
        for most in SIZES[:: 3 if quick else 1]:
            fault = faults.limited(resource.RLIMIT_FSIZE, most)
            yield case("full disk", f"{stage}, files of {most} bytes", disturb, stage, fault)
        for most in (6,) if quick else range(4, 40, 2):
            fault = faults.limited(resource.RLIMIT_NOFILE, most)
            yield case("few files", f"{stage}, {most} open", disturb, stage, fault)
    for state in ("state.pt", "previous.pt", "both"):
        for name, spoiling in list(spoil.STATES.items())[:: 3 if quick and state != "state.pt" else 1]:
            yield case("state", f"{state}: {name}", resume, state, spoiling)
    for name in spoil.LOCKS:
        yield case("state", f"lock: {name}", resume, "lock", spoil.LOCKS[name])
    yield case("concurrency", "two trainings", together)
    yield case("concurrency", "two trainings, the first is killed", together, faults.killed_before(".tmp-models"))
    if not quick:
        yield case("concurrency", "two queued experiments", two_experiments)
        yield case("ranks", "a training of 20 steps in two processes", two_ranks)
    yield case("reader", "train | head -1", head)
    yield case("worker", "a loader's process dies", dead_worker)
    for stage in ("train",) if quick else MEMORY:
        yield case("memory", stage, little_memory, stage)
    for number in range(0, 60, 20 if quick else 1):
        yield case("Ctrl-C", f"train, after {number * 0.02:.2f} s", early, number * 0.02)
    for reader in ("evaluate", "filter") if quick else project.stages:
        for path in read_by(project, reader):
            for name in list(spoil.ARTIFACTS)[:: 4 if quick else 1]:
                yield case("artifact", f"{reader}, {path}: {name}", artifact, reader, path, spoil.ARTIFACTS[name])
    for kind, make in fuzz.KINDS.items():
        for first in range(0, inputs, fuzz.AT_ONCE):
            seeds = range(first, min(first + fuzz.AT_ONCE, inputs))
            name = f"inputs {seeds[0]} to {seeds[-1]}"
            yield Case(kind, name, partial(make, project, seeds), len(seeds))


def _at(project: Project, kind: str, name: str, function: Callable, *arguments) -> Case:
    return Case(kind, name, partial(function, project, *arguments))


def read_by(project: Project, stage: str) -> list[str]:
    """The files of earlier stages that a stage depends on."""
    made = [out for each in project.stages if each != "generate" for out in outs(each)]
    deps = [dep.replace("${test.checkpoint}", "best") for dep in STAGES[stage]["deps"]]
    deps = [dep for dep in deps if any(f"{dep}/".startswith(f"{out}/") for out in made)]
    files = [path for dep in deps for path in _files(project.folder / dep)]
    return [str(path.relative_to(project.folder)) for path in files]


def _files(path: Path) -> list[Path]:
    return sorted(own for own in path.rglob("*") if own.is_file()) if path.is_dir() else [path]


def again(project: Project, folder: Path, stage: str) -> str | None:
    """A rerun without a fault gives what an undisturbed run gives. A training goes on from its saved state."""
    saved = any(folder.glob("work/train/[!.]*/[!.]*.pt"))  # .old-NAME: the outs are written, its removal has begun
    outcome = run(stage, folder)
    if outcome.code:
        return f"the rerun fails: {outcome.fault() or outcome.err.strip()}"
    if saved and "resumed at step" not in outcome.out:
        return "the saved state is not used"
    return (fault := project.difference(folder)) and f"after the rerun {fault}"


def disturb(project: Project, stage: str, fault: Fault) -> str | None:
    with project.copy(without=stage) as folder:
        outcome = run(stage, folder, fault)
        if outcome.code != -signal.SIGKILL and (wrong := outcome.fault()):
            return wrong
        if outcome.code == 0 and (wrong := project.difference(folder)):
            return f"it succeeds, but {wrong}"
        return again(project, folder, stage)


def killed(project: Project, stage: str, number: int) -> str | None:
    with project.copy(without=stage) as folder:
        outcome = run(stage, folder, faults.killed(number))
        if outcome.code != -signal.SIGKILL:
            return f"it ends with {outcome.code}"
        if project.copies and tree(folder) != tree(project.copies / stage / str(number)):
            return "it does not leave what was copied before this change"
        return again(project, folder, stage)


def go_on(project: Project, stage: str, number: int) -> str | None:
    """After a kill, of which the folder was copied."""
    return again(project, project.copies / stage / str(number), stage)


def resume(project: Project, state: str, spoiling: Callable[[Path], None]) -> str | None:
    with project.copy(stopped=True) as folder:
        (work,) = folder.glob("work/train/*")
        for name in ("state.pt", "previous.pt") if state == "both" else (state,):
            spoiling(work / name)
        outcome = run("train", folder)
        if outcome.code:
            return outcome.fault() or outcome.err.strip()
        if state != "both" and "resumed at step" not in outcome.out:
            return "the intact state is not used"
        return project.difference(folder, until="train")


def together(project: Project, fault: Fault = lambda: None) -> str | None:
    with project.copy(without="train") as folder:
        first = start("train", folder, fault)
        for _ in range(3000):  # until the first has its lock, else the second may have it before
            if any(folder.glob("work/train/*/lock")):
                break
            time.sleep(0.01)
        second = start("train", folder)
        outcomes = [first.wait(), second.wait()]
        wrong = [one.fault() or one.err for one in outcomes if one.code not in (0, -signal.SIGKILL)]
        return next(iter(wrong), None) or project.difference(folder)


def two_ranks(project: Project) -> str | None:
    """Its losses are those of one process to 1e-4, in the five digits that are written."""
    tables = []
    for count in (1, 2):
        with project.copy(without="train") as folder:
            set_params(folder, RANKS | {"launch": {"nproc_per_node": count}})
            process = subprocess.run(
                [sys.executable, "-m", "stages.train"], cwd=folder, env=environment(), text=True, capture_output=True
            )
            if process.returncode:
                return process.stderr
            with (folder / "plots/train.tsv").open() as file:
                tables.append([float(row["loss"]) for row in csv.DictReader(file, delimiter="\t")])
    one, two = tables
    worst = max(abs(a - b) / a for a, b in zip(one, two, strict=True))
    return None if worst < 1e-4 and len(one) == 20 else f"the losses of {len(one)} steps differ by {worst:.1e}"


def head(project: Project) -> str | None:
    with project.copy(without="train") as folder:
        outcome = start("train", folder).wait(lines=1)
        return outcome.fault() if outcome.code not in (0, 1) or outcome.err else again(project, folder, "train")


def dead_worker(project: Project) -> str | None:
    with project.copy(without="train") as folder:
        set_params(folder, {"input": {"workers": 1}})
        outcome = run("train", folder, faults.dying_worker)
        set_params(folder, {"input": {"workers": 0}})
        return _one_line(outcome, "image") or again(project, folder, "train")


def little_memory(project: Project, stage: str) -> str | None:
    with project.copy(without=stage) as folder:
        changes, megabytes = MEMORY[stage]
        set_params(folder, changes)
        return _one_line(run(stage, folder, faults.little_memory(megabytes)), "memory")


def early(project: Project, seconds: float) -> str | None:
    with project.copy(without="train") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.train"], cwd=folder, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        outcome = Outcome(process.returncode, out, err)
        early = process.returncode == -signal.SIGINT or err.endswith("KeyboardInterrupt\n")
        if early and str(ROOT) not in err:  # Python itself had not started
            return again(project, folder, "train")
        return outcome.fault() or again(project, folder, "train")


def artifact(project: Project, reader: str, path: str, spoiling: Callable[[Path], None]) -> str | None:
    with project.copy(without=reader) as folder:
        spoiling(folder / path)
        outcome = run(reader, folder)
        if outcome.code == 0:  # it does not read this file, or only a part that is intact
            return None
        name = Path(path).name
        advice = any(words in outcome.err for words in ("dvc repro", "make it again"))
        return _one_line(outcome, name) or (None if advice else f"no advice: {outcome.err}")


def _one_line(outcome: Outcome, word: str) -> str | None:
    if wrong := outcome.fault():
        return wrong
    named = outcome.code == 1 and word in outcome.err and len(outcome.err.splitlines()) <= 3
    return None if named else f"{outcome.code}, without {word!r} in a line: {outcome.err[:300]!r}"
