import shutil
import sys
from pathlib import Path

import pytest

from ablations import cost, page, rows
from benchmarks.memory import train
from mtseg.core.errors import UserError
from tests import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with params.yaml, the committed measurements and an old table."""
    (tmp_path / cost.FILE.parent).mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for name in (cost.FILE, "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / page.PAGE).write_text("<!-- backbones cost -->\nold\n<!-- /backbones cost -->\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ablations.cost"])
    return tmp_path


def test_what_was_measured_with_the_same_params_is_not_measured_again(folder, capsys):
    before = cost.FILE.read_bytes()
    cost.main()
    assert cost.FILE.read_bytes() == before
    assert f"\n\n{cost.table(rows.read(cost.FILE))}\n\n" in page.PAGE.read_text()
    assert "8 of 8 measured with other code" in capsys.readouterr().out


def test_a_run_that_does_not_exist(folder):
    sys.argv += ["--one", "nonesuch"]
    with pytest.raises(UserError, match="--one nonesuch: no such run, valid: backbones-efficientnet"):
        cost.main()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone")
def test_a_step_takes_time_and_memory():
    params = tiny.params()
    tasks = [task.model_copy(update={"classes": ("a", "b"), "class_weights": None}) for task in params.tasks]
    used = train(tasks, params, side=64, images=2, objects=3, steps=1)
    assert used.seconds > 0 and used.peak >= 0 and used.stays > 2**16  # an earlier test may have had the higher peak


def test_the_committed_csv_is_of_the_current_params_and_gives_the_committed_table(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = rows.read(cost.FILE)
    assert f"<!-- backbones cost -->\n\n{cost.table(found)}\n\n<!--" in page.PAGE.read_text(encoding="utf-8")
    assert {(row["scale"], row["backbone"], row["params"]) for row in found} == {
        (run.scale, run.factors["backbone"], run.digest) for run in cost.planned().values()
    }
