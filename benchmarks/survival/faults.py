"""What goes wrong inside a stage: kills, signals and errors of the system at a change of a file, and limits."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from unittest.mock import patch

from benchmarks.survival.child import Fault

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
RENAMES = ("os.rename", "os.truncate", "os.link", "os.symlink")


def change(event: str, arguments: tuple) -> str | None:
    """The path that an audit event is about to change in this folder, or None."""
    path = arguments[0] if arguments else None
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    path = os.fsdecode(path)
    if event == "open":
        changes = isinstance(arguments[2], int) and arguments[2] & WRITING
    elif event in ("os.remove", "os.rmdir"):
        changes = arguments[-1] != -1 or os.path.lexists(path)  # relative to an open folder, or present
    else:
        changes = event in RENAMES or event == "os.mkdir" and not os.path.lexists(path)
    return path if changes and os.path.abspath(path).startswith(os.getcwd() + os.sep) else None


def at_changes(when: Callable[[int, str], bool], act: Callable[[str, str], None]) -> Fault:
    """Call `act` with event and path before each change of a file for which `when`, called with the number of the
    change from 1 and the path, is true."""

    def install() -> None:
        count = 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal count
            if path := change(event, arguments):
                count += 1
                if when(count, path):
                    act(event, path)

        sys.addaudithook(hook)

    return install


def counted(file: Path) -> Fault:
    """Write a byte to `file` for each change."""
    return at_changes(lambda *_: True, lambda *_: os.write(os.open(file, os.O_WRONLY | os.O_APPEND), b"."))


def copied(to: Path) -> Fault:
    """Copies the folder before each change to `to`/NUMBER: the files that a process killed there leaves."""
    numbers = count(1)
    return at_changes(lambda *_: True, lambda *_: shutil.copytree(".", to / str(next(numbers))))


def killed(number: int) -> Fault:
    return at_changes(lambda count, _: count == number, lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def killed_before(name: str) -> Fault:
    """Killed before a path of this name is changed."""
    return at_changes(lambda _, path: Path(path).name == name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def signalled(number: int, which: signal.Signals, times: int = 1) -> Fault:
    return at_changes(lambda count, _: count == number, lambda *_: [os.kill(os.getpid(), which) for _ in range(times)])


def full_disk(number: int) -> Fault:
    """From a change on, nothing new can be written."""

    def refuse(event: str, path: str) -> None:
        if event in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    return at_changes(lambda count, _: count >= number, refuse)


def read_only() -> Fault:
    def refuse(event: str, path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    return at_changes(lambda *_: True, refuse)


def limited(which: int, most: int) -> Fault:
    """A limit of the system, such as the size of a file."""
    return lambda: resource.setrlimit(which, (most, resource.getrlimit(which)[1]))


def little_memory(megabytes: int) -> Fault:
    """`megabytes` more than now."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limited(resource.RLIMIT_AS, pages * resource.getpagesize() + megabytes * 2**20)()

    return limit


def dying_worker() -> None:
    """A process that loads images ends without a word, as one does that the system ends for its memory."""
    from mtseg.data import loader

    parent, read = os.getpid(), loader.read_image

    def die(*arguments):
        return read(*arguments) if os.getpid() == parent else os.kill(os.getpid(), signal.SIGKILL)

    patch.object(loader, "read_image", die).start()
