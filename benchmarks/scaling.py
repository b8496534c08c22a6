"""`python -m benchmarks.scaling [--steps N]`: one process against two, on a CPU, with one thread each.

Trains the network of params.yaml on drawn images, with the same batch. Prints the seconds of a step (median, without
the first three), the efficiency (the time of one process, divided by the number of processes and their time), the share
of the time that a process spends in exchanges and waits for others, and the bytes that it gives per step. Then, as an
estimate on paper, what the bytes of the gradients mean for 8 and 64 GPUs. About 2 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.memory import PAPER
from mtseg.core.files import write_json
from mtseg.core.params import Launch, Params, Task, load
from mtseg.core.signals import run_stage
from mtseg.data import convert, manifest, shapes
from mtseg.model.launch import launch
from mtseg.model.mask2former import Mask2Former
from mtseg.model.ranks import Ranks
from mtseg.training import loop
from mtseg.training.step import Stepper

ROOT = Path(__file__).parents[1]
SKIPPED = 3  # steps, in which memory is allocated
# GB/s of an all-reduce within a machine of 8 GPUs (NVLink), and between machines (100 Gbit/s Ethernet or InfiniBand)
LINKS = {8: 200, 64: 12.5}
CLASSES = tuple(map(str, range(80)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), given.steps)
        os.environ["MTSEG_WORK"] = folder
        for size in (1, 2):
            launch("benchmarks.scaling", Launch(nproc_per_node=size))
            rows[size] = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank*.json"))]
    print("\n".join(table(rows)))
    estimate()


def table(rows: dict[int, list[dict[str, float]]]) -> list[str]:
    """Lines that compare numbers of processes. rows: number of processes -> what each of them has measured."""
    lines = [
        f"{'processes':>9} {'s per step':>11} {'efficiency':>11} {'waiting':>8} {'MB gradients':>13} {'KB other':>9}"
    ]
    alone = rows[1][0]["step"]
    for size, ranks in rows.items():
        step = max(rank["step"] for rank in ranks)
        waits = statistics.mean(rank["waiting"] for rank in ranks) / step
        first = ranks[0]
        lines.append(
            f"{size:>9} {step:>11.3f} {alone / step / size:>11.0%} {waits:>8.1%} {first['gradients'] / 1e6:>13.1f} "
            f"{first['other'] / 1e3:>9.1f}"
        )
    return lines


def params(steps: int, **changes: Any) -> Params:
    """params.yaml with so many steps and a single validation."""
    given = load(ROOT / "params.yaml").model_dump()
    given["solver"] |= {"max_iter": steps, "eval_period": 10**6, "log_period": 1}
    given["model"] |= {"weights": None}
    return Params.model_validate(given | {name: given[name] | values for name, values in changes.items()})


def draw(folder: Path, steps: int) -> None:
    given = params(steps, generate={"train": 64, "val": 2}, data={"raw": folder / "raw"})
    shapes.generate(given.generate, folder / "raw", seed=given.seed)
    convert.convert(given.data, given.tasks, folder / "coco", seed=given.seed)
    write_json(folder / "manifest.json", manifest.build(folder / "coco"))
    write_json(folder / "steps.json", steps)


def measure() -> None:
    """One rank: train, and write what its steps cost."""
    folder, rank = Path(os.environ["MTSEG_WORK"]), int(os.environ["RANK"])
    given = params(json.loads((folder / "steps.json").read_text()))
    steps, gradients, other, waits = [], [], [], []
    step, add, gather = Stepper.__call__, Ranks.add, Ranks.gather

    def timed(function: Any, into: list[float], *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            into.append(time.perf_counter() - began)

    def counted_add(self: Ranks, tensors: Sequence[Tensor]) -> None:
        gradients.append(sum(x.numel() * x.element_size() for x in tensors))
        timed(add, waits, self, tensors)

    def counted_gather(self: Ranks, value: Any) -> list[Any]:
        other.append(len(pickle.dumps(value)) if self.size > 1 else 0)
        return timed(gather, waits, self, value)

    Ranks.add, Ranks.gather = counted_add, counted_gather
    Stepper.__call__ = lambda self, *arguments: timed(step, steps, self, *arguments)
    loop.train(
        folder / "manifest.json", models=folder / "models", metrics=folder / "train.json", curves=folder / "plots",
        root=folder / "raw", tasks=given.tasks, model=given.model, input=given.input, solver=given.solver,
        loss=given.loss, device="cpu", seed=given.seed, timeout=given.launch.timeout,
    )  # fmt: skip
    count = len(steps)
    found = {"step": statistics.median(steps[SKIPPED:]), "waiting": sum(waits) / count}
    write_json(
        folder / f"rank{rank}.json", found | {"gradients": max(gradients, default=0), "other": sum(other) / count}
    )


def gradient_bytes(network: Mask2Former) -> int:
    """What a process gives to the exchange in each step, besides a few numbers."""
    return sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)


def exchange(size: int, count: int) -> float:
    """Estimated seconds of an all-reduce of `size` bytes by a ring of `count` GPUs: each sends 2 (N - 1) / N times the
    bytes."""
    return 2 * (count - 1) / count * size / (LINKS[count] * 1e9)


def estimate() -> None:
    """Print what the gradients' bytes mean for more GPUs, by a formula: nothing of it is measured."""
    print("\nEstimate on paper, from the size of the gradients: a ring sends 2 (N - 1) / N times their bytes.")
    print(f"{'network':>12} {'MB gradients':>13} {'GPUs':>5} {'GB/s':>6} {'ms':>6} {'step of 90 % efficiency, ms':>28}")
    given = params(1)
    for name, model in (
        ("default", given.model),
        ("coco_r50", given.model.model_copy(update=PAPER | {"backbone": "resnet50"})),
    ):
        size = gradient_bytes(Mask2Former((Task(name="a", classes=CLASSES),), model))
        for count, speed in LINKS.items():
            ms = 1e3 * exchange(size, count)
            print(f"{name:>12} {size / 1e6:>13.1f} {count:>5} {speed:>6g} {ms:>6.1f} {9 * ms:>28.0f}")


if __name__ == "__main__":
    run_stage(measure if "RANK" in os.environ else main)
