"""Faults of val's annotations alone: the model is sound, what it is held against is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.case import Fault
from benchmarks.faults.data import shuffle_task
from benchmarks.faults.pictures import edit


def in_val(fault: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda raw: fault(raw / "val")


def half_unannotated(folder: Path) -> None:
    """Every other object was never drawn."""
    edit(folder, lambda record, number: record.update(shapes=record["shapes"][number % 2 :: 2]))


FAULTS = (
    Fault("30 % of one task's labels wrong in val alone", raw=in_val(shuffle_task(0.3, 1)), causes=("label_noise",)),
    Fault("half the objects of val were not annotated", raw=in_val(half_unannotated), causes=("annotations_missing",)),
)
