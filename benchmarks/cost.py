"""Time and memory of a command, with those of the processes that it starts. Linux only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Cost:
    """Of a run: seconds of wall time and of CPU time, and peak resident memory in MB, of all its processes."""

    wall: float
    cpu: float
    peak: float


def run(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Cost:
    """The cost of a process in `folder`. Exits if it fails."""
    start = time.perf_counter()
    process, peak = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=subprocess.DEVNULL), 0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak = max(peak, memory(process.pid))
        time.sleep(0.2)
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)  # else it seems to run
    if status:
        sys.exit(f"{' '.join(arguments)} failed")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, max(usage.ru_maxrss * 1024, peak) / 1e6)


def memory(pid: int) -> int:
    """Bytes of a process and those that it has started, together: what they share is counted once. 0 while there are
    none, for the system knows the peak of a single process."""
    total = 0
    with suppress(psutil.Error):  # one of them has ended
        if started := (process := psutil.Process(pid)).children(recursive=True):
            total = sum(each.memory_full_info().pss for each in (process, *started))
    return total
