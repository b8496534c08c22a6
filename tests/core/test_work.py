"""Locks of folders of unfinished work."""

from __future__ import annotations

import errno
import fcntl
from contextlib import ExitStack
from pathlib import Path

import pytest

from mtseg.core.errors import UserError
from mtseg.core.files import remove
from mtseg.core.work import locked, owner


def test_a_folder_that_its_owner_removes_meanwhile_is_locked_anew(tmp_path, monkeypatch):
    folder, first, asked = tmp_path / "work", ExitStack(), []

    def end(other):
        asked.append(other)
        remove(folder)
        first.close()

    first.enter_context(locked(folder, end))
    with locked(folder, end):  # it ends after the lock was refused
        assert asked and owner(folder)
    mkdir, made = Path.mkdir, []

    def removed_once(path, **options):
        mkdir(path, **options)
        made.append(path)
        if len(made) == 1:
            remove(path)

    monkeypatch.setattr(Path, "mkdir", removed_once)
    with locked(folder, end):  # before the lock was opened
        assert owner(folder) and len(made) == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch, number):
    def fail(file, kind):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(UserError, match=f"locks do not work in {tmp_path / 'work'}: set MTSEG_WORK"):
        with locked(tmp_path / "work", pytest.fail):
            pytest.fail("nothing is done")
