"""`python -m ablations.cost`: processor time and memory of a training step for each backbone of the study `backbones`.

Two minutes on one core at each scale, Linux only; existing measurements are kept, --again repeats them. Each backbone
is measured with the settings of its runs, on blank images with 4 objects each, in two processes of one thread. One
gives the median time of 10 steps. The other, which frees memory at once, gives the peak of resident memory (VmHWM of
/proc) minus that before the network was built. Writes ablations/results/backbones_cost.csv and the table in
docs/results.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from ablations import experiments, page, rows, studies
from ablations.studies import SCALES, Run
from mtseg.core.errors import UserError
from mtseg.core.signals import run_stage

FILE = rows.RESULTS / "backbones_cost.csv"
COLUMNS = ("scale", "backbone", "seconds a step", "peak MiB")  # of the table
FILED = (*COLUMNS, "params", "commit")  # of the csv file
STEPS, OBJECTS = 10, 4
CLASSES = tuple("abcd")  # for tasks with `classes: auto`: the embedded data have up to 4
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PROMPT = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc returns freed memory at once: exact, but slow


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ablations.cost", description=__doc__.partition("\n")[0])
    parser.add_argument("--one", metavar="RUN", help=argparse.SUPPRESS)  # for each of the processes
    parser.add_argument("--again", action="store_true", help="also repeat existing measurements")
    arguments = parser.parse_args()
    runs = planned()
    if not Path("/proc/self/status").exists():
        print("nothing measured: peak memory is read from /proc/self/status, which only Linux has")
        return
    if arguments.one:
        if arguments.one not in runs:
            raise UserError(f"--one {arguments.one}: no such run, valid: {', '.join(runs)}")
        print(*measure(runs[arguments.one]))
        return
    known = {} if arguments.again else {row["params"]: row for row in rows.read(FILE)}
    found = []
    for name, run in runs.items():
        row = known.get(run.digest)
        if not row:
            values = [run.scale, *run.factors.values(), *_measured(name), run.digest, experiments.head()[:7]]
            row = dict(zip(FILED, values, strict=True))
            print(*values, flush=True)
        found.append(row)
    rows.write(FILE, FILED, found)
    if old := experiments.other_code([row["commit"] for row in found]):
        print(f"{FILE}: {old} of {len(found)} measured with other code than the last commit's: --again repeats them")
    publish()


def planned() -> dict[str, Run]:
    """The runs of the study with seed 0 at each scale, by name."""
    study, params = studies.read("backbones"), Path("params.yaml")
    return {run.name: run for scale in SCALES for run in studies.runs(study, scale, params=params) if run.seed == 0}


def _measured(name: str) -> tuple[str, str]:
    """Time and memory, each from its own process. Raises UserError if one fails."""
    results = []
    for environment in (ONE_THREAD, ONE_THREAD | PROMPT):
        command = [sys.executable, "-W", "ignore", "-m", "ablations.cost", "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise UserError(f"python -m ablations.cost --one {name}: {last}")
        results.append(done.stdout.split()[-2:])
    return results[0][0], results[1][1]


def publish() -> None:
    """Write the table, if there are measurements."""
    if found := rows.read(FILE):
        page.write(page.PAGE, {"backbones cost": table(found)})


def measure(run: Run) -> tuple[str, str]:
    """Processor seconds of a training step and peak memory in MiB. Only once per process, as a peak never falls."""
    from benchmarks.memory import train

    params = run.checked
    tasks = tuple(
        task.model_copy(update={"classes": CLASSES if task.classes == "auto" else task.classes, "class_weights": None})
        for task in params.tasks
    )
    shape = {"side": params.input.size, "images": params.solver.ims_per_batch, "objects": OBJECTS}
    used = train(tasks, params, **shape, steps=STEPS, seen=[(0,) * len(tasks)])
    return f"{used.seconds:.3f}", f"{used.peak / 2**20:.0f}"


def table(found: list[rows.Row]) -> str:
    """Markdown, followed by the commits of the rows."""
    text = page.table(COLUMNS, [[row[name].replace("_", " ") for name in COLUMNS] for row in found])
    return f"{text}\n\n{page.commits(row['commit'] for row in found)}"


if __name__ == "__main__":
    run_stage(main)
