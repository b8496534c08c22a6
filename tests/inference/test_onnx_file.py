"""ONNX files whose network fits its metadata or does not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mtseg
from mtseg.core import metadata
from mtseg.inference.onnx_network import OnnxNetwork
from tests.onnx_files import DETECTIONS, QUERIES, SIDE, outputs, write


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
    masks = outputs(known) | {"masks": outputs(known)["masks"] * np.inf}
    refused(write(tmp_path / "inf.onnx", known, masks), "not finite", "export it again")


@pytest.mark.parametrize(("name", "value"), [("query", QUERIES), ("query", -1), ("labels", 99), ("labels", -1)])
def test_indices_out_of_range_are_one_line(tmp_path, known, name, value):
    right = outputs(known)
    broken = right | {name: np.full_like(right[name], value)}
    refused(write(tmp_path / "wrong.onnx", known, broken), f"'{name}' out of range", "export it again")


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
