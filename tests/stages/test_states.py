"""stages/states.py: states that a process works on stay."""

import os
import sys

from mtseg.core.work import sole, work_root
from stages import states


def test_states_are_listed_and_those_that_no_process_works_on_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("MTSEG_WORK", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    used, left = work_root() / "train/used", work_root() / "predict/left"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"x" * 2_000_000)
    with sole(used, print):
        monkeypatch.setattr(sys, "argv", ["states"])
        states.main()
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith(str(left)) and " 2 MB " in first and "no process works on it" in first
        assert second.startswith(str(used)) and "no process" not in second
        monkeypatch.setattr(sys, "argv", ["states", "--remove"])
        states.main()
        assert used.exists() and not left.exists()
    capsys.readouterr()
    states.main()
    assert "no state of an interrupted stage" in capsys.readouterr().out


def test_a_process_that_begins_or_saves_meanwhile_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTSEG_WORK", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["states", "--remove"])
    stat, calls = os.stat, []

    def renamed(path, *given, **more):
        """The file exists when the folder is listed, and no more when it is looked at."""
        if str(path).endswith(".tmp-state.pt"):
            calls.append(path)
            if len(calls) > 1:
                raise FileNotFoundError
        return stat(path, *given, **more)

    with sole(tmp_path / "train/used", print):
        (tmp_path / "train/used/.tmp-state.pt").write_bytes(b"x")
        owners = iter([None, "process 1"])  # when it is asked first, the process has not begun
        monkeypatch.setattr(states, "owner", lambda folder: next(owners))
        monkeypatch.setattr(os, "stat", renamed)
        calls.append("")
        states.main()
        assert "process 1" in capsys.readouterr().out and (tmp_path / "train/used").exists()
