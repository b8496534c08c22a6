"""F16: the evaluator is fed the ground truth before it may judge."""

from dataclasses import replace

import pytest

from mtseg.diagnosis import evaluator
from mtseg.evaluation import scores
from tests.scenes import make_tasks, scene


def run(evaluate=scores.evaluate, count=3, **kinds):
    tasks = make_tasks(count)
    return evaluator.check(evaluate, scene(tasks, **kinds), tasks=tasks, ranking="product_quality")


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("kinds", [{}, {"partial": True}, {"crowds": True}])
def test_f16_the_evaluator_passes(count, kinds):
    findings, numbers = run(count=count, **kinds)
    assert not findings and numbers["truth"] == 100
    assert numbers["shifted"] == pytest.approx(numbers["shifted_expected"], abs=1)
    assert numbers["relabelled"] == pytest.approx(numbers["relabelled_expected"], abs=1)
    assert numbers["relabelled"] < 80


def other_classes(images, predictions, *, tasks, **given):
    main = tasks[0]
    turned = [
        replace(p, labels=p.labels | {main.name: (p.labels[main.name] + 1) % main.num_classes}) for p in predictions
    ]
    return scores.evaluate(images, turned, tasks=tasks, **given)


def flattering(images, predictions, **given):
    metrics, classes = scores.evaluate(images, predictions, **given)
    metrics["segm"]["AP"] = min(100.0, metrics["segm"]["AP"] * 1.2)
    return metrics, classes


def worst_first(images, predictions, **given):
    turned = [replace(p, mask_quality=1 - p.mask_quality / 2) for p in predictions]
    return scores.evaluate(images, turned, **given)


def broken(images, predictions, **given):
    raise IndexError("list index out of range")


@pytest.mark.parametrize("fault", [other_classes, flattering, worst_first, broken])
def test_f16_an_evaluator_that_is_wrong_is_named(fault):
    (finding,), _ = run(fault) if fault is not worst_first else evaluator.check(
        fault, scene(make_tasks(1), pictures=12), tasks=make_tasks(1), ranking="product_quality"
    )  # fmt: skip
    assert (finding.cause, finding.severity) == ("evaluator_wrong", "error")


def test_pictures_without_objects_are_no_test():
    tasks = make_tasks(3)
    assert evaluator.check(scores.evaluate, scene(tasks, pictures=1), tasks=tasks, ranking="main") == ([], {})
