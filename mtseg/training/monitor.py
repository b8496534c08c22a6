"""What a training shows while it runs, and the curves it leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mtseg.core.files import replace_file

Row = dict[str, float]
# what a table without a row has in its head; val is never without
EMPTY = {"train": ["step", "lr", "loss"], "health": ["step", "stability"]}


class Curves:
    """Training losses, averaged over each log period, validation figures and the training's health, as tables with a
    row a step."""

    def __init__(self) -> None:
        self.train: list[Row] = []
        self.val: list[Row] = []
        self.health: list[Row] = []
        self._since: list[Row] = []

    def add(self, step: int, values: Row, *, every: int, last: int) -> Row | None:
        """Note a step's values; returns the row of averages when one is complete."""
        self._since.append(values)
        if step % every and self.train and step != last:
            return None
        row = {name: sum(row[name] for row in self._since) / len(self._since) for name in values}
        self.train.append({"step": step, **row})
        self._since = []
        return self.train[-1]

    def validated(self, step: int, values: Row) -> None:
        self.val.append({"step": step, **values})

    def watched(self, step: int, values: Row) -> None:
        self.health.append({"step": step, **values})

    def state(self) -> dict[str, list[Row]]:
        return {"train": self.train, "val": self.val, "health": self.health, "since": self._since}

    @classmethod
    def of(cls, state: Mapping[str, list[Row]]) -> Curves:
        curves = cls()
        curves.train, curves.val, curves.health, curves._since = (
            state[name] for name in ("train", "val", "health", "since")
        )
        return curves

    def write(self, folder: Path) -> None:
        """`train.tsv`, `val.tsv` and `health.tsv`."""
        for name, rows in (("train", self.train), ("val", self.val), ("health", self.health)):
            with replace_file(folder / f"{name}.tsv") as path:
                table = pd.DataFrame(rows, columns=None if rows else EMPTY[name])
                table.to_csv(path, sep="\t", index=False, float_format="%.6g", lineterminator="\n")


class Progress:
    """A bar on a terminal, lines elsewhere; each with the losses by name and the time left."""

    def __init__(self, console: Console, *, total: int, start: int):
        self.console, self.total, self.start, self.began = console, total, start, time.monotonic()
        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Bar(*columns, TextColumn("{task.fields[losses]}"), console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task("train", total=total, completed=start, losses="")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def update(self, step: int, row: Row | None) -> None:
        """After a step; `row` holds averages when a log period is over."""
        self.bar.update(self.task, completed=step)
        if row is None:
            return
        losses = "  ".join(f"{name} {row[name]:.3g}" for name in row if name.startswith("loss"))
        self.bar.update(self.task, losses=losses)
        if not self.console.is_terminal:
            left = (time.monotonic() - self.began) / (step - self.start) * (self.total - step)
            self.console.print(f"step {step}/{self.total}  {losses}  lr {row['lr']:.2e}  {left / 60:.1f} min left")

    def validated(self, step: int, row: Row) -> None:
        self.console.print(f"step {step}/{self.total}  val  " + "  ".join(f"{name} {row[name]:.1f}" for name in row))
