"""Revisions are read wherever DVC runs a stage: in the workspace, under DVC's lock, or in a temporary copy."""

import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest

from mtseg.core.errors import UserError
from mtseg.report import history
from mtseg.report.history import Baseline
from tests.repository import call, commit, dvc

STAGE = f"""
import json, pathlib, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from mtseg.core.errors import UserError
from mtseg.report import history
from ruamel.yaml import YAML

value = YAML(typ="safe").load(pathlib.Path("params.yaml"))["value"]
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("plots").mkdir(exist_ok=True)
pathlib.Path("data").mkdir(exist_ok=True)
pathlib.Path("metrics/evaluate.json").write_text(json.dumps({{"segm": {{"AP": value}}}}))
pathlib.Path("metrics/filter.json").write_text("{{}}")
pathlib.Path("plots/classes.csv").write_text(f"task,class,AP\\nmain,1,{{value}}\\nmain,none,\\n")
pathlib.Path("data/kept.json").write_text(str(value))
try:
    seen = history.load("HEAD").metrics["evaluate"]["segm"]["AP"]
except UserError:
    seen = "nothing"
pathlib.Path("seen.txt").write_text(str(seen))
"""
PIPELINE = """
stages:
  score:
    cmd: python stage.py
    deps: [stage.py]
    params: [value]
    outs: [data/kept.json, seen.txt]
    metrics: [{metrics/evaluate.json: {cache: false}}, {metrics/filter.json: {cache: false}}]
    plots: [{plots/classes.csv: {cache: false}}]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Commits with value 1 and 2, and an experiment `apart` with value 3, in a subfolder of a repository."""
    repo = tmp_path_factory.mktemp("revisions") / "project"
    repo.mkdir()
    (repo / "stage.py").write_text(STAGE)
    (repo / "dvc.yaml").write_text(PIPELINE)
    (repo / "params.yaml").write_text("value: 1\nother: {a: [1, 2]}\n")
    call(repo.parent, "git", "init", "--quiet")
    dvc(repo, "init", "--quiet", "--subdir")
    commit(repo)
    dvc(repo, "repro", "--quiet")
    assert (repo / "seen.txt").read_text() == "nothing", "the first commit holds no results"
    commit(repo)
    call(repo, "git", "tag", "one")
    (repo / "params.yaml").write_text("value: 2\nother: {a: [1, 2]}\n")
    dvc(repo, "repro", "--quiet")
    assert (repo / "seen.txt").read_text() == "1", "the last commit, as it is while DVC holds its lock"
    commit(repo)
    dvc(repo, "exp", "run", "--quiet", "--temp", "--name", "apart", "-S", "value=3")
    return repo


@pytest.fixture
def repo(made, monkeypatch) -> Path:
    monkeypatch.chdir(made)
    return made


@pytest.mark.slow
def test_commits_tags_branches_and_experiments_are_read_and_fast(repo):
    start = time.monotonic()
    values = {rev: history.load(rev).metrics["evaluate"]["segm"]["AP"] for rev in ("HEAD", "HEAD~1", "one", "apart")}
    assert time.monotonic() - start < 2
    assert values == {"HEAD": 2, "HEAD~1": 1, "one": 1, "apart": 3}
    held = history.load("apart")
    assert held.params == {"value": 3, "other": {"a": [1, 2]}} and held.metrics["filter"] == {}
    expected = pd.DataFrame({"task": ["main"] * 2, "class": ["1", "none"], "AP": [3, None]})
    pd.testing.assert_frame_equal(held.tables["classes"], expected, check_dtype=False)
    assert "intervals" not in held.tables


@pytest.mark.slow
def test_the_workspace_is_the_files_as_they_are(repo):
    (repo / "metrics/filter.json").write_text(json.dumps({"raw": {}}))
    try:
        assert history.load("workspace").metrics["filter"] == {"raw": {}}
        assert history.load("HEAD").metrics["filter"] == {}
        assert history.load("workspace").fetch("data/kept.json", repo).read_text() == "2"
    finally:
        call(repo, "git", "checkout", "--quiet", ".")


@pytest.mark.slow
def test_cached_files_come_from_dvc_at_any_revision_and_a_lost_one_is_one_line(repo, tmp_path):
    for rev, value in (("HEAD", "2"), ("one", "1"), ("apart", "3")):
        assert history.load(rev).fetch("data/kept.json", tmp_path / rev).read_text() == value
        assert (tmp_path / rev / "data/kept.json").exists()
    (cached,) = (path for path in (repo / ".dvc/cache").rglob("*") if path.is_file() and path.read_text() == "1")
    cached.unlink()
    with pytest.raises(UserError, match="one: data/kept.json is not in DVC's cache: .*dvc pull") as caught:
        history.load("one").fetch("data/kept.json", tmp_path / "again")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_experiment_in_a_copy_sees_the_commit_it_started_from(repo, tmp_path):
    assert history.load("apart").fetch("seen.txt", tmp_path).read_text() == "2"


@pytest.mark.slow
def test_of_experiments_with_one_name_the_one_from_here_is_taken_or_none(repo):
    commits = {rev: history.resolve(rev) for rev in ("HEAD~1", "apart")}
    call(repo, "git", "update-ref", f"refs/exps/{commits['HEAD~1'][:2]}/{commits['HEAD~1'][2:]}/apart", "HEAD")
    assert history.resolve("apart") == commits["apart"]
    call(repo, "git", "checkout", "--quiet", "--detach", "HEAD~2")
    with pytest.raises(UserError, match="2 experiments are called apart: name one by its commit"):
        history.resolve("apart")
    call(repo, "git", "checkout", "--quiet", "-")


def test_without_git_a_revision_or_results_there_is_nothing_to_compare_with(tmp_path, monkeypatch):
    def load(rev: str) -> str:
        with pytest.raises(UserError) as caught:
            history.load(rev)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    monkeypatch.chdir(tmp_path)
    assert "not a commit" in load("HEAD") and "has no params.yaml: run `dvc repro`" in load("workspace")
    call(tmp_path, "git", "init", "--quiet")
    assert history.baseline() == Baseline(why="There is no commit to compare with.")
    (tmp_path / "params.yaml").write_text("a: 1")
    commit(tmp_path)
    assert load("HEAD") == "HEAD has no metrics/evaluate.json"
    for rev in ("nowhere", "--help", ""):
        assert "is not a commit, branch, tag or experiment" in load(rev)
    (tmp_path / "metrics").mkdir()
    for name in ("evaluate", "filter"):
        (tmp_path / f"metrics/{name}.json").write_text("<<<<<<< broken")
    commit(tmp_path)
    assert load("HEAD").startswith("HEAD: metrics/evaluate.json cannot be read (Expecting")
    baseline = history.baseline()
    assert "metrics/evaluate.json cannot be read" in baseline.why and baseline.params is None
    monkeypatch.setenv("PATH", "")
    assert history.baseline() == Baseline(why="There is no commit to compare with.")


def test_files_that_no_stage_writes_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("metrics").mkdir()
    bomb = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 1}]" for n in range(9))
    for name, text in (("params.yaml", bomb), ("metrics/train.json", "[" * 100_000)):
        Path(name).write_text(text)
        with pytest.raises(UserError, match=f"workspace: {name} cannot be read"):
            history.load("workspace")
        Path(name).unlink()
    os.mkfifo("metrics/train.json")
    with pytest.raises(UserError, match=r"metrics/train\.json is a pipe"):
        history.load("workspace")


def test_scores_are_compared_with_those_on_the_same_data_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(tmp_path, "git", "init", "--quiet")
    commit_of = {"params.yaml": "a: 1", "metrics/evaluate.json": '{"segm": {"AP": 1}}', "metrics/filter.json": "{}"}
    for name, text in {**commit_of, history.VAL: "one"}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    commit(tmp_path)
    baseline = history.baseline()
    assert baseline.params == {"a": 1} and not baseline.metrics and "dvc.lock does not record" in baseline.why
    md5 = "f97c5d29941bfb1b2fdab0874906ab82"  # of "one"
    Path("dvc.lock").write_text(f"stages: {{score: {{deps: [{{path: {history.VAL}, md5: {md5}}}]}}}}")
    commit(tmp_path)
    baseline = history.baseline()
    assert (baseline.commit, baseline.why) == (history.resolve("HEAD"), "")
    assert baseline.metrics["evaluate"] == {"segm": {"AP": 1}}
    Path(history.VAL).write_text("two")
    baseline = history.baseline()
    assert baseline.params == {"a": 1} and not baseline.metrics and "other images, annotations or tasks" in baseline.why
