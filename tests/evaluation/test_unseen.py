from dataclasses import replace

import pytest

from mtseg.evaluation import unseen
from mtseg.evaluation.evidence import Evidence
from tests.scenes import make_tasks, predict, scene

TASKS = pytest.mark.parametrize("count", [1, 3, 4])


def evidence(images, tasks, missed=(), **options):
    """The ground truth as predictions, but for objects whose labels are among `missed`."""
    found = [
        predict(instance, tasks, image_id=image.id, query=query)
        for image in images
        for query, instance in enumerate(image.instances)
        if not instance.crowd and tuple(instance.labels.values()) not in missed
    ]
    return Evidence.of(images, found, tasks=tasks, ranking="product_quality", max_dets=(100,), **options)


def combinations(images):
    """Of the objects that are asked for: no crowds, every label there."""
    labels = {tuple(i.labels.values()) for image in images for i in image.instances if not i.crowd}
    return {own for own in labels if None not in own}


@TASKS
def test_unseen_and_seen_combinations_are_scored_apart(count):
    tasks = make_tasks(count)
    images = scene(tasks, pictures=8, partial=True, crowds=True)
    *seen, last = sorted(combinations(images))
    for missed, ap in (([], (100, 100)), ([last], (0, 100)), (seen, (100, 0))):
        found = unseen.metrics(evidence(images, tasks, missed), seen)
        assert found == {"unseen": 1, "unseen_AP": ap[0], "seen_AP": ap[1]}


@TASKS
def test_nothing_is_said_where_training_showed_all(count):
    tasks = make_tasks(count)
    images = scene(tasks, partial=True, crowds=True)
    for trained in (combinations(images), combinations(images) | {(0,) * count, (1,) * count}):
        assert unseen.metrics(evidence(images, tasks), trained) == {}


@TASKS
def test_where_training_showed_none_there_is_no_seen_ap(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    assert unseen.metrics(evidence(images, tasks), ()) == {"unseen": len(combinations(images)), "unseen_AP": 100}


@TASKS
def test_crowds_alone_and_nothing_at_all_are_asked_of_nobody(count):
    tasks = make_tasks(count)
    empty, image = scene(tasks, pictures=2)
    only = replace(image.instances[0], crowd=True)
    assert unseen.metrics(evidence([empty, replace(image, instances=(only,))], tasks), ()) == {}
    assert unseen.metrics(evidence([empty], tasks), ()) == {}
