"""A study whole: through DVC's queue in a fresh clone, to its table."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.repository import call, commit, dvc

ROOT = Path(__file__).parents[2]
TINY = {
    "question": "Does a study run?",
    "vary": {"filter": {"none": {"filter": {"nms": "none"}}, "together": None}},
    "seeds": 1,
    "metrics": {"joint AP": "evaluate:joint.AP", "errors": "diagnosis:errors"},
    "against": {"filter": "none"},
}
SCALE = {
    "generate": {"train": 6, "val": 2, "size": 48, "max_objects": 2},
    "model": {
        **{"backbone": "mobilenetv3_small", "weights": None, "freeze_norm": False, "num_queries": 4, "hidden_dim": 32},
        **{"num_heads": 4, "encoder_feedforward_dim": 32, "decoder_layers": 1, "decoder_feedforward_dim": 32},
    },
    "input": {"size": 64},
    "solver": {"max_iter": 2, "ims_per_batch": 2, "warmup": 1, "eval_period": 2},
    "loss": {"num_points": 64},
    "test": {"checkpoint": "last"},
}


@pytest.mark.slow
def test_a_study_runs_through_dvcs_queue_of_a_fresh_clone_and_a_second_call_has_nothing_to_do(tmp_path):
    call(tmp_path, "git", "clone", "--quiet", str(ROOT), "repo")
    repo = tmp_path / "repo"
    for folder in ("ablations", "mtseg", "stages", "recipes"):
        shutil.rmtree(repo / folder)
        shutil.copytree(ROOT / folder, repo / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, repo)
    shutil.rmtree(repo / "ablations" / "studies")
    (repo / "ablations" / "studies").mkdir()
    YAML().dump(TINY, repo / "ablations" / "studies" / "tiny.yaml")
    YAML().dump(SCALE, repo / "ablations" / "scales" / "embedded.yaml")
    commit(repo)
    python = sys.executable
    lock = (repo / "dvc.lock").read_bytes()

    out = call(repo, python, "-m", "ablations.run", "--jobs", "1")
    assert "2 runs at the scale 'embedded', 0 of them done" in out and "FAILED" not in out
    assert (repo / "dvc.lock").read_bytes() == lock and not call(repo, "git", "status", "--porcelain")
    assert "2 of them done" in call(repo, python, "-m", "ablations.run")
    assert "Stage 'train' is cached" in dvc(repo, "queue", "logs", "tiny-together-s0")

    call(repo, python, "-m", "ablations.tables")
    assert "<!-- tiny embedded -->" in (repo / "docs" / "results.md").read_text()
    rows = (repo / "ablations" / "results" / "tiny_embedded.csv").read_text().splitlines()
    assert rows[0] == "filter,seed,params,commit,joint AP,errors" and len(rows) == 3
    assert all(int(row.split(",")[-1]) for row in rows[1:]), "of two steps: not those of the last commit"
    shown = json.loads(dvc(repo, "metrics", "diff", "--json", "HEAD", "tiny-together-s0"))
    assert "metrics/filter.json" in shown
    shown = dvc(repo, "exp", "show", "--csv")
    assert "tiny-none-s0" in shown and "tiny-together-s0" in shown
