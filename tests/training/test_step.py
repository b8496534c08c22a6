"""A step: losses and gradients that are not finite stop it, and health statistics do not change it."""

from __future__ import annotations

import io
import math

import pytest
import torch
from rich.console import Console

from mtseg.checks import known_answers
from mtseg.model import deformable, losses
from mtseg.model.matching import Matches, Target
from mtseg.training.monitor import Health, Progress
from mtseg.training.step import NotFinite, Stepper, checked
from tests import tiny
from tests.scenes import make_tasks


def batch(tasks, seed=0):
    return [tiny.example(tasks, 3, seed=seed), tiny.example(tasks, 2, seed=seed + 1)]


def weigh(network, value):
    """Change the weight of the last task's loss."""
    head = network.heads[-1]
    head.tasks = tuple(task.model_copy(update={"loss_weight": value}) for task in head.tasks)


def spoil_gradient(network, task):
    """Make the gradient of the task's linear layer infinite, with a finite loss. Returns a handle that removes it."""
    return network.decoder.heads[f"head_{task.name}"].weight.register_hook(lambda gradient: gradient * float("nan"))


def test_the_forms_for_a_cpu_train_as_the_plain_ones(monkeypatch):
    """In float64, where no difference can be rounding."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    tasks, sizes = make_tasks(2), {"backbone": "efficientnet_lite0", "freeze_norm": True}

    def trained(*, plain):
        network = tiny.network(tasks, model=tiny.SMALL["model"] | sizes)
        for module in network.modules():  # not on pixels, where rounding chooses between two slopes
            if isinstance(module, deformable.DeformableAttention):
                torch.nn.init.normal_(module.offset.weight, std=0.1)
        stepper = Stepper(network, tiny.params().solver)
        if plain:
            monkeypatch.setattr(deformable, "by_rows", deformable.by_planes)
            for module in network.modules():
                vars(module).pop("forward", None)
                module.folded = False
            for group in stepper.optimizer.param_groups:
                group["fused"] = False
        return [stepper([batch(tasks, seed=step)], step)["loss"] for step in range(2)], network.state_dict()

    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(trained(plain=False), trained(plain=True), rtol=1e-9, atol=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_step_name_images_and_the_batch(value, tmp_path):
    tasks = make_tasks(3)
    network = tiny.network(tasks)
    stepper = Stepper(network, tiny.params().solver, broken=tmp_path / "work/broken_batch.pt")
    stepper([batch(tasks)], 0)
    weigh(network, value)
    name = f"loss_{tasks[-1].name}_0"
    with pytest.raises(
        NotFinite, match=rf"^loss_not_finite: step 2, 5\.jpg, 6\.jpg: {name}, .*broken_batch\.pt"
    ) as error:
        stepper([batch(tasks, seed=5)], 1)
    assert error.value.cause == "loss_not_finite" and error.value.names.startswith(name)
    assert error.value.where == "step 2, 5.jpg, 6.jpg"
    (saved,) = torch.load(tmp_path / "work/broken_batch.pt", weights_only=True)
    assert [example["file_name"] for example in saved] == ["5.jpg", "6.jpg"]
    wanted = batch(tasks, seed=5)[0]
    assert torch.equal(saved[0]["image"], wanted["image"])
    assert torch.equal(saved[0]["gt_masks"], wanted["instances"].gt_masks.tensor)
    assert torch.equal(saved[0]["gt_labels"], wanted["instances"].gt_labels)


def test_a_gradient_that_is_not_finite_stops_with_its_step(tmp_path):
    tasks = make_tasks(2)
    network = tiny.network(tasks)
    stepper = Stepper(network, tiny.params().solver, broken=tmp_path / "broken.pt")
    spoil_gradient(network, tasks[1])
    name = f"head_{tasks[1].name}"
    with pytest.raises(NotFinite, match=rf"^gradient_not_finite: step 7, 3\.jpg, 4\.jpg: {name}; ") as error:
        stepper([batch(tasks, seed=3)], 6)
    assert error.value.names == name
    (saved,) = torch.load(tmp_path / "broken.pt", weights_only=True)
    assert saved[0]["file_name"] == "3.jpg"


def test_float16_skips_steps_but_not_for_ever(monkeypatch):
    monkeypatch.setattr("mtseg.training.step.PATIENCE", 3)
    tasks = make_tasks(2)
    network = tiny.network(tasks)
    stepper = Stepper(network, tiny.params().solver)
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    handle = spoil_gradient(network, tasks[1])
    for number in range(2):
        stepper([batch(tasks)], number)
    handle.remove()
    stepper([batch(tasks)], 2)  # a finite step resets the count
    spoil_gradient(network, tasks[1])
    for number in range(3, 5):
        stepper([batch(tasks)], number)
    with pytest.raises(NotFinite, match=r"^gradient_not_finite: step 6, .* 3 skipped steps.*; set solver.amp: false"):
        stepper([batch(tasks)], 5)


def test_losses_are_read_by_name():
    assert checked({"loss_a_0": torch.ones(()), "loss_b_0": torch.zeros(())}) == {"loss_a_0": 1.0, "loss_b_0": 0.0}
    with pytest.raises(FloatingPointError, match="^loss_b_0$"):
        checked({"loss_a_0": torch.ones(()), "loss_b_0": torch.tensor(float("nan"))})


def test_the_network_trains_the_losses_as_they_are_computed():
    tasks = make_tasks(3)
    network, given = tiny.network(tasks), batch(tasks)
    outputs = []
    network.decoder.register_forward_hook(lambda module, args, output: outputs.append(output))
    torch.manual_seed(1)
    trained = network(given)
    targets = [Target(one["instances"].gt_masks.tensor, one["instances"].gt_labels) for one in given]
    torch.manual_seed(1)
    norm = network.normaliser([one["instances"].gt_labels for one in given])
    wanted = losses.losses(outputs[0], targets, heads=network.heads, loss=network.loss, norm=norm)
    assert trained.keys() == wanted.keys()
    assert all(torch.isclose(trained[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("count", [1, 3, 4])
def test_health_figures_change_no_bit_of_the_losses(count):
    tasks = make_tasks(count)
    given = tiny.network(tasks)
    found = []
    for watch in (None, Health(given).watch):
        given.watch = watch
        torch.manual_seed(1)
        found.append(given(batch(tasks)))
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())


@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_share_of_background_and_the_stability_are_those_of_a_known_answer(count):
    """In a correct output no label is background; no query keeps its object from layer to layer."""
    tasks = make_tasks(count)
    network = tiny.network(tasks)
    health, given = Health(network), known_answers.two_images(network)

    def watched(owner):
        layer, image, query = (owner >= 0).nonzero().T
        health.watch(given.output, given.targets, Matches(layer, image, query, owner[layer, image, query]))
        return health.fetch()

    row = watched(given.owner)
    assert all(row[f"background_{task.name}"] == 0 for task in tasks)
    assert row["stability"] == 0
    kept = given.owner.clone()
    kept[0] = kept[1]
    assert watched(kept)["stability"] == 1
    given.output.logits[tasks[-1].name][..., -1] = 2 * known_answers.LOGIT
    row = watched(kept)
    assert row[f"background_{tasks[-1].name}"] == 1
    assert all(row[f"background_{task.name}"] == 0 for task in tasks[:-1])


def test_health_of_a_step_has_a_gradient_of_every_part_and_starts_anew(monkeypatch):
    tasks = make_tasks(3)
    stepper = Stepper(tiny.network(tasks), tiny.params().solver)
    for step in range(2):
        stepper([batch(tasks)], step)
    row = stepper.health.fetch()
    parts = {"decoder", "pixel_decoder", "backbone", *(f"head_{task.name}" for task in tasks)}
    assert {name for name in row if name.startswith("gradient_")} == {f"gradient_{part}" for part in parts}
    assert all(row[f"gradient_{part}"] > 0 for part in parts)
    assert "memory" not in row, "of a CPU no two runs have the same"
    assert math.isnan(stepper.health.fetch()["stability"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: device.index * 2**20)
    stepper.health.device = torch.device("cuda", 3)
    assert stepper.health.fetch()["memory"] == 3


def test_a_batch_without_objects_has_no_shares_and_stops_nothing():
    tasks = make_tasks(2)
    stepper = Stepper(tiny.network(tasks), tiny.params().solver)
    stepper([[tiny.example(tasks, 0)]], 0)
    row = stepper.health.fetch()
    assert math.isnan(row["stability"]) and row["gradient_decoder"] > 0


def test_the_values_of_a_step_are_sums_over_the_layers_by_name():
    tasks = make_tasks(3)
    network, given = tiny.network(tasks), batch(tasks)
    torch.manual_seed(1)
    losses_of_layers = {name: value.item() for name, value in network(given).items()}
    torch.manual_seed(1)
    values = Stepper(network, tiny.params().solver)([given], 0)
    names = {"loss_mask", "loss_dice", *(f"loss_{task.name}" for task in tasks)}
    assert values.keys() == {"lr", "loss", *names} and len(losses_of_layers) > len(names)
    for name in names:
        own = sum(value for key, value in losses_of_layers.items() if key.startswith(f"{name}_"))
        assert values[name] == pytest.approx(own, rel=1e-4), name
    assert values["loss"] == pytest.approx(sum(losses_of_layers.values()), rel=1e-4)


def test_progress_on_a_terminal_shows_the_losses():
    progress = Progress(Console(file=io.StringIO(), force_terminal=True, width=200), total=10, start=0)
    progress.step(4, {"loss": 1.5, "lr": 1e-3})
    assert progress.tasks[0].completed == 4 and progress.tasks[0].fields["losses"] == "loss 1.5"


def test_progress_says_how_long_the_rest_takes():
    text = io.StringIO()
    progress = Progress(Console(file=text, width=200), total=10, start=2)
    progress.began -= 180
    progress.step(4, {"loss": 1.5, "lr": 1e-3})
    progress.validated(4, {"joint_AP": 12.34})
    assert text.getvalue().splitlines() == [
        "step 4/10  loss 1.5  lr 1.00e-03  9.0 min left", "step 4/10  val  joint_AP 12.3"
    ]  # fmt: skip


def watched(stepper):
    """What the optimiser's steps will get: their gradients by name, and the lr of their groups."""
    steps = []

    def watch(optimizer, *_):
        own = {name: p.grad.clone() for name, p in stepper.network.named_parameters() if p.grad is not None}
        steps.append((own, {group["lr"] for group in optimizer.param_groups}))

    stepper.optimizer.register_step_pre_hook(watch)
    return steps


def test_accumulated_batches_give_the_step_of_one_large_batch(monkeypatch):
    """With fixed points, since random points differ between batches."""
    tasks = make_tasks(3)
    points = torch.rand(1, 64, 2, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr("mtseg.model.matching.torch.rand", lambda *size, device: points.expand(*size))
    monkeypatch.setattr("mtseg.model.losses.uncertain_points", lambda x, loss, **others: points.expand(len(x), -1, -1))
    examples = [tiny.example(tasks, count, seed=count) for count in (3, 0, 1)]
    found = []
    for batches in ([examples], [examples[:1], examples[1:]]):
        network = tiny.network(tasks, model={"freeze_norm": True})
        stepper = Stepper(network, tiny.params(solver={"clip": 0.0}).solver)
        steps = watched(stepper)
        values = stepper(batches, 0)
        ((gradients, _),) = steps
        found.append((values, gradients))
    (large, gradients), (small, accumulated) = found
    assert small == pytest.approx(large, rel=1e-4)
    assert accumulated.keys() == gradients.keys()
    for name, value in gradients.items():
        assert (accumulated[name] - value).abs().max() <= 1e-5 * max(1, value.abs().max()), name


def test_the_whole_gradient_is_clipped_to_the_norm_given():
    tasks = make_tasks(2)
    found = {}
    for clip in (0.0, 0.01, 1e6):
        stepper = Stepper(tiny.network(tasks), tiny.params(solver={"clip": clip}).solver)
        steps = watched(stepper)
        torch.manual_seed(1)
        stepper([batch(tasks)], 0)
        ((found[clip], _),) = steps
    norm = {clip: torch.nn.utils.get_total_norm(own.values()).item() for clip, own in found.items()}
    assert norm[0.0] > 1 and norm[1e6] == norm[0.0]
    assert norm[0.01] == pytest.approx(0.01, rel=1e-3)
    for name, value in found[0.0].items():
        assert torch.allclose(found[0.01][name], value * 0.01 / norm[0.0], rtol=1e-3, atol=1e-9), name


def test_the_lr_rises_over_the_warm_up_and_then_follows_the_schedule():
    tasks = make_tasks(1)
    given = {"warmup": 4, "max_iter": 10, "schedule": "steps", "steps": [0.7], "backbone_multiplier": 0.5}
    solver = tiny.params(solver=given).solver
    stepper = Stepper(tiny.network(tasks), solver)
    steps = watched(stepper)
    values = [stepper([[tiny.example(tasks, 1), tiny.example(tasks, 2)]], step)["lr"] for step in (0, 1, 3, 6, 7)]
    wanted = [solver.lr * share for share in (0.25, 0.5, 1, 1, 0.1)]
    assert values == pytest.approx(wanted)
    for (_, used), lr in zip(steps, wanted, strict=True):
        assert sorted(used) == pytest.approx([lr / 2, lr])


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_a_warm_up_the_first_step_has_the_full_lr(warmup):
    tasks, solver = make_tasks(1), tiny.params(solver={"warmup": warmup}).solver
    assert Stepper(tiny.network(tasks), solver)([[tiny.example(tasks, 1)]], 0)["lr"] == solver.lr
