"""`python -m benchmarks.speed [--quick] [SETUP ...]`: mtseg beside the Mask2Former of transformers, on a CPU.

Both train and predict with the same configuration, inputs and optimiser, in rounds in which each has its turn, in one
process with one thread, or as many as --threads says. `pip install -e .[dev]` installs transformers. Each has the
backbone that its users get: transformers that of timm, with batch norm frozen by its own option, and in the memory
format that it does not change. Its MobileNetV3 has one more 1 x 1 convolution. The weights behind the backbone are the
same. mtseg runs twice, with the main task and with two more of as many classes. Weights are random, so masks are noise,
of which the run lengths are long for both.

A training step is forward pass, matching, losses, backward pass, clipping and AdamW. Inference is the network, a mask
at full size for each query's detection, and its run lengths by pycocotools. Prints the median over rounds of mtseg's
share of the processor time and wall time, its shares of peak memory and of aten operations (forward and backward), and
processor seconds by part. Peak memory (Linux) is that of two steps in a forked process, above the memory before the
network was built, with `keep_memory` as in training. Exits 1 when a target is missed.

--quick: the default set-up, within 50 s on two cores. Without it the set-ups that are named, by default all, 2 to 6
minutes each; their results, with machine and versions, go to benchmarks/results/speed.json, where those of other
set-ups stay, and into the plot docs/figures/speed.svg.

--yolo: the training steps of Ultralytics' YOLO11n-seg and YOLO11s-seg as well, on the same images. They need
`pip install ultralytics`, whose licence is AGPL-3.0.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import platform
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessorPil, TimmBackboneConfig

from benchmarks.memory import _status
from benchmarks.parity import PARAMS, PUBLISHED, TASK, Setting, configuration, images, random_weights, renamed
from mtseg.core.files import write_json
from mtseg.inference.postprocess import encode
from mtseg.inference.torch_network import detect
from mtseg.model import backbones
from mtseg.model import losses as loss_module
from mtseg.model import mask2former as network_module
from mtseg.model.device import keep_memory
from mtseg.model.mask2former import Mask2Former
from mtseg.training.optimizer import optimizer

ROOT = Path(__file__).parents[1]
RESULTS, PLOT = ROOT / "benchmarks/results/speed.json", ROOT / "docs/figures/speed.svg"
SMALL = {
    "hidden_dim": 96, "num_heads": 8, "encoder_feedforward_dim": 384, "decoder_layers": 3,
    "decoder_feedforward_dim": 384,
}  # fmt: skip
SETUPS = {
    "default": Setting(
        128, 128, (4,) * 8, encoder_layers=1, num_queries=20, num_points=1024, backbone="efficientnet_lite0", **SMALL
    ),
    "mobilenetv3_large": Setting(
        192, 192, (4,) * 8, encoder_layers=3, num_queries=30, num_points=3136, backbone="mobilenetv3_large", **SMALL
    ),
    "resnet50": Setting(**vars(PUBLISHED) | {"height": 512, "width": 512, "instances": (8, 8)}),
}
TIMM = {
    "efficientnet_lite0": "tf_efficientnet_lite0", "mobilenetv3_large": "mobilenetv3_large_100", "resnet50": "resnet50",
}  # fmt: skip
NAMES = ("mtseg", "mtseg, 3 tasks", "transformers")
PEAKS = (NAMES[0], NAMES[2])  # whose memory is measured
YOLO = ("yolo11n-seg", "yolo11s-seg")
# Targets: largest share of transformers' cost
STEP = 0.60  # processor time of a training step, in plain PyTorch
INFERENCE = {"default": 0.50, "mobilenetv3_large": 0.50, "resnet50": 0.70}  # processor time
PEAK = 0.80  # peak memory of training
OPERATIONS = 0.50  # aten operations of forward and backward pass
TASK_COST = 0.01  # additional processor time of a training step for each further task, as a share of the step
SECONDS = {"quick": 15, "full": 120}  # of a set-up's rounds
ROUNDS = (3, 30)  # of a set-up, at least and at most


class Clock:
    """Processor seconds by part, summed over the calls of what is wrapped."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, part: str, call: Callable) -> Callable:
        def timed(*given: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return call(*given, **named)
            finally:
                self.seconds[part] += time.process_time() - began

        return timed


class Operations(TorchDispatchMode):
    """Counts the aten operations while it is active, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Ours:
    """mtseg with some tasks."""

    def __init__(self, setting: Setting, *, tasks: int = 1):
        size = {name: value for name, value in vars(setting).items() if name in type(PARAMS.model).model_fields}
        model = PARAMS.model.model_copy(update=size | {"weights": None, "freeze_norm": True, "recompute": "none"})
        all_tasks = (TASK, *(TASK.model_copy(update={"name": f"task{i}"}) for i in range(1, tasks)))
        loss = PARAMS.loss.model_copy(update={"num_points": setting.num_points})
        self.network = Mask2Former(all_tasks, model, loss=loss, detections=setting.num_queries)
        self.optimizer = optimizer(self.network, PARAMS.solver.model_copy(update={"base_lr": 1e-4}))
        size = {"image_size": (setting.height, setting.width), "height": setting.height, "width": setting.width}
        self.batch = [example | size for example in images(setting)]
        for example in self.batch:
            example["instances"].gt_labels = example["instances"].gt_labels.repeat(1, tasks)

    def copy(self, theirs: Theirs) -> None:
        """Take the weights behind the backbone, except of the heads of further tasks."""
        own = self.network.state_dict()
        fitting = {key: x for key, x in theirs.behind.items() if key not in own or x.shape == own[key].shape}
        keys = self.network.load_state_dict(fitting, strict=False)
        assert not keys.unexpected_keys, keys

    def loss(self) -> Tensor:
        return sum(self.network(self.batch).values())

    def predict(self) -> list:
        return [encode(found, i, self.network.tasks) for i, found in enumerate(detect(self.network, self.batch))]

    def time_parts(self, clock: Clock) -> None:
        for part in ("backbone", "pixel_decoder", "decoder"):
            module = self.network.get_submodule(part)
            module.forward = clock.wrap(part, module.forward)


class Theirs:
    """transformers, with a backbone of timm."""

    def __init__(self, setting: Setting):
        config = configuration(setting, importance=PARAMS.loss.importance)
        config.backbone_config = TimmBackboneConfig(
            backbone=TIMM[setting.backbone], use_pretrained_backbone=False, freeze_batch_norm_2d=True,
            out_indices=(1, 2, 3, 4),
        )  # fmt: skip
        self.network = Mask2FormerForUniversalSegmentation(config)
        behind = {k: x for k, x in self.network.state_dict().items() if "pixel_level_module.encoder." not in k}
        del behind["criterion.empty_weight"]  # a constant
        draw = torch.Generator().manual_seed(0)
        for key, tensor in behind.items():  # with the initial weights, all masks of transformers are empty
            tensor.copy_(random_weights(key, tensor.shape, draw))
        self.behind = renamed(behind)
        solver = PARAMS.solver
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=solver.weight_decay)
        self.batch = images(setting)
        backbone = backbones.find(setting.backbone)
        self.mean, self.std = (torch.tensor(x).view(3, 1, 1) for x in (backbone.PIXEL_MEAN, backbone.PIXEL_STD))
        self.sizes = [(setting.height, setting.width)] * len(self.batch)
        self.processor = Mask2FormerImageProcessorPil()

    def pixels(self) -> Tensor:
        return (torch.stack([example["image"] for example in self.batch]).float() - self.mean) / self.std

    def loss(self) -> Tensor:
        truth = [example["instances"] for example in self.batch]
        masks = [x.gt_masks.tensor.float() for x in truth]
        return self.network(self.pixels(), mask_labels=masks, class_labels=[x.gt_labels[:, 0] for x in truth]).loss

    @torch.no_grad()
    def predict(self) -> list:
        given = {"threshold": 0.0, "target_sizes": self.sizes, "return_binary_maps": True}
        found = self.processor.post_process_instance_segmentation(self.network(self.pixels()), **given)
        maps = [image["segmentation"] for image in found if image["segments_info"]]  # without masks it is [H, W]
        masks = [own.numpy().astype(np.uint8).transpose(1, 2, 0) for own in maps]
        return [coco_mask.encode(np.asfortranarray(own)) for own in masks]

    def time_parts(self, clock: Clock) -> None:
        level, criterion = self.network.model.pixel_level_module, self.network.criterion
        parts = {
            "backbone": level.encoder, "pixel_decoder": level.decoder, "decoder": self.network.model.transformer_module,
            "matching": criterion.matcher, "losses": criterion,
        }  # fmt: skip
        for part, module in parts.items():
            module.forward = clock.wrap(part, module.forward)


class Yolo:
    """A segmentation network of ultralytics, in training."""

    def __init__(self, setting: Setting, name: str):
        from ultralytics.cfg import get_cfg
        from ultralytics.nn.tasks import SegmentationModel

        self.network = SegmentationModel(f"{name}.yaml", nc=len(TASK.classes), verbose=False).train()
        self.network.args = get_cfg()  # the gains of its losses
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)
        examples = images(setting)
        truth = [example["instances"] for example in examples]
        masks = [x.gt_masks.tensor for x in truth]
        number = [torch.arange(1, len(own) + 1).view(-1, 1, 1) for own in masks]
        drawn = torch.stack([(own * n).amax(0) for own, n in zip(masks, number, strict=True)])  # n-th object: n
        corners = torch.cat([x.gt_masks.get_bounding_boxes().tensor for x in truth])
        corners /= torch.tensor([setting.width, setting.height] * 2)
        self.batch = {
            "img": torch.stack([example["image"] for example in examples]).float() / 255,
            "batch_idx": torch.cat([torch.full((len(own),), float(i)) for i, own in enumerate(masks)]),
            "cls": torch.cat([x.gt_labels[:, :1] for x in truth]).float(),
            "bboxes": torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1),
            "masks": drawn[:, ::4, ::4].float(),
        }

    def loss(self) -> Tensor:
        return self.network(self.batch)[0].sum()


def build(side: str, setting: Setting) -> Ours | Theirs:
    torch.manual_seed(0)
    return Theirs(setting) if side == NAMES[2] else Ours(setting, tasks=3 if side == NAMES[1] else 1)


def step(side: Ours | Theirs | Yolo, clock: Clock) -> None:
    def update() -> None:
        torch.nn.utils.clip_grad_norm_(side.network.parameters(), PARAMS.solver.clip)
        side.optimizer.step()
        side.optimizer.zero_grad()

    clock.wrap("backward", side.loss().backward)()
    clock.wrap("optimiser", update)()


def operations(side: Ours | Theirs) -> int:
    """Aten operations of forward and backward pass."""
    side.network.train()
    with Operations() as seen:
        side.loss().backward()
    side.optimizer.zero_grad()
    return seen.counts.total()


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of processor time and of wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def share(of: Sequence[float], to: Sequence[float]) -> float:
    """The median over rounds of the ratio of two costs."""
    return median(a / b for a, b in zip(of, to, strict=True))


def measure(name: str, seconds: float, *, yolo: Sequence[str] = ()) -> dict[str, Any]:
    """The costs of a set-up, see the header. seconds: of its rounds. yolo: networks whose steps are timed too."""
    clock = Clock()
    sides = {side: build(side, SETUPS[name]) for side in NAMES}
    for side in sides.values():
        if isinstance(side, Ours):
            side.copy(sides[NAMES[2]])
        side.time_parts(clock)
    others = {other: Yolo(SETUPS[name], other) for other in yolo}
    taken: dict[str, dict[str, list]] = {key: defaultdict(list) for key in ("step", "inference")}
    parts: dict[str, list[dict[str, float]]] = defaultdict(list)
    with (
        patch.object(loss_module, "match", clock.wrap("matching", loss_module.match)),
        patch.object(network_module, "losses", clock.wrap("losses", network_module.losses)),
    ):
        counts = {side: operations(own) for side, own in sides.items()}  # also warms up
        began, rounds = time.perf_counter(), 0
        while rounds < ROUNDS[0] or (rounds < ROUNDS[1] and time.perf_counter() - began < seconds):
            for side in NAMES if rounds % 2 else NAMES[::-1]:
                own = sides[side]
                own.network.train()
                clock.seconds.clear()
                taken["step"][side].append(timed(lambda own=own: step(own, clock)))
                clock.seconds["losses"] -= clock.seconds["matching"]
                parts[side].append(dict(clock.seconds))
                own.network.eval()
                taken["inference"][side].append(timed(own.predict))
            for side, own in others.items():
                taken["step"][side].append(timed(lambda own=own: step(own, Clock())))
            rounds += 1
    found: dict[str, Any] = {"rounds": rounds, "operations": counts}
    for key, of in taken.items():
        for i, kind in enumerate(("cpu", "wall")):
            own = {side: [both[i] for both in rows] for side, rows in of.items()}
            found[f"{key} {kind} s"] = {side: median(rows) for side, rows in own.items()}
            found[f"{key} {kind}"] = {side: share(own[side], own[NAMES[2]]) for side in NAMES[:2]}
            if (key, kind) == ("step", "cpu"):
                found["of yolo"] = {side: share(own[NAMES[0]], own[side]) for side in others}
                found["further task"] = (share(own[NAMES[1]], own[NAMES[0]]) - 1) / 2
    found["parts"] = {
        side: {part: median(row[part] for row in rows) for part in rows[0]} for side, rows in parts.items()
    }
    return found


def peaks(names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Peak memory of two training steps in bytes, each in a process of its own: forked, as imports take seconds, and
    before this process has allocated memory."""
    fork = multiprocessing.get_context("fork")
    with fork.Pool(1, maxtasksperchild=1) as pool:
        return {name: {side: pool.apply(own_peak, (side, name)) for side in PEAKS} for name in names}


def own_peak(side: str, name: str) -> int:
    before = _status("VmRSS")
    own = build(side, SETUPS[name])
    own.network.train()
    for _ in range(2):  # the first allocates the moments of the optimiser
        step(own, Clock())
    return _status("VmHWM") - before


def targets(name: str, found: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Value and target of a set-up: {what: (value, largest)}."""
    ours, _, theirs = NAMES
    return {
        "training step": (found["step cpu"][ours], STEP),
        "inference": (found["inference cpu"][ours], INFERENCE[name]),
        "peak memory": (found["peak"][ours] / found["peak"][theirs], PEAK),
        "operations": (found["operations"][ours] / found["operations"][theirs], OPERATIONS),
        "further task": (found["further task"], TASK_COST),
    }


def missed(name: str, found: Mapping[str, Any]) -> list[str]:
    """The targets that a set-up misses."""
    rows = targets(name, found).items()
    return [f"{name}: {what} {value:.3f}, target {limit:.2f}" for what, (value, limit) in rows if value > limit]


def plot(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Left the shares with their targets, right the processor time of a step by part, all of transformers' is 1."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for n, (name, found) in enumerate(results.items()):
        rows = {what: pair for what, pair in targets(name, found).items() if what != "further task"}
        places = np.arange(len(rows)) + n * 0.8 / len(results)
        values, limits = zip(*rows.values(), strict=True)
        left.bar(places, values, 0.75 / len(results), label=name)
        left.hlines(limits, places - 0.4 / len(results), places + 0.4 / len(results), "black", "dotted")
        left.set_xticks(np.arange(len(rows)) + 0.3, rows)
    left.axhline(1, color="grey", linewidth=1)
    left.set(title=f"share of the cost of {NAMES[2]}; dotted: target", ylim=(0, 1.2))
    left.legend(loc="upper left", ncols=len(results))
    both = [(name, side) for name in results for side in PEAKS]
    bottom = np.zeros(len(both))
    for part in next(iter(results.values()))["parts"][NAMES[0]]:
        whole = [sum(results[name]["parts"][NAMES[2]].values()) for name, _ in both]
        share = [results[name]["parts"][side][part] / all for (name, side), all in zip(both, whole, strict=True)]
        right.bar(np.arange(len(both)), share, bottom=bottom, label=part)
        bottom += share
    labels = [f"{side}\n{name if side == NAMES[0] else ''}" for name, side in both]
    right.set_xticks(np.arange(len(both)), labels, fontsize="small")
    right.set(title=f"processor time of a step by part, that of {NAMES[2]} is 1")
    handles, names = right.get_legend_handles_labels()
    right.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "speed"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def show(name: str, found: Mapping[str, Any]) -> None:
    print(f"\n{name}, {found['rounds']} rounds; shares of {NAMES[2]}'s")
    print(f"{'':<16}{'step CPU':>10}{'wall':>7}{'inference CPU':>15}{'wall':>7}{'memory':>9}{'operations':>12}")
    for side in NAMES[:2]:
        step_cpu, step_wall, cpu, wall = (
            found[key][side] for key in ("step cpu", "step wall", "inference cpu", "inference wall")
        )
        count = found["operations"][side] / found["operations"][NAMES[2]]
        peak = f"{found['peak'][side] / found['peak'][NAMES[2]]:.2f}" if side in PEAKS else ""
        print(f"{side:<16}{step_cpu:>10.2f}{step_wall:>7.2f}{cpu:>15.2f}{wall:>7.2f}{peak:>9}{count:>12.2f}")
    for side, value in found["of yolo"].items():
        print(f"a step takes {value:.2f} of the processor time of {side}'s")
    print("CPU s of a step " + "".join(f"{part:>15}" for part in found["parts"][NAMES[0]]))
    for side, parts in found["parts"].items():
        print(f"{side:<16}" + "".join(f"{parts[part]:>15.4f}" for part in found["parts"][NAMES[0]]))


def keep(name: str, found: Mapping[str, Any]) -> None:
    """Write the results of a set-up beside those of the others, and draw all."""
    RESULTS.parent.mkdir(exist_ok=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[name] = found
    write_json(RESULTS, {name: kept[name] for name in SETUPS if name in kept})
    plot(json.loads(RESULTS.read_text()), PLOT)


def machine(threads: int) -> dict[str, Any]:
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    versions = {name: version(name) for name in ("torch", "transformers", "numpy")}
    today = datetime.date.today().isoformat()
    return {"date": today, "cpu": names[0] if names else platform.machine(), "threads": threads, **versions}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the default set-up only")
    parser.add_argument("setups", nargs="*", metavar="SETUP", help=", ".join(SETUPS))
    parser.add_argument("--yolo", action="store_true", help=f"{' and '.join(YOLO)} as well; needs ultralytics")
    parser.add_argument("--threads", type=int, default=1, help="waiting threads take processor time")
    given = parser.parse_args()
    if unknown := [name for name in given.setups if name not in SETUPS]:
        parser.error(f"there is no set-up {unknown[0]}, only {', '.join(SETUPS)}")
    if given.yolo and not find_spec("ultralytics"):
        parser.error("--yolo needs ultralytics: pip install ultralytics")
    torch.set_num_threads(given.threads)
    keep_memory()
    warnings.simplefilter("ignore")  # transformers prefers other dimensions
    seconds = SECONDS["quick" if given.quick else "full"]
    names = ["default"] if given.quick else given.setups or [*SETUPS]
    used, results = peaks(names), {}
    for name in names:
        results[name] = measure(name, seconds, yolo=YOLO if given.yolo else ()) | {"peak": used[name]}
        show(name, results[name])
        if not given.quick:
            keep(name, results[name] | {"machine": machine(given.threads)})
    failures = [failure for name, found in results.items() for failure in missed(name, found)]
    print("\n" + "\n".join(f"missed: {failure}" for failure in failures))
    worst = max(found["step cpu"][NAMES[0]] for found in results.values())
    print(f"training step: {worst:.2f} of the processor time of transformers, target {STEP:.2f}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
