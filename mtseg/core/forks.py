"""Work on all cores, in processes that are forks of this one, and so have its data. The results are those of one
process, in the order of the work. The processes end with this one, even if it is killed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from mtseg.core.errors import UserError
from mtseg.core.signals import stops

MOST = 4  # processes: each has arrays of its own
PR_SET_PDEATHSIG = 1  # prctl.h


def cores() -> int:
    """Those that this process may use, at most MOST; 1 where a fork is not safe."""
    return min(MOST, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1


def in_forks(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """The result of each item, in their order. Raises UserError if a process ends without one."""
    with forked(function, min(cores(), len(items))) as each:
        yield from each(items)


@contextmanager
def forked(function: Callable[[Any], Any], count: int) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """Start `count` processes now, below 2 none, and yield `map` of the function on them. They have the data of this
    process as they are now, and keep no copy of what it makes later."""
    if count < 2:
        yield lambda items: map(function, items)
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(count, fork, _begin, (function, os.getpid())) as pool:
        try:
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, stops())  # until a process ignores them
            try:
                pool.submit(int)  # starts all
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            yield lambda items: pool.map(_call, items)
        except BrokenProcessPool:
            raise UserError(
                "a process ended without an error, most likely for lack of memory: free some, or use fewer cores, "
                "as with `taskset -c 0`"
            ) from None
        except BaseException:  # the pool would wait for all that they do
            for child in multiprocessing.active_children():
                child.kill()
            raise


def _begin(function: Callable[[Any], Any], parent: int) -> None:
    """In a new process, which leaves signals to its parent and ends with it, even if that is killed."""
    global _function
    _function = function
    for number in stops():
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)
