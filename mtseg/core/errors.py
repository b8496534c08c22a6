"""Errors of the user: reported in one line each, without a traceback."""

from __future__ import annotations

import errno
import io
import os
import re
import reprlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUOTED = 200  # characters of a user's value that a line shows
LONGEST = 1000  # characters of a line


class UserError(Exception):
    """Bad input. The message names the mistake, its place, the valid values and the fix. faults: further lines."""

    def __init__(self, message: str, *faults: str) -> None:
        super().__init__(message, *faults)

    def __str__(self) -> str:
        return "\n  ".join(map(one_line, self.args))

    @classmethod
    def many(cls, headline: str, faults: Sequence[str], shown: int = 50) -> UserError:
        """One error that lists `faults`, one per line. Only the first `shown` are listed; the rest are counted."""
        rest = [f"... and {len(faults) - shown} more"] if len(faults) > shown else []
        return cls(headline, *faults[:shown], *rest)


def one_line(text: str) -> str:
    """The text as one line of a terminal, see `printable`; the middle of a very long text is left out."""
    return _cut(printable(text), LONGEST)


def printable(text: str) -> str:
    """The text with line breaks, control characters and half characters (lone surrogates) escaped, of which file names
    and labels may have any."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: Any) -> str:
    """A value of the user's as a line shows it: null, true and false as in JSON, without the middle if it is long."""
    shown = _Shown()
    shown.maxlevel, shown.maxlist, shown.maxdict, shown.maxtuple = 3, 20, 20, 20
    shown.maxstring = shown.maxother = QUOTED
    try:
        return _cut(shown.repr(value), QUOTED)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a number of thousands of digits"


class _Shown(reprlib.Repr):
    def repr_NoneType(self, value: None, level: int) -> str:
        return "null"

    def repr_bool(self, value: bool, level: int) -> str:
        return str(value).lower()


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2 - 2
    return f"{text[:half]}...{text[-half:]}"


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_pipe(path: Path | str) -> bool:
    """Whether it is a pipe or a device, not a file or folder: to read one could wait for ever."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


# errors of the operating system that the user can put right: number -> advice
FIXES = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some of your quota, or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "change its permissions, or those of its folder",
    errno.EPERM: "change its permissions, or those of its folder",
    errno.EIO: "check the disk",
    errno.EFBIG: "raise the limit with `ulimit -f unlimited`, or write to another file system",
    errno.ENOMEM: "lower the batch or the number of processes",
    errno.EMFILE: "raise the limit with `ulimit -n 4096`",
    errno.ENFILE: "close other programs",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "one of its folders is a file: choose another path",
    errno.ELOOP: "a link leads back to itself: choose another path",
    errno.EEXIST: "it stands where a folder is to be: choose another path",
    errno.EISDIR: "it stands where a file is to be: choose another path",
    errno.ESTALE: "check the network file system",
    errno.ETIMEDOUT: "check the network file system",
}
OURS = (errno.ENOENT, errno.ENOTEMPTY, errno.EBADF)  # which a bug of ours could cause as well

# in RuntimeErrors of PyTorch, oneDNN and Python, for which there is not always a class
NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: can't allocate memory|CUDA (error: )?out of memory|can't start new thread|"
    r"could not create a (primitive|memory object)$"  # `primitive descriptor` would be an error of ours
)


# PyTorch's own errors of the operating system, of a file and with a number
OF_FILE = re.compile(r"unable to [^<]*<(?P<file>.+)>.* \((?P<number>\d+)\)$")


def as_user_error(error: Exception) -> UserError | None:
    """The line for an error that the user can put right, such as a full disk; None for any other."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and (fix := _fix(error)):
        where = f"{error.filename}: " if error.filename else ""
        return UserError(f"{where}{os.strerror(error.errno).lower()}: {fix}")
    if isinstance(error, RuntimeError) and (found := OF_FILE.match(str(error))):
        return as_user_error(OSError(int(found["number"]), "", found["file"]))
    if isinstance(error, RuntimeError) and str(error).startswith(
        "Symlink loop from "
    ):  # Path.resolve before Python 3.13
        return UserError(f"{first_line(error).lower()}: {FIXES[errno.ELOOP]}")
    if out_of_memory(error):
        return UserError("not enough memory: lower the batch or the number and size of images at once")
    return None


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation or a new thread failed. Such an error says nothing of the code that raised it."""
    return (
        isinstance(error, MemoryError)
        or isinstance(error, OSError)
        and error.errno == errno.ENOMEM
        or isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or bool(NO_MEMORY.search(str(error))))  # the type is PyTorch's
    )


def _fix(error: OSError) -> str | None:
    if error.errno and error.filename and error.errno not in OURS:
        return FIXES.get(error.errno, "check its disk, or choose another path")
    return FIXES.get(error.errno)


@contextmanager
def packages_of(what: str, extra: str) -> Iterator[None]:
    """Around imports of packages that an extra of pyproject.toml installs: UserError when one of them is missing.
    what: needs them."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "mtseg":
            raise
        raise UserError(
            f"{what} needs {error.name}, which is not installed: pip install 'mtseg[{extra}]', see docs/install.md"
        ) from None


def print_any_text() -> None:
    """Let stdout escape what its encoding lacks, such as Cyrillic in Latin-1. stderr does so by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
