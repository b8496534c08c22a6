"""Work on many predictions, on all cores: in processes that are forks of this one, and so have its data. The results
are those of one process."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from mtseg.core.errors import UserError, stops
from mtseg.core.tables import PART, Images, Pairs, Predictions, return_memory
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches
from mtseg.evaluation.ap.pairs import of_masks

MOST = 4  # processes: each has arrays of its own
PR_SET_PDEATHSIG = 1  # prctl.h


def overlaps(images: Images, predictions: Predictions) -> Pairs:
    """`of_masks`."""
    if len(predictions) <= PART or cores() < 2:
        return of_masks(images, predictions)

    def of_rows(first: int) -> Pairs:
        images.instances.column("rle")  # kept for the next rows, in this process
        own = of_masks(images, predictions[first : first + PART])
        return own.replace(prediction=own.prediction + np.int32(first))

    found = Pairs.concatenate([*in_forks(of_rows, range(0, len(predictions), PART))])
    return_memory()
    return found


def average_precision(evaluation: Evaluation, matches: Matches, weights: np.ndarray) -> np.ndarray:
    """`evaluation.average_precision`."""
    if len(evaluation.predictions) <= PART:
        return evaluation.average_precision(matches, weights)
    ends = np.linspace(0, len(weights), min(cores(), len(weights)) + 1).astype(int)
    shares = [slice(low, high) for low, high in zip(ends[:-1], ends[1:], strict=True)]
    return np.concatenate([*in_forks(lambda own: evaluation.average_precision(matches, weights[own]), shares)])


def cores() -> int:
    """Those that this process may use, at most MOST; 1 where a fork is not safe."""
    return min(MOST, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1


def in_forks(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """The result of each item, in their order. Raises UserError if a process ends without one."""
    count = min(cores(), len(items))
    if count < 2:
        yield from map(function, items)
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(count, fork, _begin, (function, os.getpid())) as pool:
        try:
            yield from pool.map(_call, items)
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
