"""`python -m benchmarks.growth [AXIS ...]`: time and memory of a training step against queries, tasks and other sizes.

Trains the network of params.yaml on 8 images of 128 pixels with 4 objects each, with one size changed at a time, in one
thread. Each setting has a process of its own, which takes three steps after the first; the time is their median, the
memory (Linux) the peak above that before the network was built. Prints them with the exponent of each axis: the slope
of a line through the logarithms, 1 for a cost that grows with the size. The costs that do not depend on the size are
part of it, so that it is below 1 at small sizes. Writes benchmarks/results/growth.json, where the axes that are not
named stay, and a plot. About 15 s for an axis.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks.memory import _status
from benchmarks.parity import Setting
from benchmarks.scale import exponent
from benchmarks.speed import SETUPS, Clock, Ours, machine, step, timed
from mtseg.core.files import write_json
from mtseg.model.device import keep_memory

ROOT = Path(__file__).parents[1]
RESULTS, PLOT = ROOT / "benchmarks/results/growth.json", ROOT / "docs/figures/growth.svg"
BASE = SETUPS["default"]
SIZES = {
    "queries": (20, 40, 80, 160),
    "tasks": (1, 2, 4, 8),
    "side": (64, 128, 192, 256),
    "objects": (2, 4, 8, 16),
    "images": (2, 4, 8, 16),
}
STEPS = 3  # timed, after the first, which allocates


def setting(axis: str, size: int) -> tuple[Setting, int]:
    """The sizes of the network and images, and the number of tasks."""
    count = len(BASE.instances)
    changes: dict[str, dict[str, Any]] = {
        "queries": {"num_queries": size},
        "tasks": {},
        "side": {"height": size, "width": size},
        "objects": {"instances": (size,) * count},
        "images": {"instances": BASE.instances[:1] * size},
    }
    return replace(BASE, **changes[axis]), size if axis == "tasks" else 1


def cost(axis: str, size: int) -> tuple[float, float]:
    """Processor seconds of a step and peak memory in MB."""
    torch.manual_seed(0)
    own, tasks = setting(axis, size)
    before = _status("VmRSS")
    side = Ours(own, tasks=tasks)
    side.network.train()
    times = [timed(lambda: step(side, Clock()))[0] for _ in range(1 + STEPS)]
    return median(times[1:]), (_status("VmHWM") - before) / 1e6


def plot(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axis, key, title in zip(axes, ("s", "MB"), ("processor time of a step", "peak memory"), strict=True):
        for name, own in results.items():
            relative = np.array(own["sizes"]) / own["sizes"][0], np.array(own[key]) / own[key][0]
            axis.plot(*relative, "o-", label=f"{name}: exponent {own[f'{key} exponent']:.2f}")
        axis.set(xscale="log", yscale="log", xlabel="size, the smallest is 1", title=f"{title}, at the smallest 1")
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "growth"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.partition("\n")[0])
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=", ".join(SIZES))
    names = parser.parse_args().axes or [*SIZES]
    if unknown := [name for name in names if name not in SIZES]:
        parser.error(f"there is no axis {unknown[0]}, only {', '.join(SIZES)}")
    torch.set_num_threads(1)
    keep_memory()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:  # forked: imports take seconds
        for name in names:
            costs = [pool.apply(cost, (name, size)) for size in SIZES[name]]
            results[name] = {"sizes": SIZES[name], "machine": machine(1)}
            for key, values in zip(("s", "MB"), zip(*costs, strict=True), strict=True):
                results[name] |= {key: values, f"{key} exponent": exponent(dict(zip(SIZES[name], values, strict=True)))}
                row = "".join(f"{value:>10.3g}" for value in values)
                print(f"{name:<8} {key:<3}{row}  exponent {results[name][f'{key} exponent']:.2f}", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    write_json(RESULTS, results)
    plot({name: results[name] for name in SIZES if name in results}, PLOT)


if __name__ == "__main__":
    sys.exit(main())
