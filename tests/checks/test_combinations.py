"""The combinations that a network counts as seen are compared with those of its training data."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from mtseg.checks import combinations
from tests import tiny
from tests.scenes import make_tasks, scene

TASKS = make_tasks(3, background=False)
MODEL = tiny.params(tasks=[task.model_dump() for task in TASKS], model={"unseen_combinations": 0.01}).model


def network(seen, tasks=TASKS):
    return tiny.network(tasks, seen=seen, model={"unseen_combinations": 0.01})


def shown_in(images, tasks=TASKS):
    return sorted({tuple(one.labels[task.name] for task in tasks) for image in images for one in image.instances})


def is_named(given, images, **model):
    found = combinations.check(given, images, model=MODEL.model_copy(update=model), change="fix it")
    assert all(finding.cause == "prior_wrong" for finding in found)
    return bool(found)


@pytest.fixture(scope="module")
def images():
    return list(scene(TASKS, count=3))


def test_the_combinations_of_the_data_give_no_finding(images):
    assert not is_named(network(shown_in(images)), images)


def test_combinations_of_other_data_are_named(images):
    shown = shown_in(images)
    every = itertools.product(*(range(task.num_classes) for task in TASKS))
    assert is_named(network(shown[1:]), images), "one is missing"
    assert is_named(network([*shown, next(one for one in every if one not in shown)]), images), "one too many"
    assert is_named(network([(a, c % 2, b) for a, b, c in shown]), images), "tasks in another order"
    assert is_named(network(shown), images, unseen_combinations=0.1), "another weight"


def test_a_softmax_for_each_task_is_named_where_params_ask_for_one_over_combinations(images):
    assert is_named(network(()), images)
    assert not is_named(network(()), images, unseen_combinations=1.0)
    unlabelled = [
        replace(image, instances=tuple(replace(i, labels=i.labels | {"fill": None}) for i in image.instances))
        for image in images
    ]
    assert not is_named(network(()), unlabelled), "no object has every label"
    assert not is_named(network(shown_in(images)), [*images, *unlabelled])


def test_mirror_images_count_as_seen():
    tasks = make_tasks(4, background=False)
    tasks = (*tasks[:-1], tasks[-1].model_copy(update={"flip_pairs": (("left", "right"),)}))
    images = [replace(image, instances=image.instances[:1]) for image in scene(tasks, count=3)]
    shown = shown_in(images, tasks)
    mirrored = sorted({*shown, *((*labels[:-1], 1 - labels[-1]) for labels in shown)})
    assert len(mirrored) > len(shown)
    assert not is_named(network(mirrored, tasks), images)
    assert is_named(network(shown, tasks), images)
