"""A tiny project: six images, a training of two steps, and the tree that an undisturbed run leaves."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.intake import ROOT, merge
from benchmarks.survival import child

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
TINY = {
    "device": "cpu",
    "generate": {"train": 7, "val": 2, "size": 64, "max_objects": 3},
    "model": {
        "backbone": "mobilenetv3_small", "weights": None, "num_queries": 6, "hidden_dim": 32, "num_heads": 4,
        "encoder_layers": 1, "encoder_feedforward_dim": 32, "decoder_layers": 1, "decoder_feedforward_dim": 32,
    },
    "input": {"size": 64, "workers": 0},
    "solver": {"max_iter": 2, "eval_period": 1, "log_period": 1, "ims_per_batch": 1, "warmup": 1},
    "loss": {"num_points": 64},
    "test": {"detections": 10},
    "visualise": {"pictures": 3, "size": 64},
}  # fmt: skip


def outs(stage: str) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[stage].get(kind, ())]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def set_params(folder: Path, changes: dict[str, Any], source: Path | None = None) -> None:
    path = folder / "params.yaml"
    params = YAML(typ="safe").load(source or path)
    merge(params, changes)
    with path.open("w") as file:
        YAML(typ="safe").dump(params, file)


def tree(folder: Path) -> dict[str, str]:
    """Relative path -> hash of every file but the states of trainings; a state that is left has its own entry."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "work" not in path.parts)
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return found | {f"{path.relative_to(folder)}/": "left" for path in folder.glob("work/train/*")}


@dataclass(frozen=True)
class Project:
    """folder: after an undisturbed run of `stages`. whole: its tree. stopped: the same project, its training killed
    when the last step was done and nothing written. disturbed: stages that are killed. copies: None, or
    where STAGE/NUMBER is the folder before each change of a file. changes: how often each of them changes a file."""

    folder: Path
    stopped: Path
    stages: tuple[str, ...]
    whole: dict[str, str] = field(default_factory=dict)
    disturbed: tuple[str, ...] = ()
    copies: Path | None = None
    changes: dict[str, int] = field(default_factory=dict)

    def build(self) -> None:
        from benchmarks.survival import faults

        self.folder.mkdir()
        set_params(self.folder, TINY, ROOT / "params.yaml")
        for stage in self.stages:
            if stage == "train":
                shutil.copytree(self.folder, self.stopped)
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()):
                importlib.import_module(f"stages.{stage}").main()  # so that forks have what it has prepared
        self.whole.update(tree(self.folder))
        for stage in self.disturbed:
            with self.copy(without=stage) as folder, tempfile.NamedTemporaryFile() as tally:
                copied = [faults.copied(self.copies / stage)] if self.copies else []
                _succeed(stage, folder, faults.counted(Path(tally.name)), *copied)
                self.changes[stage] = len(tally.read())
        child.run("train", self.stopped, faults.killed_before(".tmp-models"))
        (work,) = self.stopped.glob("work/train/*")
        assert {"state.pt", "previous.pt"} <= {path.name for path in work.iterdir()}

    @contextlib.contextmanager
    def copy(self, *, without: str | None = None, stopped: bool = False) -> Iterator[Path]:
        """A copy, without the outs of a stage."""
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "project"
            shutil.copytree(self.stopped if stopped else self.folder, folder)
            for path in (folder / out for out in (outs(without) if without else ())):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield folder

    def difference(self, folder: Path, until: str | None = None) -> str | None:
        """The first file that is not as an undisturbed run leaves it. until: the last stage that has run."""
        later = self.stages[self.stages.index(until) + 1 :] if until else ()
        missing = tuple(out for stage in later for out in outs(stage))
        found = tree(folder)
        different = sorted(
            name
            for name in {*found, *self.whole}
            if found.get(name) != self.whole.get(name) and not name.startswith(missing)
        )
        return f"{different[0]} differs, of {len(different)}" if different else None


def _succeed(stage: str, folder: Path, *faults: child.Fault) -> None:
    outcome = child.run(stage, folder, *faults)
    if outcome.code:
        raise SystemExit(f"{stage} fails without a fault:\n{outcome.err}")
