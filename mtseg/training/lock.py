"""Two processes never work on one training: the first holds a lock of the operating system, which ends with it, even
if it is killed; the second waits and then finds the state that the first has left."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from mtseg.core.files import remove

LOCK, WAITING = "lock", "waiting"


@contextmanager
def sole(work: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a work folder, which is created. While another process holds it, wait, and `say` whose it is.
    The folder is removed if the block succeeds, unless a further process waits for the same training, which then takes
    the state from there."""
    with _locked(work, say):
        yield
        with (work / WAITING).open("a") as waiting, suppress(BlockingIOError):
            fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = work.with_name(f".old-{work.name}")
            remove(gone)
            work.rename(gone)  # at once: no process shall find half of it
            remove(gone)


def owner(work: Path) -> str | None:
    """The process that holds the lock of a work folder, as text; None if no process does."""
    with suppress(FileNotFoundError), (work / LOCK).open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _owner(file)
    return None


@contextmanager
def _locked(work: Path, say: Callable[[str], None]) -> Iterator[None]:
    while True:
        work.mkdir(parents=True, exist_ok=True)
        with (work / LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for {_owner(file)}, which runs the same training in {work}")
                with (work / WAITING).open("a") as waiting:
                    fcntl.flock(waiting, fcntl.LOCK_SH)
                    fcntl.flock(file, fcntl.LOCK_EX)
            if not os.fstat(file.fileno()).st_nlink:
                continue  # the process before has removed the folder
            file.truncate(0)
            started = datetime.now(UTC).isoformat(" ", "seconds")
            json.dump({"host": socket.gethostname(), "process": os.getpid(), "started": started}, file)
            file.flush()
            yield
            return


def _owner(file: IO[str]) -> str:
    file.seek(0)
    try:
        known = json.load(file)
        return f"process {known['process']} on {known['host']}, started {known['started']}"
    except (ValueError, KeyError, TypeError):  # it has not written its name yet
        return "another process"
