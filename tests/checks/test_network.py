"""Checks of a network: a correct one gives no finding and is not changed; each broken part is reported."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from mtseg.checks import batches, known_answers, mapper, network, step
from mtseg.checks.mapper import pattern
from mtseg.data import loader
from mtseg.model import losses, matching
from mtseg.model.heads import softmax
from mtseg.training import step as training
from tests import tiny
from tests.scenes import make_tasks

SOLVER = tiny.params().solver


def batch(tasks):
    return [tiny.example(tasks, 3, seed=seed) for seed in (1, 2)]


def look(given, tasks, solver=SOLVER):
    """All checks of a network, on two images of noise."""
    if found := list(network.heads(given)):
        return found
    found = known_answers.check(given) + list(network.normalisation(given, batch(tasks), tiny.params().model))
    found = found or list(network.dependence(given, batch(tasks)))
    return found + step.check(given, batch(tasks), solver=solver)


def causes(found):
    return {(finding.cause, finding.where and finding.where.partition("'")[2].rstrip("'")) for finding in found}


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("background", [True, False])
def test_a_correct_network_gives_no_finding_and_stays_as_it_was(count, background):
    tasks = make_tasks(count, background=background)
    given = tiny.network(tasks)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    assert not look(given, tasks)
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert given.training and given.watch is None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in given.parameters())


@pytest.mark.parametrize("model", [{"num_queries": 1}, {"decoder_layers": 1}, {"encoder_layers": 2}])
def test_other_shapes_of_the_network_pass_too(model):
    tasks = make_tasks(2)
    assert not look(tiny.network(tasks, model=model), tasks)


@pytest.mark.parametrize("unseen", [0.5, 0.01, 1e-8])
@pytest.mark.parametrize("step", [1, 3, 100])
def test_one_softmax_over_combinations_passes_for_any_combinations_seen(unseen, step):
    tasks = make_tasks(3, background=False)
    seen = list(itertools.product(*(range(task.num_classes) for task in tasks)))[::step]
    assert not look(tiny.network(tasks, seen=seen, model={"unseen_combinations": unseen}), tasks)


def test_a_task_of_weight_0_is_no_fault():
    tasks = make_tasks(3)
    muted = tasks[2].model_copy(update={"loss_weight": 0.0, "match_weight": 0.0})
    assert not look(tiny.network((*tasks[:2], muted)), tasks)


@pytest.mark.parametrize(
    "solver", [{"clip": 0.01}, {"clip": 0.0}, {"clip": 1e-4}, {"backbone_multiplier": 0.1}, {"max_iter": 2}]
)
@pytest.mark.parametrize("model", [{"num_queries": 2}, {"hidden_dim": 512, "num_queries": 100}])
def test_adamw_is_not_slow(solver, model):
    tasks = make_tasks(2)
    assert not step.check(tiny.network(tasks, model=model), batch(tasks), solver=tiny.params(solver=solver).solver)


def test_gradients_that_are_clipped_to_the_size_of_rounding_are_named():
    tasks = make_tasks(2)
    (found,) = step.check(tiny.network(tasks), batch(tasks), solver=tiny.params(solver={"clip": 1e-7}).solver)
    assert found.cause == "lr_too_low" and "solver.clip" in found.change and "solver.base_lr" not in found.change


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_another_optimiser_at_the_lr_of_adamw_is_named(momentum, monkeypatch):
    tasks = make_tasks(2)
    real = training.optimizer

    def sgd(network, solver):
        names = ("params", "lr", "initial_lr", "weight_decay")
        groups = [{name: group[name] for name in names} for group in real(network, solver).param_groups]
        return torch.optim.SGD(groups, momentum=momentum)

    monkeypatch.setattr(training, "optimizer", sgd)
    (found,) = step.check(tiny.network(tasks), batch(tasks), solver=SOLVER)
    assert (found.cause, found.severity) == ("lr_too_low", "error") and "AdamW" in found.change


def with_heads(combined):
    seen = [(0, 0, 0), (1, 1, 1), (2, 0, 2)] if combined else []
    tasks = make_tasks(3, background=not combined)
    return tiny.network(tasks, seen=seen, model={"unseen_combinations": 0.01 if combined else 1.0})


@pytest.mark.parametrize("combined", [False, True])
@pytest.mark.parametrize("slot", [0, 1])
def test_no_object_that_is_learnt_in_another_slot_is_named(combined, slot, monkeypatch):
    given = with_heads(combined)
    real, main = type(given.heads[0]).losses, given.tasks[0]

    def losses(self, logits, *args, **kwargs):
        if main.name in logits:
            order = torch.arange(main.num_outputs)
            order[[slot, -1]] = order[[-1, slot]]
            logits = {**logits, main.name: logits[main.name][..., order]}
        return real(self, logits, *args, **kwargs)

    monkeypatch.setattr(type(given.heads[0]), "losses", losses)
    found = list(known_answers.empty_images(given, given.loss))
    assert causes(found) == {("no_object_slot", main.name)} and main.classes[slot] in found[0].evidence


@pytest.mark.parametrize("smoothing", [0.2, 0.5])
def test_smoothed_labels_are_no_other_slot(smoothing, monkeypatch):
    tasks = make_tasks(2)
    given = tiny.network(tasks)
    assert not list(known_answers.empty_images(given, given.loss))
    monkeypatch.setattr(functional, "cross_entropy", partial(functional.cross_entropy, label_smoothing=smoothing))
    found = list(known_answers.empty_images(given, given.loss))
    assert causes(found) == {("loss_targets", task.name) for task in tasks}


def test_no_object_with_a_cost_of_its_own_is_no_other_slot(monkeypatch):
    """As if the labels were smoothed by the combined head."""
    given = with_heads(combined=True)
    real, main = type(given.heads[0]).losses, given.tasks[0].name

    def losses(self, logits, *args, **kwargs):
        found = real(self, logits, *args, **kwargs)
        return found | {main: found[main] + 0.1 * logits[main][..., -1].abs().flatten(1).sum(1)}

    monkeypatch.setattr(type(given.heads[0]), "losses", losses)
    assert causes(known_answers.empty_images(given, given.loss)) == {("loss_targets", main)}


def test_a_backbone_that_is_meant_to_stay_is_no_fault():
    tasks = make_tasks(1)
    assert not look(tiny.network(tasks), tasks, tiny.params(solver={"backbone_multiplier": 0.0}).solver)


def test_one_image_or_two_copies_are_no_fault():
    tasks = make_tasks(3)
    given, (first, second) = tiny.network(tasks), batch(tasks)
    for few in ([first], [first, first | {"file_name": "copy.jpg"}], [first, second]):
        assert not list(network.dependence(given, few))


@pytest.mark.parametrize("classes", [("circle",), ("circle", "square", "star", "triangle")])
@pytest.mark.parametrize(("place", "factor", "name"), [(-1, 10, "no-object"), (-1, 0.1, "no-object"), (0, 8, "class")])
def test_a_label_with_another_weight_in_the_loss_is_named(monkeypatch, classes, place, factor, name):
    task = make_tasks(1)[0].model_copy(update={"classes": classes})
    given, real = tiny.network((task,)), softmax.F.cross_entropy
    assert not known_answers.check(given)

    def reweighted(logits, target, weight, **options):
        weight = weight.clone()
        weight[place] *= factor
        return real(logits, target, weight, **options)

    monkeypatch.setattr(softmax.F, "cross_entropy", reweighted)
    (found,) = known_answers.check(given)
    assert found.cause == "loss_targets" and found.evidence.startswith(name)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_head_of_another_size_is_named_before_anything_is_run(count):
    tasks = make_tasks(count)
    given = tiny.network(tasks)
    given.decoder.heads[f"head_{tasks[-1].name}"] = nn.Linear(32, tasks[-1].num_classes)
    assert causes(look(given, tasks)) == {("head_size", tasks[-1].name)}


def test_a_wrong_normalisation_is_named():
    tasks = make_tasks(1)
    given = tiny.network(tasks)
    given.pixel_mean.zero_(), given.pixel_std.fill_(1.0)
    assert causes(look(given, tasks)) == {("normalisation", None)}
    given = tiny.network(tasks)
    given.backbone.pixel_mean, given.backbone.pixel_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert causes(look(given, tasks)) == {("normalisation", None)}


def with_logits(given, task, change):
    """The network with `change(logits)` as the logits of a task."""
    real = given.queries

    def queries(images):
        output = real(images)
        return replace(output, logits={**output.logits, task.name: change(output.logits[task.name])})

    given.queries = queries
    return given


@pytest.mark.parametrize("count", [1, 3, 4])
def test_labels_that_ignore_the_image_are_named(count):
    tasks = make_tasks(count)
    given = tiny.network(tasks)
    head = given.decoder.heads[f"head_{tasks[-1].name}"]
    with_logits(given, tasks[-1], lambda logits: head(given.decoder.query_feature).expand_as(logits))
    assert causes(network.dependence(given, batch(tasks))) == {("labels_ignore_image", tasks[-1].name)}


def test_labels_that_depend_on_the_batch_are_named():
    tasks = make_tasks(3)
    given = with_logits(
        tiny.network(tasks), tasks[1], lambda logits: logits + logits.mean(1, keepdim=True) * len(logits[0])
    )
    assert causes(network.dependence(given, batch(tasks))) == {("answer_depends_on_batch", tasks[1].name)}


def test_a_part_that_is_frozen_and_a_clip_to_nothing_are_named():
    tasks = make_tasks(2)
    given = tiny.network(tasks)
    given.pixel_decoder.requires_grad_(False)
    (found,) = step.check(given, batch(tasks), solver=SOLVER)
    assert (
        found.cause == "gradient_missing"
        and "pixel_decoder" in found.evidence
        and "requires_grad is False" in found.evidence
    )
    clipped = tiny.params(solver={"clip": 1e-12}).solver
    (found,) = step.check(tiny.network(tasks), batch(tasks), solver=clipped)
    assert found.cause == "weights_frozen" and "solver.clip" in found.change


def test_a_head_whose_lr_is_0_is_named(monkeypatch):
    """Only the backbone may stay as it is."""
    tasks, original = make_tasks(2), training.optimizer

    def without(network, solver):
        made, head = original(network, solver), [*network.decoder.heads[f"head_{tasks[1].name}"].parameters()]
        for group in made.param_groups:
            group["params"] = [one for one in group["params"] if all(one is not own for own in head)]
        made.add_param_group({"params": head, "lr": 0.0, "initial_lr": 0.0})
        return made

    monkeypatch.setattr(training, "optimizer", without)
    (found,) = step.check(tiny.network(tasks), batch(tasks), solver=SOLVER)
    assert found.cause == "weights_frozen" and f"head_{tasks[1].name}" in found.evidence and "lr of 0" in found.evidence


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda losses: list(losses.values()), "loss_not_scalar"),
        (lambda losses: {}, "loss_not_scalar"),
        (lambda losses: {name: float(value) for name, value in losses.items()}, "loss_not_scalar"),
        (lambda losses: losses | {"loss_dice_0": losses["loss_dice_0"] * torch.ones(2)}, "loss_not_scalar"),
        (lambda losses: {name: value for name, value in losses.items() if name != "loss_colour_1"}, "loss_muted"),
        (lambda losses: losses | {"loss_dice_0": -losses["loss_dice_0"]}, "loss_targets"),
        (lambda losses: losses | {"loss_dice_0": losses["loss_dice_0"] / 0}, "loss_not_finite"),
        (lambda losses: losses | {"loss_other_0": losses["loss_dice_0"] / 2}, None),
    ],
)
def test_what_training_returns_is_checked(change, cause):
    tasks = make_tasks(2)
    given = tiny.network(tasks)
    given.register_forward_hook(lambda module, args, losses: change(losses))
    assert [found.cause for found in step.check(given, batch(tasks), solver=SOLVER)] == [cause] * bool(cause)


def test_a_network_that_fails_is_named_with_the_line_to_fix(tmp_path):
    tasks, params = make_tasks(2), tiny.params()
    given = tiny.network(tasks)

    def fails(images):
        raise KeyError("two sizes")

    given.queries = fails
    options = {"root": tmp_path, "model": params.model, "input": params.input, "solver": SOLVER, "seed": 0}
    images = [pattern(tmp_path, tasks, side=64, number=number) for number in range(2)]
    (found,) = network.check(given, images, **options)
    assert found.cause == "step_fails" and "KeyError: " in found.evidence and "two sizes" in found.evidence
    assert f"{__file__}:" in found.change


def fails_for_memory(*args, **kwargs):  # PyTorch has no class for it
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.mark.parametrize(
    ("check", "module", "name"),
    [
        (mapper.check, loader.Mapper, "__call__"),
        (batches.check, loader, "training_batches"),
        (known_answers.check, matching, "match"),
        (network.check, losses, "losses"),
    ],
)
def test_too_little_memory_is_no_fault_of_the_code(check, module, name, tmp_path, monkeypatch):
    tasks, params = make_tasks(2), tiny.params()
    arguments, options = {
        network.check: (
            (tiny.network(tasks), [pattern(tmp_path, tasks, side=64, number=number) for number in range(2)]),
            {"root": tmp_path, "model": params.model, "input": params.input, "solver": SOLVER, "seed": 0},
        ),
        known_answers.check: ((tiny.network(tasks),), {}),
    }.get(check, ((tasks,), {"input": params.input}))
    monkeypatch.setattr(module, name, fails_for_memory)
    with pytest.raises(RuntimeError, match="allocate memory"):
        check(*arguments, **options)


@pytest.mark.parametrize(
    ("share", "multiplier", "says"), [(0.5, 1.0, "stay random"), (0.95, 0.0, "does not train"), (0.95, 1.0, None)]
)
def test_a_backbone_that_is_partly_loaded_is_reported(share, multiplier, says, tmp_path):
    tasks = make_tasks(1)
    state = tiny.network(tasks).backbone.state_dict()
    kept = dict(list(state.items())[: round(share * len(state))])
    save_file({name: value.contiguous() for name, value in kept.items()}, tmp_path / "part.safetensors")
    model = {"weights": str(tmp_path / "part.safetensors"), "partial_weights": True}
    given = tiny.params(model=model, solver={"backbone_multiplier": multiplier})
    found = list(network.loaded(tiny.network(tasks, model=model), model=given.model, solver=given.solver))
    assert [finding.cause for finding in found] == ["weights_partly_loaded"] * bool(says)
    assert not says or says in found[0].evidence and "part.safetensors" in found[0].evidence
    assert not list(network.loaded(tiny.network(tasks), model=tiny.params().model, solver=given.solver))


def test_weights_that_are_changed_after_they_were_loaded_are_reported(tmp_path):
    tasks = make_tasks(1)
    state = tiny.network(tasks).backbone.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "whole.safetensors")
    model = {"weights": str(tmp_path / "whole.safetensors")}
    given, built = tiny.params(model=model), tiny.network(tasks, model=model)
    assert not list(network.loaded(built, model=given.model, solver=given.solver))
    next(module for module in built.backbone.modules() if isinstance(module, nn.Conv2d)).reset_parameters()
    (found,) = network.loaded(built, model=given.model, solver=given.solver)
    assert (found.cause, found.severity) == ("weights_partly_loaded", "error") and "1 of " in found.evidence
