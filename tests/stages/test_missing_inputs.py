"""A stage that runs before its input exists says in one line which stage to run first."""

import importlib
import shutil
from pathlib import Path

import pytest

from mtseg.core.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "stage", ["convert", "register", "check", "train", "predict", "evaluate", "filter", "diagnose", "visualise"]
)
def test_a_stage_before_its_input_names_the_stage_to_run(stage, tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is missing: run `dvc repro") as error:
        importlib.import_module(f"stages.{stage}").main()
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"], "nothing is written"
