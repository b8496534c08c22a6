"""`python -m ablations.run [STUDY ...] [--scale carparts --data DIR]`: make the missing runs of the studies.

Each run takes minutes on one core, and two run at once. A run is a DVC experiment of the last commit (`dvc exp show
-A`) and adds a row to ablations/results when it has finished. After Ctrl-C or a failure, the same command makes the
runs that are still missing. `--again` also repeats finished runs; DVC skips stages whose code and params are unchanged.
Then run `python -m ablations.tables`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from ablations import experiments, rows, studies
from ablations.studies import SCALES, Run, Study
from mtseg.core.errors import UserError
from mtseg.core.signals import run_stage


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
        message += f", {old} of these with other code than the last commit's: --again repeats them"
    print(message, flush=True)
    if arguments.list:
        for name, own in runs.items():
            if own:
                print(f"\n{chosen[name].question}")
                print("\n".join(f"{'done ' if run.name in done else '     '} {run.name}" for run in own))
    elif todo:
        run_all(todo, chosen, runs, jobs=arguments.jobs)


def chains(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs grouped by their training: the first of a group trains, the others take the result from DVC's cache."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.training, []).append(run)
    return [*found.values()]


def run_all(todo: Sequence[Run], chosen: Mapping[str, Study], runs: Mapping[str, Sequence[Run]], *, jobs: int) -> None:
    """Make the runs in `todo` and write the row of each when it has finished.

    A failure ends only the runs that share its training. Raises UserError at the end if any failed."""
    commit, cache = experiments.head(), experiments.dvc("cache", "dir").strip()
    began, failed, writing = time.monotonic(), [], Lock()

    def execute(chain: list[Run]) -> None:
        for run in chain:
            try:
                ref = experiments.execute(run, commit, cache)
            except experiments.Failed as error:
                failed.append([run.name, *str(error).splitlines()])
                print(f"FAILED      {run.name}", flush=True)
                return
            with writing:
                study = chosen[run.study]
                new = {run.name: rows.row(study, run, ref)}
                rows.update(study, runs[run.study], rows.path(study, run.scale), new)
                print(f"{(time.monotonic() - began) / 60:6.1f} min  {run.name}", flush=True)

    pool = ThreadPoolExecutor(jobs)
    try:
        for future in [pool.submit(execute, chain) for chain in chains(todo)]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        lines = [line for own in failed[:3] for line in own]
        raise UserError(f"{len(failed)} runs failed; the same command repeats them", *lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ablations.run", description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="*", help=f"{', '.join(studies.names())}; default: all")
    parser.add_argument("--scale", choices=SCALES, default=SCALES[0])
    parser.add_argument("--data", type=Path, help=f"folder of the raw data, at scales other than '{SCALES[0]}'")
    parser.add_argument("--jobs", type=int, default=2, help="number of runs at once, each on one thread")
    parser.add_argument("--again", action="store_true", help="also repeat finished runs")
    parser.add_argument("--list", action="store_true", help="only list the runs and whether they are done")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs} must be 1 or more")
    if arguments.scale != SCALES[0] and not arguments.data and not arguments.list:
        raise UserError(f"--scale {arguments.scale} needs --data, the folder of its raw data")
    if arguments.scale == SCALES[0] and arguments.data:
        raise UserError(f"--data requires --scale {' or '.join(SCALES[1:])}: '{SCALES[0]}' generates its data")
    if arguments.data and not arguments.data.is_dir():
        raise UserError(f"--data: no folder {arguments.data}")
    return arguments


if __name__ == "__main__":
    run_stage(main)
