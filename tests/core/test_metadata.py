"""What a model's file says about itself, and which files are refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from mtseg.core import metadata
from mtseg.core.errors import UserError
from mtseg.core.metadata import Metadata
from mtseg.core.params import load
from tests.scenes import FILTER

MODEL = load(Path(__file__).parents[2] / "params.yaml").model.model_copy(update={"unseen_combinations": 0.5})
COMPLETE = Metadata(
    version="0.1.0", licence="CC0-1.0", step=7, detections=100, ranking="sum", filter=FILTER,
    tasks=[{"name": "part", "classes": ["wheel", "Tür"], "background": True}],
    model=MODEL, seen=[[0], [1]], params={"seed": 0}, scores={"training": {"joint_AP": 51.2}},
    input={"size": 64, "pixel_mean": [0, 0, 0], "pixel_std": [1, 1, 1]}, data={"train": {"sha256": "ab", "images": 3}},
)  # fmt: skip


def safetensors(path, **entries):
    save_file({"weight": np.zeros(3, dtype=np.float32)}, path, metadata=entries or None)
    return path


def onnx_file(path, **entries):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "graph", [value], [other])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    for key, text in entries.items():
        model.metadata_props.add(key=key, value=text)
    onnx.save(model, path)
    return path


FILES = [(safetensors, ".safetensors"), (onnx_file, ".onnx")]


@pytest.mark.parametrize(("write", "suffix"), FILES)
def test_what_is_written_is_read(tmp_path, write, suffix):
    read = metadata.read(write(tmp_path / f"model{suffix}", mtseg=COMPLETE.text()))
    assert read == COMPLETE and read.text() == COMPLETE.text()
    assert read == metadata.read(str(tmp_path / f"model{suffix}"))
    (task,) = read.predicted_tasks()
    assert (task.name, task.classes, task.num_outputs) == ("part", ("wheel", "Tür"), 3)


def refused(path, *words):
    with pytest.raises(UserError) as error:
        metadata.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(("write", "suffix"), FILES)
def test_a_foreign_file_is_refused(tmp_path, write, suffix):
    refused(write(tmp_path / f"bare{suffix}"), "not a model of mtseg")
    refused(write(tmp_path / f"other{suffix}", format="pt"), "not a model of mtseg")


@pytest.mark.parametrize(("write", "suffix"), FILES)
def test_a_broken_file_is_refused(tmp_path, write, suffix):
    path = write(tmp_path / f"whole{suffix}", mtseg=COMPLETE.text())
    for name, data in [("empty", b""), ("cut", path.read_bytes()[:100]), ("noise", bytes(range(256)) * 9)]:
        broken = tmp_path / f"{name}{suffix}"
        broken.write_bytes(data)
        refused(broken, "broken")
    refused(write(tmp_path / f"text{suffix}", mtseg="no JSON"), "Invalid JSON", "changed since")
    for text in ("3", "[]", "null", '"text"'):
        refused(write(tmp_path / f"no object{suffix}", mtseg=text), "an object", "changed since")
    refused(write(tmp_path / f"deep{suffix}", mtseg="[" * 100_000), "Invalid JSON")


@pytest.mark.parametrize(("write", "suffix"), FILES)
def test_a_byte_that_changed_is_seen_wherever_it_is(tmp_path, write, suffix):
    path = tmp_path / f"model{suffix}"
    data = metadata.sealed(lambda text: write(path, mtseg=text).read_bytes(), COMPLETE.text())
    path.write_bytes(data)
    assert metadata.read(path) == COMPLETE
    for place in range(0, len(data), 31):
        broken = bytearray(data)
        broken[place] ^= 1
        path.write_bytes(broken)
        refused(path)


def test_a_checkpoint_of_a_training_is_refused_with_the_command_that_completes_it(tmp_path):
    path = safetensors(tmp_path / "my best.safetensors", mtseg=json.dumps({"tasks": [], "model": {}, "summary": []}))
    command = f"`python -m mtseg export '{path}' --params params.yaml --out 'my best-complete.safetensors'`"
    refused(path, "a checkpoint of a training", command)
    with pytest.raises(UserError) as error:
        metadata.read(path)
    assert "unknown key" not in str(error.value)


def changed(*keys, value):
    """The JSON of a complete model with one entry changed; None deletes it."""
    known = json.loads(COMPLETE.text())
    section = known
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    if value is None:
        del section[keys[-1]]
    return json.dumps(known)


def test_a_file_of_another_version_is_refused_with_that_version_and_a_command(tmp_path):
    newer = json.dumps(json.loads(changed("attention", value="flash")) | {"version": "9.1"})
    refused(safetensors(tmp_path / "newer.safetensors", mtseg=newer), "mtseg 9.1 wrote it", "install that version")
    refused(onnx_file(tmp_path / "newer.onnx", mtseg=newer), "mtseg 9.1 wrote it", "install that version")
    older = json.dumps(json.loads(changed("attention", value="flash")) | {"version": "0.0.9"})
    refused(
        safetensors(tmp_path / "older.safetensors", mtseg=older), "unknown key 'attention'", "0.0.9", "mtseg export"
    )
    refused(onnx_file(tmp_path / "older.onnx", mtseg=older), "unknown key 'attention'", "0.0.9", ".safetensors")


@pytest.mark.parametrize(("version", "newer"), [("0.1.99", False), ("0.2.0", True), ("10.0", True), ("1.0.0rc1", True)])
def test_a_file_of_a_newer_version_is_refused_even_if_its_entries_look_right(tmp_path, version, newer):
    path = safetensors(tmp_path / "model.safetensors", mtseg=changed("version", value=version))
    if newer:
        refused(path, f"mtseg {version} wrote it")
    else:
        metadata.read(path)


UNFIT = [
    (("model", "blocks"), 3, "unknown key 'model.blocks'"),
    (("model", "num_queries"), None, "missing key 'model.num_queries'"),
    (("model", "num_queries"), "many", "model.num_queries"),
    (("model", "backbone"), "vgg", "model.backbone"),
    (("model",), 3, "model"),
    (("input", "size"), 0, "input.size"),
    (("input", "size"), 65, "input.size"),
    (("input", "size"), 10**30, "input.size"),
    (("input", "pixel_std"), [1, 0, 1], "input.pixel_std"),
    (("detections",), 0, "detections"),
    (("filter", "min_score"), {"colour": 0.5}, "filter.min_score: there is no task 'colour', only part"),
    (("filter", "min_logit"), {"colour": 0.5}, "filter.min_logit: there is no task 'colour', only part"),
    (("tasks",), [], "tasks"),
    (("tasks", 0, "classes"), [], "classes"),
    (("tasks", 0, "background"), False, "background: true"),
    (("seen",), [[2]], "seen: [2]"),
    (("seen",), [[0, 1]], "seen: [0, 1]"),
    (("precision",), "int4", "precision"),
    (("version",), "new", "version"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value", "word"), UNFIT)
def test_metadata_that_do_not_fit_are_refused_in_one_line_with_a_command(tmp_path, keys, value, word):
    path = safetensors(tmp_path / "unfit.safetensors", mtseg=changed(*keys, value=value))
    refused(path, word, "`python -m mtseg export ")


def test_a_network_of_combinations_needs_those_it_was_trained_with(tmp_path):
    further = {"name": "size", "classes": ["small", "large"], "background": False}
    known = json.loads(COMPLETE.text())
    for seen, refusal in (([[0, 1]], None), ([], "seen: empty"), ([[0]], "seen: [0]")):
        text = json.dumps(known | {"tasks": [*known["tasks"], further], "seen": seen})
        path = safetensors(tmp_path / "model.safetensors", mtseg=text)
        if refusal:
            refused(path, refusal)
        else:
            metadata.read(path)


def test_what_is_no_file_of_a_model_is_refused(tmp_path):
    refused(tmp_path / "none.safetensors", "no such file")
    for name, fix in [("segmenter.safetensors", "`dvc repro export`"), ("segmenter.onnx", "export.onnx: true")]:
        refused(tmp_path / "export" / name, "no such file", fix)
    refused(tmp_path / "models/best.safetensors", "no such file", "`dvc repro train`")
    refused(tmp_path / "best.pth", ".safetensors or .onnx")
    refused(Path("README.md"), "README.md is not a model", ".safetensors or .onnx")
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", "no such file")
