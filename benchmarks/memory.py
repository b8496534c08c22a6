"""`python -m benchmarks.memory [--quick]`: peak memory of training steps on a CPU, and an estimate for GPUs.

Each setting trains for two steps in its own process. Measured is peak resident memory (VmHWM of /proc/self/status, so
Linux only) minus that before the network was built; beside it, what `check` expects without the losses. Attention
samples as on a GPU, which takes more than the form for CPUs. Some minutes on two cores, a minute with --quick. Prints
the two tables of docs/memory.md, measurements and estimates. The last line is the peak of the largest ResNet-50
setting with everything recomputed, as a share of the peak without.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from detectron2.structures import BitMasks, Instances

from mtseg.checks.cost import Cost, costs
from mtseg.core.params import Params, Task, load
from mtseg.model import deformable
from mtseg.model.mask2former import Mask2Former
from mtseg.training.optimizer import optimizer

PARAMS = load(Path(__file__).parents[1] / "params.yaml")
PAPER = {  # recipes/coco_r50.yaml
    "num_queries": 100, "hidden_dim": 256, "encoder_layers": 6, "encoder_feedforward_dim": 1024, "decoder_layers": 9,
    "decoder_feedforward_dim": 2048,
}  # fmt: skip
# {name: (backbone, further changes to `model` in params.yaml, points per mask)}
NETWORKS = {
    "default": ("efficientnet_lite0", {}, 1024),
    "mobilenetv3_large": ("mobilenetv3_large", {}, 1024),
    "coco_r50": ("resnet50", PAPER, 12544),
    "coco_swin_t": ("swin_t", PAPER, 12544),
}
SETTING = ("NETWORK", "SIDE", "IMAGES", "OBJECTS", "RECOMPUTE")
RECOMPUTE = ("none", "backbone", "pixel_decoder", "both")
BUDGETS = (8, 16, 24)  # GiB of a GPU
PROMPT = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc returns freed memory at once, so that peaks are exact
RESERVE = 1.0  # GiB: the CUDA context, workspaces of its libraries, fragmentation
QUICK = [("default", 128, 8, 8, "none"), ("coco_r50", 256, 1, 8, "none"), ("coco_r50", 256, 1, 8, "both")]
WHOLE = [
    *(("default", 128, images, 8, "none") for images in (1, 8)),
    *(("mobilenetv3_large", 256, images, 8, "none") for images in (1, 4)),
    *(("coco_r50", side, 1, 60, "none") for side in (256, 512)),
    *(("coco_r50", 256, images, 8, "none") for images in (1, 4)),
    *(("coco_r50", 512, 1, 8, recompute) for recompute in RECOMPUTE),
    *(("coco_swin_t", 512, 1, 8, recompute) for recompute in ("none", "both")),
]


@dataclass(frozen=True)
class Used:
    """seconds: median processor time of a training step. peak: peak memory in bytes. stays: bytes of it that do not
    depend on the images, the weights and AdamW's moments (gradients are allocated while activations are freed)."""

    seconds: float
    peak: int
    stays: int


def train(
    tasks: Sequence[Task], params: Params, *, side: int, images: int, objects: int, steps: int,
    seen: Sequence[tuple[int, ...]] = (),
) -> Used:  # fmt: skip
    """Train a network for some steps on blank images. Only once per process, as a peak never falls."""
    before = _status("VmRSS")
    network = Mask2Former(tuple(tasks), params.model, loss=params.loss, seen=seen).train()
    adam = optimizer(network, params.solver)
    masks = torch.zeros(objects, side, side, dtype=torch.bool)
    masks[:, side // 4 : side // 2, side // 4 : side // 2] = True
    labels = torch.zeros(objects, len(tasks), dtype=torch.long)
    target = Instances((side, side), gt_masks=BitMasks(masks), gt_labels=labels)
    batch = [{"image": torch.zeros(3, side, side, dtype=torch.uint8), "instances": target}] * images
    seconds = []
    for _ in range(steps):  # the first step allocates the moments of the optimiser
        began = time.process_time()
        sum(network(batch).values()).backward()
        adam.step()
        adam.zero_grad()
        seconds.append(time.process_time() - began)
    stays = sum(3 * p.numel() * p.element_size() for p in network.parameters())
    return Used(median(seconds), _status("VmHWM") - before, stays)


def _status(key: str) -> int:
    """A value of /proc/self/status in bytes."""
    return int(re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)[1]) * 1024


def measure(name: str, side: int, images: int, objects: int, recompute: str) -> tuple[Used, Cost]:
    """What a setting takes, and what the check expects of it."""
    backbone, model, points = NETWORKS[name]
    changes = {"backbone": backbone, "weights": None, "freeze_norm": True, "recompute": recompute, **model}
    params = PARAMS.model_copy(update={
        "model": PARAMS.model.model_copy(update=changes),
        "loss": PARAMS.loss.model_copy(update={"num_points": points}),
    })  # fmt: skip
    task = PARAMS.tasks[0].model_copy(update={"class_weights": None})
    with patch.object(deformable, "by_rows", deformable.by_planes):  # as on a GPU
        used = train([task], params, side=side, images=images, objects=objects, steps=2)
    return used, costs(Mask2Former((task,), params.model, loss=params.loss), [side], images=images)[side]


def fitting(peak: int, stays: int, *, side: int, wanted: int, budget: float) -> int:
    """Estimate how many images of side `wanted` fit into `budget` GiB, given the peak of one image of side `side`.

    All memory but `stays` is taken to grow with the number of pixels, and mixed precision is not considered."""
    each = (peak - stays) * (wanted / side) ** 2
    return max(int(((budget - RESERVE) * 2**30 - stays) / each), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three settings")
    parser.add_argument("--one", nargs=5, metavar=SETTING, help="measure one setting, in bytes")
    arguments = parser.parse_args()
    if arguments.one:
        name, *counts, recompute = arguments.one
        used, expected = measure(name, *map(int, counts), recompute)
        print(used.peak, used.stays, round(expected.memory))
        return
    peaks: dict[tuple, int] = {}
    single: dict[tuple, tuple] = {}  # (network, recompute) -> the largest measurement of one image
    head = f"{'network':<20}{'side':>6}{'images':>10}{'objects':>9}  {'recompute':<15}"
    print(f"{head}{'peak':>10}{'stays':>7}{'check':>7} MiB")
    for setting in QUICK if arguments.quick else WHOLE:
        command = [sys.executable, "-m", "benchmarks.memory", "--one", *map(str, setting)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | PROMPT)
        peaks[setting], stays, expected = map(int, done.stdout.split())
        name, side, images, objects, recompute = setting
        row = f"{peaks[setting] / 2**20:>10.0f}{stays / 2**20:>7.0f}{expected / 2**20:>7.0f}"
        print(f"{name:<20}{side:>6}{images:>10}{objects:>9}  {recompute:<15}{row}", flush=True)
        if (images, objects) == (1, 8):
            single[name, recompute] = (*(round(x / 2**20) * 2**20 for x in (peaks[setting], stays)), side)  # as printed
    print(f"\nestimated: images in memory at once, in {', '.join(map(str, BUDGETS))} GiB")
    for (name, recompute), (peak, stays, side) in single.items():
        for wanted in (size for size in (512, 1024) if size <= 2 * side):  # larger sizes would be a guess
            counts = [fitting(peak, stays, side=side, wanted=wanted, budget=budget) for budget in BUDGETS]
            print(f"{name:<20}{wanted:>6}{'':>19}  {recompute:<15}" + "".join(f"{count:>6}" for count in counts))
    side = max(side for name, side, *_ in peaks if name == "coco_r50")
    share = peaks["coco_r50", side, 1, 8, "both"] / peaks["coco_r50", side, 1, 8, "none"]
    print(f"coco_r50 at {side}, both recomputed: {share:.0%} of the peak without")


if __name__ == "__main__":
    main()
