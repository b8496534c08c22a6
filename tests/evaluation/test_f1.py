"""Precision, recall and F1: what counts as a hit, and that any choice of predictions counts as if it had come alone."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from mtseg.core.tables import Image
from mtseg.evaluation.f1 import Tally, count, summary
from mtseg.evaluation.matching import match, pictures
from tests.scenes import SIZE, box_instance, make_tasks, predict, predict_all, scene

TASKS = pytest.mark.parametrize("count_", [1, 3, 4])


def tally(images, predictions, tasks):
    return Tally(pictures(images, predictions, tasks=tasks, ranking="product_quality"), tasks)


@TASKS
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("crowds", [False, True])
def test_ground_truth_scores_100_and_contradictions_lower_precision_alone(count_, partial, crowds):
    tasks = make_tasks(count_)
    images = scene(tasks, partial=partial, crowds=crowds)
    truth = predict_all(images, tasks)
    doubled = truth + [replace(p, query=p.query + 50, mask_quality=0.5) for p in truth]
    assert set(summary(tally(images, truth, tasks).counts()).values()) == {100.0}
    raw = summary(tally(images, doubled, tasks).counts())
    assert raw == {"precision": 50.0, "recall": 100.0, "f1": 66.667, "joint_f1": 66.667}
    assert summary(tally(images, [], tasks).counts()) == {"recall": 0.0, "f1": 0.0, "joint_f1": 0.0}
    assert summary(tally(images[:1], [], tasks).counts()) == {}, "nothing there and nothing found: undefined"


def counts(image, predictions, tasks):
    (picture,) = pictures([image], predictions, tasks=tasks, ranking="main_quality")
    return count(picture, tasks).tolist()


@TASKS
def test_a_hit_needs_the_main_class_and_a_joint_hit_every_label(count_):
    tasks = make_tasks(count_)
    instance = box_instance((2, 2, 20, 20), {task.name: 0 for task in tasks})
    image = Image(1, "a.jpg", SIZE, SIZE, (instance,))
    assert counts(image, [predict(instance, tasks)], tasks) == [1, 1, 1, 1]
    for task in tasks:
        wrong = predict(instance, tasks, **{task.name: 1})
        assert counts(image, [wrong], tasks) == ([1, 1, 0, 0] if task is tasks[0] else [1, 1, 1, 0])
    assert counts(image, [predict(instance, tasks, shift=8)], tasks) == [1, 1, 0, 0]
    unlabelled = replace(instance, labels={task.name: None for task in tasks} | {"shape": 0})
    assert counts(replace(image, instances=(unlabelled,)), [predict(instance, tasks)], tasks) == [1, 1, 1, 1]
    assert counts(replace(image, instances=()), [], tasks) == [0, 0, 0, 0]


@TASKS
def test_crowds_are_not_instances_and_what_lies_in_them_is_not_counted(count_):
    tasks = make_tasks(count_)
    instance = box_instance((2, 2, 20, 20), {task.name: 0 for task in tasks})
    crowd = box_instance((30, 2, 30, 60), instance.labels, crowd=True)
    image = Image(1, "a.jpg", SIZE, SIZE, (instance, crowd))
    inside = [predict(box_instance((32, 4 + 12 * q, 10, 10), instance.labels), tasks, query=q) for q in range(4)]
    whole = predict(crowd, tasks, query=8)
    assert counts(image, [*inside, whole, predict(instance, tasks, query=9)], tasks) == [1, 1, 1, 1]
    inner = box_instance((32, 4, 10, 10), instance.labels)
    assert counts(replace(image, instances=(inner, crowd)), inside, tasks) == [1, 1, 1, 1], "what hits is counted"
    other = [predict(inner, tasks, shape=1)]
    assert counts(image, other, tasks) == [1, 1, 0, 0]


def test_the_best_overlap_that_is_free_is_taken():
    tasks = make_tasks(1)
    right, left = (box_instance((x, 2, 30, 20), {"shape": 0}) for x in (10, 2))
    image = Image(1, "a.jpg", SIZE, SIZE, (right, left))
    first, second = predict(left, tasks, shift=3), predict(right, tasks, query=1, quality=0.5, shift=6)
    assert counts(image, [first, second], tasks) == [2, 2, 2, 2], (
        "the first has more of the left one, though half of each"
    )
    again = predict(left, tasks, query=2, quality=0.4, shift=2)
    assert counts(image, [first, again], tasks) == [2, 2, 2, 2], "the right one is what is left"
    assert counts(image, [first, again, second], tasks) == [3, 2, 2, 2]


@TASKS
def test_any_choice_counts_as_if_it_had_come_alone(count_):
    tasks = make_tasks(count_)
    images = scene(tasks, partial=True, crowds=True)
    rng = np.random.default_rng(0)
    shifted = chain.from_iterable(predict_all(images, tasks, shift=shift) for shift in range(0, 9, 2))
    found = [
        replace(p, query=i, mask_quality=float(rng.random()), labels=p.labels | {"shape": int(rng.integers(2))})
        for i, p in enumerate(shifted)
    ]
    whole = tally(images, found, tasks)
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        kept = [p for p in found if rng.random() < share]
        alone = pictures(images, kept, tasks=tasks, ranking="product_quality")
        assert (whole.counts(whole.rows(kept)) == Tally(alone, tasks).counts()).all()
        for picture, (predictions, instances, hits, right) in zip(alone, whole.counts(whole.rows(kept)), strict=True):
            same = picture.predicted(tasks[0])[:, None] == picture.true(tasks[0])[None, :]
            assert hits == (match(picture.overlap, same & ~picture.crowd) >= 0).sum()
            assert right <= hits <= predictions <= len(picture.predictions) and instances == (~picture.crowd).sum()
    assert whole.rows([replace(found[0])]) is None, "another object, even if it is equal"
