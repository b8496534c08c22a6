"""Class-agnostic matches of predictions and objects."""

from dataclasses import replace

import pytest

from tests.diagnosis.answers import split
from tests.scenes import make_tasks, predict, scene

TASKS = make_tasks(3)


def test_objects_are_matched_by_the_best_prediction_of_each_query():
    """Labels do not matter; a second prediction of a query, with the same mask, is not matched."""
    images = scene(TASKS, count=2, crowds=True)
    objects = [instance for instance in images[1].instances if not instance.crowd]
    right = [predict(instance, TASKS, image_id=2, query=i) for i, instance in enumerate(objects)]
    wrong = [replace(row, labels=row.labels | {"shape": (row.labels["shape"] + 1) % 3}) for row in right]
    one = split(list(images), [*right, *wrong], TASKS)
    assert one.best.tolist() == one.matches.prediction.tolist() == [0, 1, 2] and one.missed == 0
    assert one.labelled(TASKS[0]).label.tolist() == one.labelled(TASKS[0]).true.tolist()
    assert split(list(images), wrong[:2], TASKS).missed == pytest.approx(1 / 3)
    assert len(split(list(images), [], TASKS).matches) == 0


def test_predictions_on_a_crowd_are_no_false_ones():
    images = scene(TASKS, count=2, crowds=True)
    found = [predict(one, TASKS, image_id=2, query=number) for number, one in enumerate(images[1].instances)]
    one = split(list(images), found, TASKS)
    crowds = [number for number, instance in enumerate(images[1].instances) if instance.crowd]
    assert crowds and sorted({*range(len(found))} - {*one.confident(0.0).tolist()}) == crowds
