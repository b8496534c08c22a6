"""State of a training run (weights, optimiser, best scores, curves): saved, resumed, and written as outs of DVC."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mtseg.core.files import replace_file, replace_folder, write_json
from mtseg.core.params import Solver
from mtseg.model import weights
from mtseg.model.mask2former import Mask2Former
from mtseg.training.step import Stepper

STATEFUL = ("network", "optimizer", "scaler")  # attributes of a Stepper with a state dict
# tables that a training writes, with the columns of an empty one
TABLES = {"train": ["step", "lr", "loss"], "val": ["step"], "health": ["step", "stability"]}


class Run:
    """A training run in memory and in its work folder, which is no out of DVC, since DVC deletes outs before each run.

    tables: `train` (averages over each log period), `val` and `health`, with a row for each logged step. since: values
    of the steps after the last row of `train`. metadata: of the checkpoints, besides step and scores.
    """

    def __init__(self, network: Mask2Former, solver: Solver, *, work: Path, metadata: dict[str, Any]):
        self.network, self.solver, self.work, self.metadata = network, solver, work, metadata
        self.stepper = Stepper(network, solver, broken=work / "broken_batch.pt")
        self.step, self.best, self.since = 0, None, []
        self.tables: dict[str, list[dict[str, float]]] = {name: [] for name in TABLES}
        if (work / "state.pt").exists():
            state = torch.load(work / "state.pt", map_location=network.device, weights_only=True)
            for name in STATEFUL:
                getattr(self.stepper, name).load_state_dict(state[name])
            self.stepper.health.sums.copy_(state["health"])
            self.__dict__.update(json.loads(state["progress"]))

    @property
    def validation_is_due(self) -> bool:
        """Whether to validate at this step. False if it is done, as in a training resumed after a validation."""
        done = bool(self.tables["val"]) and self.tables["val"][-1]["step"] == self.step
        last = self.step == self.solver.max_iter
        return not done and (last or self.step > 0 and self.step % self.solver.eval_period == 0)

    def log(self, values: dict[str, float]) -> dict[str, float] | None:
        """Record the lr and losses of a step. Returns their averages after the first step and each log period, else
        None."""
        self.step += 1
        self.since.append(values)
        if self.step % self.solver.log_period and self.tables["train"] and self.step != self.solver.max_iter:
            return None
        averages = {name: sum(row[name] for row in self.since) / len(self.since) for name in values}
        self.since = []
        self.tables["train"].append({"step": self.step, **averages})
        self.tables["health"].append({"step": self.step, **self.stepper.health.fetch()})
        return averages

    def validated(self, scores: dict[str, float]) -> None:
        """Save the scores, the state, and the weights if their joint AP is the best so far."""
        self.tables["val"].append({"step": self.step, **scores})
        if self.best is None or scores["joint_AP"] > self.best["joint_AP"]:
            self.best = {"step": self.step, **scores}
            self._save_weights(self.work / "best.safetensors")
        self.save()

    def save(self) -> None:
        """Write the state from which a later process can resume."""
        self.stepper.settle()
        state = {name: getattr(self.stepper, name).state_dict() for name in STATEFUL}
        progress = {name: getattr(self, name) for name in ("step", "best", "since", "tables")}
        with replace_file(self.work / "state.pt") as path:
            torch.save(state | {"health": self.stepper.health.sums, "progress": json.dumps(progress)}, path)

    def finish(self, *, models: Path, metrics: Path, curves: Path) -> None:
        """Write the outs and remove the work folder."""
        with replace_folder(models) as folder:
            shutil.copyfile(self.work / "best.safetensors", folder / "best.safetensors")
            self._save_weights(folder / "last.safetensors")
        for name, rows in self.tables.items():
            with replace_file(curves / f"{name}.tsv") as path:
                table = pd.DataFrame(rows, columns=None if rows else TABLES[name])
                table.to_csv(path, sep="\t", index=False, float_format="%.6g", lineterminator="\n")
        figures = {"best": {name: self.best[name] for name in ("step", "segm_AP", "joint_AP")}}
        if self.tables["train"]:  # empty if solver.max_iter is 0
            figures["last"] = {"loss": round(self.tables["train"][-1]["loss"], 4)}
        write_json(metrics, figures)
        for path in self.work.iterdir():
            path.unlink()
        self.work.rmdir()

    def _save_weights(self, path: Path) -> None:
        scores = {name: value for name, value in self.tables["val"][-1].items() if name != "step"}
        weights.save(path, self.network, self.metadata | {"step": self.step, "scores": scores})


def work_folder(settings: Any, *, files: Sequence[Path]) -> Path:
    """Folder of a training's state, below MTSEG_WORK, else DVC_ROOT (the repository, since DVC deletes the temporary
    folders of experiments), else the current folder. Its name is a hash of everything that the training depends on, so
    that no other training resumes from it: settings, files (those that exist), and the code of the imported modules of
    mtseg."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    modules = [sys.modules[name] for name in sorted(sys.modules) if name.split(".")[0] == "mtseg"]
    for path in [*files, *(Path(source) for module in modules if (source := getattr(module, "__file__", None)))]:
        digest.update(path.read_bytes() if path.is_file() else b"")
    parent = os.environ.get("MTSEG_WORK") or Path(os.environ.get("DVC_ROOT", ".")) / "work"
    return Path(parent) / "train" / digest.hexdigest()[:16]
