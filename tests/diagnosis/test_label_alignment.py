"""Labels of another image or mask are reported; a correct model gives no finding."""

from dataclasses import replace

import numpy as np
import pytest

from mtseg.diagnosis import label_alignment
from tests.diagnosis.answers import healthy, relabelled, split
from tests.scenes import make_tasks

COUNTS = pytest.mark.parametrize("count", [1, 3, 4])


def causes(images, predictions, tasks):
    findings, _ = label_alignment.check(split(images, predictions, tasks))
    return [(finding.cause, finding.where) for finding in findings]


def twins(predictions):
    return {(p.image_id, p.query): p for p in predictions}


@COUNTS
def test_a_correct_model_gives_no_finding(count):
    tasks = make_tasks(count)
    findings, numbers = label_alignment.check(split(*healthy(tasks), tasks))
    assert not findings
    for task in tasks:
        assert numbers[task.name]["accuracy"] > 0.95 > numbers[task.name]["by_chance"]
        assert numbers[task.name]["image_share"] > 0.1


@COUNTS
def test_a_head_that_is_fed_the_queries_alone(count):
    tasks = make_tasks(count)
    images, predictions = healthy(tasks)
    name, width = tasks[-1].name, tasks[-1].num_outputs
    of_query = np.random.default_rng(1).normal(size=(8, width))
    blind = [relabelled(p, name, tuple(of_query[p.query])) for p in predictions]
    assert causes(images, blind, tasks) == [("labels_ignore_image", f"task '{name}'")]


def test_queries_that_give_the_same_logits_for_every_image_have_not_those_of_another():
    """As the detections of all layers of the decoder, of which the first has not seen the image."""
    tasks = make_tasks(3)
    images, predictions = healthy(tasks)
    early, rng = predictions, np.random.default_rng(1)
    for task in tasks:
        of_query = rng.normal(size=(8, task.num_outputs))
        early = [relabelled(p, task.name, tuple(of_query[p.query])) for p in early]
    assert not causes(images, [*predictions, *(replace(p, query=p.query + 8) for p in early)], tasks)


@pytest.mark.parametrize(("count", "images"), [(1, 40), (3, 40), (4, 40), (3, 7)])
def test_labels_of_the_batchs_last_image(count, images):
    tasks = make_tasks(count)
    images, predictions = healthy(tasks, images=images)
    name, known = tasks[-1].name, twins(predictions)
    of = {image.id: min((image.id - 1) // 4 * 4 + 4, len(images)) for image in images}
    last = [relabelled(p, name, known[of[p.image_id], p.query].logits[name]) for p in predictions]
    assert causes(images, last, tasks) == [("labels_of_other_image", f"task '{name}'")]


@pytest.mark.parametrize("count", [3, 4])
def test_labels_in_query_order_while_masks_are_in_order_of_score(count):
    tasks = make_tasks(count)
    images, predictions = healthy(tasks)
    name, wrong = tasks[1].name, []
    for image in images:
        here = [p for p in predictions if p.image_id == image.id]
        in_query_order = sorted(here, key=lambda p: p.query)
        wrong += [relabelled(p, name, q.logits[name]) for p, q in zip(here, in_query_order, strict=True)]
    assert causes(images, wrong, tasks) == [("labels_of_other_query", f"task '{name}'")]


@pytest.mark.parametrize("count", [3, 4])
def test_labels_shuffled_among_the_queries_in_no_order_at_all(count):
    tasks = make_tasks(count)
    images, predictions = healthy(tasks, images=120)
    rng, name, wrong = np.random.default_rng(0), tasks[2].name, []
    for image in images:
        here = [p for p in predictions if p.image_id == image.id]
        found, silent = here[: len(image.instances)], here[len(image.instances) :]
        order = rng.permutation(len(found))
        wrong += [relabelled(p, name, found[i].logits[name]) for p, i in zip(found, order, strict=True)] + silent
    assert causes(images, wrong, tasks) == [("labels_of_other_query", f"task '{name}'")]


def test_one_mask_with_two_answers():
    tasks = make_tasks(3)
    images, predictions = healthy(tasks)
    second = [replace(p, labels=p.labels | {"shape": (p.labels["shape"] + 1) % 3}) for p in predictions]
    assert not causes(images, predictions + second, tasks), "a query may answer with several main classes"
    other = [relabelled(p, "colour", tuple(v + 1e-3 * i for i, v in enumerate(p.logits["colour"]))) for p in second]
    assert causes(images, predictions + other, tasks) == [("labels_of_other_query", "task 'colour'")]


def test_labels_that_are_not_those_of_their_highest_logit():
    tasks = make_tasks(3)
    images, predictions = healthy(tasks)
    rolled = [replace(p, labels=p.labels | {"fill": (p.labels["fill"] + 1) % 3}) for p in predictions]
    assert causes(images, rolled, tasks) == [("labels_off_by_one", "task 'fill'")]


def test_a_network_that_has_gone_dead_has_nothing_to_align():
    tasks = make_tasks(3)
    images, predictions = healthy(tasks)
    dead = [replace(p, logits=predictions[0].logits, labels=predictions[0].labels) for p in predictions]
    assert split(images, dead, tasks).collapsed and not causes(images, dead, tasks)
    assert not split(images, predictions, tasks).collapsed


def test_a_muted_task_and_no_predictions_are_no_fault():
    tasks = make_tasks(3)
    images, predictions = healthy(tasks)
    blind = [relabelled(p, "fill", (1.0, 0.0, 0.0, 0.0)) for p in predictions]
    muted = (*tasks[:2], tasks[2].model_copy(update={"loss_weight": 0.0}))
    assert causes(images, blind, tasks) and not causes(images, blind, muted)
    assert not causes(images, [], tasks)


def test_labels_of_another_task_of_the_same_size():
    tasks = make_tasks(3)
    images, predictions = healthy(tasks)
    swapped = {"fill": "shape", "shape": "fill"}
    mixed = [
        replace(
            p,
            logits=p.logits | {name: p.logits[swapped[name]] for name in swapped},
            labels=p.labels | {name: p.labels[swapped[name]] for name in swapped},
        )
        for p in predictions
    ]
    names = ("shape", "fill")
    assert causes(images, mixed, tasks) == [("labels_of_other_task", f"task '{name}'") for name in names]


def test_tasks_that_go_together_are_not_mixed_up():
    """fill is guessed, and has the same label as shape for most objects."""
    tasks = make_tasks(3)
    images, predictions = healthy(tasks)
    rng = np.random.default_rng(0)
    images = [
        replace(
            image,
            instances=tuple(
                replace(i, labels=i.labels | {"fill": i.labels["shape"]}) if rng.random() < 0.8 else i
                for i in image.instances
            ),
        )
        for image in images
    ]
    guessed = [relabelled(p, "fill", (*(0.5 * rng.random(3)), p.logits["fill"][-1])) for p in predictions]
    assert "labels_of_other_task" not in [cause for cause, _ in causes(images, guessed, tasks)]
