"""Work on several cores in one process: NumPy and SciPy let other threads run while they compute."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MOST = 4  # each has arrays of its own


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """The results of a function for each item, in the order of the items. The calls must not depend on each other."""
    count = min(MOST, os.cpu_count() or 1, len(items))
    if count < 2:
        return [*map(function, items)]
    with ThreadPoolExecutor(count) as pool:
        return [*pool.map(function, items)]
