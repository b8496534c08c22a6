"""All cases by name, their run in two processes, and the table of the outcomes."""

from __future__ import annotations

import multiprocessing
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed, wait
from dataclasses import replace
from pathlib import Path

from ablations import page
from benchmarks.faults import (
    combinations,
    data,
    healthy,
    inputs,
    pipeline,
    postprocessing,
    prediction,
    reports,
    settings,
    training,
)  # fmt: skip
from benchmarks.faults.case import FAILURES, Case, Fault, Outcome

PROCESSES = 2
RIGHT = 0.95  # share of all faults whose cause must be correct; for those of docs/failures.md it is 1
FIRST = 0.8  # the same for the last round of unseen faults at their first run, before any change for them
FIRST_TRY = Path(reports.__file__).with_name(
    "first_try.tsv"
)  # that run: fault, round, what was named, whether it was right
LISTS = (data, settings, inputs, training, combinations, postprocessing, prediction, *reports.ROUNDS)
FAULTS: tuple[Fault, ...] = tuple(fault for module in LISTS for fault in module.FAULTS)
CASES: dict[str, Case] = {case.name: case for case in (*FAULTS, *healthy.HEALTHY)}
TRAINED = healthy.BASE, healthy.ONE_SOFTMAX  # the models of these cases are used for faults after training
SHORT = "25 steps"  # in the quick run, that of this case
SMALL = {"generate.train": 40, "generate.val": 12}
QUICK = (
    healthy.BASE.name, "a comma is missing in one label", "a loader that drops the further labels",
    "training returns the losses as a list", "masks are not cropped and padded with the image",
    "a backbone's last level from the wrong block", "the lr of another batch size", "one query",
    "category ids off by one in train", "heads of N outputs, unmatched queries learn class N",
    "combinations seen: every other is lost", "combinations: the losses read two heads for each other",
    "a loss weight of 0 makes 0/0", "the matcher ignores the further tasks", "val is train",
    "a head's loss is detached", "the matcher takes the cost transposed", "predictions without one task's label",
    "evaluator: predicted classes off by one",
)  # fmt: skip


def run_all(names: Sequence[str], folder: Path, *, quick: bool) -> list[Outcome]:
    """Outcomes in the order of `names`, printed when finished. The cases whose models others need start first.

    quick: use fewer images, and run healthy cases only up to the check."""
    later = {name: SHORT if quick else base for name in names if (base := trained_as(name))}
    first = dict.fromkeys([*later.values(), *(name for name in names if name not in later)])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=one_thread) as pool:
        running: dict[Future, str] = {pool.submit(work, name, folder, None, quick): name for name in first}
        wait([future for future, name in running.items() if name in later.values()])
        running |= {pool.submit(work, name, folder, folder / slug(base), quick): name for name, base in later.items()}
        found = {}
        for future in as_completed(running):
            outcome = found[running[future]] = replace(future.result(), case=CASES[running[future]])
            print(f"{outcome.seconds:5.0f} s  {' | '.join(row(outcome))}\n         {outcome.line[:200]}", flush=True)
    return [found[name] for name in names]


def trained_as(name: str) -> str | None:
    """The healthy case whose model a case can use, if there is one."""
    case = CASES[name]
    alike = (base.name for base in TRAINED if case.after_training and case.params().model == base.params().model)
    return next(alike, None)


def work(name: str, folder: Path, trained: Path | None, quick: bool) -> Outcome:
    """Run a case by name and return its outcome without the case, whose functions cannot be pickled. Its files are
    removed unless others use its model."""
    case = CASES[name]
    if quick:
        case = replace(case, changes=SMALL | case.changes)
    if trained and not (trained / "models").is_dir():  # that case was stopped before its training
        trained = None
    until = "check" if quick and not isinstance(case, Fault) else "diagnosis"
    outcome = pipeline.run(case, folder / slug(name), trained=trained, until=until)
    if name not in (SHORT, *(base.name for base in TRAINED)):
        shutil.rmtree(folder / slug(name))
    return replace(outcome, case=Case(name))


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def slug(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def row(outcome: Outcome) -> tuple[str, ...]:
    causes = ", ".join(cause for cause, _ in outcome.named)
    named = f"crash: {outcome.line}" if outcome.crash else causes or ("refused" if outcome.when else "")
    if not isinstance(outcome.case, Fault):
        return (outcome.case.name, "healthy", outcome.when or "", named, "no" if outcome.when else "yes")
    when, right = outcome.when or "not caught", "yes" if outcome.right else "no"
    return (outcome.case.name, outcome.case.failure, when, named, right)


def first_try() -> dict[str, tuple[str, bool]]:
    """Of the unseen faults: the round in which they were written, and whether they were named right when they were run
    for the first time."""
    lines = FIRST_TRY.read_text(encoding="utf-8").splitlines()[1:]
    return {fault: (round, right == "yes") for fault, round, _, right in (line.split("\t") for line in lines)}


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: faults of docs/failures.md in its order, other faults, healthy cases."""

    def key(outcome: Outcome) -> tuple[bool, int]:
        failure = getattr(outcome.case, "failure", "")
        return not isinstance(outcome.case, Fault), FAILURES.index(failure) if failure else len(FAILURES)

    first = {name: "yes" if right else "no" for name, (_, right) in first_try().items()}
    rows = [(*row(outcome), first.get(outcome.case.name, "")) for outcome in sorted(outcomes, key=key)]
    head = ("fault", "failure", "caught in", "named", "right", "unseen: right at first try")
    return page.table(head, [[cell.replace("|", "/") for cell in cells] for cells in rows])


def verdict(outcomes: Sequence[Outcome]) -> tuple[bool, str]:
    """Whether all targets are met, and a line with the counts."""
    faults = [outcome for outcome in outcomes if isinstance(outcome.case, Fault)]
    listed = [outcome for outcome in faults if outcome.case.failure]
    right, known = (sum(outcome.right for outcome in some) for some in (faults, listed))
    caught, healthy = sum(outcome.when is not None for outcome in faults), len(outcomes) - len(faults)
    alarms = sum(outcome.when is not None for outcome in outcomes) - caught
    rounds: dict[str, list[bool]] = {}
    for round, own in first_try().values():
        rounds.setdefault(round, []).append(own)
    *_, last = rounds.values()
    good = known == len(listed) and right >= RIGHT * len(faults) and not alarms and sum(last) >= FIRST * len(last)
    tried = ", ".join(f"{sum(own)} of {len(own)}" for own in rounds.values())
    return good, (
        f"cause named correctly: {right} of {len(faults)} faults ({right / max(len(faults), 1):.0%}; caught {caught}), "
        f"{known} of {len(listed)} of docs/failures.md; unseen faults at first try, by round: {tried} "
        f"({sum(last) / len(last):.0%}, target {FIRST:.0%}); false alarms on healthy runs: {alarms} of {healthy}"
    )
