"""A user's mistake is reported in one line, or in one line for each fault, and never as a traceback."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class UserError(Exception):
    """Bad input. Its text says what is wrong, where, what is allowed, and how to fix it."""

    @classmethod
    def many(cls, headline: str, faults: Sequence[str], shown: int = 50) -> UserError:
        """One error that lists its faults, a line each; after `shown` of them, a count of the rest."""
        rest = [f"... and {len(faults) - shown} more"] if len(faults) > shown else []
        return cls("\n  ".join([headline, *faults[:shown], *rest]))


def run_stage(stage: Callable[[], None]) -> None:
    """Run a stage's `main`; a `UserError` becomes its text on stderr and exit code 1."""
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # fvcore, on import
    try:
        stage()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("error: interrupted; no output is left half-written; run the stage again", file=sys.stderr)
        sys.exit(130)


@contextmanager
def interrupts_held() -> Iterator[Callable[[], bool]]:
    """Hold an interruption (SIGINT, SIGTERM) back: what is yielded tells whether there was one, so that a step of work
    is done whole or not at all. A second one is not held back."""
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
