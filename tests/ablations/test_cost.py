import subprocess
from pathlib import Path

import pytest

from ablations import cost
from mtseg.errors import UserError


def test_a_step_that_fails_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["ablations.cost"])
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nMemoryError: too much\n")
    monkeypatch.setattr(cost, "STATUS", Path(__file__))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"--one backbones-efficientnet-lite0-s0: MemoryError: too much"):
        cost.main()


def test_nothing_is_measured_where_memory_cannot_be_read(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["ablations.cost"])
    monkeypatch.setattr(cost, "STATUS", tmp_path / "none")
    cost.main()
    assert "Linux" in capsys.readouterr().out
