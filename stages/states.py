"""`python -m stages.states [--remove]`: list, or remove, the states from which interrupted stages resume.

The stages train and predict remove their state when they are done. What stays are those that were interrupted and then
given other settings, data or code. Expect a line for each: folder, size, time of the last save, who works on it.
"""

import argparse
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from mtseg.core.signals import run_stage
from mtseg.core.work import owner, sole, work_root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--remove", action="store_true", help="remove those that no process works on")
    given = parser.parse_args()
    found = sorted(path for path in work_root().glob("*/*") if path.is_dir())
    for folder in found:
        size, last = _size_and_time(folder)
        when = datetime.fromtimestamp(last).strftime("%Y-%m-%d %H:%M") if last else "no file"
        used = owner(folder)
        if given.remove and not used:
            with suppress(BlockingIOError), sole(folder, _leave):  # a process may have begun to work on it meanwhile
                used = "removed"
        state = used or owner(folder) or "no process works on it"
        print(f"{folder}  {size / 1e6:.0f} MB  {when}  {state}")
    if not found:
        print(f"no state of an interrupted stage in {work_root()}")


def _size_and_time(folder: Path) -> tuple[int, float]:
    """Of all files: their bytes, and when one was written last; 0 if there is none."""
    size, last = 0, 0.0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a training that saves renames its files
                facts = os.stat(os.path.join(path, name))
                size, last = size + facts.st_size, max(last, facts.st_mtime)
    return size, last


def _leave(waiting: str) -> None:
    raise BlockingIOError


if __name__ == "__main__":
    run_stage(main)
