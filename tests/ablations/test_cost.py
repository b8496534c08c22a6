import subprocess
from pathlib import Path

import pytest

from ablations import collect, cost, studies
from mtseg.core.errors import UserError
from mtseg.model import mask2former

ROOT = Path(__file__).parents[2]


def test_a_step_that_fails_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["ablations.cost", "--again"])
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nMemoryError: too much\n")
    monkeypatch.setattr(cost, "STATUS", Path(__file__))
    monkeypatch.setattr(cost.experiments, "head", lambda: "abc1234")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"--one backbones-efficientnet-lite0-s0: MemoryError: too much"):
        cost.main()


def test_nothing_is_measured_where_memory_cannot_be_read(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["ablations.cost"])
    monkeypatch.setattr(cost, "STATUS", tmp_path / "none")
    cost.main()
    assert "Linux" in capsys.readouterr().out


def test_a_step_has_all_tasks_of_the_run(monkeypatch):
    seen = []

    class Watched(mask2former.Mask2Former):
        def forward(self, batch):
            losses = super().forward(batch)
            seen.append((self.tasks, losses))
            return losses

    monkeypatch.setattr(mask2former, "Mask2Former", Watched)
    monkeypatch.setattr(cost, "resident", lambda key: 0)  # of Linux alone
    monkeypatch.setattr(cost, "STEPS", 1)
    run = next(
        run
        for run in studies.runs(studies.read("backbones"), studies.SCALES[0], params=ROOT / "params.yaml")
        if run.factors["backbone"] == "mobilenetv3_large"
    )
    cost.measure(run)
    ((tasks, losses),) = seen
    assert [task.name for task in tasks] == [task.name for task in run.checked.tasks] and len(tasks) > 1
    assert all(losses[f"loss_{task.name}_0"] > 0 for task in tasks)


@pytest.fixture
def written(monkeypatch, tmp_path):
    """The csv, and a page of its own."""
    (tmp_path / "results.md").write_text("<!-- backbones cost -->\nold\n<!-- /backbones cost -->\n")
    monkeypatch.setattr(cost.page, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(cost, "FILE", tmp_path / "cost.csv")
    return tmp_path / "cost.csv"


def test_what_was_measured_with_the_same_params_is_not_measured_again(written, monkeypatch):
    measured = []

    def of(name, run):
        measured.append(name)
        return [run.scale, *run.factors.values(), "0.1", str(len(measured)), run.digest]

    monkeypatch.setattr(cost, "STATUS", Path(__file__))
    monkeypatch.setattr(cost, "_measured", of)
    monkeypatch.setattr(cost.experiments, "other_code", lambda commits: 0)
    monkeypatch.setattr(cost.experiments, "head", lambda: "abc1234def")
    monkeypatch.setattr("sys.argv", ["ablations.cost"])
    cost.main()
    assert measured == [*cost.planned()] and "old" not in cost.page.PAGE.read_text()
    assert "\n\nCommit abc1234.\n\n" in cost.page.PAGE.read_text()
    first, lines = written.read_bytes(), written.read_text().splitlines()
    cost.main()
    assert len(measured) == len(lines) - 1 and written.read_bytes() == first
    written.write_text("\n".join([*lines[:2], lines[2].replace(lines[2].split(",")[-2], "other"), *lines[3:]]) + "\n")
    cost.main()
    assert measured[len(lines) - 1 :] == [[*cost.planned()][1]]
    monkeypatch.setattr("sys.argv", ["ablations.cost", "--again"])
    cost.main()
    assert len(measured) == 2 * (len(lines) - 1) + 1
    monkeypatch.setattr("sys.argv", ["ablations.cost"])
    monkeypatch.setattr(cost.experiments, "other_code", lambda commits: 1)
    cost.main()
    assert len(measured) == 3 * (len(lines) - 1) + 1, "the code has changed since"


def test_a_run_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(cost, "STATUS", Path(__file__))
    monkeypatch.setattr("sys.argv", ["ablations.cost", "--one", "nonesuch"])
    with pytest.raises(UserError, match="--one nonesuch: there is no such run; there are: backbones-efficientnet"):
        cost.main()


def test_the_committed_table_is_of_the_committed_csv_and_this_of_todays_settings():
    rows = collect.read(ROOT / cost.FILE)
    text = (ROOT / cost.page.PAGE).read_text(encoding="utf-8")
    assert f"<!-- backbones cost -->\n\n{cost.table(rows)}\n\n<!--" in text
    assert {(row["scale"], row["backbone"], row["params"]) for row in rows} == {
        (run.scale, run.factors["backbone"], run.digest) for run in cost.planned().values()
    }


def test_without_a_csv_the_page_stays_as_it_is(written):
    cost.publish()
    assert "old" in cost.page.PAGE.read_text()
