"""Where benchmarks put their temporary folders."""

from __future__ import annotations

import os
import shutil

MEMORY = "/dev/shm"  # files of a file system in memory need not be flushed to a disk
LEAST = 2 << 30  # free bytes; in a container it often has 64 MiB


def parent() -> str | None:
    """`MEMORY`, if there is room; None stands for the default."""
    return MEMORY if os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > LEAST else None
