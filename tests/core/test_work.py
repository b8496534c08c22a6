"""Locks of folders of unfinished work."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

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
