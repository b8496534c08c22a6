"""The whole pipeline, run by DVC, on a very small data set and network."""

import json
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from tests.repository import call, commit, dvc

ROOT = Path(__file__).parents[2]
TINY = [
    "generate.train=8", "generate.val=4", "generate.size=64", "input.size=64",
    "model.weights=null", "model.hidden_dim=32", "model.num_heads=4", "model.decoder_layers=2", "model.num_queries=5",
    "model.encoder_feedforward_dim=64", "model.decoder_feedforward_dim=64", "loss.num_points=64",
    "solver.ims_per_batch=4", "solver.max_iter=4", "solver.warmup=1",
    "solver.log_period=2", "solver.eval_period=2", "visualise.pictures=1", "device=cpu",
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the working tree with tiny params after `dvc repro`, and the output of that."""
    repo = tmp_path_factory.mktemp("pipeline")
    listed = call(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (repo / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, repo / name)
    call(repo, "git", "init", "--quiet")
    apply_overrides(repo / "params.yaml", TINY)
    commit(repo)
    printed = dvc(repo, "repro")
    commit(repo)
    return repo, printed


@pytest.fixture
def repo(first) -> Path:
    return first[0]


def run(printed: str) -> list[str]:
    """The stages that DVC ran, from its output."""
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]


def test_one_command_runs_every_stage(first):
    repo, printed = first
    ran = run(printed)
    assert ran[:7] == ["generate", "convert", "register", "check", "train", "predict", "evaluate"]
    assert set(ran[7:]) == {"filter", "diagnose", "export", "test", "visualise"}  # in any order that fits
    for name in ("models/best.safetensors", "data/predictions/val.csv", "plots/train.tsv", "report/index.html"):
        assert (repo / name).stat().st_size, name


def test_metrics_are_numbers_that_dvc_can_compare(repo):
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    def leaves(tree: dict) -> list:
        return [leaf for value in tree.values() for leaf in (leaves(value) if isinstance(value, dict) else [value])]

    for path in (repo / "metrics").iterdir():
        values = leaves(json.loads(path.read_text(), parse_constant=refuse))
        assert values or path.stem == "test", path.name  # without a test split
        assert all(isinstance(value, int | float) for value in values), path.name
        signed = path.stem == "diagnosis"  # the mean offset of masks may be negative
        assert signed or min(values, default=0) >= 0, path.name
    assert "Traceback" not in dvc(repo, "metrics", "show")


def test_nothing_runs_a_second_time(repo):
    assert not run(dvc(repo, "repro"))
    assert not call(repo, "git", "status", "--porcelain")


def test_another_threshold_neither_trains_nor_predicts(repo):
    assert run(dvc(repo, "exp", "run", "test", "-S", "filter.min_score=0.5")) == ["filter", "test"]
    call(repo, "git", "checkout", "--quiet", ".")


def test_another_lr_trains_anew_and_the_metrics_show_it(repo):
    path = repo / "metrics/train.json"
    before = json.loads(path.read_text())
    assert run(dvc(repo, "exp", "run", "train", "-S", "solver.base_lr=5e-5")) == ["check", "train"]
    assert json.loads(path.read_text())["last"]["loss"] != before["last"]["loss"]
    call(repo, "git", "checkout", "--quiet", ".")
    assert not run(dvc(repo, "repro", "train")), "the earlier results come back from the cache"
    assert not call(repo, "git", "status", "--porcelain")
