"""`python -m ablations.cost`: processor time and memory of a training step, by backbone, for the study of backbones.

Two minutes on one core at each scale; what this code has measured already is skipped, --again redoes it. Each backbone
has two processes of its own, of one thread, and the settings and tasks of its runs: one tells the median of 10 steps on
8 blank pictures with 4 objects each; the other, which gives freed memory back at once, the peak of resident memory
(VmHWM of /proc, so Linux alone) less what it held before there was a network. Writes
ablations/results/backbones_cost.csv and, from that file alone, the table in docs/results.md.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from ablations import collect, experiments, page, studies
from ablations.studies import SCALES, Run
from mtseg.core.errors import UserError, run_stage
from mtseg.core.files import replace_file

FILE = collect.RESULTS / "backbones_cost.csv"
COLUMNS = ("scale", "backbone", "seconds a step", "peak MiB")  # of the table
FILED = (*COLUMNS, "params", "commit")  # of the file: the params' digest and what was checked out besides
STATUS = Path("/proc/self/status")
STEPS, OBJECTS = 10, 4
CLASSES = tuple("abcd")  # of a task whose classes are found in the data: the embedded data have up to 4
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PROMPT = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # freed tensors go back at once: no gaps are counted, which takes time


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ablations.cost", description=__doc__.partition("\n")[0])
    parser.add_argument("--one", metavar="RUN", help=argparse.SUPPRESS)  # what each process of its own is called with
    parser.add_argument("--again", action="store_true", help="also what is measured")
    arguments = parser.parse_args()
    runs = planned()
    if not STATUS.exists():
        print(f"nothing measured: the peak of memory is read from {STATUS}, which Linux alone has")
        return
    if arguments.one:
        if arguments.one not in runs:
            raise UserError(f"--one {arguments.one}: there is no such run; there are: {', '.join(runs)}")
        print(*measure(runs[arguments.one]))
        return
    commit = experiments.head()[:7]
    here = {row["params"]: row for row in collect.read(FILE) if not experiments.other_code([row["commit"]])}
    known = {} if arguments.again else here
    rows = []
    for name, run in runs.items():
        row = known.get(run.digest) or dict(zip(FILED, (*_measured(name, run), commit), strict=True))
        print(*row.values(), flush=True)
        rows.append(row)
    with replace_file(FILE) as temporary, temporary.open("w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, FILED, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    publish()


def planned() -> dict[str, Run]:
    """The study's runs at each scale, of one seed, by name."""
    study, params = studies.read("backbones"), Path("params.yaml")
    return {run.name: run for scale in SCALES for run in studies.runs(study, scale, params=params) if run.seed == 0}


def _measured(name: str, run: Run) -> list[str]:
    """A row; time and memory each measured in a process of its own. Raises UserError."""
    (seconds, _), (_, peak) = _step(name, ONE_THREAD), _step(name, ONE_THREAD | PROMPT)
    return [run.scale, *run.factors.values(), seconds, peak, run.digest]


def _step(name: str, environment: dict[str, str]) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-m", "ablations.cost", "--one", name]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"python -m ablations.cost --one {name}: {last}")
    return done.stdout.split()[-2:]


def publish() -> None:
    """The table of the csv alone, if there is one."""
    if rows := collect.read(FILE):
        page.write(page.PAGE, {"backbones cost": table(rows)})


def measure(run: Run) -> tuple[str, str]:
    """Processor seconds of a training step and the peak of memory in MiB. Once a process: a peak never falls."""
    import torch
    from detectron2.structures import BitMasks, Instances

    from mtseg.model.mask2former import Mask2Former
    from mtseg.training.optimizer import optimizer

    params, before = run.checked, resident("VmRSS")
    tasks = tuple(
        task.model_copy(update={"classes": CLASSES if task.classes == "auto" else task.classes, "class_weights": None})
        for task in params.tasks
    )
    settings = {"loss": params.loss, "detections": params.test.detections, "seen": [(0,) * len(tasks)]}
    network = Mask2Former(tasks, params.model, **settings).train()
    adam, side = optimizer(network, params.solver), params.input.size
    masks = torch.zeros(OBJECTS, side, side, dtype=torch.bool)
    masks[:, side // 4 : side // 2, side // 4 : side // 2] = True
    labels = torch.zeros(OBJECTS, len(tasks), dtype=torch.long)
    target = Instances((side, side), gt_masks=BitMasks(masks), gt_labels=labels)
    batch = [{"image": torch.zeros(3, side, side, dtype=torch.uint8), "instances": target}]
    seconds = []
    for _ in range(STEPS):
        began = time.process_time()
        sum(network(batch * params.solver.ims_per_batch).values()).backward()
        adam.step()
        adam.zero_grad()
        seconds.append(time.process_time() - began)
    return f"{median(seconds):.3f}", f"{(resident('VmHWM') - before) / 1024:.0f}"


def resident(key: str) -> int:
    """A figure of /proc/self/status, in kB."""
    return int(re.search(rf"^{key}:\s+(\d+) kB$", STATUS.read_text(), re.M)[1])


def table(rows: list[collect.Row]) -> str:
    """Markdown, and the commits of its rows."""
    told = page.table(COLUMNS, [[row[name].replace("_", " ") for name in COLUMNS] for row in rows])
    return f"{told}\n\n{page.commits(row['commit'] for row in rows)}"


if __name__ == "__main__":
    run_stage(main)
