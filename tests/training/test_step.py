"""A step that is watched: what is not finite stops it by name, and the watching changes nothing."""

from __future__ import annotations

import math

import pytest
import torch

from mtseg.checks import known_answers as answers
from mtseg.model.mask2former import Mask2Former
from mtseg.model.matching import Matches
from mtseg.training.health import Health
from mtseg.training.step import NotFinite, Stepper, checked
from tests import tiny
from tests.scenes import make_tasks


def batch(tasks, seed=0):
    return [tiny.example(tasks, 3, seed=seed), tiny.example(tasks, 2, seed=seed + 1)]


def losses_by(change, monkeypatch):
    real = Mask2Former.forward
    monkeypatch.setattr(Mask2Former, "forward", lambda self, *args: change(real(self, *args)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_step_name_pictures_and_the_batch(value, monkeypatch, tmp_path):
    tasks = make_tasks(3)
    stepper = Stepper(tiny.network(tasks), tiny.params().solver, broken=tmp_path / "work/broken_batch.pt")
    stepper([batch(tasks)], 0)
    losses_by(lambda found: found | {"loss_dice_1": found["loss_dice_1"] * value}, monkeypatch)
    with pytest.raises(NotFinite, match=r"^loss_not_finite: step 2, 5\.jpg, 6\.jpg: loss_dice_1; .*broken_batch\.pt"):
        stepper([batch(tasks, seed=5)], 1)
    (saved,) = torch.load(tmp_path / "work/broken_batch.pt", weights_only=True)
    assert [example["file_name"] for example in saved] == ["5.jpg", "6.jpg"]
    wanted = batch(tasks, seed=5)[0]
    assert torch.equal(saved[0]["image"], wanted["image"])
    assert torch.equal(saved[0]["gt_masks"], wanted["instances"].gt_masks.tensor)
    assert torch.equal(saved[0]["gt_labels"], wanted["instances"].gt_labels)


@pytest.mark.parametrize("then", ["step", "settle", "state"])
def test_a_gradient_that_is_not_finite_stops_with_the_step_it_was_of(then, monkeypatch, tmp_path):
    """Told by the next step, or whenever the state is asked for."""
    tasks = make_tasks(2)
    stepper = Stepper(tiny.network(tasks), tiny.params().solver, broken=tmp_path / "broken.pt")
    with monkeypatch.context() as patch:
        name = f"loss_{tasks[1].name}_0"
        losses_by(lambda found: found | {name: found[name] + (found[name] * 0).sqrt()}, patch)
        stepper([batch(tasks, seed=3)], 6)
    later = {"step": lambda: stepper([batch(tasks)], 7), "settle": stepper.settle, "state": stepper.state}[then]
    with pytest.raises(
        NotFinite, match=rf"^gradient_not_finite: step 7, 3\.jpg, 4\.jpg: head_{tasks[1].name}, "
    ) as error:
        later()
    assert f"head_{tasks[0].name}" not in str(error.value)
    (saved,) = torch.load(tmp_path / "broken.pt", weights_only=True)
    assert saved[0]["file_name"] == "3.jpg"


def test_float16_leaves_steps_out_but_not_for_ever(monkeypatch):
    tasks = make_tasks(2)
    stepper = Stepper(tiny.network(tasks), tiny.params().solver)
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    name, pictures = f"loss_{tasks[1].name}_0", batch(tasks)
    with monkeypatch.context() as patch:
        losses_by(lambda found: found | {name: found[name] + (found[name] * 0).sqrt()}, patch)
        monkeypatch.setattr("mtseg.training.step.PATIENCE", 3)
        for number in range(2):
            stepper([pictures], number)
    stepper([pictures], 2)  # a sound one between starts the count anew
    losses_by(lambda found: found | {name: found[name] + (found[name] * 0).sqrt()}, monkeypatch)
    for number in range(3, 6):
        stepper([pictures], number)
    with pytest.raises(NotFinite, match=r"^gradient_not_finite: step 6, .* 3 steps in a row.*; set solver.amp: false"):
        stepper.settle()


def test_f3_losses_are_named_scalars():
    with pytest.raises(TypeError, match="not list"):
        checked([torch.ones(())])
    with pytest.raises(TypeError, match=r"'loss_a_0': \(2,\)"):
        checked({"loss_a_0": torch.ones(2)})
    assert checked({"loss_a_0": torch.ones(())}) == {"loss_a_0": 1.0}


@pytest.mark.parametrize("count", [1, 3, 4])
def test_watching_changes_no_bit_of_the_losses(count):
    tasks = make_tasks(count)
    given = tiny.network(tasks)
    found = []
    for watch in (None, Health(given).watch):
        given.watch = watch
        torch.manual_seed(1)
        found.append(given(batch(tasks)))
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())


@pytest.mark.parametrize("count", [1, 3, 4])
def test_f10_the_share_of_background_and_the_stability_are_those_of_a_known_answer(count):
    """Of a right answer no label is background; no query keeps its object from layer to layer."""
    tasks = make_tasks(count)
    network = tiny.network(tasks)
    health, given = Health(network), answers.pictures(network)

    def watched(owner):
        layer, picture, query = (owner >= 0).nonzero().T
        matches = Matches(layer, picture, query, owner[layer, picture, query])
        health.watch(given.output, given.targets, matches)
        return health.fetch()

    row = watched(given.owner)
    assert all(row[f"background_{task.name}"] == 0 for task in tasks)
    assert row["stability"] == 0
    kept = given.owner.clone()
    kept[0] = kept[1]
    assert watched(kept)["stability"] == 1
    given.output.logits[tasks[-1].name][..., -1] = 2 * answers.SURE
    row = watched(kept)
    assert row[f"background_{tasks[-1].name}"] == 1
    assert all(row[f"background_{task.name}"] == 0 for task in tasks[:-1])


def test_health_of_a_step_has_a_gradient_of_every_part_and_starts_anew():
    tasks = make_tasks(3)
    stepper = Stepper(tiny.network(tasks), tiny.params().solver)
    for step in range(2):
        stepper([batch(tasks)], step)
    state = stepper.health.state()
    row = stepper.health.fetch()
    parts = {"decoder", "pixel_decoder", "backbone", *(f"head_{task.name}" for task in tasks)}
    assert {name for name in row if name.startswith("gradient_")} == {f"gradient_{part}" for part in parts}
    assert all(row[f"gradient_{part}"] > 0 for part in parts)
    assert "memory" not in row, "of a CPU no two runs have the same"
    assert math.isnan(stepper.health.fetch()["stability"])
    stepper.health.load(state)
    assert stepper.health.fetch() == row


def test_a_batch_without_objects_has_no_shares_and_stops_nothing():
    tasks = make_tasks(2)
    stepper = Stepper(tiny.network(tasks), tiny.params().solver)
    stepper([[tiny.example(tasks, 0)]], 0)
    stepper.settle()
    row = stepper.health.fetch()
    assert math.isnan(row["stability"]) and row["gradient_decoder"] > 0
