"""`python -m benchmarks.ranks`: the results of 2 and 4 processes against those of one, on CPUs with one thread each.

Trains a tiny network for 20 steps of 8 images, accumulated from 2 batches, in float64 and in float32. Prints the
largest difference of a weight, and of a loss as a share of it, as it is written. About 2 minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import pandas as pd
import torch

from mtseg.core.files import write_json
from mtseg.core.params import Launch, Params, load
from mtseg.core.signals import run_stage
from mtseg.data import convert, manifest, shapes
from mtseg.model import weights
from mtseg.model.launch import launch
from mtseg.training import loop

ROOT = Path(__file__).parents[1]
TINY = {
    "generate": {"train": 32, "val": 2, "size": 64, "max_objects": 3},
    "model": {"backbone": "timm/test_efficientnet", "weights": None, "num_queries": 6, "hidden_dim": 32, "num_heads": 4,
              "decoder_layers": 2, "encoder_layers": 1, "encoder_feedforward_dim": 32, "decoder_feedforward_dim": 32},
    "input": {"size": 64},
    "solver": {"max_iter": 20, "eval_period": 20, "log_period": 1, "ims_per_batch": 4, "accumulate": 2, "warmup": 0,
               "base_lr": 1e-4},
}  # fmt: skip


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m benchmarks.ranks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    lines = [f"{'processes':>9} {'arithmetic':>11} {'weight':>8} {'loss':>8}"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MTSEG_WORK"] = folder
        given = params(Path(folder))
        shapes.generate(given.generate, given.data.raw, seed=given.seed)
        convert.convert(given.data, given.tasks, Path(folder) / "coco", seed=given.seed)
        write_json(Path(folder) / "manifest.json", manifest.build(Path(folder) / "coco"))
        for precision in ("float64", "float32"):
            os.environ["PRECISION"] = precision
            for size in (1, 2, 4):
                launch("benchmarks.ranks", Launch(nproc_per_node=size))
                if size > 1:
                    weight, loss = differences(*(Path(folder) / f"{precision}-{count}" for count in (1, size)))
                    lines.append(f"{size:>9} {precision:>11} {weight:>8.1e} {loss:>8.1e}")
    print("\n".join(lines))


def params(folder: Path) -> Params:
    given = load(ROOT / "params.yaml").model_dump()
    changes = TINY | {"data": {"raw": folder / "raw"}}
    return Params.model_validate(given | {name: given[name] | values for name, values in changes.items()})


def differences(one: Path, other: Path) -> tuple[float, float]:
    """Of two trainings the largest difference of a weight, and of a loss as a share of it."""
    state, found = (weights.load(folder / "models/last.safetensors")[0] for folder in (one, other))
    losses, own = (pd.read_csv(folder / "plots/train.tsv", sep="\t")["loss"] for folder in (one, other))
    weight = max((found[key] - value).abs().max().item() for key, value in state.items())
    return weight, ((own - losses) / losses).abs().max()


def measure() -> None:
    """One rank: train in the given precision."""
    folder, precision = Path(os.environ["MTSEG_WORK"]), os.environ["PRECISION"]
    torch.set_default_dtype(getattr(torch, precision))
    if precision == "float64":
        torch.Tensor.float = torch.Tensor.double  # the network leaves the precision of autocast by it
    given, out = params(folder), folder / f"{precision}-{os.environ['WORLD_SIZE']}"
    loop.train(
        folder / "manifest.json", models=out / "models", metrics=out / "train.json", curves=out / "plots",
        root=given.data.raw, tasks=given.tasks, model=given.model, input=given.input, solver=given.solver,
        loss=given.loss, device="cpu", seed=given.seed, timeout=given.launch.timeout,
    )  # fmt: skip


if __name__ == "__main__":
    run_stage(measure if "RANK" in os.environ else main)
