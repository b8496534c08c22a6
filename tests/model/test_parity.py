"""The network against an independent implementation, transformers' Mask2Former; `python -m benchmarks.parity` compares
the published size. Each intended difference has a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from benchmarks import parity
from mtseg.model import checkpoints
from mtseg.model.backbones._swin import Swin
from mtseg.model.checkpoints import huggingface

GROUPS = {
    "backbone", "pixel decoder", "class logits", "mask logits", "attention masks", "matching costs", "matching",
    "uncertain points", "losses", "gradients",
}  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


MANY = replace(parity.TINY, instances=(8, 0, 2))  # 8: more than queries


@pytest.mark.parametrize(
    ("setting", "dtype"),
    [(parity.TINY, torch.float32), (MANY, torch.float64), (parity.TINY_SWIN, torch.float64)],
    ids=["resnet50-float32", "resnet50-float64", "swin_t-float64-other-weights"],
)
def test_every_tensor_equals_the_references(setting, dtype, monkeypatch):
    """Gradients are compared in float64 only: in float32, rounding moves some units to the other side of a ReLU's
    kink. The mask losses are divided by the number of objects (DETR, arXiv 2005.12872, section 3.1), matched or not.
    This project has separate weights for loss and matching cost, the reference has one for both."""
    if setting is parity.TINY_SWIN:
        loss = parity.PARAMS.loss.model_copy(update={"labels": 11.0})
        monkeypatch.setattr(parity, "PARAMS", parity.PARAMS.model_copy(update={"loss": loss}))
        monkeypatch.setattr(parity, "TASK", parity.TASK.model_copy(update={"loss_weight": 0.5}))
    assert parity.TASK.match_weight == 1
    rows = parity.compare(setting, dtype)
    assert {row.what for row in rows} == GROUPS
    assert {row.what for row in rows if not row.held} == ({"gradients"} if dtype == torch.float32 else set())
    assert [row for row in rows if not row.passes] == []
    if dtype == torch.float64:  # the same formula, not a near one
        assert max(row.absolute for row in rows) < 1e-8


def test_images_without_any_objects():
    rows = parity.compare(replace(parity.TINY, instances=(0,)), torch.float64)
    assert [row for row in rows if not row.passes] == []


def test_a_cost_that_is_not_finite_stops_ours_and_not_the_reference():
    """By intent: there it becomes the largest float, and a diverged network goes on training on it."""
    theirs = parity.reference(parity.TINY)
    ours = parity.copy_of(theirs, parity.TINY)
    batch = parity.images(parity.TINY)
    for parameter in (
        theirs.model.pixel_level_module.decoder.mask_projection.bias,
        ours.pixel_decoder.mask_features.bias,
    ):
        parameter.data.fill_(float("nan"))
    with parity.same_points():
        found, _ = parity.run_theirs(theirs, batch, mean=ours.pixel_mean, std=ours.pixel_std)
        assert found["matching"]["layer 0 image 0"].shape == (2, 3)
        with pytest.raises(FloatingPointError, match="decoder layer 0, image 0"):
            ours(batch)


def test_differences_are_seen():
    """The largest difference of each tensor; NaN is never close."""
    theirs = {"a": torch.zeros(2), "b": torch.tensor([1.0, 2.0]), "empty": torch.zeros(0)}
    row = parity.difference(torch.float32, "losses", theirs, theirs | {"b": torch.tensor([1.0, 2.5])})
    assert (row.tensor, row.absolute, row.passes) == ("b", 0.5, False)
    row = parity.difference(torch.float32, "losses", theirs, theirs | {"a": torch.full((2,), torch.nan)})
    assert (row.tensor, row.passes) == ("a", False)


def test_attention_masks_are_compared():
    """A mask that looks where the reference does not is off by the logit that it takes for positive."""
    theirs = parity.reference(parity.TINY)
    ours = parity.copy_of(theirs, parity.TINY)
    batch = parity.images(parity.TINY)
    own = ours.decoder._attention_mask
    ours.decoder._attention_mask = lambda state, features: ~own(state, features)
    _, masks = parity.run_theirs(theirs, batch, mean=ours.pixel_mean, std=ours.pixel_std)
    assert min(parity.run_ours(ours, batch, masks)["attention masks"].values()) > 0.1


def test_a_swin_checkpoint_is_renamed_from_file_and_from_memory(tmp_path):
    swin = SwinConfig(
        embed_dim=16, depths=[1, 2, 1, 1], num_heads=[1, 2, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    network = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=swin,
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            num_queries=5,
            encoder_layers=1,
            encoder_feedforward_dim=32,
            decoder_layers=2,
            dim_feedforward=32,
            num_attention_heads=4,
        )  # fmt: skip
    ).eval()
    draw = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    network.save_pretrained(tmp_path)  # under the older names, as all published files have them
    state = load_file(tmp_path / "model.safetensors")
    assert "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.query.weight" in state

    converted = checkpoints.convert(state)
    memory = huggingface.convert(network.state_dict())
    assert converted.keys() == memory.keys()
    assert all(torch.equal(value, memory[key]) for key, value in converted.items())
    left = {key for key in converted if not key.startswith(("backbone.", "pixel_decoder.", "decoder."))}
    assert {key.rsplit(".", 1)[0] for key in left} == {"criterion", "model.pixel_level_module.encoder.swin.layernorm"}

    ours = Swin(dim=16, depths=(1, 2, 1, 1), heads=(1, 2, 2, 2), window=4).eval()
    weights = {key.removeprefix("backbone."): value for key, value in converted.items() if key.startswith("backbone.")}
    keys = ours.load_state_dict(weights, strict=False)
    assert not keys.unexpected_keys
    assert all(key.endswith("relative_position_index") for key in keys.missing_keys)  # no weight
    image = torch.rand(1, 3, 40, 72, generator=draw)
    with torch.no_grad():
        expected, found = network.model.pixel_level_module.encoder(image).feature_maps, ours(image).values()
    for a, b in zip(expected, found, strict=True):
        assert (a - b).abs().max() < parity.TOLERANCE
