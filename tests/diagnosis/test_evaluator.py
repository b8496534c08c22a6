"""The evaluator is tested on the ground truth before its scores are used."""

from functools import partial

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.core import masks
from mtseg.diagnosis import evaluator
from mtseg.evaluation.ap import matching, scores
from mtseg.evaluation.ap.evaluation import Evaluation
from tests.scenes import box_instance, images_of, make_tasks, one_image, scene


def run(score=scores.metrics, count=3, size=6, **kinds):
    tasks = make_tasks(count)
    return evaluator.check(scene(tasks, count=size, **kinds), tasks=tasks, ranking="product_quality", score=score)


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("kinds", [{}, {"partial": True}, {"crowds": True}])
def test_a_correct_evaluator_passes(count, kinds):
    findings, numbers = run(count=count, **kinds)
    assert not findings and numbers["truth"] == 100
    assert numbers["changed"] == pytest.approx(numbers["changed_expected"], abs=0.01)
    assert 10 < numbers["changed"] < 80


def labelled(*labels):
    return dict(zip(("shape", "colour", "fill"), labels, strict=True))


@pytest.mark.parametrize(
    "objects",
    [
        [box_instance((2, 2, 20, 20), labelled(1, 0, None))],
        [box_instance((2, 2, 20, 20), labelled(None, None, None))],
        [box_instance((2, 2, 20, 20), labelled(None, 0, 0)), box_instance((8, 2, 20, 20), labelled(1, None, None)),
         box_instance((8, 2, 20, 20), labelled(1, None, 2), crowd=True)],
        [box_instance((2 + i % 5, 2, 20, 20), labelled(i % 3, i % 2, i % 3)) for i in range(10)],
        [box_instance((i % 45, i % 7 * 6, 8 + i % 9, 9 + i % 5), labelled(i % 3, i % 2, 1), i % 20 == 3)
         for i in range(130)],
    ],
    ids=["no combination", "no label", "no combination, crowd", "two objects have a mask", "more than 100 objects"],
)  # fmt: skip
def test_a_correct_evaluator_passes_on_a_single_image(objects):
    tasks = make_tasks(3)
    images = images_of(one_image(*objects), tasks)
    assert not evaluator.check(images, tasks=tasks, ranking="product_quality")[0]


def test_many_objects_are_compared_on_some_images(monkeypatch):
    scored = []
    monkeypatch.setattr(evaluator, "OBJECTS", 30)
    run(lambda evaluation: scored.append(evaluation) or scores.metrics(evaluation), size=40)
    assert {len(evaluation.images) for evaluation in scored} == {8}, "of four objects each"


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


def lower_recall(evaluation):
    metrics = scores.metrics(evaluation)
    metrics["bbox"]["AR10"] *= 0.9
    return metrics


def other_accuracy(evaluation):
    metrics = scores.metrics(evaluation)
    metrics["tasks"]["colour"]["accuracy"] = 100.0
    return metrics


def broken(evaluation):
    raise IndexError("list index out of range")


@pytest.mark.parametrize("fault", [other_classes, too_high, worst_first, lower_recall, other_accuracy, broken])
def test_an_evaluator_that_is_wrong_is_named(fault):
    (finding,), _ = run(fault)
    assert (finding.cause, finding.severity) == ("evaluator_wrong", "error")


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        (matching, "_greedy", lambda real, *before: real(*before[:-2], np.ones_like(before[-2]), before[-1])),
        (masks, "iou", lambda real, found, true: coco_mask.iou(list(found), list(true), [True] * len(true))),
    ],
    ids=["an object is matched by any number", "the intersection is divided by the area of the prediction"],
)
def test_an_evaluator_is_named_that_is_right_for_one_exact_prediction_per_object(monkeypatch, module, name, fault):
    monkeypatch.setattr(module, name, partial(fault, getattr(module, name)))
    (finding,), numbers = run()
    assert finding.cause == "evaluator_wrong" and numbers["truth"] == 100


def without_memory(evaluation):
    raise MemoryError


def test_too_little_memory_is_no_fault_of_the_evaluator():
    with pytest.raises(MemoryError):
        run(without_memory)


def test_images_without_objects_are_no_test():
    assert run(size=1) == ([], {})
