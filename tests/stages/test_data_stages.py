"""Stages on missing or wrong inputs: errors are one line, and no incomplete output is written."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mtseg.core.errors import UserError
from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.data import manifest
from stages import convert, generate, register

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params.yaml"
STAGES = sorted(re.findall(r"python -m (stages\.\w+)", (ROOT / "dvc.yaml").read_text()))


@pytest.fixture
def change(tmp_path, monkeypatch):
    """Work in an empty folder with params.yaml for a small data set; returns a function that changes a key of it."""
    monkeypatch.chdir(tmp_path)
    yaml = YAML()
    params = yaml.load(PARAMS)
    params["generate"] |= {"train": 6, "val": 3, "size": 48}

    def change(key, value):
        section, name = key.split(".")
        params[section][name] = value
        yaml.dump(params, Path("params.yaml"))

    change("data.raw", "data/raw/shapes")
    return change


def stopped(stage, capsys):
    with pytest.raises(SystemExit) as caught:
        run_stage(stage.main)
    text = str(caught.value)
    assert text.startswith("error: ") and "Traceback" not in text
    return text


def test_from_nothing_to_a_manifest(change, capsys):
    for stage in (generate, convert, register):
        run_stage(stage.main)
    assert Path("data/manifest.json").exists()
    assert "train 6 images" in capsys.readouterr().out
    assert not list(Path("data").rglob(".*"))


def test_flattened_data_are_of_one_task_whatever_params_lists(change, capsys):
    change("data.flatten", True)
    for stage in (generate, convert, register):
        run_stage(stage.main)
    records, params = manifest.load(Path("data/manifest.json")), load()
    (flat,) = records.tasks(params.tasks)
    assert flat.name == "shape_colour_fill" and {name.count(",") for name in flat.classes} == {2}
    assert {label for split in ("train", "val") for label in records.combinations(split)} == {
        (index,) for index in range(flat.num_classes)
    }
    assert f"flattened to {flat.num_classes} classes" in capsys.readouterr().out


def test_register_needs_the_images_that_were_converted(change, capsys):
    for stage in (generate, convert):
        run_stage(stage.main)
    change("data.raw", "data/raw/other")
    assert "is data/raw/other (data.raw) the folder that was converted?" in stopped(register, capsys)
    assert not Path("data/manifest.json").exists()


def test_a_misspelt_key_stops_every_stage_before_any_work(change, capsys):
    change("data.formatt", "labelme")
    for stage in (generate, convert, register):
        assert "did you mean 'data.format'?" in stopped(stage, capsys)
    assert not Path("data").exists()


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("data.format", "pascal", "'masks' or 'yolo', got 'pascal'"),
        ("data.mapping", "recipes/mappings/absent.yaml", "absent.yaml (data.mapping) cannot be read"),
    ],
)
def test_what_params_point_to_has_to_be_there(change, capsys, key, value, message):
    run_stage(generate.main)
    change(key, value)
    assert message in stopped(convert, capsys)


def test_an_interrupted_stage_leaves_the_old_output(change, monkeypatch):
    run_stage(generate.main)
    before = sorted(Path("data").rglob("*"))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mtseg.data.shapes._light", interrupt)
    with pytest.raises(SystemExit):
        run_stage(generate.main)
    assert sorted(Path("data").rglob("*")) == before


@pytest.mark.parametrize(
    "stage", ["convert", "register", "check", "train", "predict", "evaluate", "filter", "diagnose", "visualise"]
)
def test_a_stage_without_its_input_names_the_stage_to_run(change, stage):
    with pytest.raises(UserError, match="is missing: run `dvc repro") as error:
        importlib.import_module(f"stages.{stage}").main()
    assert "\n" not in str(error.value)
    assert [path.name for path in Path().iterdir()] == ["params.yaml"], "nothing is written"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_no_arguments_but_help(name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(argument):
        monkeypatch.setattr(sys, "argv", [name, argument])
        monkeypatch.delitem(sys.modules, name, raising=False)  # runpy warns of a module that is there
        with pytest.raises(SystemExit) as end:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        return end.value.code, capsys.readouterr()

    code, printed = run("--help")
    assert code == 0 and f"`python -m {name}`" in printed.out
    code, printed = run("--max-iter=3")
    assert code == 2 and "--max-iter=3" in printed.err and not printed.out
