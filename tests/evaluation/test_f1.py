"""Precision, recall and F1: what counts as a hit, and counts of a subset of the predictions."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from mtseg.evaluation import f1
from tests.scenes import box_instance, evaluation, make_tasks, one_image, predict, predict_all, scene, table

TASKS = pytest.mark.parametrize("count", [1, 3, 4])


def case(count):
    tasks = make_tasks(count)
    return tasks, box_instance((2, 2, 20, 20), {task.name: 0 for task in tasks})


def counts(instances, rows, tasks):
    """Predictions, instances, hits, hits with every label right, of one image."""
    (own,) = f1.counts(evaluation(one_image(*instances), rows, tasks, ranking="main_quality")).tolist()
    return own


@TASKS
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("crowds", [False, True])
def test_ground_truth_scores_100_and_contradictions_lower_precision_alone(count, partial, crowds):
    tasks = make_tasks(count)
    images = scene(tasks, partial=partial, crowds=crowds)
    truth = predict_all(images, tasks)
    doubled = truth + [replace(row, query=row.query + 50, mask_quality=0.5) for row in truth]

    def summary(rows, images=images):
        return f1.summary(f1.counts(evaluation(images, rows, tasks)))

    assert set(summary(truth).values()) == {100.0}
    assert summary(doubled) == {"precision": 50.0, "recall": 100.0, "f1": 66.667, "joint_f1": 66.667}
    assert summary([]) == {"recall": 0.0, "f1": 0.0, "joint_f1": 0.0}
    assert summary([], images[:1]) == {}, "nothing there and nothing found: undefined"


@TASKS
def test_a_hit_needs_the_main_class_and_a_joint_hit_every_label(count):
    tasks, truth = case(count)
    assert counts([truth], [predict(truth, tasks)], tasks) == [1, 1, 1, 1]
    for task in tasks:
        wrong = predict(truth, tasks, **{task.name: 1})
        assert counts([truth], [wrong], tasks) == ([1, 1, 0, 0] if task is tasks[0] else [1, 1, 1, 0])
    assert counts([truth], [predict(truth, tasks, shift=8)], tasks) == [1, 1, 0, 0]
    unlabelled = replace(truth, labels={task.name: None for task in tasks} | {"shape": 0})
    assert counts([unlabelled], [predict(truth, tasks)], tasks) == [1, 1, 1, 1]
    assert counts([], [], tasks) == [0, 0, 0, 0]


@TASKS
def test_crowds_are_not_instances_and_what_lies_in_them_is_not_counted(count):
    tasks, truth = case(count)
    crowd = box_instance((30, 2, 30, 60), truth.labels, crowd=True)
    inside = [predict(box_instance((32, 4 + 12 * q, 10, 10), truth.labels), tasks, query=q) for q in range(4)]
    whole = predict(crowd, tasks, query=8)
    assert counts([truth, crowd], [*inside, whole, predict(truth, tasks, query=9)], tasks) == [1, 1, 1, 1]
    inner = box_instance((32, 4, 10, 10), truth.labels)
    assert counts([inner, crowd], inside, tasks) == [1, 1, 1, 1], "what hits is counted"
    assert counts([truth, crowd], [predict(inner, tasks, shape=1)], tasks) == [1, 1, 0, 0]


@TASKS
def test_any_choice_counts_as_if_it_had_come_alone(count):
    tasks = make_tasks(count)
    images = scene(tasks, partial=True, crowds=True)
    rng = np.random.default_rng(0)
    shifted = chain.from_iterable(predict_all(images, tasks, shift=shift) for shift in range(0, 9, 2))
    predictions = table(
        [
            replace(r, query=i, mask_quality=float(rng.random()), labels=r.labels | {"shape": int(rng.integers(2))})
            for i, r in enumerate(shifted)
        ],
        tasks,
    )
    whole = evaluation(images, predictions, tasks)
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        kept = rng.random(len(predictions)) < share
        found = f1.counts(whole, kept)
        assert (found == f1.counts(evaluation(images, predictions[kept], tasks))).all()
        assert (found[:, 0] <= np.bincount(whole.image[kept], minlength=len(images))).all()
        assert (found[:, 3] <= found[:, 2]).all() and (found[:, 2] <= found[:, :2].min(axis=1)).all()
