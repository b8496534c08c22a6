"""Every case by its name, and all of them run in two processes."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from benchmarks.faults import answers, data, healthy, inputs, joined, pipeline, scoring, settings, training
from benchmarks.faults.case import Case, Fault, Outcome
from benchmarks.faults.table import row

PROCESSES = 2
LISTS = (data, settings, inputs, training, joined, answers, scoring)
FAULTS: tuple[Fault, ...] = tuple(fault for module in LISTS for fault in module.FAULTS)
CASES: dict[str, Case] = {case.name: case for case in (*FAULTS, *healthy.HEALTHY)}
SHORT = "25 steps"  # the fault whose model stands in for a trained one in the quick run
SMALL = {"generate.train": 40, "generate.val": 12}
QUICK = (
    healthy.BASE.name, "a comma is missing in one label", "a loader that drops the further labels",
    "training returns the losses as a list", "masks are not cropped and padded with the image",
    "a backbone's last level from the wrong block", "the lr of another batch size", "one query",
    "category ids off by one in train", "heads of N outputs, unmatched queries learn class N",
    "combinations seen: every other is lost", "combinations: the losses read two heads for each other",
    "a loss weight of 0 makes 0/0", "the matcher ignores the further tasks", "images are not normalised",
    "flip without flip_pairs", "val is train", "a head's loss is detached", "the matcher takes the cost transposed",
    "predictions without one task's label", "evaluator: predicted classes off by one",
)  # fmt: skip


def run_all(names: Sequence[str], folder: Path, *, quick: bool) -> list[Outcome]:
    """Outcomes in the order of `names`, printed as they come. The run whose model others use is the first. quick: on
    fewer images, healthy runs up to the check alone."""
    base = SHORT if quick else healthy.BASE.name
    later = [name for name in names if after_training(name)]
    first = [base] * bool(later or base in names) + [name for name in names if name not in (base, *later)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=one_thread) as pool:
        running: dict[Future, str] = {pool.submit(work, name, folder, None, quick): name for name in first}
        if later:
            next(iter(running)).result()
        running |= {pool.submit(work, name, folder, folder / slug(base), quick): name for name in later}
        found = {}
        for future in as_completed(running):
            outcome = found[running[future]] = replace(future.result(), case=CASES[running[future]])
            print(f"{outcome.seconds:5.0f} s  {' | '.join(row(outcome))}\n         {outcome.line[:200]}", flush=True)
    return [found[name] for name in names]


def after_training(name: str) -> bool:
    """Whether the model of the healthy run stands in for one of its own."""
    case = CASES[name]
    alike = case.params().model == healthy.BASE.params().model
    return isinstance(case, Fault) and case.after_training and alike


def work(name: str, folder: Path, trained: Path | None, quick: bool) -> Outcome:
    """In a process of its own. Without the case, whose functions cannot be pickled."""
    case = CASES[name]
    if quick:
        case = replace(case, changes=SMALL | case.changes)
    until = "check" if quick and not isinstance(case, Fault) else "diagnosis"
    return replace(pipeline.run(case, folder / slug(name), trained=trained, until=until), case=Case(name))


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def slug(name: str) -> str:
    return re.sub(r"\W+", "_", name)
