"""`python -m ablations.run [STUDY ...] [--scale carparts --data DIR]`: make the runs of studies, two at once.

Each run takes minutes of one core; `--list` shows which there are. A run is a DVC experiment of the last commit (`dvc
exp show -A`); when it has finished, its numbers are a row in ablations/results, and it counts as done. Stop with Ctrl-C
at any time: the same command continues with what is missing, and repeats what failed. `--again` repeats what is done,
of which DVC takes from its cache what neither code nor params changed. Then: `python -m ablations.tables`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock

from ablations import experiments, rows, studies
from ablations.studies import SCALES, Run, Study
from mtseg.core.errors import UserError, run_stage


def main() -> None:
    arguments = _arguments()
    scale = arguments.scale
    chosen = {name: studies.read(name) for name in arguments.study or studies.names()}
    runs = {
        name: studies.runs(study, scale, params=Path("params.yaml"), raw=arguments.data)
        for name, study in chosen.items()
    }
    if lacking := sorted(name for name in arguments.study if not runs[name]):
        raise UserError(f"{', '.join(lacking)}: not run at the scale '{scale}'")
    done = {}
    for name, study in chosen.items():
        done |= rows.done(study, runs[name], rows.path(study, scale))  # validates the params of every run
    todo = [run for own in runs.values() for run in own if arguments.again or run.name not in done]
    message = f"{sum(map(len, runs.values()))} runs at the scale '{scale}', {len(done)} of them done"
    if old := experiments.other_code([row["commit"] for row in done.values()]):
        message += f", {old} of these by other code than the last commit's: --again repeats them"
    print(message, flush=True)
    if arguments.list:
        for name, own in runs.items():
            if own:
                print(f"\n{chosen[name].question}")
                print("\n".join(f"{'done ' if run.name in done else '     '} {run.name}" for run in own))
    elif todo:
        run_all(todo, chosen, runs, jobs=arguments.jobs)


def chains(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs that share a training, one after the other: the first trains, and DVC's cache has it for the others."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.training, []).append(run)
    return [*found.values()]


def run_all(todo: Sequence[Run], chosen: Mapping[str, Study], runs: Mapping[str, Sequence[Run]], *, jobs: int) -> None:
    """Run these, and write the row of each as soon as it has finished. Raises UserError at the end if some failed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("error: stopped; the same command continues from here"))
    commit, cache = experiments.head(), experiments.dvc("cache", "dir").strip()
    began, finished, failed, writing = time.monotonic(), [], [], Lock()

    def execute(chain: list[Run]) -> None:
        for run in chain:
            if experiments.stopped.is_set():
                return
            try:
                ref = experiments.execute(run, commit, cache)
            except experiments.Failed as error:
                ref = None
                failed.append(f"{run.name}\n{error}")
            if experiments.stopped.is_set():
                return
            with writing:
                if ref:
                    study = chosen[run.study]
                    new = {run.name: rows.row(study, run, ref)}
                    rows.update(study, runs[run.study], rows.path(study, run.scale), new)
                finished.append(run)
                minutes = (time.monotonic() - began) / 60
                mark = "" if ref else "  FAILED"
                print(f"{len(finished):4} of {len(todo)}  {minutes:6.1f} min  {run.name}{mark}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(execute, chain) for chain in chains(todo)]):
                future.result()
        except BaseException:
            experiments.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        raise UserError.many(f"{len(failed)} runs failed; the same command repeats them", failed, shown=3)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ablations.run", description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="*", help=f"of {', '.join(studies.names())}; all, if none is named")
    parser.add_argument("--scale", choices=SCALES, default=SCALES[0])
    parser.add_argument("--data", type=Path, help="folder of the raw data, at a scale other than the first")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, of one thread each")
    parser.add_argument("--again", action="store_true", help="also repeat what is done")
    parser.add_argument("--list", action="store_true", help="show the runs and which are done, and run none")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs} must be 1 or more")
    if arguments.scale != SCALES[0] and not arguments.data and not arguments.list:
        raise UserError(f"--scale {arguments.scale} needs --data, the folder of its raw data")
    if arguments.scale == SCALES[0] and arguments.data:
        raise UserError(f"--data goes with --scale {' or '.join(SCALES[1:])}: the scale '{SCALES[0]}' draws its data")
    if arguments.data and not arguments.data.is_dir():
        raise UserError(f"--data: no folder {arguments.data}")
    return arguments


if __name__ == "__main__":
    run_stage(main)
