"""The arithmetic of benchmarks/speed.py, and that both sides compute the same."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers.modeling_outputs import BackboneOutput

from benchmarks import speed
from benchmarks.parity import TINY


def test_share_is_the_median_of_the_rounds_not_the_ratio_of_sums():
    assert speed.share([1, 1, 50], [2, 4, 100]) == 0.5
    assert speed.share([1, 9, 3], [2, 1, 4]) == 0.75


def test_operations_are_counted_in_the_backward_pass_too():
    x = torch.ones(3, requires_grad=True)
    with speed.Operations() as forward:
        y = (x * 2).sum()
    with speed.Operations() as backward:
        y.backward()
    assert forward.counts["aten.mul.Tensor"] == forward.counts["aten.sum.default"] == 1
    assert backward.counts["aten.mul.Tensor"] == 1  # the gradient of the product


def test_clock_sums_the_calls_of_a_part():
    clock = speed.Clock()
    call = clock.wrap("part", lambda n: sum(range(n)))
    assert call(10) == 45
    first = clock.seconds["part"]
    call(10**6)
    assert clock.seconds["part"] > first


FOUND = {
    "step cpu": {"mtseg": 0.6}, "inference cpu": {"mtseg": 0.5}, "peak": {"mtseg": 8, "transformers": 10},
    "operations": {"mtseg": 5, "transformers": 10}, "further task": 0.01,
}  # fmt: skip


def test_a_target_is_missed_only_above_it():
    assert speed.missed("default", FOUND) == []
    for key, value in (("further task", 0.02), ("peak", {"mtseg": 9, "transformers": 10})):
        worse = copy.deepcopy(FOUND) | {key: value}
        assert len(speed.missed("default", worse)) == 1
    assert len(speed.missed("default", FOUND | {"inference cpu": {"mtseg": 0.6}})) == 1
    assert speed.missed("resnet50", FOUND | {"inference cpu": {"mtseg": 0.6}}) == []


def test_the_plot_takes_any_set_ups_and_parts(tmp_path):
    parts = {"parts": {side: {"backward": 2.0, "backbone": 1.0} for side in speed.PEAKS}}
    speed.plot({"default": FOUND | parts, "resnet50": FOUND | parts}, tmp_path / "speed.svg")
    assert b"<svg" in (tmp_path / "speed.svg").read_bytes()


@pytest.fixture(scope="module")
def sides():
    setting = replace(TINY, backbone="efficientnet_lite0")
    theirs = speed.Theirs(setting)
    ours = speed.Ours(setting, tasks=3)
    ours.copy(theirs)
    return ours, theirs


@torch.no_grad()
def test_both_have_the_same_weights_behind_the_backbone_and_so_the_same_output(sides, monkeypatch):
    ours, theirs = (side.network.eval() for side in sides)
    draw = torch.Generator().manual_seed(0)
    features = {
        level: torch.randn(len(TINY.instances), shape.channels, TINY.height // shape.stride, TINY.width // shape.stride,
                           generator=draw)
        for level, shape in ours.backbone.output_shape().items()
    }  # fmt: skip
    encoder = theirs.model.pixel_level_module.encoder
    monkeypatch.setattr(ours.backbone, "forward", lambda images: features)
    monkeypatch.setattr(encoder, "forward", lambda *_, **__: BackboneOutput(feature_maps=[*features.values()]))
    output, expected = ours.queries(sides[0].batch), theirs(sides[1].pixels(), output_auxiliary_logits=True)
    first = expected.auxiliary_logits[0]
    assert torch.allclose(output.logits["main"][0], first["class_queries_logits"], atol=1e-4)
    assert torch.allclose(output.masks(0), first["masks_queries_logits"], atol=1e-4)
    assert torch.allclose(output.mask_features_BCHW, expected.pixel_decoder_last_hidden_state, atol=1e-4)


def test_both_train_and_predict(sides):
    for side in sides:
        side.network.train()
        clock = speed.Clock()
        side.time_parts(clock)
        speed.step(side, clock)
        assert {"backbone", "pixel_decoder", "decoder", "backward", "optimiser"} <= clock.seconds.keys()
        side.network.eval()
        assert len(side.predict()) == len(side.batch)
