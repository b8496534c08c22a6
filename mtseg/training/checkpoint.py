"""State of a training run (weights, optimiser, best scores, curves): saved, resumed, and written as outs of DVC."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mtseg.core.errors import first_line, out_of_memory
from mtseg.core.files import remove, replace_file, replace_folder, sync, write_json
from mtseg.core.params import Solver
from mtseg.model import weights
from mtseg.model.mask2former import Mask2Former
from mtseg.model.ranks import ALONE, Ranks
from mtseg.training.step import Stepper

STATE, PREVIOUS = "state.pt", "previous.pt"
STATEFUL = ("network", "optimizer", "scaler")  # attributes of a Stepper with a state dict
# tables that a training writes, with the columns of an empty one
TABLES = {"train": ["step", "lr", "loss"], "val": ["step"], "health": ["step", "stability"]}


def _deciding(scores: dict[str, float]) -> float:
    """Joint AP; AP if no object of val has the labels of all tasks, which leaves joint AP undefined."""
    return scores.get("joint_AP", scores.get("segm_AP", 0.0))


class Run:
    """A training run in memory and in its work folder, which is no out of DVC, since DVC deletes outs before each run.

    tables: `train` (averages over each log period), `val` and `health`, with a row for each logged step. since: values
    of the steps after the last row of `train`. best: step and scores of the best validation, whose weights are
    best_weights. summaries: of the predictions of the `best` and the `last` validation. metadata: of the checkpoints,
    besides step, scores and summary. notes: a line for each thing that the user should know of how the run begins.
    ranks: rank 0 alone reads and writes, the others begin with its state, which does not depend on their number.
    """

    def __init__(
        self, network: Mask2Former, solver: Solver, *, work: Path, metadata: dict[str, Any], ranks: Ranks = ALONE
    ):
        self.network, self.solver, self.work, self.metadata, self.ranks = network, solver, work, metadata, ranks
        self.stepper = Stepper(network, solver, broken=work / "broken_batch.pt", ranks=ranks)
        self.step, self.best, self.best_weights, self.since = 0, None, None, []
        self.summaries: dict[str, list[list[float]]] = {}
        self.tables: dict[str, list[dict[str, float]]] = {name: [] for name in TABLES}
        self.saved, self.notes = time.monotonic(), []
        for path in (work / STATE, work / PREVIOUS) if ranks.first else ():
            if path.exists() and self._resumed(path):
                self.notes.append(f"resumed at step {self.step} of {solver.max_iter}, from {path}")
                break
        if ranks.size > 1:
            content = ranks.share(self._content().getvalue() if ranks.first else None)
            if not ranks.first:
                self._restore(torch.load(io.BytesIO(content), map_location=network.device, weights_only=True))

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

    @property
    def save_is_due(self) -> bool:
        """Whether the last save is longer ago than `solver.save_minutes`."""
        return time.monotonic() - self.saved > 60 * self.solver.save_minutes

    def validated(self, scores: dict[str, float], summary: list[list[float]]) -> None:
        """Keep scores and summary, and the weights if they are the best so far; save the state."""
        self.tables["val"].append({"step": self.step, **scores})
        self.summaries["last"] = summary
        if self.best is None or _deciding(scores) > _deciding(self.best):
            self.best = {"step": self.step, **scores}
            self.summaries["best"] = summary
            if self.ranks.first:
                self.best_weights = {name: value.cpu().clone() for name, value in self.network.state_dict().items()}
        self.save()

    def _content(self) -> io.BytesIO:
        state = {name: getattr(self.stepper, name).state_dict() for name in STATEFUL}
        progress = {name: getattr(self, name) for name in ("step", "best", "since", "summaries", "tables")}
        state |= {"health": self.stepper.health.sums, "best_weights": self.best_weights}
        torch.save(state | {"progress": json.dumps(progress)}, content := io.BytesIO())
        return content

    def _restore(self, state: dict[str, Any]) -> None:
        for name in STATEFUL:
            getattr(self.stepper, name).load_state_dict(state[name])
        self.stepper.health.sums.copy_(state["health"])
        self.best_weights = state["best_weights"]
        self.__dict__.update(json.loads(state["progress"]))

    def save(self) -> None:
        """Write the state from which a later process can resume, and keep the one before it."""
        if not self.ranks.first:
            return
        content = self._content()
        with replace_file(self.work / STATE) as path:
            with path.open("wb") as file:
                file.write(self._signature(content.getbuffer()))
                file.write(content.getbuffer())
                os.fsync(file.fileno())  # before the rename, or a power failure could leave an empty file
            if (self.work / STATE).is_file():
                (self.work / STATE).replace(self.work / PREVIOUS)
        self.saved = time.monotonic()

    def finish(self, *, models: Path, metrics: Path, curves: Path) -> None:
        """Write the outs."""
        if not self.ranks.first:
            return
        now = {name: value.cpu() for name, value in self.network.state_dict().items()}
        with replace_folder(models) as folder:
            self._export(folder, "best", self.best_weights, self.best)
            self._export(folder, "last", now, self.tables["val"][-1])
        for name, rows in self.tables.items():
            with replace_file(curves / f"{name}.tsv") as path:
                table = pd.DataFrame(rows, columns=None if rows else TABLES[name])
                table.to_csv(path, sep="\t", index=False, float_format="%.6g", lineterminator="\n")
        figures = {"best": {name: self.best[name] for name in ("step", "segm_AP", "joint_AP") if name in self.best}}
        if self.tables["train"]:  # empty if solver.max_iter is 0
            figures["last"] = {"loss": round(self.tables["train"][-1]["loss"], 4)}
        write_json(metrics, figures)
        for path in (models, curves, metrics):
            sync(path)

    def _export(self, folder: Path, name: str, state: dict[str, Tensor], validated: dict[str, float]) -> None:
        scores = {key: value for key, value in validated.items() if key != "step"}
        metadata = self.metadata | {
            "step": validated["step"],
            "scores": scores,
            "summary": self.summaries.get(name, []),
        }
        weights.write(folder / f"{name}.safetensors", state, json.dumps(metadata, sort_keys=True, allow_nan=False))

    def _signature(self, content: bytes | memoryview) -> bytes:
        """SHA-256 of the content and of the run's name: no damaged state is used, and none of another training."""
        digest = hashlib.sha256(self.work.name.encode())
        digest.update(content)
        return digest.digest()

    def _resumed(self, path: Path) -> bool:
        """Continue from a saved state. False if it is damaged, of another training, or of a PyTorch that this one does
        not understand; the file is then renamed."""
        begun = {name: copy.deepcopy(getattr(self.stepper, name).state_dict()) for name in STATEFUL}
        try:
            content = memoryview(path.read_bytes() if path.is_file() else b"")  # a FIFO would wait forever
            if self._signature(content[32:]) == content[:32]:
                self._restore(torch.load(io.BytesIO(content[32:]), map_location=self.network.device, weights_only=True))
                return True
            fault = "is damaged, or of another training"
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        except Exception as error:  # of any type. It is no bug of this code, which wrote the same content
            if out_of_memory(error):
                raise
            for name in STATEFUL:
                getattr(self.stepper, name).load_state_dict(begun[name])
            self.stepper.health.sums.zero_()
            self.best_weights = None
            fault = f"is not read by this version of PyTorch ({first_line(error)})"
        aside = path.with_name(f"{path.name}.unusable")
        remove(aside)
        path.rename(aside)
        self.notes.append(f"{path} {fault}: it is kept as {aside.name} and not used")
        return False
