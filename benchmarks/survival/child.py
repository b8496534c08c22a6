"""Run a stage in a fork of this process, which has imported everything, with a fault in it."""

from __future__ import annotations

import importlib
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mtseg.core.signals import run_stage

LIMIT = 120  # s, after which a stage hangs
Fault = Callable[[], None]  # called in the fork, before the stage


@dataclass(frozen=True)
class Outcome:
    """code: of the exit; negative if a signal ended it, None if it was ended because it did not end by itself."""

    code: int | None
    out: str
    err: str

    def fault(self) -> str | None:
        """What must never happen: a hang, a crash, a traceback, an error of several lines or of none."""
        if self.code is None:
            return f"it does not end within {LIMIT} s"
        if "Traceback (most recent call last)" in self.err:
            return f"a traceback: {self.err.strip().splitlines()[-1]}"
        errors = sum(line.startswith("error: ") for line in self.err.splitlines())
        if self.code not in (0, 1, 130, -signal.SIGINT):
            return f"it ends with {self.code}"
        return None if self.code == 0 or errors == 1 else f"{errors} errors: {self.err!r}"


@dataclass
class Running:
    pid: int
    out: int
    err: int

    def wait(self, *, lines: int | None = None) -> Outcome:
        """lines: of stdout, after which the reader goes away, as `head` does."""
        texts, until, ended = {self.out: b"", self.err: b""}, time.monotonic() + LIMIT, True
        with selectors.DefaultSelector() as selector:
            for pipe in texts:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(until - time.monotonic())
                if not ready:
                    ended = False
                    os.killpg(self.pid, signal.SIGKILL)
                for key, _ in ready:
                    texts[key.fd] += (chunk := os.read(key.fd, 2**16))
                    enough = lines is not None and key.fd == self.out and texts[self.out].count(b"\n") >= lines
                    if not chunk or enough:
                        selector.unregister(key.fd)
                        os.close(key.fd)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return Outcome(
            code if ended else None, *(texts[pipe].decode(errors="replace") for pipe in (self.out, self.err))
        )


def start(stage: str | Callable[[], None], folder: Path, *faults: Fault) -> Running:
    """Start a stage, or a function in its place, in a folder."""
    (out, to_out), (err, to_err) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        _run(stage, folder, faults, to_out, to_err)
    os.close(to_out)
    os.close(to_err)
    return Running(pid, out, err)


def run(stage: str | Callable[[], None], folder: Path, *faults: Fault) -> Outcome:
    return start(stage, folder, *faults).wait()


def _run(stage: str | Callable[[], None], folder: Path, faults: tuple[Fault, ...], out: int, err: int) -> None:
    """The fork. It ends as a Python process does, but without the parent's handlers of the exit."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for number, pipe in ((1, out), (2, err)):
            os.dup2(pipe, number)
            os.close(pipe)
        os.closerange(3, 256)  # pipes of other children
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        main = importlib.import_module(f"stages.{stage}").main if isinstance(stage, str) else stage
        sys.argv = ["stage"]
        for fault in faults:
            fault()
        run_stage(main)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            code = code or 120  # as Python does
        os._exit(code)
