"""Folders for unfinished work, which an interrupted run finds again. They are no outs of DVC, which deletes those
before each run. Two processes never do the same work: the first holds a lock of the operating system, which ends with
it, even if it is killed. The second waits and then finds what the first has left, or is refused."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from mtseg.core.errors import UserError
from mtseg.core.files import remove

LOCK, WAITING = "lock", "waiting"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of Lustre or NFS, as some are mounted


def work_root() -> Path:
    """The folder of all unfinished work, below it one for each stage: MTSEG_WORK, else `work` in DVC_ROOT (the
    repository, since DVC deletes the temporary folders of experiments), else in the current folder."""
    return Path(os.environ.get("MTSEG_WORK") or Path(os.environ.get("DVC_ROOT", ".")) / "work")


def work_folder(stage: str, settings: Any, *, files: Iterable[Path]) -> Path:
    """Folder of a stage's unfinished work. Its name is a hash of everything that the work depends on, so that no other
    work is continued there: settings, contents of the files (those that exist), and the code of the imported modules
    of mtseg."""
    return work_root() / stage / _digest(settings, [*files, *_code()])[:16]


def fingerprint(settings: Any, *, files: Iterable[Path], sized: Iterable[Path]) -> dict[str, str]:
    """Hashes of the settings, data and code of this process, for a comparison with those of others. Of the data the
    contents of `files`, and the sizes alone of `sized`, which can be too many to read in each process."""
    sizes = [path.stat().st_size if path.exists() else None for path in sized]
    return {"settings": _digest(settings, []), "data": _digest(sizes, files), "code": _digest(None, _code())}


def _digest(values: Any, files: Iterable[Path]) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    with ThreadPoolExecutor() as threads:
        for value in threads.map(_sha256, files):
            digest.update(value)
    return digest.hexdigest()


def _code() -> list[Path]:
    modules = [sys.modules[name] for name in sorted(sys.modules) if name.split(".")[0] == "mtseg"]
    return [Path(source) for module in modules if (source := getattr(module, "__file__", None))]


@contextmanager
def sole(work: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a work folder, which is created. While another process holds it, wait, and `say` whose it is.
    The folder is removed if the block succeeds, unless a further process waits for the same work, which then continues
    there."""
    with locked(work, lambda other: say(f"waiting for {other}, which does the same work in {work}")):
        yield
        with (work / WAITING).open("a") as waiting, suppress(BlockingIOError):
            _lock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = work.with_name(f".old-{work.name}")
            remove(gone)
            work.rename(gone)  # at once: no process shall find half of it
            remove(gone)


def owner(work: Path) -> str | None:
    """The process that holds the lock of a work folder, as text; None if no process does."""
    with suppress(FileNotFoundError), (work / LOCK).open("r+") as file:
        try:
            _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _owner(file)
    return None


@contextmanager
def locked(folder: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a folder, which is created. While another process holds it, `busy` is called with that process
    as text; unless it raises, wait."""
    while not (file := _locked(folder, busy)):
        pass
    with file:
        file.truncate(0)
        started = datetime.now(UTC).isoformat(" ", "seconds")
        json.dump({"host": socket.gethostname(), "process": os.getpid(), "started": started}, file)
        file.flush()
        yield


def _locked(folder: Path, busy: Callable[[str], None]) -> IO[str] | None:
    """The file whose lock is held; None if the process before has removed the folder meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as unless_held, suppress(FileNotFoundError):
        file = unless_held.enter_context((folder / LOCK).open("a+"))
        try:
            _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy(_owner(file))
            with (folder / WAITING).open("a+") as waiting:  # a+: NFS shares a lock only of a file to read
                _lock(waiting, fcntl.LOCK_SH)
                _lock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            unless_held.pop_all()
            return file
    return None


def _lock(file: IO[str], kind: int) -> None:
    """Raises BlockingIOError if another process holds the lock, and `kind` has LOCK_NB."""
    try:
        fcntl.flock(file, kind)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise UserError(
            f"locks do not work in {Path(file.name).parent}: set MTSEG_WORK to a local folder, or --out if this is "
            "`mtseg predict`"
        ) from None


def _owner(file: IO[str]) -> str:
    file.seek(0)
    try:
        known = json.load(file)
        return f"process {known['process']} on {known['host']}, started {known['started']}"
    except (ValueError, KeyError, TypeError):  # it has not written its name yet
        return "another process"


def _sha256(path: Path) -> bytes:
    if not path.is_file():  # it may be a pipe, which is refused when it is read
        return b""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
