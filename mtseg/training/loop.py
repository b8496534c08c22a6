"""Training: optimiser, steps, validation, checkpoints. A step is a function of the weights, the optimiser's state and
(seed, step): a training that was interrupted and resumed ends with the same bytes as an unbroken one.

Recipe of Mask2Former (arXiv 2112.01527, section 4): AdamW, no decay for norms and embeddings, the backbone at a share
of the lr, gradients clipped as one vector.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from mtseg.checks import run as checks
from mtseg.core.errors import UserError
from mtseg.core.files import replace_folder, write_json
from mtseg.core.params import Input, Loss, Model, Solver, Task
from mtseg.core.tables import Image
from mtseg.data import manifest
from mtseg.data.loader import Example, Mapper, training_batches
from mtseg.evaluation import scores
from mtseg.inference.predictor import description, predict
from mtseg.model import weights
from mtseg.model.device import keep_memory, pick
from mtseg.model.heads.combinations import seen_combinations
from mtseg.model.mask2former import Mask2Former
from mtseg.training.monitor import Curves, Progress
from mtseg.training.step import Stepper


@dataclass(frozen=True)
class Outputs:
    """Where a training leaves its results."""

    models: Path
    metrics: Path
    curves: Path


def train(
    data: Path, outputs: Outputs, *, root: Path, tasks: Sequence[Task], model: Model, input: Input, solver: Solver,
    loss: Loss, device: str, seed: int,
) -> None:  # fmt: skip
    """Train on the manifest's train split, validate on val, and write the checkpoints, curves and metrics.

    Raises UserError for what preflight finds, a loss that is not finite, or an interruption (which keeps the state).
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)  # a class may be called [left]
    where = pick(device)
    records = manifest.load(data)
    tasks = records.tasks(tasks)
    splits = {name: records.images(name) for name in ("train", "val")}

    def warn(line: str) -> None:
        console.print(line, style="yellow")

    checks.heed(
        checks.of_data(**splits, root=root, tasks=tasks, model=model, input=input, solver=solver, loss=loss), warn
    )
    keep_memory()
    torch.manual_seed(seed)
    seen = seen_combinations(records.combinations("train"), tasks, model)
    network = Mask2Former(tasks, model, loss=loss, seen=seen).to(where)
    if solver.max_iter:
        checks.heed(
            checks.of_network(
                network, splits["train"], root=root, model=model, input=input, solver=solver, seed=seed
            ), warn
        )  # fmt: skip
    sections = [*tasks, model, input.model_copy(update={"workers": 0}), solver, loss]
    values = {"sections": [section.model_dump() for section in sections], "seed": seed, "root": str(root)}
    work = work_folder() / fingerprint(values, files=[data, Path(model.weights or "")])
    run = Run(network, solver, work=work, description=description(tasks, model) | {"seen": seen})
    if run.step:
        console.print(f"resumed at step {run.step} of {solver.max_iter}: {work} holds the state of an interrupted run")

    mapper = Mapper(tasks, input, root=root, training=True)
    batches = training_batches(
        splits["train"], mapper, batch=solver.ims_per_batch, start=run.step * solver.accumulate,
        stop=solver.max_iter * solver.accumulate, seed=seed, workers=input.workers,
    )  # fmt: skip
    with Progress(console, total=solver.max_iter, start=run.step) as progress, between_steps() as interrupted:
        while True:
            if run.validation_is_due:
                run.stepper.settle()
                row = validate(network, splits["val"], root=root, input=input, batch=solver.ims_per_batch)
                progress.validated(run.step, row)
                run.keep(row)
            if run.step == solver.max_iter:
                break
            if interrupted():
                run.save()
                raise UserError(f"interrupted at step {run.step} of {solver.max_iter}: run again to resume there")
            parts = [next(batches) for _ in range(solver.accumulate)]
            torch.manual_seed(seed * 1_000_003 + run.step)  # after the loader, which draws too
            values = run.train_step(parts)
            progress.update(run.step, run.log(values))
    run.finish(outputs)


@contextmanager
def between_steps() -> Iterator[Callable[[], bool]]:
    """Hold an interrupt (Ctrl-C, a polite kill) back until it is asked for: a step is done whole or not at all. The
    second one is not held back."""
    caught = []

    def note(number: int, frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def validate(
    network: Mask2Former, images: Sequence[Image], *, root: Path, input: Input, batch: int
) -> dict[str, float]:
    """Headline figures on the val split, in percent, by COCO's 100 detections and the product of probabilities: not by
    the params of the test section, which may then change without training anew."""
    found = predict(network, images, root=root, input=input, batch=batch, progress=False)
    metrics, _ = scores.evaluate(images, found, tasks=network.tasks, ranking="product_quality", max_dets=(1, 10, 100))
    row = {"segm_AP": metrics["segm"].get("AP", 0.0), "joint_AP": metrics["joint"].get("AP", 0.0)}
    figures = metrics["tasks"].items()
    return row | {f"{name}_accuracy": task["accuracy"] for name, task in figures if "accuracy" in task}


class Run:
    """The state of a training, in memory and in its work folder (outside DVC's outs, which DVC deletes first)."""

    def __init__(self, network: Mask2Former, solver: Solver, *, work: Path, description: dict):
        self.network, self.solver, self.work, self.description = network, solver, work, description
        self.stepper = Stepper(network, solver, broken=work / "broken_batch.pt")
        self.step, self.best, self.curves = 0, None, Curves()
        if (work / "state.pt").exists():
            self._load()

    @property
    def validation_is_due(self) -> bool:
        """At this step, and not done yet: an interrupted training may resume right before it."""
        if (self.curves.val and self.curves.val[-1]["step"] == self.step) or (not self.step and self.solver.max_iter):
            return False
        return self.step % self.solver.eval_period == 0 or self.step == self.solver.max_iter

    def train_step(self, batches: list[list[Example]]) -> dict[str, float]:
        """One optimiser step over the batches together. Returns lr and losses by name."""
        values = self.stepper(batches, self.step)
        self.step += 1
        return values

    def log(self, values: dict[str, float]) -> dict[str, float] | None:
        """Note what a step gave; returns the row of averages when a log period is over."""
        row = self.curves.add(self.step, values, every=self.solver.log_period, last=self.solver.max_iter)
        if row:
            self.curves.watched(self.step, self.stepper.health.fetch())
        return row

    def keep(self, row: dict[str, float]) -> None:
        """Note a validation; its weights are kept if its joint AP is the best so far; the state is saved."""
        self.curves.validated(self.step, row)
        if self.best is None or row["joint_AP"] > self.best["joint_AP"]:
            self.best = {"step": self.step, **row}
            self._save_weights(self.work / "best.safetensors")
        self.save()

    def save(self) -> None:
        """Write the state that a later process resumes from."""
        state = {
            "network": self.network.state_dict(),
            "stepper": self.stepper.state(),
            "rest": json.dumps({"step": self.step, "best": self.best, "curves": self.curves.state()}),
        }
        self.work.mkdir(parents=True, exist_ok=True)
        torch.save(state, self.work / "state.tmp")
        (self.work / "state.tmp").replace(self.work / "state.pt")

    def finish(self, outputs: Outputs) -> None:
        """Write the outs; the work folder, no longer needed, goes."""
        with replace_folder(outputs.models) as folder:
            (folder / "best.safetensors").write_bytes((self.work / "best.safetensors").read_bytes())
            self._save_weights(folder / "last.safetensors")
        self.curves.write(outputs.curves)
        best = {name: self.best[name] for name in ("step", "segm_AP", "joint_AP")}
        figures = {"best": best}
        if self.curves.train:  # not when no step was asked for
            figures["last"] = {"loss": round(self.curves.train[-1]["loss"], 4)}
        write_json(outputs.metrics, figures)
        for path in sorted(self.work.iterdir()):
            path.unlink()
        self.work.rmdir()

    def _save_weights(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        weights.save(path, self.network, {**self.description, "step": self.step})

    def _load(self) -> None:
        state = torch.load(self.work / "state.pt", map_location=self.network.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.stepper.load(state["stepper"])
        rest = json.loads(state["rest"])
        self.step, self.best, self.curves = rest["step"], rest["best"], Curves.of(rest["curves"])


def work_folder() -> Path:
    """Where interrupted trainings keep their state: under MTSEG_WORK, or the repository that DVC was called in (its
    temporary experiment folders would lose it), or here."""
    return Path(os.environ.get("MTSEG_WORK") or Path(os.environ.get("DVC_ROOT", ".")) / "work") / "train"


def fingerprint(values: dict, *, files: Sequence[Path]) -> str:
    """Digest of all that a training depends on: parameters, files (those that exist), and the code of every module of
    ours in use. Not of the device or the loader's workers: a training may resume on others."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for path in files:
        digest.update(path.read_bytes() if path.is_file() else b"")
    for name in sorted(name for name in sys.modules if name.split(".")[0] == "mtseg"):
        source = getattr(sys.modules[name], "__file__", None)
        digest.update(Path(source).read_bytes() if source else b"")
    return digest.hexdigest()[:16]
