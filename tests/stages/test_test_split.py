"""A test split is evaluated and reported, and nothing else depends on it."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from mtseg.core import metadata
from mtseg.core.files import write_json
from mtseg.data import manifest, shapes
from tests import tiny

STAGES = ("check", "train", "predict", "evaluate", "filter", "test", "diagnose", "export", "visualise")
pytestmark = pytest.mark.slow
TASKS = [task.model_dump() | {"background": not i} for i, task in enumerate(tiny.PARAMS.tasks)]
OF_TEST = (  # files that a test split may change
    *("data/coco/test.*", "data/coco/report.json", "data/check/findings.json", "metrics/check.json"),
    *("data/predictions/test.*", "data/test/*", "plots/test_*.csv", "metrics/test.json", "report/*"),
    *("plots/figures/tested.svg", "plots/figures/data_*.svg", "plots/figures/images.svg"),
)


def run_pipeline(folder: Path, monkeypatch, test_seed: int | None) -> Path:
    """The folder after all stages, on the same train and val, and a test split drawn by `test_seed` if there is one."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MTSEG_WORK", raising=False)
    given = tiny.params(
        generate={"train": 8, "val": 6, "size": 64, "max_objects": 3}, data={"raw": "raw"}, device="cpu", tasks=TASKS,
        solver={"max_iter": 4, "ims_per_batch": 4, "warmup": 1, "log_period": 2, "eval_period": 2},
        filter={"thresholds": "auto"}, visualise={"pictures": 1, "size": 64},
    )  # fmt: skip
    YAML(typ="safe").dump(given.model_dump(mode="json"), Path("params.yaml"))
    shapes.generate(given.generate, Path("raw"), seed=0)
    if test_seed is not None:
        shapes.generate(given.generate, Path("drawn"), seed=test_seed)
        Path("drawn/val").rename("raw/test")
    importlib.import_module("stages.convert").main()
    write_json("data/manifest.json", manifest.build(Path("data/coco")))
    for stage in STAGES:
        importlib.import_module(f"stages.{stage}").main()
    return folder


def independent(folder: Path) -> dict[str, Any]:
    """Contents of all outputs that a test split must not change, models without what they record of it."""
    places = ("data", "models", "metrics", "plots", "report")
    paths = [path for place in places for path in sorted((folder / place).rglob("*")) if path.is_file()]
    own = {path.relative_to(folder): path for path in paths}
    contents = {name.as_posix(): path.read_bytes() for name, path in own.items() if not any(map(name.match, OF_TEST))}
    records = json.loads(contents["data/manifest.json"])
    records["splits"].pop("test", None)
    contents["data/manifest.json"] = json.dumps(records)
    for name in ("models/best.safetensors", "models/last.safetensors", "export/segmenter.safetensors"):
        tensors = {key: value.tobytes() for key, value in load_file(folder / name).items()}
        known = json.loads(metadata.read_text(folder / name))
        known["data"].pop("test", None)
        known["scores"].pop("test", None)
        known.pop(metadata.SEAL)
        contents[name] = tensors, known
    return contents


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Pipelines with a test split and without."""
    base = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        return [run_pipeline(base / str(seed), monkeypatch, seed) for seed in (5, None)]


def test_a_test_split_changes_nothing_but_what_is_reported_of_it(runs):
    one, none = map(independent, runs)
    assert any(name.startswith("plots/figures/") for name in one) and "metrics/evaluate.json" in one
    assert one.keys() == none.keys()
    assert [name for name in one if one[name] != none[name]] == []


def test_a_test_split_has_all_that_val_has(runs):
    one, none = runs
    of_val = json.loads((one / "metrics/evaluate.json").read_text())
    of_test = [json.loads((run / "metrics/test.json").read_text()) for run in runs]
    assert set(of_test[0]) == {*of_val, "filtered"} and of_test[1] == {}
    for name in ("classes", "intervals"):
        tables = [(run / f"plots/test_{name}.csv").read_text().splitlines() for run in runs]
        header = (one / f"plots/{name}.csv").read_text().splitlines()[0]
        assert [table[0] for table in tables] == [header] * 2
        assert len(tables[0]) > 3 and len(tables[1]) == 1
    assert (one / "data/predictions/test.parquet").exists() and not (none / "data/predictions/test.parquet").exists()
    scores = [metadata.read(run / "export/segmenter.safetensors").scores for run in runs]
    assert [own.get("test", {}) for own in scores] == of_test
    pages = [(run / "report/index.html").read_text() for run in runs]
    assert ['id="test"' in page for page in pages] == [True, False]
    assert (one / "plots/figures/tested.svg").exists() and not (none / "plots/figures/tested.svg").exists()


def test_another_filter_scores_the_test_split_again_without_a_network(runs, monkeypatch):
    folder = runs[0]
    monkeypatch.chdir(folder)
    params = YAML(typ="safe").load(Path("params.yaml"))
    params["filter"] |= {"thresholds": "given", "min_score": 1}
    YAML().dump(params, Path("params.yaml"))
    (folder / "models").rename(folder / "gone")
    (folder / "raw").rename(folder / "gone-raw")
    for stage in ("filter", "test"):
        importlib.import_module(f"stages.{stage}").main()
    assert json.loads(Path("metrics/test.json").read_text())["filtered"]["recall"] == 0
