"""Runs of a study, in a small repository whose stages finish at once."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ablations import run, studies, tables
from mtseg.core.errors import UserError
from tests.repository import ENVIRONMENT, call, commit, dvc

ROOT = Path(__file__).parents[2]
STAGE = """
import json, os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
params = YAML(typ="safe").load(Path("params.yaml"))
mask = int(params["loss"]["mask"])
time.sleep(60 if str(mask) == os.environ.get("SLOW") else 0)
if str(mask) == os.environ.get("FAILS"):
    sys.exit(f"no luck with {mask}")
Path("metrics").mkdir(exist_ok=True)
Path(f"metrics/{sys.argv[1]}.json").write_text(json.dumps({"joint": {"AP": 10 * mask + params["seed"]}}))
"""
STUDY = {
    "question": "Does a study run?",
    "vary": {"mask": {level: {"loss": {"mask": float(level)}} for level in (1, 2)}},
    "seeds": 1,
    "metrics": {"joint AP": "evaluate:joint.AP"},
    "against": {"mask": 1},
}


@pytest.fixture
def repo(tmp_path):
    repo = tmp_path / "repo"
    ignored = shutil.ignore_patterns("__pycache__", "studies", "results")
    shutil.copytree(ROOT / "ablations", repo / "ablations", ignore=ignored)
    for folder in ("mtseg", "recipes"):
        (repo / folder).symlink_to(ROOT / folder)
    for folder in ("ablations/studies", "docs"):
        (repo / folder).mkdir()
    YAML().dump(STUDY, repo / "ablations/studies/tiny.yaml")
    shutil.copy(ROOT / "params.yaml", repo)
    (repo / ".gitignore").write_text("__pycache__/\n")
    (repo / "docs/results.md").write_text("# Results\n")
    (repo / "stage.py").write_text(STAGE)
    stages = {
        name: {
            "cmd": f"python stage.py {name}", "deps": ["stage.py"], "params": ["seed", "loss"],
            "metrics": [{f"metrics/{name}.json": {"cache": False}}],
        }
        for name in ("evaluate", "filter")
    }  # fmt: skip
    YAML().dump({"stages": stages}, repo / "dvc.yaml")
    call(repo, "git", "init", "--quiet")
    dvc(repo, "init", "--quiet")
    commit(repo)
    return repo


@pytest.fixture
def command(repo, monkeypatch, capsys):
    """A function that runs a module's command in the repository and returns what it printed."""
    monkeypatch.chdir(repo)
    monkeypatch.setattr(studies, "HERE", repo / "ablations")

    def call(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *arguments])
        capsys.readouterr()
        module.main()
        return capsys.readouterr().out

    return call


def experiments(repo):
    return dict(line.split()[::-1] for line in call(repo, "git", "show-ref").splitlines() if "refs/exps/" in line)


@pytest.mark.slow
def test_a_failed_run_is_reported_and_the_next_call_makes_what_is_missing(repo, command, monkeypatch, capsys):
    params = repo / "params.yaml"
    params.write_text(params.read_text() + "# mine\n")
    monkeypatch.setenv("FAILS", "2")
    with pytest.raises(UserError, match="1 runs failed(?s:.*)tiny-2-s0\n(?s:.*)no luck with 2"):
        command(run)
    printed = capsys.readouterr().out
    assert "2 runs at the scale 'embedded', 0 of them done" in printed and printed.count("FAILED") == 1
    assert len(experiments(repo)) == 1
    assert "M params.yaml" in (changed := call(repo, "git", "status", "--short")) and len(changed.splitlines()) == 2
    assert params.read_text().endswith("# mine\n")

    monkeypatch.delenv("FAILS")
    assert command(run).splitlines()[0].endswith("1 of them done")
    rows = (repo / "ablations/results/tiny_embedded.csv").read_text()
    assert [line.split(",")[-1] for line in rows.splitlines()] == ["joint AP", "10", "20"]
    before = experiments(repo)
    listed = command(run, "--list")
    assert len(before) == 2 and "2 of them done\n" in listed and "Does a study run?\ndone  tiny-1-s0" in listed

    command(run, "tiny", "--again")
    after = experiments(repo)
    assert before.keys() == after.keys() and not {*before.values()} & {*after.values()}
    assert (repo / "ablations/results/tiny_embedded.csv").read_text() == rows

    assert "2 of 2 runs" in command(tables)
    assert "| 2 | 1 | 20.0 | +10.0 |" in (repo / "docs/results.md").read_text()


@pytest.mark.slow
def test_an_interrupt_stops_the_runs_and_keeps_finished_ones(repo):
    command = [sys.executable, "-m", "ablations.run", "--jobs", "2"]
    environment = ENVIRONMENT | {"SLOW": "1", "PYTHONUNBUFFERED": "1"}
    options = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, cwd=repo, env=environment, **options) as process:
        while not (line := process.stdout.readline()).endswith("tiny-2-s0\n"):
            assert line, "it ended before"
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        assert process.wait(timeout=20)
    assert len((repo / "ablations/results/tiny_embedded.csv").read_text().splitlines()) == 2
    clones = [path for path in (repo / ".dvc/tmp/ablations").iterdir() if path.is_dir()]
    assert not clones and len(experiments(repo)) == 1


def test_code_that_is_not_committed_is_not_run(repo, command):
    (repo / "dvc.yaml").write_text((repo / "dvc.yaml").read_text() + "# changed\n")
    with pytest.raises(UserError, match="commit dvc.yaml first"):
        command(run)
    assert not experiments(repo)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "carparts"], "needs --data"),
        (["--data", "."], "--data requires --scale carparts"),
        (["--scale", "carparts", "--data", "lost"], "no folder lost"),
        (["saturation", "--scale", "carparts", "--data", "."], "saturation: not run at the scale 'carparts'"),
        (["nonesuch"], "no study 'nonesuch'"),
        (["--jobs", "0"], "--jobs 0 must be 1 or more"),
    ],
)
def test_a_mistake_is_reported_before_anything_runs(arguments, message, monkeypatch):
    monkeypatch.setattr("sys.argv", ["ablations.run", *arguments])
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        run.main()
