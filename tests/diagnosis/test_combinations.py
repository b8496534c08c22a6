"""One softmax over combinations of labels: a correct model gives no finding, and errors have the right cause."""

from dataclasses import replace

import numpy as np
import pytest

from mtseg.core.params import Task
from mtseg.diagnosis import classes, detections, label_alignment, ranking
from tests.diagnosis.answers import combined, healthy, split
from tests.scenes import make_tasks


def shown(images, tasks):
    return sorted({tuple(i.labels[task.name] for task in tasks) for image in images for i in image.instances})


def answers(count, change=lambda predictions: predictions):
    """Images and predictions; `change`: of the heads' logits."""
    tasks = make_tasks(count, background=False)
    images, predictions = healthy(tasks)
    return tasks, images, combined(change(predictions), tasks, shown(images, tasks))


def found(tasks, images, predictions):
    one = split(images, predictions, tasks)
    other, _ = detections.check(one, num_queries=8, detections=100, max_dets=(1, 10, 100))
    named = [*label_alignment.check(one, combined=True)[0], *classes.collapses(one)[0], *classes.permutations(one)]
    named += [*ranking.calibration(one)[0], *other, *ranking.rankings(one)[0]]
    return [(finding.cause, finding.where) for finding in named if finding.severity != "note"]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_correct_model_gives_no_finding(count):
    tasks, images, predictions = answers(count)
    assert not found(tasks, images, predictions)


def test_single_numbers_that_coincide_by_chance_are_no_fault():
    """Logits of two classes have one degree of freedom: after rounding, some queries have the same."""
    tasks = make_tasks(2, background=False)
    images, predictions = healthy(tasks)
    weak = [{"colour": tuple(0.02 * v for v in p.logits["colour"])} for p in predictions]
    predictions = [replace(p, logits=p.logits | colour) for p, colour in zip(predictions, weak, strict=True)]
    one = split(images, combined(predictions, tasks, shown(images, tasks), most=1), tasks)
    numbers = one.predictions.logits["colour"][:, 0]
    assert 1 - len(np.unique(numbers)) / len(numbers) > 0.01
    assert not label_alignment.check(one, combined=True)[0]


def test_a_further_task_of_one_class_is_no_fault():
    tasks = (*make_tasks(2, background=False), Task.model_validate(make_tasks(1)[0].model_dump() | {
        "name": "kind", "classes": ("thing",), "background": False}))  # fmt: skip
    images, predictions = healthy(make_tasks(2, background=False))
    images = [
        replace(image, instances=tuple(replace(i, labels=i.labels | {"kind": 0}) for i in image.instances))
        for image in images
    ]
    predictions = [replace(p, logits=p.logits | {"kind": (0.5,)}) for p in predictions]
    predictions = combined(predictions, tasks, shown(images, tasks))
    assert not found(tasks, images, predictions)
    assert label_alignment.check(split(images, predictions, tasks), combined=True)[1]["kind"]["image_share"] is None


def test_a_head_that_is_fed_the_queries_alone():
    of_query = np.random.default_rng(1).normal(size=(8, 2))
    given = answers(3, lambda all: [replace(p, logits=p.logits | {"colour": tuple(of_query[p.query])}) for p in all])
    assert ("labels_ignore_image", "task 'colour'") in found(*given)


def test_labels_of_the_combination_of_another_query():
    tasks, images, predictions = answers(3)
    wrong = []
    for image in images:
        here = [p for p in predictions if p.image_id == image.id]
        other = {p.query: q for p, q in zip(here, [*here[4:], *here[:4]], strict=True)}
        wrong += [replace(p, labels=other[p.query].labels) for p in here]
    causes = [finding.cause for finding in label_alignment.check(split(images, wrong, tasks), combined=True)[0]]
    assert causes and set(causes) == {"labels_of_other_query"}


def test_logits_that_are_too_small():
    def cooled(predictions):
        weak = [{name: tuple(0.05 * v for v in values) for name, values in p.logits.items()} for p in predictions]
        return [replace(p, logits=logits) for p, logits in zip(predictions, weak, strict=True)]

    tasks, images, predictions = answers(3, cooled)
    findings = ranking.calibration(split(images, predictions, tasks))[0]
    assert {finding.cause for finding in findings} == {"miscalibrated"}
