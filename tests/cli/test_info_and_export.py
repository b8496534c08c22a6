"""`mtseg info`, `mtseg export`, the help pages, and how fast they start."""

import io
import json
import re
import shlex
import shutil
import sys

import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import mtseg as library
from mtseg.cli import app, info
from mtseg.cli.export import _squares
from mtseg.core import metadata
from mtseg.model import weights
from tests import tiny
from tests.cli.conftest import ROOT, start, write_images
from tests.scenes import make_tasks

TASKS = make_tasks(3)
SEEN = [(0, 0, 0), (1, 1, 2)]


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "models").mkdir()
    return tiny.checkpoint(tmp_path / "models" / "best.safetensors", TASKS)


@pytest.fixture
def params(tmp_path):
    """A params.yaml of that checkpoint, with keys of `filter`, `test` or other sections changed."""

    def write(**changes):
        raw = tiny.params(tasks=[task.model_dump() for task in TASKS], **changes).model_dump(mode="json")
        with (tmp_path / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(raw, file)
        return tmp_path / "params.yaml"

    return write


def test_info_prints_what_a_user_must_know(mtseg, segmenter):
    done = mtseg("info", segmenter)
    assert done.code == 0 and not done.err
    for word in ("shape", "circle, square, star", tiny.BACKBONE, "64 x 64", "product_quality", "min_score"):
        assert word in done.out
    assert "CC0-1.0" in done.out and f"mtseg {library.__version__}" in done.out and "MB" in done.out


def test_text_that_the_terminal_cannot_show_is_escaped(mtseg, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown := io.BytesIO(), "latin-1", write_through=True))
    monkeypatch.setattr(library, "__version__", "круг")
    assert mtseg("--version").code == 0
    assert "круг".encode("unicode_escape") in shown.getvalue()


def test_a_file_cannot_send_commands_to_the_terminal(segmenter, capsys):
    known = metadata.read(segmenter)
    evil = "\x1b]0;owned\x07 [red]"
    info._print(
        segmenter, known.model_copy(update={"licence": evil, "data": {evil: {evil: evil}}, "scores": {evil: 1}})
    )
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown and shown.count(r"\x1b]0;owned\x07 [red]") == 5


def test_info_prints_the_metadata_as_json(mtseg, segmenter):
    done = mtseg("info", segmenter, "--json")
    assert json.loads(done.out) == json.loads(metadata.read(segmenter).text())


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["info", "--help"], ["export", "--help"]])
def test_help_pages_have_examples_and_exit_codes(arguments):
    page = CliRunner().invoke(app, arguments)
    assert page.exit_code == 0 and "Exit codes" in page.stdout
    assert arguments == ["--help"] or f"mtseg {arguments[0]} " in page.stdout.partition("Example")[2]


@pytest.mark.parametrize("command", ["predict", "info", "export", "relabel", "serve"])
def test_help_pages_show_plain_names(command):
    page = CliRunner().invoke(app, [command, "--help"]).stdout
    usage = next(line for line in page.splitlines() if "Usage" in line)
    assert re.fullmatch(rf" Usage: \S+ {command} \[OPTIONS\]( FILE| SOURCE\.\.\.| \[SOURCE\.\.\.\])?", usage.rstrip())
    assert not re.search(r"[{}]|<(bool|str|int|float|path|list)|range", page)


def test_the_version_is_printed_and_no_command_is_an_error(mtseg):
    assert mtseg("--version").out == f"mtseg {library.__version__}\n"
    assert mtseg().code == 1
    unknown = mtseg("serv")
    assert unknown.code == 1 and "serv" in unknown.err and unknown.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["info", "FILE"], ["info", "FILE", "--json"]])
def test_pages_load_no_heavy_package(arguments, segmenter):
    code = (
        "import atexit, sys\n"
        "heavy = ('torch', 'torchvision', 'timm', 'detectron2', 'matplotlib', 'onnxruntime', 'scipy', 'cv2')\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))\n"
        "from mtseg.cli import main\n"
        "main()\n"
    )
    given = [str(segmenter) if argument == "FILE" else argument for argument in arguments]
    out, err = (process := start(*given, code=code)).communicate(timeout=60)
    assert process.returncode == 0 and out and err == "[]\n"


def test_a_checkpoint_is_completed_by_the_command_that_the_error_names(
    mtseg, tmp_path, checkpoint, params, monkeypatch
):
    params(filter={"min_score": 0.25}, test={"ranking": "sum"}, export={"licence": "CC0-1.0"})
    monkeypatch.chdir(tmp_path)
    refused = mtseg("info", "models/best.safetensors")
    assert refused.code == 1 and refused.err.count("\n") == 1
    command = shlex.split(re.search("`(python -m mtseg export .*)`", refused.err)[1])
    assert mtseg(*command[3:]).code == 0
    done = metadata.read("best-complete.safetensors")
    assert (done.filter.min_score, done.ranking, done.licence, done.input.size) == (0.25, "sum", "CC0-1.0", tiny.SIDE)
    ours, theirs = load_file(checkpoint), load_file("best-complete.safetensors")
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)
    library.load("best-complete.safetensors", device="cpu")


def rewrite(path, change):
    """Change the metadata of a checkpoint."""
    state, known = weights.load(path)
    weights.write(path, state, json.dumps(change(known)))


def test_what_an_older_version_did_not_record_is_taken_from_the_params_only_if_the_user_says_so(
    mtseg, tmp_path, checkpoint, params
):
    def older(known):
        model = {key: value for key, value in known["model"].items() if key not in ("unseen_combinations", "num_heads")}
        return {"tasks": known["tasks"], "model": model}

    rewrite(checkpoint, older)
    command = ("export", checkpoint, "--params", params(), "--out", tmp_path / "new.safetensors")
    refused = mtseg(*command)
    assert refused.code == 1 and refused.err.count("\n") == 1 and not (tmp_path / "new.safetensors").exists()
    for word in ("input.size", "model.num_heads", "model.unseen_combinations", "--assume-params"):
        assert word in refused.err
    assert mtseg(*command, "--assume-params").code == 0
    done = metadata.read(tmp_path / "new.safetensors")
    assert done.model.num_heads == tiny.SMALL["model"]["num_heads"] and done.seen == () and done.step == 0
    library.load(tmp_path / "new.safetensors", device="cpu")


def test_what_cannot_be_completed_is_one_line(mtseg, tmp_path, checkpoint, params):
    out = tmp_path / "new.safetensors"

    def refused(*words, file=checkpoint, settings=None, out=out):
        done = mtseg("export", file, "--params", settings or params(), "--out", out)
        assert done.code == 1 and done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
        assert all(str(word) in done.err for word in words), done.err
        assert not (tmp_path / "new.safetensors").exists()

    refused("best.safetensors", out=checkpoint)
    refused(".safetensors", out=tmp_path / "new.bin")
    refused("none.safetensors", file=tmp_path / "none.safetensors")
    refused("none.yaml", "--params", settings=tmp_path / "none.yaml")
    refused("input.size", 64, 96, settings=params(input={"size": 96}))
    refused("thresholds", "dvc repro", settings=params(filter={"thresholds": "auto"}))
    save_file(load_file(checkpoint), tmp_path / "foreign.safetensors")
    refused("foreign.safetensors", "mtseg", file=tmp_path / "foreign.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(checkpoint.read_bytes()[:1000])
    refused("broken.safetensors", file=tmp_path / "broken.safetensors")
    for name, change, word in [
        ("no_tasks", lambda known: known | {"tasks": []}, "tasks"),
        ("other_network", lambda known: known | {"model": known["model"] | {"num_queries": 9}}, "num_queries"),
        ("other_key", lambda known: known | {"model": known["model"] | {"blocks": 9}}, "model.blocks"),
        ("no_seen", lambda known: {k: v for k, v in _combined(known).items() if k != "seen"}, "combinations"),
    ]:
        path = shutil.copy(checkpoint, tmp_path / f"{name}.safetensors")
        rewrite(path, change)
        refused(path, "query" if name == "other_network" else word, file=path)


def _combined(known):
    return known | {"model": known["model"] | {"unseen_combinations": 0.5}}


def test_a_complete_model_is_completed_anew_with_other_settings(mtseg, tmp_path, checkpoint, params):
    mtseg("export", checkpoint, "--params", params(), "--out", tmp_path / "one.safetensors")
    settings = params(filter={"min_score": 0.9})
    assert (
        mtseg("export", tmp_path / "one.safetensors", "--params", settings, "--out", tmp_path / "two.safetensors").code
        == 0
    )
    one, two = (metadata.read(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert two == one.model_copy(update={"filter": one.filter.model_copy(update={"min_score": 0.9})})


def test_the_script_of_the_package_is_this_command():
    assert 'mtseg = "mtseg.__main__:main"' in (ROOT / "pyproject.toml").read_text()


def test_ctrl_c_is_one_line_in_a_command_and_while_it_is_imported(mtseg, segmenter, monkeypatch):
    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(metadata, "read", interrupt)
    for command in (["info", segmenter], ["predict", "shots", "--weights", segmenter]):
        done = mtseg(*command)
        assert (done.code, done.err) == (130, "error: interrupted\n")
    code = """import builtins, runpy
load = builtins.__import__
def interrupted(name, *given, **more):
    if name == "typer":
        raise KeyboardInterrupt
    return load(name, *given, **more)
builtins.__import__ = interrupted
runpy.run_module("mtseg", run_name="__main__")"""
    process = start(code=code)
    assert process.communicate(timeout=60)[1] == "error: interrupted\n" and process.returncode


def test_a_reader_that_ends_early_is_no_error(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    process = start("--version")
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 1
    process.stderr.close()


def test_wrong_choices_of_onnx_are_one_line(mtseg, tmp_path, segmenter, checkpoint):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "loop.onnx").symlink_to(tmp_path / "loop.onnx")
    for file, arguments, words in [
        (segmenter, ("--out", "m.onnx", "--precision", "int8"), ["--calibration"]),
        (segmenter, ("--out", "m.onnx", "--calibration", tmp_path), ["int8"]),
        (segmenter, ("--out", "m.safetensors", "--precision", "float16"), ["ONNX"]),
        (segmenter, ("--out", "m.onnx", "--format", "safetensors"), [".safetensors"]),
        (segmenter, ("--out", "m.pt"), [".onnx"]),
        (segmenter, ("--out", tmp_path / "folder.onnx"), ["folder.onnx is a folder"]),
        (segmenter, ("--out", tmp_path / "loop.onnx"), ["loop.onnx", "leads back to itself"]),
        (segmenter, ("--out", "m.onnx", "--precision", "int4"), ["int4", "int8"]),
        (segmenter, ("--out", "m.onnx", "--precision", "int8", "--calibration", tmp_path / "none"), ["none"]),
        (checkpoint, ("--out", "m.onnx"), ["mtseg export", "--params"]),
        (tmp_path / "m.onnx", ("--out", "m.safetensors"), ["m.onnx", "cannot be converted", ".safetensors"]),
        (tmp_path / "m.onnx", ("--out", "n.onnx"), ["m.onnx", "cannot be converted", ".safetensors"]),
    ]:
        done = mtseg("export", file, *arguments)
        assert done.code == 1 and done.err.count("\n") == 1 and all(word in done.err for word in words), done.err


WITHOUT_PYTORCH = """
import sys
from importlib.abc import MetaPathFinder
class Missing(MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name=name)
sys.meta_path.insert(0, Missing())
from mtseg.cli import main
main()
"""


@pytest.mark.parametrize(
    "arguments", [("export", "FILE", "--out", "a.onnx"), ("export", "FILE", "--out", "a.safetensors"),
                  ("predict", "shots", "--weights", "FILE")]
)  # fmt: skip
def test_without_pytorch_the_extra_is_named(tmp_path, segmenter, params, shots, arguments):
    params()
    given = [segmenter if argument == "FILE" else argument for argument in arguments]
    _, err = (process := start(*given, code=WITHOUT_PYTORCH, cwd=tmp_path)).communicate(timeout=60)
    assert process.returncode == 1 and err.startswith("error: ") and err.count("\n") == 1, err
    assert "torch, which is not installed" in err and "mtseg[torch]" in err and not list(tmp_path.glob("a.*"))


def test_int8_is_calibrated_on_images_evenly_spread_over_folders_and_videos(tmp_path):
    film = cv2.VideoWriter(str(tmp_path / "b.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for level in range(90):
        film.write(np.full((48, 64, 3), 2 * level, dtype=np.uint8))
    film.release()
    write_images(tmp_path / "shots", [f"{i}.png" for i in range(9)])
    squares = _squares(tmp_path / "b.avi", 64)
    assert squares.shape == (50, 64, 64, 3)
    levels = squares[:, 20, 20, 0].astype(int) // 2
    assert levels[0] < 3 and levels[-1] > 85 and np.diff(levels).max() <= 3
    assert len(_squares(tmp_path / "shots", 64)) == 9


def test_every_number_has_limits_that_the_help_states(mtseg, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    stated = [
        limits
        for command in ("predict", "info", "export", "relabel", "serve")
        for limits in re.findall(r"(?:NUMBER|PIXELS) +(\S+)", mtseg(command, "--help").out)
    ]
    assert len(stated) == 12
    assert not [limits for limits in stated if not re.fullmatch(r"\[[\d.]+<=x<=[\d.]+\]", limits)]
