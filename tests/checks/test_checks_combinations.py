"""Known answers to a network with one softmax over combinations of labels: sound ones are silent whatever they have
seen; a prior of other data, and faults in the losses, the matching or detection, are named."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from mtseg.checks import combinations as prior
from mtseg.checks import known_answers as answers
from mtseg.checks import network
from mtseg.checks import step as trial
from mtseg.core.errors import UserError
from mtseg.model import matching
from mtseg.model.heads import Combinations
from mtseg.model.mask2former import Mask2Former
from tests import tiny
from tests.scenes import make_tasks, scene

SOLVER = tiny.params().solver
TASKS = make_tasks(3, background=False)
EVERY = list(itertools.product(*(range(task.num_classes) for task in TASKS)))
MODEL = tiny.params(tasks=[task.model_dump() for task in TASKS], model={"unseen_combinations": 0.01}).model


def joined(seen=EVERY, tasks=TASKS, unseen=0.01):
    return tiny.network(tasks, seen=seen, model={"unseen_combinations": unseen})


def causes(found):
    return {(finding.cause, finding.where and finding.where.partition("'")[2].rstrip("'")) for finding in found}


@pytest.mark.parametrize("unseen", [0.5, 0.01, 1e-8])
@pytest.mark.parametrize("step", [1, 3, len(EVERY)])
def test_a_sound_network_is_silent_whatever_it_has_seen(unseen, step):
    given = joined(EVERY[::step], unseen=unseen)
    batch = [tiny.example(TASKS, 3, seed=seed) for seed in (1, 2)]
    assert not answers.check(given)
    assert not list(network.looked_at(given, batch)) and not trial.check(given, batch, solver=SOLVER)


def told(given, images, tasks=TASKS, **model):
    found = prior.check(given, images, model=MODEL.model_copy(update=model), change="mend it")
    assert all(finding.cause == "prior_wrong" for finding in found)
    return bool(found)


def test_a_prior_that_is_not_of_the_data_is_told():
    images = scene(TASKS, pictures=3)
    shown = sorted({tuple(i.labels[t.name] for t in TASKS) for image in images for i in image.instances})
    assert not told(joined(shown), images)
    assert told(joined(shown[1:]), images) and told(joined([*shown, (2, 1, 1)]), images) is ((2, 1, 1) not in shown)
    assert told(joined([(a, c % 2, b) for a, b, c in shown]), images)
    assert told(joined(()), images), "heads apart"
    assert told(joined(shown), images, unseen_combinations=0.1)
    assert not told(joined(()), images, unseen_combinations=1.0)
    unlabelled = [
        replace(image, instances=tuple(replace(i, labels=i.labels | {"fill": None}) for i in image.instances))
        for image in images
    ]
    assert not told(joined(()), unlabelled), "no object has every label"
    assert not told(joined(shown), [*images, *unlabelled])


def test_mirror_images_count_as_seen():
    tasks = make_tasks(4, background=False)
    tasks = (*tasks[:-1], tasks[-1].model_copy(update={"flip_pairs": (("left", "right"),)}))
    images = [replace(image, instances=image.instances[:1]) for image in scene(tasks, pictures=3)]
    shown = {tuple(i.labels[t.name] for t in tasks) for image in images for i in image.instances}
    mirrored = {(*labels[:-1], 1 - labels[-1]) for labels in shown}
    assert not told(joined(sorted(shown | mirrored), tasks), images, tasks)
    assert mirrored - shown and told(joined(sorted(shown), tasks), images, tasks)


def test_a_checkpoint_that_does_not_say_what_it_has_seen_is_refused(tmp_path):
    from mtseg.inference import predictor as predict
    from mtseg.model import weights

    model, path, given = MODEL, tmp_path / "a.safetensors", joined()
    for known in ({}, {"seen": EVERY}):
        weights.save(path, given, {**predict.description(TASKS, model), **known, "step": 1})
        if known:
            (head,) = predict.load_model(path, tasks=TASKS, model=model, detections=9).heads
            assert head.seen.tolist() == [list(labels) for labels in EVERY]
        else:
            with pytest.raises(UserError, match="does not say which combinations of labels"):
                predict.load_model(path, tasks=TASKS, model=model, detections=9)


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_a_loss_that_is_detached_is_told_though_its_head_gets_gradients_from_others(name, monkeypatch):
    real = Combinations.losses

    def detached(*args, **kwargs):
        found = real(*args, **kwargs)
        return found | {name: found[name].detach()}

    monkeypatch.setattr(Combinations, "losses", detached)
    assert causes(answers.check(joined())) == {("gradient_missing", name)}


def test_targets_of_other_instances_are_told(monkeypatch):
    real = Combinations.losses

    def other(head, logits, labels_MT, *args, **kwargs):
        turned = torch.cat([labels_MT[:, :1], labels_MT[:, 1:2].flip(0), labels_MT[:, 2:]], 1)
        return real(head, logits, turned, *args, **kwargs)

    monkeypatch.setattr(Combinations, "losses", other)
    assert ("loss_targets", "colour") in causes(answers.check(joined()))


def test_f10_a_matching_that_ignores_the_further_tasks_is_told(monkeypatch):
    real = matching.matching_cost

    def main_alone(output, targets, **kwargs):
        none = [replace(t, labels=torch.cat([t.labels[:, :1], -torch.ones_like(t.labels[:, 1:])], 1)) for t in targets]
        return real(output, none, **kwargs)

    monkeypatch.setattr(matching, "matching_cost", main_alone)
    assert causes(answers.check(joined())) == {("task_untrained_in_matching", task.name) for task in TASKS[1:]}


def test_f12_labels_of_the_combination_of_another_query_are_told(monkeypatch):
    real = Combinations.candidates

    def moved(head, logits, most):
        found = real(head, logits, most)
        return replace(found, labels=torch.cat([found.labels[:3].roll(1, 0), found.labels[3:]]))

    monkeypatch.setattr(Combinations, "candidates", moved)
    found = causes(answers.check(joined()))
    assert found == {("labels_of_other_query", task.name) for task in TASKS}


@pytest.mark.parametrize("seen", [EVERY, EVERY[::3], EVERY[1::4]])
def test_f12_further_labels_of_the_batchs_last_picture_are_told(seen, monkeypatch):
    real = Mask2Former.detect

    def of_last(self, output, batch):
        last = {name: output.logits[name][:, -1:].expand_as(output.logits[name]) for name in list(output.logits)[1:]}
        return real(self, replace(output, logits=output.logits | last), batch)

    monkeypatch.setattr(Mask2Former, "detect", of_last)
    found = causes(answers.check(joined(seen)))
    assert found and {cause for cause, _ in found} == {"labels_of_other_image"}
