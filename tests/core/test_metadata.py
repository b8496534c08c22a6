"""What a model's file says about itself, and which files are refused."""

import json

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from mtseg.core import metadata
from mtseg.core.errors import UserError
from mtseg.core.metadata import Metadata
from tests.scenes import FILTER

COMPLETE = Metadata(
    version="0.1.0", licence="CC0-1.0", step=7, detections=100, ranking="sum", filter=FILTER,
    tasks=[{"name": "part", "classes": ["wheel", "Tür"], "background": True}],
    model={"backbone": "swin_t"}, seen=[[0], [1]], params={"seed": 0}, scores={"training": {"joint_AP": 51.2}},
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
    refused(write(tmp_path / f"text{suffix}", mtseg="no JSON"), "invalid json")


def test_a_checkpoint_of_a_training_is_refused_with_the_command_that_completes_it(tmp_path):
    path = safetensors(tmp_path / "my best.safetensors", mtseg=json.dumps({"tasks": [], "model": {}}))
    refused(path, f"`mtseg export '{path}' --params params.yaml --out 'my best-complete.safetensors'`")


def test_a_file_of_another_version_is_refused(tmp_path):
    newer = json.dumps(json.loads(COMPLETE.text()) | {"attention": "flash"})
    refused(safetensors(tmp_path / "newer.safetensors", mtseg=newer), "attention", "another version", "mtseg export")
    refused(onnx_file(tmp_path / "newer.onnx", mtseg=newer), "attention", "another version", ".safetensors")


def test_what_is_no_file_of_a_model_is_refused(tmp_path):
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path / "best.pth", ".safetensors or .onnx")
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", "no such file")
