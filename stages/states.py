"""`python -m stages.states [--remove]`: list, or remove, the states from which interrupted stages resume.

The stages train and predict remove their state when they are done. What stays are those that were interrupted and then
given other settings, data or code. Expect a line for each: folder, size, time of the last save, who works on it.
"""

import argparse
from datetime import datetime

from mtseg.core.files import remove
from mtseg.core.signals import run_stage
from mtseg.core.work import owner, work_root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--remove", action="store_true", help="remove those that no process works on")
    given = parser.parse_args()
    found = sorted(path for path in work_root().glob("*/*") if path.is_dir())
    for folder in found:
        files = [path.stat() for path in folder.rglob("*") if path.is_file()]
        size, used = sum(file.st_size for file in files), owner(folder)
        last = max((file.st_mtime for file in files), default=folder.stat().st_mtime)
        when = datetime.fromtimestamp(last).strftime("%Y-%m-%d %H:%M")
        state = used or "no process works on it"
        if given.remove and not used:
            remove(folder)
            state = "removed"
        print(f"{folder}  {size / 1e6:.0f} MB  {when}  {state}")
    if not found:
        print(f"no state of an interrupted stage in {work_root()}")


if __name__ == "__main__":
    run_stage(main)
