"""Activation checkpointing and gradient accumulation: less memory, the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from mtseg.model import backbones
from mtseg.model.recompute import stages
from tests import tiny
from tests.scenes import make_tasks

FROZEN = {"freeze_norm": True}
FAMILIES = ("efficientnet_lite0", "mobilenetv3_large", "resnet50", "swin_t", "timm/convnext_atto")


def trained(network, parts, norm=None, seed=1):
    """Losses summed over the parts of a step, and the gradients."""
    total: dict[str, torch.Tensor] = {}
    for part in parts:
        torch.manual_seed(seed)
        losses = network(part, norm)
        sum(losses.values()).backward()
        for name, value in losses.items():
            total[name] = total.get(name, 0) + value.detach()
    return total, {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize(
    ("backbone", "where"),
    [(tiny.BACKBONE, "backbone"), (tiny.BACKBONE, "pixel_decoder"), *((name, "both") for name in FAMILIES)],
)
def test_recomputing_keeps_losses_and_gradients_to_the_bit(backbone, where):
    """Swin drops random paths, and must drop the same ones when recomputed."""
    tasks = make_tasks(3)
    batch = [tiny.example(tasks, 3), tiny.example(tasks, 2, seed=1)]
    model = FROZEN | {"backbone": backbone, "encoder_layers": 2}
    plain = tiny.network(tasks, model=model).train()
    lean = tiny.network(tasks, model=model | {"recompute": where}).train()
    assert plain.state_dict().keys() == lean.state_dict().keys()
    losses, gradients = trained(plain, [batch])
    lean_losses, lean_gradients = trained(lean, [batch])
    assert all(torch.equal(lean_losses[name], value) for name, value in losses.items())
    assert all(torch.equal(lean_gradients[name], value) for name, value in gradients.items())


def kept(network, batch) -> int:
    """Bytes stored for the backward pass."""
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(batch)
    return sum(sizes.values())


def test_each_part_recomputed_keeps_less():
    tasks = make_tasks(1)
    batch = [tiny.example(tasks, 3)]
    sizes = {
        where: kept(tiny.network(tasks, model=FROZEN | {"recompute": where, "encoder_layers": 3}).train(), batch)
        for where in ("none", "backbone", "pixel_decoder", "both")
    }
    assert sizes["both"] < min(sizes["backbone"], sizes["pixel_decoder"])
    assert max(sizes["backbone"], sizes["pixel_decoder"]) < sizes["none"]


@pytest.mark.parametrize("name", FAMILIES)
def test_most_of_a_backbone_lies_in_its_stages(name):
    network = backbones.build(name, freeze_norm=True)
    inside = sum(parameter.numel() for stage in stages(network) for parameter in stage.parameters())
    assert inside > 0.95 * sum(parameter.numel() for parameter in network.parameters())
    assert len(list(stages(network))) >= 4


def test_a_copy_computes_with_its_own_weights():
    tasks = make_tasks(1)
    network = tiny.network(tasks, model=FROZEN | {"recompute": "both"})
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    _, gradients = trained(network.train(), [[tiny.example(tasks, 2)]])
    assert any(gradient.abs().sum() > 0 for gradient in gradients.values())
    assert all(parameter.grad is None for parameter in other.parameters())


def test_batch_norm_that_learns_is_not_computed_twice():
    with pytest.raises(ValidationError, match="recompute: both requires freeze_norm: true"):
        tiny.params(model={"recompute": "both", "freeze_norm": False})


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("background", [True, False])
def test_accumulated_gradients_equal_those_of_the_large_batch(count, background, monkeypatch):
    """With fixed points, since random points differ between batches."""
    tasks = tuple(
        task.model_copy(update={"class_weights": {task.classes[0]: 3.0}}) for task in make_tasks(count, background)
    )
    points = torch.rand(1, 64, 2, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr("mtseg.model.matching.torch.rand", lambda *size, device: points.expand(*size))
    monkeypatch.setattr("mtseg.model.losses.uncertain_points", lambda x, loss, **others: points.expand(len(x), -1, -1))
    batch = [tiny.example(tasks, n, seed=n) for n in (3, 0, 1, 5)]
    batch[0]["instances"].gt_labels[1, 1:] = -1
    large, small = (tiny.network(tasks, model=FROZEN).train() for _ in range(2))
    losses, gradients = trained(large, [batch])
    norm = small.normaliser([example["instances"].gt_labels for example in batch])
    parts_losses, parts_gradients = trained(small, [batch[:1], batch[1:3], batch[3:]], norm)
    for name, value in losses.items():
        assert abs(parts_losses[name] - value) <= 1e-5 * max(1, abs(value)), name
    for name, value in gradients.items():
        assert (parts_gradients[name] - value).abs().max() <= 1e-5 * max(1, value.abs().max()), name
