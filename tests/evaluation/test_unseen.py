"""Joint AP of combinations of labels that are not in the training data, and of the others."""

from dataclasses import replace

import pytest

from mtseg.evaluation import unseen
from tests.scenes import evaluation, images_of, make_tasks, predict, scene

TASKS = pytest.mark.parametrize("count", [1, 3, 4])


def metrics(images, tasks, trained, missed=()):
    """Metrics of the ground truth as predictions, without objects whose labels are in `missed`."""
    rows = [
        predict(instance, tasks, image_id=image.id, query=query)
        for image in images
        for query, instance in enumerate(image.instances)
        if not instance.crowd and tuple(instance.labels.values()) not in missed
    ]
    return unseen.metrics(evaluation(images, rows, tasks), trained)


def combinations(images):
    """Combinations of the objects that count: not crowds, with all labels."""
    labels = {tuple(i.labels.values()) for image in images for i in image.instances if not i.crowd}
    return {own for own in labels if None not in own}


@TASKS
def test_unseen_and_seen_combinations_are_scored_apart(count):
    tasks = make_tasks(count)
    images = scene(tasks, count=8, partial=True, crowds=True)
    *seen, last = sorted(combinations(images))
    for missed, ap in (([], (100, 100)), ([last], (0, 100)), (seen, (100, 0))):
        assert metrics(images, tasks, seen, missed) == {"unseen": 1, "unseen_AP": ap[0], "seen_AP": ap[1]}


@TASKS
def test_there_is_no_unseen_ap_where_training_showed_all_and_no_seen_ap_where_it_showed_none(count):
    tasks = make_tasks(count)
    images = scene(tasks, partial=True, crowds=True)
    for trained in (combinations(images), combinations(images) | {(0,) * count, (1,) * count}):
        assert metrics(images, tasks, trained) == {}
    assert metrics(images, tasks, ()) == {"unseen": len(combinations(images)), "unseen_AP": 100}


def test_crowds_alone_and_nothing_at_all_have_no_combinations():
    tasks = make_tasks(3)
    empty, image = scene(tasks, count=2)
    crowd = replace(image, instances=(replace(image.instances[0], crowd=True),))
    for records in ([empty, crowd], [empty]):
        assert metrics(images_of(records, tasks), tasks, ()) == {}
