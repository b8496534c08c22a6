"""A trial step: losses that are no scalars, not finite, left out or changed, and parts that do not learn are named."""

from __future__ import annotations

import pytest
import torch

from mtseg.checks import step as trial
from mtseg.model.mask2former import Mask2Former
from tests import tiny
from tests.scenes import make_tasks

SOLVER = tiny.params().solver


def batch(tasks):
    return [tiny.example(tasks, 3, seed=seed) for seed in (1, 2)]


@pytest.mark.parametrize("change", [lambda found: list(found.values()), lambda found: {"loss_a_0": torch.ones(2)}])
def test_f3_what_is_no_dict_of_scalars_is_told(change, monkeypatch):
    tasks, real = make_tasks(2), Mask2Former.forward
    monkeypatch.setattr(Mask2Former, "forward", lambda self, *args: change(real(self, *args)))
    found = trial.check(tiny.network(tasks), batch(tasks), solver=SOLVER)
    assert {finding.cause for finding in found} == {"loss_not_scalar"}


@pytest.mark.parametrize("change", [lambda found: {}, lambda found: {name: float(x) for name, x in found.items()}])
def test_f3_losses_that_are_empty_or_floats_are_told(change, monkeypatch):
    tasks, real = make_tasks(2), Mask2Former.forward
    monkeypatch.setattr(Mask2Former, "forward", lambda self, *args: change(real(self, *args)))
    found = trial.check(tiny.network(tasks), batch(tasks), solver=SOLVER)
    assert {finding.cause for finding in found} == {"loss_not_scalar"}


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("layer", ["0", "1"])
def test_a_loss_that_is_left_out_or_changed_is_told(count, layer, monkeypatch):
    tasks, real = make_tasks(count), Mask2Former.forward
    left_out, turned = f"loss_{tasks[-1].name}_{layer}", f"loss_dice_{layer}"

    def found(change):
        with monkeypatch.context() as patch:
            patch.setattr(Mask2Former, "forward", lambda self, *args: change(real(self, *args)))
            return trial.check(tiny.network(tasks), batch(tasks), solver=SOLVER)

    (one,) = found(lambda losses: {name: value for name, value in losses.items() if name != left_out})
    assert one.cause == "loss_muted" and left_out in one.evidence
    (one,) = found(lambda losses: losses | {turned: -losses[turned]})
    assert one.cause == "loss_targets" and "negative" in one.evidence and turned in one.evidence
    (one,) = found(lambda losses: losses | {turned: 2 * losses[turned]})
    assert one.cause == "loss_targets" and turned in one.evidence
    assert not found(lambda losses: losses | {"loss_other_0": losses[turned] * 0.5}), "further losses may be"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_no_matter_of_the_trainings_lr(value, monkeypatch):
    tasks, real = make_tasks(2), Mask2Former.forward
    monkeypatch.setattr(Mask2Former, "forward", lambda self, *args: real(self, *args) | {"loss_mask_0": given * value})
    given = torch.ones(())
    (found,) = trial.check(tiny.network(tasks), batch(tasks), solver=SOLVER)
    assert found.cause == "loss_not_finite" and "base_lr" not in found.change


def test_an_lr_of_0_and_a_clip_to_nothing_are_told(monkeypatch):
    from mtseg.training import step

    tasks = make_tasks(2)
    clipped = tiny.params(solver={"clip": 1e-12}).solver
    (found,) = trial.check(tiny.network(tasks), batch(tasks), solver=clipped)
    assert found.cause == "weights_frozen" and "solver.clip" in found.change
    monkeypatch.setattr(step, "schedule", lambda solver: lambda share: 0.0)
    (found,) = trial.check(tiny.network(tasks), batch(tasks), solver=SOLVER)
    assert found.cause == "lr_too_low" and "schedule" in found.evidence


def test_a_part_that_is_frozen_or_not_in_the_optimiser_is_told(monkeypatch):
    from mtseg.training import step

    tasks = make_tasks(2)
    given = tiny.network(tasks)
    given.pixel_decoder.requires_grad_(False)
    (found,) = trial.check(given, batch(tasks), solver=SOLVER)
    assert found.cause == "gradient_missing" and "pixel_decoder" in found.evidence and "require none" in found.evidence

    real = step.optimizer

    def without_backbone(network, solver):
        made, left_out = real(network, solver), {id(parameter) for parameter in network.backbone.parameters()}
        for group in made.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in left_out]
        return made

    monkeypatch.setattr(step, "optimizer", without_backbone)
    (found,) = trial.check(tiny.network(tasks), batch(tasks), solver=SOLVER)
    assert found.cause == "weights_frozen" and "does not have them" in found.evidence


def test_a_backbone_that_is_meant_to_stay_is_no_fault():
    tasks = make_tasks(1)
    still = tiny.params(solver={"backbone_multiplier": 0.0}).solver
    assert not trial.check(tiny.network(tasks), batch(tasks), solver=still)
