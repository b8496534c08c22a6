"""ONNX files whose network does not fit, made by hand: no export, and thus fast."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

import mtseg
from mtseg.core import metadata
from mtseg.core.metadata import Metadata
from mtseg.inference.onnx_network import OnnxNetwork

DETECTIONS, QUERIES, SIDE = 3, 2, 64


def outputs(known: Metadata) -> dict[str, np.ndarray]:
    """What the network gives for an image: two detections of one query and one of another."""
    tasks = known.predicted_tasks()
    masks = np.full((QUERIES, SIDE // 4, SIDE // 4), -9, np.float32)
    masks[0, 2:6, 2:6], masks[1, 8:12, 8:12] = 9, 9
    return {
        "query": np.array([0, 1, 0]),
        "labels": np.zeros((DETECTIONS, len(tasks)), np.int64),
        "probability": np.array([0.9, 0.8, 0.7], np.float32),
        "masks": masks,
    } | {f"logits.{task.name}": np.eye(DETECTIONS, task.num_outputs, dtype=np.float32) * 9 for task in tasks}


def write(path, known: Metadata, given: dict[str, np.ndarray], side: int = SIDE):
    """A network that gives the same for every image."""
    nodes = [
        helper.make_node("Shape", ["image"], ["batch"], start=0, end=1),
        *(helper.make_node("Concat", ["batch", f"{name}.size"], [f"{name}.shape"], axis=0) for name in given),
        *(helper.make_node("Expand", [f"{name}.value", f"{name}.shape"], [name]) for name in given),
    ]
    stored = [numpy_helper.from_array(x[None], f"{name}.value") for name, x in given.items()]
    stored += [numpy_helper.from_array(np.array(x.shape, np.int64), f"{name}.size") for name, x in given.items()]
    kinds = {name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in given.items()}
    found = [helper.make_tensor_value_info(name, kinds[name], ["B", *x.shape]) for name, x in given.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", side, side, 3])
    graph = helper.make_graph(nodes, "graph", [image], found, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model.metadata_props.add(key="mtseg", value=known.text())
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def known(segmenter):
    return metadata.read(segmenter)


def test_a_network_that_fits_predicts(tmp_path, known):
    predictor = mtseg.load(write(tmp_path / "model.onnx", known, outputs(known)), device="cpu")
    found = predictor.predict([np.zeros((64, 64, 3), np.uint8)] * 3, batch=2)
    assert found.images.id.tolist() == [1, 2, 3] and len(found) >= 3
    assert "ONNX Runtime" in repr(predictor)


def refused(path, *words):
    with pytest.raises(mtseg.UserError) as error:
        mtseg.load(path, device="cpu").predict(np.zeros((64, 64, 3), np.uint8))
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in (path.name, *words)), error.value


def test_a_network_that_is_not_as_its_metadata_describe_it_is_one_line(tmp_path, known):
    right = outputs(known)
    for name in right:
        fewer = {other: x for other, x in right.items() if other != name}
        refused(write(tmp_path / f"without-{name}.onnx", known, fewer), f"'{name}'", "export it again")
    task = known.tasks[1].name
    wider = right | {f"logits.{task}": np.zeros((DETECTIONS, 9), np.float32)}
    refused(write(tmp_path / "wider.onnx", known, wider), f"'logits.{task}'", "export it again")
    refused(write(tmp_path / "larger.onnx", known, right, side=96), "'image'", "export it again")


def test_values_that_are_not_finite_are_one_line(tmp_path, known):
    broken = outputs(known) | {"probability": np.array([0.9, np.nan, 0.7], np.float32)}
    refused(write(tmp_path / "nan.onnx", known, broken), "not finite", "export it again")


def test_onnx_is_not_compiled(tmp_path, known):
    with pytest.raises(mtseg.UserError, match="compile: .*ONNX"):
        mtseg.load(write(tmp_path / "model.onnx", known, outputs(known)), compile=True)


def test_mask_quality_is_the_mean_inside_and_sorts_masks_and_labels_together(tmp_path, known):
    """Against PyTorch's resizing. The quality is such that the order is neither that given nor its reverse."""
    values = np.random.default_rng(0).uniform(0.1, 1, (QUERIES, SIDE // 4, SIDE // 4)).astype(np.float32)
    values[1] *= 20
    masks = np.where(outputs(known)["masks"] > 0, values, -9).astype(np.float32)
    labels = np.arange(DETECTIONS)[:, None].repeat(len(known.tasks), 1)
    given = outputs(known) | {"masks": masks, "labels": labels}
    network = OnnxNetwork(write(tmp_path / "model.onnx", known, given), "cpu", threads=1)
    (found,) = network.detect(np.zeros((1, SIDE, SIDE, 3), np.uint8), [(56, 64)], [(90, 100)])
    assert found.labels[:, 0].tolist() == [1, 0, 2] and found.query.tolist() == [1, 0, 0]
    square = F.interpolate(torch.tensor(masks)[None], size=(SIDE, SIDE), mode="bilinear")[..., :56, :]
    full = F.interpolate(square, size=(90, 100), mode="bilinear")[0]
    for row, query in enumerate(found.query):
        logits = full[query]
        assert ((logits > 0).numpy() == found.masks[found.mask[row]]).mean() > 0.999
        assert found.mask_quality[row] == pytest.approx(logits[logits > 0].sigmoid().mean().item(), abs=2e-3)
        for name, x in found.logits.items():
            assert np.array_equal(x[row], given[f"logits.{name}"][found.labels[row, 0]])
