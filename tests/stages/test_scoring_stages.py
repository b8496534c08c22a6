"""The stages evaluate, filter and visualise on the files of the stages before them."""

import importlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from mtseg.core.errors import UserError
from mtseg.core.files import write_json
from mtseg.core.params import load
from mtseg.core.tables import Pairs, Predictions
from mtseg.data import coco, manifest
from mtseg.diagnosis.run import Diagnosis, record
from mtseg.evaluation.ap import pairs
from tests.scenes import CLASSES, SIZE, images_of, make_tasks, predict_all, scene, table

OUTPUTS = (
    "metrics/*",
    "plots/*.csv",
    "plots/figures/*",
    *(f"data/{name}/*" for name in ("evaluation", "filtered", "test")),
    "report/*",
)
COUNTS = pytest.mark.parametrize("project", [1, 4], indirect=True)


@pytest.fixture
def project(request, tmp_path, monkeypatch):
    """A folder with the inputs of evaluate. Each object is predicted correctly, twice."""
    params = YAML(typ="safe").load(request.config.rootpath / "params.yaml")
    template = params["tasks"][0]
    names = list(CLASSES)[: request.param]
    params["tasks"] = [template | {"name": name, "classes": "auto"} for name in names]
    params["data"]["raw"] = "raw"
    params["visualise"] |= {"size": 96, "pictures": 1}
    monkeypatch.chdir(tmp_path)
    YAML().dump(params, tmp_path / "params.yaml")
    (tmp_path / "raw").mkdir()
    tasks = make_tasks(request.param)
    images = scene(tasks)
    for image in images:
        PIL.Image.new("RGB", (SIZE, SIZE), "teal").save(tmp_path / "raw" / image.file_name)
    register(train=images, val=images, tasks=tasks)
    truth = predict_all(images, tasks)
    doubled = truth + [replace(row, query=row.query + 50, mask_quality=0.5) for row in truth]
    table(doubled, tasks).write("data/predictions/val.parquet", tasks)
    write_json("data/diagnosis.json", record(Diagnosis([], {})))
    write_json("data/check/findings.json", [])
    return tmp_path


def register(tasks, **splits):
    for split, images in splits.items():
        coco.write(Path(f"data/coco/{split}.json"), images, tasks)
    write_json("data/manifest.json", manifest.build(Path("data/coco")))


def run(*stages):
    for stage in stages:
        importlib.import_module(f"stages.{stage}").main()


@pytest.mark.parametrize("project", [4], indirect=True)
def test_the_stages_run_on_and_write_the_same_bytes_twice(project):
    contents = []
    for _ in range(2):
        run("evaluate", "filter", "test", "visualise")
        contents.append({path: path.read_bytes() for name in OUTPUTS for path in project.glob(name) if path.is_file()})
    assert contents[0] == contents[1] and len(contents[0]) > 12
    metrics = json.loads((project / "metrics/evaluate.json").read_text())
    assert metrics["segm"]["AP50"] == metrics["joint"]["AP50"] == 100
    filtered = json.loads((project / "metrics/filter.json").read_text())
    assert filtered["raw"]["precision"] == 50 and filtered["filtered"]["precision"] == 100
    assert filtered["removed"]["duplicate"] == 20 and "picked" not in filtered
    steps = pd.read_csv(project / "plots/filter.csv").set_index("stage")
    assert steps.loc["surplus", "joint_f1"] == filtered["filtered"]["joint_f1"]

    data = manifest.load(project / "data/manifest.json")
    tasks, images = data.tasks(load().tasks), data.images("val")
    removed = pd.read_csv(project / "data/filtered/val.csv")
    given = Predictions.read("data/predictions/val.parquet", tasks)
    kept = Predictions.read("data/filtered/val.parquet", tasks)
    assert len(kept) == 20 == len(json.loads((project / "data/filtered/val.json").read_text()))
    for name in given.names:
        assert np.array_equal(given[removed.prediction[removed.rule.isna()]].column(name), kept.column(name))
    for path, predictions in (("data/evaluation", given), ("data/filtered", kept)):
        stored = Pairs.read(f"{path}/pairs.parquet", images, predictions)
        anew = pairs.of_masks(images, predictions)
        assert all(np.array_equal(stored.column(name), anew.column(name)) for name in anew.names)


@COUNTS
def test_combinations_that_train_lacks_are_scored_apart(project):
    run("evaluate")
    assert set(json.loads((project / "metrics/evaluate.json").read_text())["joint"]) == {"AP", "AP50"}
    data = manifest.load(project / "data/manifest.json")
    tasks = data.tasks(load().tasks)
    first = [replace(image, instances=image.instances[:1]) for image in data.images("val")[:2]]
    register(tasks, train=images_of(first, tasks))
    run("evaluate")
    joint = json.loads((project / "metrics/evaluate.json").read_text())["joint"]
    assert joint["seen_AP"] > 50 < joint["unseen_AP"] and joint["unseen"] > 1


@COUNTS
def test_thresholds_picked_on_val_are_reported_as_such(project, capsys):
    path = project / "params.yaml"
    apply_overrides(path, ["filter.thresholds=auto", "filter.nms=none", "filter.min_score=1"])
    run("evaluate", "filter")
    metrics = json.loads((project / "metrics/filter.json").read_text())
    task, least = min(metrics["picked"]["min_score"].items())
    assert task in CLASSES and 0.5 < least < 0.95, "between the predictions and their duplicates"
    assert metrics["filtered"]["joint_f1"] == 100
    printed = capsys.readouterr().out
    assert "optimistic" in printed and task in printed
    apply_overrides(path, ["filter.thresholds=given"])
    run("filter")
    assert json.loads((project / "metrics/filter.json").read_text())["filtered"]["recall"] == 0


TOO_EARLY = [
    ("evaluate", "data/predictions/val.parquet", "predict"),
    ("filter", "data/predictions/val.parquet", "predict"),
    ("filter", "data/evaluation/pairs.parquet", "evaluate"),
    ("visualise", "metrics/evaluate.json", "evaluate"),
    ("visualise", "plots/classes.csv", "evaluate"),
    ("visualise", "data/evaluation/analysis.json", "evaluate"),
    ("visualise", "data/evaluation/pairs.parquet", "evaluate"),
    ("visualise", "data/filtered/val.parquet", "filter"),
    ("visualise", "data/filtered/pairs.parquet", "filter"),
    ("visualise", "data/filtered/val.csv", "filter"),
    ("visualise", "metrics/filter.json", "filter"),
    ("visualise", "metrics/test.json", "test"),
    ("visualise", "plots/test_classes.csv", "test"),
    ("export", "metrics/test.json", "test"),
    ("test", "metrics/filter.json", "filter"),
    ("visualise", "data/diagnosis.json", "diagnose"),
]


@pytest.mark.parametrize("project", [3], indirect=True)
def test_a_stage_run_too_early_names_the_one_to_run_first(project):
    run("evaluate", "filter", "test")
    for stage, missing, made_by in TOO_EARLY:
        content = (project / missing).read_bytes()
        (project / missing).unlink()
        with pytest.raises(UserError, match=re.escape(f"{missing} is missing: run `dvc repro {made_by}`")):
            run(stage)
        assert not (project / "report").exists()
        (project / missing).write_bytes(content)


@pytest.mark.parametrize("project", [3], indirect=True)
def test_a_test_split_like_val_has_the_scores_of_val_and_no_gap_and_a_worse_one_has(project):
    run("evaluate", "filter", "test")
    assert json.loads((project / "metrics/test.json").read_text()) == {}
    tasks = manifest.load(project / "data/manifest.json").tasks(load().tasks)
    shutil.copy(project / "data/predictions/val.parquet", project / "data/predictions/test.parquet")
    images = manifest.load(project / "data/manifest.json").images("val")
    register(tasks, test=images)
    run("test", "visualise")
    of_val = {name: json.loads((project / f"metrics/{name}.json").read_text()) for name in ("evaluate", "filter")}
    of_test = json.loads((project / "metrics/test.json").read_text())
    assert of_test == of_val["evaluate"] | {"filtered": of_val["filter"]["filtered"]}
    assert (project / "plots/test_classes.csv").read_bytes() == (project / "plots/classes.csv").read_bytes()
    *rows, last = (project / "plots/test_intervals.csv").read_text().splitlines()
    assert rows == (project / "plots/intervals.csv").read_text().splitlines() and last.startswith("filtered.joint_f1,")
    for own, other in (("filtered.parquet", "val.parquet"), ("filtered.csv", "val.csv")):
        assert (project / "data/test" / own).read_bytes() == (project / "data/filtered" / other).read_bytes()
    section = section_of_test(project)
    assert f"on {len(images)} images of test" in section and not re.search('class="(better|worse)"', section)

    # half of the objects are missed, in every image
    rows = [row for row in predict_all(list(images), tasks) if row.query % 2]
    table(rows, tasks).write("data/predictions/test.parquet", tasks)
    run("test", "visualise")
    assert json.loads((project / "metrics/test.json").read_text())["segm"]["AP"] < of_test["segm"]["AP"]
    section = section_of_test(project)
    assert 'class="worse"' in section and "mask AP (−" in section and 'class="better"' not in section


def section_of_test(project) -> str:
    page = (project / "report/index.html").read_text()
    return page[page.index('<section id="test">') : page.index('<section id="diagnosis">')]


@pytest.mark.parametrize("project", [3], indirect=True)
def test_the_test_split_is_filtered_by_the_thresholds_of_val(project):
    apply_overrides(project / "params.yaml", ["filter.thresholds=auto", "filter.nms=none"])
    tasks = manifest.load(project / "data/manifest.json").tasks(load().tasks)
    shutil.copy(project / "data/predictions/val.parquet", project / "data/predictions/test.parquet")
    register(tasks, test=manifest.load(project / "data/manifest.json").images("val"))
    run("evaluate", "filter")
    before, found = json.loads((project / "metrics/filter.json").read_text()), {}
    for least in (0.0, 1.0):
        write_json("metrics/filter.json", before | {"picked": {"min_score": {tasks[0].name: least}, "min_logit": {}}})
        run("test")
        found[least] = json.loads((project / "metrics/test.json").read_text())
    assert found[0.0]["filtered"]["recall"] == 100 and found[1.0]["filtered"]["recall"] == 0
    assert found[0.0]["segm"] == found[1.0]["segm"]
