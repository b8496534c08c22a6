"""The evaluator is tested on the ground truth before its scores are used."""

import pytest

from mtseg.diagnosis import evaluator
from mtseg.evaluation.ap import scores
from mtseg.evaluation.ap.evaluation import Evaluation
from tests.scenes import make_tasks, scene


def run(score=scores.metrics, count=3, size=6, **kinds):
    tasks = make_tasks(count)
    return evaluator.check(scene(tasks, count=size, **kinds), tasks=tasks, ranking="product_quality", score=score)


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("kinds", [{}, {"partial": True}, {"crowds": True}])
def test_a_correct_evaluator_passes(count, kinds):
    findings, numbers = run(count=count, **kinds)
    assert not findings and numbers["truth"] == 100
    assert numbers["shifted"] == pytest.approx(numbers["shifted_expected"], abs=1)
    assert numbers["relabelled"] == pytest.approx(numbers["relabelled_expected"], abs=1)
    assert numbers["relabelled"] < 80


def changed(evaluation, **columns):
    """Metrics of the predictions with other columns."""
    given = {"tasks": evaluation.tasks, "ranking": evaluation.ranking, "max_dets": evaluation.max_dets}
    return scores.metrics(Evaluation(evaluation.images, evaluation.predictions.replace(**columns), **given))


def other_classes(evaluation):
    main = evaluation.tasks[0]
    return changed(evaluation, **{"labels.shape": (evaluation.predictions.labels["shape"] + 1) % main.num_classes})


def too_high(evaluation):
    metrics = scores.metrics(evaluation)
    metrics["segm"]["AP"] = min(100.0, metrics["segm"]["AP"] * 1.2)
    return metrics


def worst_first(evaluation):
    return changed(evaluation, mask_quality=1 - evaluation.predictions.mask_quality / 2)


def broken(evaluation):
    raise IndexError("list index out of range")


@pytest.mark.parametrize("fault", [other_classes, too_high, worst_first, broken])
def test_an_evaluator_that_is_wrong_is_named(fault):
    (finding,), _ = run(fault, **({"count": 1, "size": 12} if fault is worst_first else {}))
    assert (finding.cause, finding.severity) == ("evaluator_wrong", "error")


def test_images_without_objects_are_no_test():
    assert run(size=1) == ([], {})
