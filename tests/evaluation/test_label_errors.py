"""Annotations spoilt on purpose are suspected, each as what was done to it, and no others are."""

from dataclasses import replace

import pytest

from mtseg.core.tables import Image
from mtseg.evaluation import analysis
from mtseg.evaluation.evidence import Evidence
from tests.scenes import SIZE, box_instance, make_tasks, predict, predict_all, scene

TASKS = pytest.mark.parametrize("count", [1, 3, 4])


def suspects(images, predictions, tasks):
    return analysis.report(Evidence.of(images, predictions, tasks=tasks, ranking="product_quality", max_dets=(100,)))[
        "label_errors"
    ]


def sure(images, tasks):
    return [replace(p, mask_quality=1.0) for p in predict_all(images, tasks)]


def spoilt(images, change, image_id=3, index=1):
    """One picture's instances changed: `change` gives the instances in place of the one."""
    image = next(image for image in images if image.id == image_id)
    instances = (*image.instances[:index], *change(image.instances[index]), *image.instances[index + 1 :])
    return [replace(image, instances=instances) if i is image else i for i in images]


@TASKS
def test_another_label(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    for task in tasks:
        right = images[2].instances[1].labels[task.name]
        wrong = (right + 1) % task.num_classes
        relabelled = spoilt(
            images, lambda i, task=task, wrong=wrong: [replace(i, labels=i.labels | {task.name: wrong})]
        )
        (suspect,) = suspects(relabelled, sure(images, tasks), tasks)
        assert suspect["score"] > 0.9 and suspect["iou"] == 1.0
        assert {key: suspect[key] for key in ("kind", "task", "annotated", "predicted", "image_id", "instance")} == {
            "kind": "label",
            "task": task.name,
            "annotated": task.classes[wrong],
            "predicted": task.classes[right],
            "image_id": 3,
            "instance": 1,
        }
        assert sure(images, tasks)[suspect["prediction"]].query == 1


@TASKS
def test_the_prediction_is_named_by_its_place_in_the_file(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    predictions = sure(images, tasks)[::-1]
    (suspect,) = suspects(spoilt(images, lambda i: []), predictions, tasks)
    found = predictions[suspect["prediction"]]
    assert (found.image_id, found.query) == (3, 1)


@TASKS
def test_missing_once_however_often_it_is_found(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    found = sure(images, tasks)
    again = [replace(p, query=50 + p.query, mask_quality=0.9) for p in found]
    (suspect,) = suspects(spoilt(images, lambda i: []), found + again, tasks)
    assert (suspect["kind"], suspect["instance"], suspect["annotated"], suspect["image_id"]) == (
        "missing",
        None,
        None,
        3,
    )
    assert suspect["predicted"] == tasks[0].classes[images[2].instances[1].labels[tasks[0].name]]


@TASKS
def test_outline(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    half = spoilt(
        images, lambda i: [box_instance((*map(int, i.bbox[:2]), int(i.bbox[2]) // 3, int(i.bbox[3])), i.labels)]
    )
    (suspect,) = suspects(half, sure(images, tasks), tasks)
    assert (suspect["kind"], suspect["instance"]) == ("outline", 1) and 0.2 < suspect["iou"] < 0.4


@TASKS
def test_spurious_where_the_class_is_mostly_found(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    found = [p for p in sure(images, tasks) if (p.image_id, p.query) != (3, 1)]
    for suspect in suspects(images, found, tasks):
        assert (suspect["kind"], suspect["image_id"], suspect["instance"]) == ("spurious", 3, 1)
        assert suspect["prediction"] is None and suspect["predicted"] is None
    assert suspects(images, [], tasks) == [], "where nothing is found, the model is at fault"


def test_doubt_suspects_nothing():
    """Unsure of the label, unsure of the object, no good fit, on a crowd: whatever is wrong, it may be the model."""
    tasks = make_tasks(2)
    truth = box_instance((2, 2, 20, 20), {"shape": 0, "colour": 0})
    crowd = box_instance((30, 2, 30, 60), {"shape": 0, "colour": 0}, crowd=True)
    images = [Image(1, "a.jpg", SIZE, SIZE, (truth, crowd))]
    elsewhere = box_instance((2, 40, 20, 20), truth.labels)
    for found in (
        predict(truth, tasks, colour=1, strength=0.5),
        predict(truth, tasks, colour=1, shift=3),  # IoU 17/23
        predict(box_instance((32, 4, 10, 10), truth.labels), tasks),
    ):
        assert suspects(images, [found], tasks) == []
    right = predict(truth, tasks, query=5)
    assert suspects(images, [right, predict(elsewhere, tasks, quality=0.4)], tasks) == []


def test_the_surest_come_first_and_at_most_200():
    tasks = make_tasks(1)
    labels = {"shape": 0}
    images = [Image(n, f"{n}.jpg", SIZE, SIZE) for n in range(1, 31)]
    cells = [(8 * x, 8 * y, 6, 6) for x in range(8) for y in range(1)]
    found = [
        predict(box_instance(cell, labels), tasks, image_id=image.id, query=n, quality=0.6 + 0.001 * image.id)
        for image in images
        for n, cell in enumerate(cells)
    ]
    listed = suspects(images, found, tasks)
    assert len(listed) == 200 and {s["kind"] for s in listed} == {"missing"}
    assert [s["score"] for s in listed] == sorted((s["score"] for s in listed), reverse=True)
    assert listed[0]["image_id"] == 30
