"""A synthetic pattern passes through mapper and loader without findings, for many params."""

from __future__ import annotations

import pytest

from mtseg.checks import batches, mapper
from tests import tiny
from tests.scenes import make_tasks


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("scales", [(0.8, 1.25), (0.25, 0.3), (0.3, 2.0), (2.0, 3.0)])
@pytest.mark.parametrize("size", [64, 512])
def test_the_mapper_gives_no_finding(count, scales, size):
    tasks = make_tasks(count)
    tasks = (*tasks[:-1], tasks[-1].model_copy(update={"flip_pairs": (tasks[-1].classes[:2],)}))
    given = tiny.params(input={"size": size, "min_scale": scales[0], "max_scale": scales[1]}).input
    assert not mapper.check(tasks, input=given)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_batches_hold_what_the_mapper_makes_of_their_images(count):
    assert not batches.check(make_tasks(count), input=tiny.params().input)


def test_targets_may_come_in_any_order_but_not_from_another_image():
    tasks = make_tasks(3)
    right = [tiny.example(tasks, 3, seed=seed) for seed in range(4)]
    reversed_order = [one | {"instances": one["instances"][[2, 1, 0]]} for one in right]
    assert not list(batches.exchanged(reversed_order, right, tasks))
    of_last = [one | {"instances": right[-1]["instances"]} for one in right]
    assert [one.cause for one in batches.exchanged(of_last, right, tasks)] == ["masks_of_other_image"]
    with_others = [tiny.example(tasks, 3, seed=seed) for seed in range(4)]
    for one in with_others:
        one["instances"].gt_labels[:, 1] = 1 - one["instances"].gt_labels[:, 1]
    (found,) = batches.exchanged(with_others, right, tasks)
    assert found.cause == "labels_of_other_image" and found.where == f"task '{tasks[1].name}'"
