"""Errors of the user: reported in one line each, without a traceback."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class UserError(Exception):
    """Bad input. The message names the mistake, its place, the valid values and the fix."""

    @classmethod
    def many(cls, headline: str, faults: Sequence[str], shown: int = 50) -> UserError:
        """One error that lists `faults`, one per line. Only the first `shown` are listed; the rest are counted."""
        rest = [f"... and {len(faults) - shown} more"] if len(faults) > shown else []
        return cls("\n  ".join([headline, *faults[:shown], *rest]))


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def run_stage(stage: Callable[[], None]) -> None:
    """Run a stage's `main`; a `UserError` becomes its text on stderr and exit code 1."""
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # fvcore, on import
    try:
        stage()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("error: interrupted. No incomplete output was written: run the stage again", file=sys.stderr)
        sys.exit(130)


@contextmanager
def interrupts_held() -> Iterator[Callable[[], bool]]:
    """Defer SIGINT and SIGTERM, so that a step of work is not cut in half.

    Yields a function that returns whether a signal has arrived. A second signal raises KeyboardInterrupt at once."""
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
