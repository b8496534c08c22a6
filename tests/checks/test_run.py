"""The stage check: its verdict contains only errors, and training depends on it."""

from __future__ import annotations

import json

import pytest
from ruamel.yaml import YAML

from mtseg.checks import run
from mtseg.checks.alignment import NOWHERE
from mtseg.checks.findings import Finding
from mtseg.core.errors import UserError
from mtseg.core.files import write_json
from mtseg.data import convert, manifest, shapes
from stages import check, train
from tests import tiny

TASKS = [task.model_dump() | {"background": not i} for i, task in enumerate(tiny.PARAMS.tasks)]


def test_a_cause_comes_before_what_it_explains():
    given = [
        Finding(cause, "warning", "evidence", "change", "val")
        for cause in ("splits_differ", "outlines_differ", "boxes_for_outlines", "masks_displaced", "channels_swapped")
    ]
    assert [one.cause for one in run.in_order(given)] == ["outlines_differ", "boxes_for_outlines", "splits_differ"]
    assert run.in_order([given[0], given[3]]) == [given[3], given[0]]
    nowhere = Finding("masks_displaced", "warning", f"outlines lie on no edges, {NOWHERE}", "change", "train")
    assert [one.cause for one in run.in_order([nowhere, given[1]])] == ["outlines_differ", "masks_displaced"]
    misspelt = [Finding(cause, "warning", "", "", "task 'colour'") for cause in ("class_mix_differs", "classes_alike")]
    assert run.in_order([*misspelt, given[0]]) == [misspelt[1], given[0]]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a drawn data set, converted and registered."""
    monkeypatch.chdir(tmp_path)
    given = params()
    shapes.generate(given.generate, given.data.raw, seed=given.seed)
    convert.convert(given.data, given.tasks, tmp_path / "data/coco", seed=given.seed)
    write_json(tmp_path / "data/manifest.json", manifest.build(tmp_path / "data/coco"))
    return tmp_path


def params(**changes):
    """Written to params.yaml."""
    given = tiny.params(
        generate={"train": 12, "val": 6, "size": 64, "max_objects": 3}, data={"raw": "raw"}, device="cpu",
        tasks=TASKS, **changes,
    )  # fmt: skip
    with open("params.yaml", "w", encoding="utf-8") as file:
        YAML(typ="safe").dump(given.model_dump(mode="json"), file)
    return given


def causes(folder):
    return {finding["cause"] for finding in json.loads((folder / "data/check/findings.json").read_text())}


def test_a_new_warning_leaves_the_verdict_as_it_is(folder, capsys):
    check.main()
    verdict = (folder / "data/check/verdict.json").read_bytes()
    assert json.loads(verdict) == {"errors": []}
    assert "lr_for_batch" not in causes(folder)
    params(solver={"base_lr": 1.0})
    check.main()
    assert "lr_for_batch" in causes(folder) and "warning: lr_for_batch: " in capsys.readouterr().out
    assert (folder / "data/check/verdict.json").read_bytes() == verdict
    assert json.loads((folder / "metrics/check.json").read_text())["errors"] == 0


def test_an_error_stops_the_check_and_the_training(folder):
    with pytest.raises(UserError, match="data/check/verdict.json is missing: run `dvc repro check` first"):
        train.main()
    params(solver={"clip": 1e-12})
    with pytest.raises(UserError, match=r"(?s)fix these before training:.*weights_frozen: .*solver\.clip"):
        check.main()
    assert json.loads((folder / "data/check/verdict.json").read_text()) == {"errors": [["weights_frozen", ""]]}
    assert json.loads((folder / "metrics/check.json").read_text())["errors"] == 1
    with pytest.raises(UserError, match=r"(?s)run `dvc repro check`.*weights_frozen"):
        train.main()


@pytest.mark.parametrize("verdict", [[], {}, {"errors": 3}, {"errors": [3]}, {"errors": [["cause", 3]]}])
def test_training_refuses_a_verdict_of_another_form(folder, verdict):
    write_json(folder / "data/check/verdict.json", verdict)
    with pytest.raises(UserError, match=r"verdict\.json.*run `dvc repro check` again"):
        train.main()


def test_a_check_that_cannot_finish_leaves_no_verdict(folder):
    check.main()
    next((folder / "raw").rglob("*.jpg")).write_bytes(b"no image")
    with pytest.raises(UserError, match="does not decode"):
        check.main()
    assert not (folder / "data/check/verdict.json").exists()
