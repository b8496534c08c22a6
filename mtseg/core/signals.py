"""How a stage ends: by itself, by an error of the user's, by a signal."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType

from mtseg.core.errors import as_user_error, print_any_text


def run_stage(stage: Callable[[], None], *, help: str | None = None) -> None:
    """Run a stage's `main`. An error that the user can put right becomes one line on stderr and exit code 1; SIGINT,
    SIGTERM and SIGHUP become one line and exit code 130, after unfinished files are removed. help: what --help prints
    of a script that has no other arguments."""
    if help:
        argparse.ArgumentParser(
            prog=f"python -m stages.{Path(sys.argv[0]).stem}", description=help,
            epilog="Its settings are in params.yaml.", formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        ).parse_args()  # fmt: skip
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # fvcore, on import
    print_any_text()
    for number in stops():
        signal.signal(number, partial(_interrupt, os.getpid()))
    try:
        with output_flushed():
            stage()
    except KeyboardInterrupt:
        print("error: interrupted. No incomplete output was written: run the stage again", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if line := as_user_error(error):
            sys.exit(f"error: {line}")
        raise


@contextmanager
def output_flushed() -> Iterator[None]:
    """Around all that a process prints: exit code 1 without a word when its reader ends, as `head` does."""
    try:
        yield
        print(end="", flush=True)  # sys.stdout is None if it was closed
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python writes to it at exit
        sys.exit(1)


def without_traceback() -> None:
    """From now on a signal that nothing catches ends this process with one line, and none is lost in a callback, as
    Python's imports have them: their exceptions are printed and ignored. Other exceptions go to the hooks as they are
    now."""
    if getattr(sys.excepthook, "func", None) is not _uncaught:
        sys.excepthook = partial(_uncaught, sys.excepthook)
    if getattr(sys.unraisablehook, "func", None) is not _ignored:
        sys.unraisablehook = partial(_ignored, sys.unraisablehook)


def _uncaught(
    other: Callable, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("error: interrupted\n")
    else:
        other(kind, error, traceback)


def _ignored(other: Callable, given: sys.UnraisableHookArgs) -> None:
    if issubclass(given.exc_type, KeyboardInterrupt):  # again, when the callback has ended
        _again(signal.SIGINT)
    else:
        other(given)


def imports_end_at_once() -> None:
    """From now on SIGINT within an import ends this process with one line, unless it is ignored. For a process that is
    a command of ours, before it does anything else."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, partial(_interrupt, os.getpid()))


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """Within the block a signal within an import raises KeyboardInterrupt when that has ended, for there is something
    to save."""
    before = {number: signal.getsignal(number) for number in stops()}
    before = {number: handler for number, handler in before.items() if getattr(handler, "func", None) is _interrupt}
    for number in before:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    if not deferred(number, frame):
        raise KeyboardInterrupt


def deferred(number: int, frame: FrameType | None) -> bool:
    """For a signal handler: whether the signal arrived within an import. It is then sent again, until the import has
    ended: C extensions swallow an exception of a handler, make another error of it or abort."""
    if importing := _importing(frame):
        _again(number)
    return importing


def _again(number: int) -> None:
    later = threading.Timer(0.01, os.kill, (os.getpid(), number))
    later.daemon = True
    later.start()


def _importing(frame: FrameType | None) -> bool:
    """Whether an import is nearer than a function of ours: a training may itself run within one."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        if frame.f_code.co_name != "<module>" and frame.f_globals.get("__name__", "").startswith("mtseg."):
            return False
        frame = frame.f_back
    return False


def _interrupt(pid: int, number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt. Within an import, end this process, but no fork of it: what is unfinished has a
    temporary name."""
    if os.getpid() == pid and _importing(frame):
        try:
            os.write(2, b"error: interrupted\n")
        finally:  # stderr may be closed
            os._exit(130)
    raise KeyboardInterrupt


def stops() -> list[signal.Signals]:
    """The signals that end a process, without SIGHUP where it is ignored, as nohup does."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


@contextmanager
def interrupts_held() -> Iterator[Callable[[], bool]]:
    """Defer SIGINT, SIGTERM and SIGHUP, so that a step of work is not cut in half: KeyboardInterrupt is raised at the
    end of the block. Yields a function that returns whether a signal has arrived, for a block that ends early by
    itself. A second signal raises KeyboardInterrupt at once if it is SIGINT: `timeout` sends SIGTERM twice."""
    caught = []

    def note(number: int, frame: object) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in stops()}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt
