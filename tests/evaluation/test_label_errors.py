"""Suspected annotation errors: changed annotations are reported with the kind of the change, and no others."""

from dataclasses import replace

import pytest

from mtseg.core.tables import Image
from mtseg.evaluation.label_errors import label_errors
from tests.scenes import SIZE, box_instance, evaluation, images_of, make_tasks, one_image, predict, predict_all, scene

TASKS = pytest.mark.parametrize("count", [1, 3, 4])


def suspects(images, rows, tasks):
    return label_errors(evaluation(images, rows, tasks))


def sure(images, tasks):
    return [replace(row, mask_quality=1.0) for row in predict_all(images, tasks)]


def spoilt(images, tasks, change):
    """The second object of image 3 replaced by the objects that `change` returns."""
    records = list(images)
    first, second, *rest = records[2].instances
    records[2] = replace(records[2], instances=(first, *change(second), *rest))
    return images_of(records, tasks)


@TASKS
def test_another_label(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    for task in tasks:
        right = images[2].instances[1].labels[task.name]
        wrong = {task.name: (right + 1) % task.num_classes}
        relabelled = spoilt(images, tasks, lambda i, wrong=wrong: [replace(i, labels=i.labels | wrong)])
        (suspect,) = suspects(relabelled, sure(images, tasks), tasks)
        assert suspect["score"] > 0.9 and suspect["iou"] == 1.0
        assert {key: suspect[key] for key in ("kind", "task", "annotated", "predicted", "image_id", "instance")} == {
            "kind": "label",
            "task": task.name,
            "annotated": task.classes[wrong[task.name]],
            "predicted": task.classes[right],
            "image_id": 3,
            "instance": 1,
        }
        assert sure(images, tasks)[suspect["prediction"]].query == 1


@TASKS
def test_missing_once_however_often_it_is_found_and_named_by_its_row(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    rows = sure(images, tasks)[::-1]
    rows += [replace(row, query=50 + row.query, mask_quality=0.9) for row in rows]
    (suspect,) = suspects(spoilt(images, tasks, lambda i: []), rows, tasks)
    assert [suspect[key] for key in ("kind", "instance", "annotated", "image_id")] == ["missing", None, None, 3]
    assert suspect["predicted"] == tasks[0].classes[images[2].instances[1].labels[tasks[0].name]]
    found = rows[suspect["prediction"]]
    assert (found.image_id, found.query) == (3, 1)


def test_outline():
    tasks = make_tasks(3)
    images = scene(tasks)

    def third(instance):
        x, y, width, height = map(int, instance.bbox)
        return [box_instance((x, y, width // 3, height), instance.labels)]

    (suspect,) = suspects(spoilt(images, tasks, third), sure(images, tasks), tasks)
    assert (suspect["kind"], suspect["instance"]) == ("outline", 1) and 0.2 < suspect["iou"] < 0.4


def test_spurious_where_the_class_is_mostly_found():
    tasks = make_tasks(3)
    images = scene(tasks)
    rows = [row for row in sure(images, tasks) if (row.image_id, row.query) != (3, 1)]
    (suspect,) = suspects(images, rows, tasks)
    assert (suspect["kind"], suspect["image_id"], suspect["instance"]) == ("spurious", 3, 1)
    assert suspect["prediction"] is None and suspect["predicted"] is None
    assert suspects(images, [], tasks) == [], "where nothing is found, the model is at fault"


def test_doubt_suspects_nothing():
    """Low confidence in the label or in the object, low IoU, on a crowd: these can be errors of the model."""
    tasks = make_tasks(2)
    truth = box_instance((2, 2, 20, 20), {"shape": 0, "colour": 0})
    crowd = box_instance((30, 2, 30, 60), truth.labels, crowd=True)
    for rows in (
        [predict(truth, tasks, colour=1, strength=0.5)],
        [predict(truth, tasks, colour=1, shift=3)],  # IoU 17/23
        [predict(box_instance((32, 4, 10, 10), truth.labels), tasks)],
        [predict(truth, tasks, query=5), predict(box_instance((2, 40, 20, 20), truth.labels), tasks, quality=0.4)],
    ):
        assert suspects(one_image(truth, crowd), rows, tasks) == []


def test_the_surest_come_first_and_at_most_200():
    tasks = make_tasks(1)
    images = [Image(n, f"{n}.jpg", SIZE, SIZE) for n in range(1, 31)]
    rows = [
        predict(box_instance((8 * n, 0, 6, 6), {"shape": 0}), tasks, image_id=i.id, query=n, quality=0.6 + 0.001 * i.id)
        for i in images
        for n in range(8)
    ]
    listed = suspects(images, rows, tasks)
    assert len(listed) == 200 and {suspect["kind"] for suspect in listed} == {"missing"}
    assert [suspect["score"] for suspect in listed] == sorted((s["score"] for s in listed), reverse=True)
    assert listed[0]["image_id"] == 30
