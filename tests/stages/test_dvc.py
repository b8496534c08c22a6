"""Ways to set a value of params.yaml in DVC, and what a stage receives. The pipeline has a single stage."""

import json
import shutil
import time
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from mtseg.core.params import load
from tests.repository import call, commit, dvc, end_workers

ROOT = Path(__file__).parents[2]
STAGE = """
import json, pathlib, mtseg.core.params
from mtseg.core.signals import run_stage

def main():
    params = mtseg.core.params.load()
    here = pathlib.Path(mtseg.core.params.__file__).is_relative_to(pathlib.Path.cwd())
    lr = params.solver.base_lr
    text = json.dumps({"lr": lr, "is_float": isinstance(lr, float), "own_code": here})
    pathlib.Path("metrics.json").write_text(text)

run_stage(main)
"""

PIPELINE = """
stages:
  show:
    cmd: python -m stages.show
    params: [solver]
    metrics: [{metrics.json: {cache: false}}]
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """A repository with params.yaml and a stage that writes the values it received."""
    repo = tmp_path_factory.mktemp("repo")
    shutil.copytree(ROOT / "mtseg", repo / "mtseg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, repo)
    (repo / "stages").mkdir()
    (repo / "stages" / "__init__.py").touch()
    (repo / "stages" / "show.py").write_text(STAGE)
    (repo / "dvc.yaml").write_text(PIPELINE)
    (repo / ".gitignore").write_text("__pycache__/\n")
    call(repo, "git", "init", "--quiet")
    dvc(repo, "init", "--quiet")
    shutil.copy(ROOT / ".dvc" / "config", repo / ".dvc")
    dvc(repo, "repro", "--quiet")
    commit(repo)
    return repo


@pytest.fixture
def clean(repo):
    yield repo
    call(repo, "git", "checkout", "--quiet", ".")


def experiments(repo: Path) -> dict[str, dict]:
    """{name: metrics} of the finished experiments."""
    shown = json.loads(dvc(repo, "exp", "show", "--json", seconds=30))
    (baseline,) = (row for row in shown if row["rev"] != "workspace")
    rows = [row for experiment in baseline["experiments"] for row in experiment["revs"]]
    return {row["name"]: row["data"]["metrics"]["metrics.json"]["data"] for row in rows}


def finished(repo: Path) -> dict[str, dict]:
    """The same from git: `dvc exp show` lacks data, fails or waits for ever while a worker removes its files."""
    refs = call(repo, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").split()
    return {ref.rpartition("/")[2]: json.loads(call(repo, "git", "show", f"{ref}:metrics.json")) for ref in refs}


@pytest.mark.slow
def test_a_value_set_for_an_experiment_reaches_the_stage_as_a_number(clean):
    dvc(clean, "exp", "run", "--quiet", "-S", "solver.base_lr=1e-5")  # to YAML 1.1 a text, unlike 1.0e-5
    assert json.loads((clean / "metrics.json").read_text()) == {"lr": 1e-5, "is_float": True, "own_code": True}
    assert load(clean / "params.yaml").solver.base_lr == 1e-5
    change = json.loads(dvc(clean, "metrics", "diff", "--json"))["metrics.json"]["lr"]
    assert (change["old"], change["new"]) == ("auto", 1e-5)


@pytest.mark.slow
def test_an_experiment_in_a_copy_runs_its_own_copy_of_the_code(clean):
    dvc(clean, "exp", "run", "--quiet", "--temp", "--name", "apart", "-S", "solver.base_lr=1.0e-5")
    assert experiments(clean)["apart"] == {"lr": 1e-5, "is_float": True, "own_code": True}
    assert load(clean / "params.yaml").solver.base_lr == "auto", "the workspace stays as it was"


@pytest.mark.slow
def test_a_sweep_is_queued_and_run(clean):
    before = finished(clean)
    dvc(clean, "exp", "run", "--quiet", "--queue", "-S", "solver.base_lr=1e-4,2.5e-5")
    dvc(clean, "queue", "start", "--jobs", "2")
    deadline = time.monotonic() + 300
    while len(swept := {name: row for name, row in finished(clean).items() if name not in before}) < 2:
        assert time.monotonic() < deadline, dvc(clean, "queue", "status")
        time.sleep(0.2)
    end_workers(clean)
    assert sorted(row["lr"] for row in swept.values()) == [2.5e-5, 1e-4]
    assert all(row["is_float"] and row["own_code"] for row in swept.values())


@pytest.mark.slow
def test_a_misspelt_key_never_reaches_a_stage_and_a_bad_value_stops_the_first(clean):
    assert "base_lrr" in dvc(clean, "exp", "run", "-S", "solver.base_lrr=1e-4", fails=True)
    printed = dvc(clean, "exp", "run", "-S", "solver.base_lr=fast", fails=True)
    assert "solver.base_lr: should be 'auto' or a valid number, got 'fast'" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("text", ["1e-5", "0.00001"])
def test_an_experiment_changes_one_line_of_params(tmp_path, text):
    path = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    apply_overrides(path, [f"solver.base_lr={text}"])
    before, after = (file.read_text().splitlines() for file in (ROOT / "params.yaml", path))
    ((old, new),) = ((a, b) for a, b in zip(before, after, strict=True) if a != b)
    assert "base_lr: auto" in old and "base_lr: 1e-05" in new and old.partition("#")[2] == new.partition("#")[2]
    assert load(path).solver.base_lr == 1e-5


def test_a_threshold_of_each_task_is_set_for_an_experiment_as_one_of_all_is(tmp_path):
    path = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    for text, limits in (
        ("filter.min_score=0.3", 0.3),
        ("filter.min_score={shape: 0.3, colour: 1e-3}", {"shape": 0.3, "colour": 1e-3}),
        ("filter.min_score.colour=5e-5", {"shape": 0.3, "colour": 5e-5}),
        ("filter.min_score=1e-5", 1e-5),
    ):
        apply_overrides(path, [text])
        assert load(path).filter.min_score == limits


def test_data_of_ones_own_added_to_dvc_is_seen_by_it(tmp_path):
    """DVC interprets .gitignore differently from git: a pattern can hide .dvc files from DVC only."""
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    call(tmp_path, "git", "init", "--quiet")
    dvc(tmp_path, "init", "--quiet")
    image = tmp_path / "data/raw/mine/a.jpg"
    image.parent.mkdir(parents=True)
    image.write_text("one")
    dvc(tmp_path, "add", "--quiet", "data/raw/mine")
    assert "data/raw/mine.dvc" in call(tmp_path, "git", "status", "--porcelain", "--untracked-files=all")
    assert "data/raw/mine/" not in call(tmp_path, "git", "status", "--porcelain", "--untracked-files=all")
    image.write_text("two")
    assert "data/raw/mine.dvc" in dvc(tmp_path, "status")
