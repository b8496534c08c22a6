"""`python -m ablations.cost`: processor time and memory of a training step, by backbone, for the study of backbones.

A minute on one core. Each backbone has a process of its own, one thread, and the settings and tasks of its runs on the
embedded data: the median of 10 steps on 8 blank pictures with 4 objects each, and the process's peak of resident memory
(VmHWM of /proc, so Linux alone) less what it held before there was a network. Writes
ablations/results/backbones_cost.csv and, from that file alone, the table in docs/results.md; with --tables only this.
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

from ablations import collect, studies, tables
from ablations.studies import SCALES, Run
from mtseg.errors import UserError, run_stage
from mtseg.files import replace_file

FILE = collect.RESULTS / "backbones_cost.csv"
COLUMNS = ("backbone", "seconds a step", "peak MiB")  # of the table; the file has the digest of the params besides
STATUS = Path("/proc/self/status")
STEPS, OBJECTS = 10, 4
CLASSES = tuple("abcd")  # of a task whose classes are found in the data: the embedded data have up to 4
PROMPT = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}  # freed tensors go back at once: no gaps counted


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ablations.cost", description=__doc__.partition("\n")[0])
    parser.add_argument("--one", help="measure one run's step, and print it")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    study = studies.read("backbones")
    runs = {run.name: run for run in studies.runs(study, SCALES[0], params=Path("params.yaml")) if run.seed == 0}
    if arguments.one:
        print(*measure(runs[arguments.one]))
        return
    if not arguments.tables and not STATUS.exists():
        print(f"nothing measured: the peak of memory is read from {STATUS}, which Linux alone has")
        return
    if not arguments.tables:
        rows = []
        for name, run in runs.items():
            command = [sys.executable, "-W", "ignore", "-m", "ablations.cost", "--one", name]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | PROMPT)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                raise UserError(f"python -m ablations.cost --one {name}: {last}")
            rows.append([*run.factors.values(), *done.stdout.split()[-2:], run.digest])
            print(*rows[-1], flush=True)
        with replace_file(FILE) as temporary, temporary.open("w", encoding="utf-8", newline="") as text:
            csv.writer(text, lineterminator="\n").writerows([[*COLUMNS, "params"], *rows])
    rows = collect.read(FILE)
    if not rows:
        raise UserError(f"{FILE} is missing: `python -m ablations.cost`, on Linux, measures what the table shows")
    tables.write(tables.PAGE, {"backbones cost": table(rows)})


def measure(run: Run) -> tuple[str, str]:
    """Processor seconds of a training step and the peak of memory in MiB. Once a process: a peak never falls."""
    import torch
    from detectron2.structures import BitMasks, Instances

    from mtseg.model.mask2former import Mask2Former
    from mtseg.optimiser import optimizer

    params, before = run.checked, resident("VmRSS")
    tasks = tuple(
        task.model_copy(update={"classes": CLASSES if task.classes == "auto" else task.classes, "class_weights": None})
        for task in params.tasks
    )
    network = Mask2Former(tasks, params.model, loss=params.loss, detections=params.test.detections).train()
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
    lines = [[*COLUMNS], ["---"] * len(COLUMNS), *([row[name].replace("_", " ") for name in COLUMNS] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    run_stage(main)
