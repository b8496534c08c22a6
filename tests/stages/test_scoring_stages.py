"""evaluate, filter and visualise as DVC runs them: files in, files out, and one line when something is missing."""

import json
import re
from dataclasses import replace

import pandas as pd
import PIL.Image
import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from mtseg.core.errors import UserError
from mtseg.core.files import write_json
from mtseg.core.params import load
from mtseg.data import coco, manifest
from mtseg.evaluation import predictions
from stages import evaluate, filter, visualise
from tests.scenes import CLASSES, SIZE, make_tasks, predict_all, scene

OUTPUTS = (
    "metrics/evaluate.json", "plots/classes.csv",
    "metrics/filter.json", "plots/filter.csv", "data/filtered/val.json", "data/filtered/val.csv",
)  # fmt: skip


@pytest.fixture
def project(request, tmp_path, monkeypatch):
    """A folder as it stands after predict, with predictions that are right but doubled."""
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
    for split in ("train", "val"):
        coco.write(tmp_path / f"data/coco/{split}.json", images, tasks)
    write_json("data/manifest.json", manifest.build(tmp_path.joinpath("data/coco").relative_to(tmp_path)))
    truth = predict_all(images, tasks)
    write_json("data/diagnosis.json", {"findings": [], "figures": {}})
    doubled = truth + [replace(p, query=p.query + 50, mask_quality=0.5) for p in truth]
    predictions.write("data/predictions/val.json", "data/predictions/val.csv", doubled, images, tasks)
    return tmp_path


@pytest.mark.parametrize("project", [1, 3, 4], indirect=True)
def test_the_stages_run_on_and_write_the_same_bytes_twice(project):
    contents = []
    for _ in range(2):
        for stage in (evaluate, filter, visualise):
            stage.main()
        contents.append([(project / name).read_bytes() for name in OUTPUTS])
        for folder in ("report", "plots/figures"):
            contents[-1] += [path.read_bytes() for path in sorted((project / folder).iterdir())]
    assert contents[0] == contents[1]
    metrics = json.loads((project / "metrics/evaluate.json").read_text())
    assert metrics["segm"]["AP50"] == metrics["joint"]["AP50"] == 100
    sieved = json.loads((project / "metrics/filter.json").read_text())
    assert sieved["raw"]["precision"] == 50 and sieved["filtered"]["precision"] == 100
    assert sieved["removed"]["duplicate"] == 20
    tasks = manifest.load(project / "data/manifest.json").tasks(load().tasks)
    kept = predictions.read("data/filtered/val.json", tasks)
    sieve = pd.read_csv(project / "data/filtered/val.csv")
    given = predictions.read("data/predictions/val.json", tasks)
    assert [given[i] for i in sieve.prediction[sieve.rule.isna()]] == kept and len(kept) == 20
    steps = pd.read_csv(project / "plots/filter.csv").set_index("stage")
    assert steps.loc["surplus", "joint_f1"] == sieved["filtered"]["joint_f1"] and "picked" not in sieved


@pytest.mark.parametrize("project", [1, 3, 4], indirect=True)
def test_combinations_that_train_lacks_are_scored_apart(project):
    evaluate.main()
    assert set(json.loads((project / "metrics/evaluate.json").read_text())["joint"]) == {"AP", "AP50"}
    tasks = manifest.load(project / "data/manifest.json").tasks(load().tasks)
    first = [replace(image, instances=image.instances[:1]) for image in scene(tasks)[:2]]
    coco.write(project / "data/coco/train.json", first, tasks)
    write_json("data/manifest.json", manifest.build(project.joinpath("data/coco").relative_to(project)))
    evaluate.main()
    joint = json.loads((project / "metrics/evaluate.json").read_text())["joint"]
    assert joint["seen_AP"] > 50 < joint["unseen_AP"] and joint["unseen"] > 1


@pytest.mark.parametrize("project", [1, 3, 4], indirect=True)
def test_thresholds_picked_on_val_are_told_as_such(project, capsys):
    path = project / "params.yaml"
    apply_overrides(path, ["filter.thresholds=auto", "filter.nms=none", "filter.min_score=1"])
    filter.main()
    metrics = json.loads((project / "metrics/filter.json").read_text())
    task, least = min(metrics["picked"]["min_score"].items())
    assert task in CLASSES and 0.5 < least < 0.95, "what lies between the true ones and their doubles"
    assert metrics["filtered"]["joint_f1"] == 100
    said = capsys.readouterr().out
    assert "picked on val, which flatters" in said and task in said
    apply_overrides(path, ["filter.thresholds=given"])
    filter.main()
    assert json.loads((project / "metrics/filter.json").read_text())["filtered"]["recall"] == 0


@pytest.mark.parametrize("project", [3], indirect=True)
@pytest.mark.parametrize(
    ("stage", "missing", "made_by"),
    [
        (evaluate, "data/predictions/val.json", "predict"),
        (evaluate, "data/manifest.json", "register"),
        (filter, "data/predictions/val.json", "predict"),
        (visualise, "data/filtered/val.json", "filter"),
        (visualise, "metrics/evaluate.json", "evaluate"),
        (visualise, "plots/classes.csv", "evaluate"),
        (visualise, "plots/intervals.csv", "evaluate"),
        (visualise, "data/evaluation.json", "evaluate"),
        (visualise, "plots/filter.csv", "filter"),
        (visualise, "data/filtered/val.csv", "filter"),
        (visualise, "metrics/filter.json", "filter"),
        (visualise, "data/diagnosis.json", "diagnose"),
    ],
)
def test_a_stage_run_too_early_says_which_comes_first(project, stage, missing, made_by):
    if stage is visualise:
        evaluate.main()
        filter.main()
    (project / missing).unlink()
    with pytest.raises(UserError, match=re.escape(f"{missing} is missing: run `dvc repro {made_by}` first")):
        stage.main()
    assert not (project / "report").exists()
