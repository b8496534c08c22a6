"""Known answers and a trial step: a fault in heads, matching, losses, detection or optimiser is named; nothing is left
behind in the network."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mtseg.checks import known_answers as answers
from mtseg.checks import network
from mtseg.checks import step as trial
from mtseg.core.errors import UserError
from mtseg.inference import predictor as predict
from mtseg.model import matching
from mtseg.model.heads import Heads, Softmax
from mtseg.model.mask2former import Mask2Former
from tests import tiny
from tests.scenes import make_tasks

SOLVER = tiny.params().solver


def batch(tasks):
    return [tiny.example(tasks, 3, seed=seed) for seed in (1, 2)]


def look(given, tasks):
    """All that preflight does with a network, on two pictures of noise."""
    model = tiny.params().model
    if found := list(network.heads(given)):
        return found
    found = answers.check(given) + list(network.normalisation(given, batch(tasks), model))
    found = found or list(network.looked_at(given, batch(tasks)))
    return found + trial.check(given, batch(tasks), solver=SOLVER)


def causes(found):
    return {(finding.cause, finding.where and finding.where.partition("'")[2].rstrip("'")) for finding in found}


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("background", [True, False])
def test_a_sound_network_gives_no_finding_and_stays_as_it_was(count, background):
    tasks = make_tasks(count, background=background)
    given = tiny.network(tasks)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    assert not look(given, tasks)
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert given.training and given.watch is None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in given.parameters())


@pytest.mark.parametrize("model", [{"num_queries": 1}, {"decoder_layers": 1}, {"encoder_layers": 2}])
def test_other_shapes_of_the_network_are_sound_too(model):
    tasks = make_tasks(2)
    assert not look(tiny.network(tasks, model=model), tasks)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_f8_a_head_of_another_size_is_told_before_anything_is_run(count):
    tasks = make_tasks(count)
    given = tiny.network(tasks)
    given.decoder.heads[f"head_{tasks[-1].name}"] = nn.Linear(32, tasks[-1].num_classes)
    assert causes(look(given, tasks)) == {("head_size", tasks[-1].name)}


def test_f9_a_muted_task_is_no_fault():
    tasks = make_tasks(3)
    muted = tasks[2].model_copy(update={"loss_weight": 0.0, "match_weight": 0.0})
    assert not look(tiny.network((*tasks[:2], muted)), tasks)


def test_f10_a_matching_that_ignores_a_task_is_told(monkeypatch):
    tasks, real = make_tasks(3), matching.matching_cost

    def main_alone(output, targets, *, heads, loss):
        muted = [Softmax([task.model_copy(update={"match_weight": 0.0})]) for task in heads.tasks[1:]]
        return real(output, targets, heads=Heads([heads[0], *muted]), loss=loss)

    monkeypatch.setattr(matching, "matching_cost", main_alone)
    found = causes(look(tiny.network(tasks), tasks))
    assert found == {("task_untrained_in_matching", task.name) for task in tasks[1:]}


@pytest.mark.parametrize(
    "assign",
    [
        lambda real, cost: real(-cost),
        lambda real, cost: (np.arange(min(cost.shape)), np.arange(min(cost.shape))),
        lambda real, cost: real(cost.T),
    ],
)
def test_a_matching_that_is_not_the_cheapest_is_told(assign, monkeypatch):
    tasks, real = make_tasks(2), matching.linear_sum_assignment
    monkeypatch.setattr(matching, "linear_sum_assignment", lambda cost: assign(real, cost))
    assert {cause for cause, _ in causes(answers.check(tiny.network(tasks)))} == {"matcher_wrong"}


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize(
    ("cause", "change"),
    [
        ("loss_targets", lambda logits, labels: (logits, (labels + 1) % (logits.shape[-1] - 1))),
        ("no_object_slot", lambda logits, labels: (logits.roll(-1, -1), labels)),
        ("gradient_missing", lambda logits, labels: (logits.detach() + 0 * logits, labels)),
    ],
)
def test_a_loss_with_other_targets_is_told(count, cause, change, monkeypatch):
    tasks, real = make_tasks(count), Softmax.losses

    def losses(head, logits, labels_MT, matched, **kwargs):
        (task,) = head.tasks
        if task == tasks[-1]:
            changed, labels_MT = change(logits[task.name], labels_MT)
            logits = logits | {task.name: changed}
        return real(head, logits, labels_MT, matched, **kwargs)

    monkeypatch.setattr(Softmax, "losses", losses)
    assert {name for name, _ in causes(look(tiny.network(tasks), tasks))} == {cause}


@contextmanager
def queries_of(given, change):
    """`change(output)` in place of what the queries say."""
    real = given.queries
    given.queries = lambda pictures: change(real(pictures))
    yield


@pytest.mark.parametrize("count", [1, 3, 4])
def test_f11_labels_that_ignore_the_picture_are_told(count):
    tasks = make_tasks(count)
    given = tiny.network(tasks)
    head = given.decoder.heads[f"head_{tasks[-1].name}"]

    def of_weights(output):
        fixed = head(given.decoder.query_feature).expand_as(output.logits[tasks[-1].name])
        return replace(output, logits={**output.logits, tasks[-1].name: fixed})

    with queries_of(given, of_weights):
        assert causes(network.looked_at(given, batch(tasks))) == {("labels_ignore_image", tasks[-1].name)}


def test_f11_one_picture_or_two_copies_are_no_fault():
    tasks = make_tasks(3)
    given, (first, second) = tiny.network(tasks), batch(tasks)
    for few in ([first], [first, first | {"file_name": "copy.jpg"}], [first, second]):
        assert not list(network.looked_at(given, few))


def test_f12_an_answer_of_the_last_picture_is_told():
    tasks = make_tasks(3)
    given = tiny.network(tasks)

    def last(output):
        logits = output.logits[tasks[1].name]
        mixed = torch.cat([logits[:, -1:] * 1.01, logits[:, 1:]], dim=1) if logits.shape[1] > 1 else logits
        return replace(output, logits={**output.logits, tasks[1].name: mixed})

    with queries_of(given, last):
        assert causes(network.looked_at(given, batch(tasks))) == {("answer_depends_on_batch", tasks[1].name)}


@pytest.mark.parametrize(
    ("cause", "pick"),
    [
        ("labels_of_other_image", lambda logits, b, query: logits[-1, 1 - b, query]),
        ("labels_of_other_image", lambda logits, b, query: logits[-1, -1, query]),  # the batch's last
        ("labels_of_other_query", lambda logits, b, query: logits[-1, b, query.flip(0)]),
    ],
)
def test_f12_labels_in_another_order_than_the_masks_are_told(cause, pick, monkeypatch):
    tasks, real = make_tasks(3), Mask2Former.detect

    def detect(self, output, pictures):
        found = real(self, output, pictures)
        for b, one in enumerate(found):
            other = pick(output.logits[tasks[2].name], b, one.query)
            one.pred_labels = torch.cat([one.pred_labels[:, :2], other[:, :-1].argmax(-1)[:, None]], dim=1)
        return found

    monkeypatch.setattr(Mask2Former, "detect", detect)
    found = causes(answers.check(tiny.network(tasks)))
    assert (cause, tasks[2].name) in found and {name for _, name in found} == {tasks[2].name}


@pytest.mark.parametrize("count", [3, 4])
def test_f8_no_object_as_a_label_is_told_and_gives_no_prediction(count, monkeypatch):
    tasks, real, seen = make_tasks(count), Mask2Former.detect, []

    def detect(self, output, pictures):
        found = real(self, output, pictures)
        for one in found:
            one.pred_labels[:, -1] = one.get(f"logits_{tasks[-1].name}").argmax(-1)
        seen.extend(found)
        return found

    monkeypatch.setattr(Mask2Former, "detect", detect)
    assert causes(answers.check(tiny.network(tasks))) == {("no_object_slot", tasks[-1].name)}
    with pytest.raises(UserError, match=f"picture 7: the model answers .* for task '{tasks[-1].name}'.* no-object"):
        predict.encode(seen[0], 7, tasks)


def test_f4_detections_that_are_not_cut_where_the_picture_ends_are_told(monkeypatch):
    from mtseg.model import mask2former

    real = mask2former._to_original
    monkeypatch.setattr(
        mask2former,
        "_to_original",
        lambda logits, picture: real(logits, picture | {"image_size": tuple(picture["image"].shape[-2:])}),
    )
    assert {cause for cause, _ in causes(answers.check(tiny.network(make_tasks(1))))} == {"masks_displaced"}


def test_pictures_that_are_not_normalised_as_the_backbone_says_are_told():
    tasks = make_tasks(1)
    given = tiny.network(tasks)
    given.pixel_mean.zero_(), given.pixel_std.fill_(1.0)
    assert {cause for cause, _ in causes(look(given, tasks))} == {"normalisation"}
    given = tiny.network(tasks)
    given.backbone.pixel_mean, given.backbone.pixel_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert {cause for cause, _ in causes(look(given, tasks))} == {"normalisation"}


@pytest.mark.parametrize("error", [ValueError, KeyError, AttributeError, TypeError, RuntimeError])
def test_a_network_that_fails_is_told_with_the_line_to_mend(error, monkeypatch, tmp_path):
    tasks = make_tasks(2)
    given, params = tiny.network(tasks), tiny.params()

    def fails(pictures):
        raise error("two sizes")

    monkeypatch.setattr(network, "two_pictures", lambda *args: batch(tasks))
    given.queries = fails
    (found,) = network.check(
        given, [], root=tmp_path, model=params.model, input=params.input, solver=SOLVER, seed=0
    )  # fmt: skip
    assert found.cause == "step_fails" and f"{error.__name__}: " in found.evidence and "two sizes" in found.evidence
    assert f"{__file__}:" in found.change
