"""`python -m ablations.run [STUDY ...] [--scale carparts --data DIR]`: run studies through DVC's queue, two at once.

Each run takes minutes of one core; `--list` tells how many there are. What is done is skipped and what failed is
queued again, so stop it with Ctrl-C and call it again as you like; `--again` redoes what is done, of which DVC brings
back all that neither code nor params changed. Expect an experiment a run (`dvc exp show -A`), then: `python -m
ablations.tables`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ablations import experiments, studies
from ablations.studies import SCALES, Run
from mtseg.core.errors import UserError, run_stage

PERIOD = 30  # s between looks at the queue, of which one takes some seconds of a core once it has hundreds of runs
STOPPED: list[bool] = []  # Ctrl-C waits for the DVC command at work, which may hold the working tree in its hands


def main() -> None:
    arguments = _arguments()
    if arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs} must be 1 or more")
    if arguments.scale != SCALES[0] and not arguments.data and not arguments.list:
        raise UserError(f"--scale {arguments.scale} needs --data, the folder of its raw data")
    if arguments.scale == SCALES[0] and arguments.data:
        raise UserError(f"--data goes with --scale {' or '.join(SCALES[1:])}: the scale '{SCALES[0]}' draws its data")
    if arguments.data and not arguments.data.is_dir():
        raise UserError(f"--data: no folder {arguments.data}")
    params = Path("params.yaml")
    runs = [
        run
        for name in arguments.study or studies.names()
        for run in studies.runs(studies.read(name), arguments.scale, params=params, raw=arguments.data)
    ]
    if lacking := {*arguments.study} - {run.study for run in runs}:
        raise UserError(f"{', '.join(sorted(lacking))}: not run at the scale '{arguments.scale}'")
    for run in runs:
        _ = run.checked  # all of them before any is run
    refs = experiments.finished()
    found = {run.name: experiments.result(run, refs) for run in runs}
    done = {name: ref for name, ref in found.items() if ref}
    todo = [run for run in runs if arguments.again or run.name not in done]
    told = f"{len(runs)} runs at the scale '{arguments.scale}', {len(done)} of them done"
    if old := experiments.other_code([*map(experiments.baseline, done.values())]):
        told += f", {old} of these by code that is not the last commit's: --again redoes what it changes"
    print(told, flush=True)
    if arguments.list:
        for name, own in groupby(runs, key=lambda run: run.study):
            print(f"\n{studies.read(name).question}")
            print("\n".join(f"{'done ' if run.name in done else '     '} {run.name}" for run in own))
    elif todo:
        _run(todo, params, jobs=arguments.jobs)


def waves(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that train, of each training one; then the others, for which DVC brings that training back."""
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.training, run)
    chosen = {run.name for run in first.values()}
    return [wave for wave in ([*first.values()], [run for run in runs if run.name not in chosen]) if wave]


def _run(todo: list[Run], params: Path, *, jobs: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: STOPPED.append(True))
    begun = experiments.head()
    if not experiments.idle():
        raise UserError("DVC's queue is at work: wait (`dvc queue status`), or end it with `dvc queue stop --kill`")
    waiting = _waiting(params)
    experiments.clear({*waiting, *(run.name for run in todo)})
    experiments.settle()  # after a run that was killed
    base = studies.read_params(params)
    failed: list[str] = []
    try:
        experiments.replace(run.name for run in todo)
        for wave in waves(todo):
            _check(begun)
            with experiments.without_lock():
                for run in track(wave, "queueing", console=Console(stderr=True), disable=not sys.stderr.isatty()):
                    experiments.queue(run, studies.overrides(run, base))  # no worker yet: it would hold DVC's lock
                    _stop_if_told()
            experiments.start(jobs)
            failed += follow(wave, jobs=jobs)
    except BaseException:
        experiments.stop()  # first: the terminal that print writes to may be gone
        print("stopped the queue; the same command goes on from here", file=sys.stderr)
        raise
    finally:
        experiments.settle()
    if failed:
        told = [f"{name}\n{experiments.log(name)}" for name in failed]
        raise UserError.many(f"{len(failed)} runs failed; once mended, the same command runs them again", told, shown=3)


def _check(begun: str) -> None:
    """DVC queues the working tree as it is by then. Raises UserError if that is not the code of the last commit, or no
    longer that of the commit which the call began with."""
    experiments.head()
    if experiments.other_code([begun]):
        raise UserError("a commit changed the code since the first runs were queued: call again, with --again")


def _waiting(params: Path) -> list[str]:
    """Names of the studies' runs that an earlier call left queued. Raises UserError if others are: workers take all."""
    queued = [name for name, status in experiments.statuses().items() if status == "Queued"]
    ours = {run.name for name in studies.names() for scale in SCALES
            for run in studies.runs(studies.read(name), scale, params=params)}  # fmt: skip
    if others := [name for name in queued if name not in ours]:
        raise UserError(f"DVC's queue holds other experiments ({', '.join(others[:3])}), which would run too: "
                        "`dvc queue start` and wait, or `dvc queue remove` them")  # fmt: skip
    return queued


def follow(runs: Sequence[Run], *, jobs: int) -> list[str]:
    """Wait until every one of these runs has ended, telling of each. Returns the names of those that failed, among them
    those that are said to run though their worker is gone, and those that twice were neither queued, running nor done:
    once, a task is so while a worker takes it."""
    began, told, failed = time.monotonic(), 0, []
    own = {run.name: run for run in runs}
    left, orphaned, missing_before = [*own], set(), set()
    while left:
        known, refs = experiments.statuses(), experiments.finished()
        done = {name for name in left if experiments.result(own[name], refs)}
        running = {name for name in left if known.get(name) == "Running"}
        missing = {name for name in left if known.get(name) not in ("Queued", "Running", "Failed")}
        ended = done | {name for name in left if known.get(name) == "Failed"}
        ended |= (orphaned & running) | (missing_before & missing)
        for name in [name for name in left if name in ended]:
            left.remove(name)
            told += 1
            bad = name not in done
            failed += [name] * bad
            minutes = (time.monotonic() - began) / 60
            print(f"{told:4} of {len(own)}  {minutes:6.1f} min  {name}{'  FAILED' * bad}", flush=True)
        missing_before = missing
        if left:
            if not experiments.workers():  # they go when the queue looks empty, or with a crash
                orphaned |= running
                experiments.start(jobs)
            for _ in range(PERIOD):
                _stop_if_told()
                time.sleep(1)
    return failed


def _stop_if_told() -> None:
    if STOPPED:
        raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ablations.run", description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="*", help=f"of {', '.join(studies.names())}; all, if none is named")
    parser.add_argument("--scale", choices=SCALES, default=SCALES[0])
    parser.add_argument("--data", type=Path, help="folder of the raw data, at a scale other than the first")
    parser.add_argument("--jobs", type=int, default=2, help="at once, a thread each")
    parser.add_argument("--again", action="store_true", help="also what is done")
    parser.add_argument("--list", action="store_true", help="tell the runs, and run none")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main)
