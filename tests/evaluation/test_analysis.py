"""Confusion, calibration and curves by hand; the whole report for any number of tasks and for nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mtseg.evaluation import analysis
from mtseg.evaluation.calibration import calibration
from mtseg.evaluation.errors import KINDS
from tests.scenes import box_instance, evaluation, make_tasks, one_image, predict, predict_all, scene

TASKS = pytest.mark.parametrize("count", [1, 3, 4])
BOXES = [(2, 2, 20, 20), (34, 2, 20, 20), (2, 34, 20, 20), (34, 34, 20, 20)]
STRAY = (26, 26, 6, 6)


def report(images, rows, tasks, **options):
    found = analysis.report(evaluation(images, rows, tasks, **options))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


@TASKS
@pytest.mark.parametrize("ranking", ["main", "product_quality", "sum", "sum_quality"])
def test_ground_truth_as_predictions_has_no_fault_in_any_part(count, ranking):
    tasks = make_tasks(count)
    images = scene(tasks, partial=True, crowds=True)
    found = report(images, predict_all(images, tasks), tasks, ranking=ranking)
    assert found["ranking"] == ranking and list(found["tasks"]) == [task.name for task in tasks]
    assert len(found["scores"]) == 101 and (found["scores"][-1] == 1.0) == (not ranking.startswith("sum"))
    assert (found["score"]["calibration"] is None) == ranking.startswith("sum")
    assert found["joint"]["ap"] == 100 and set(found["joint"]["label_cost"].values()) == {0.0}
    assert found["label_errors"] == []
    for task in tasks:
        own = found["tasks"][task.name]
        labels = [i.labels[task.name] for image in images for i in image.instances if not i.crowd]
        labels = [label for label in labels if label is not None]
        expected = np.diag(np.bincount(labels, minlength=task.num_classes + 1))
        assert own["confusion"]["matrix"] == expected.tolist()
        assert own["errors"] == {"ap50": 100.0, "cost": dict.fromkeys(KINDS, 0.0), "counts": dict.fromkeys(KINDS, 0)}
        assert list(own["curves"]) == list(task.classes)
        for curve in own["curves"].values():
            assert set(curve["precision"]) == {1.0} and curve["best_f1"] == 1.0
            assert len(curve["f1"]) == 101 and curve["f1"][0] == 1.0
        assert sum(each["count"] for each in own["calibration"]["bins"]) == len(labels)


@TASKS
def test_nothing_at_all_is_undefined_and_no_fault(count):
    tasks = make_tasks(count)
    stray = predict(box_instance(BOXES[0], {task.name: 0 for task in tasks}), tasks)
    for images, rows, ap in ((one_image(), [], None), (one_image(), [stray], None), (scene(tasks), [], 0.0)):
        found = report(images, rows, tasks)
        for own in found["tasks"].values():
            assert own["calibration"]["ece"] is None and own["overall"]["best_score"] is None
            assert own["errors"]["ap50"] == ap
        assert found["joint"]["ap"] == ap


def test_confusion_by_hand():
    """A correct match, a wrong label, a missed object, a prediction on background, one below the threshold."""
    tasks = make_tasks(2)
    truth = [box_instance(box, {"shape": n % 3, "colour": n % 2}) for n, box in enumerate(BOXES)]
    rows = [predict(truth[0], tasks, query=0), predict(truth[1], tasks, query=1, colour=0, quality=0.85)]
    rows.append(predict(box_instance(STRAY, {"shape": 2, "colour": 1}), tasks, query=2, quality=0.95))
    rows.append(predict(truth[3], tasks, query=3, quality=0.01, shape=1))
    rows.append(predict(truth[0], tasks, query=0, quality=0.88, shape=1))  # a second class of the first query
    shape, colour = (own["confusion"] for own in report(one_image(*truth), rows, tasks)["tasks"].values())
    sure = np.exp(6) / (np.exp(6) + 3) * np.exp(6) / (np.exp(6) + 2)
    assert shape["min_score"] == colour["min_score"] == pytest.approx(0.85 * sure, abs=1e-4)
    assert shape["matrix"] == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert colour["matrix"] == [[1, 0, 1], [1, 0, 1], [0, 1, 0]]


def test_unlabelled_objects_and_crowds_count_nowhere():
    tasks = make_tasks(2)
    known = box_instance(BOXES[0], {"shape": 0, "colour": 0})
    unknown = box_instance(BOXES[1], {"shape": 0, "colour": None})
    crowd = box_instance((2, 34, 60, 20), {"shape": 0, "colour": 0}, crowd=True)
    on_them = [predict(unknown, tasks, query=n, colour=n % 2) for n in (1, 2)]
    on_them.append(predict(box_instance((4, 36, 10, 10), known.labels), tasks, query=3))
    alone = report(one_image(known, unknown, crowd), [predict(known, tasks)], tasks)
    among = report(one_image(known, unknown, crowd), [predict(known, tasks), *on_them], tasks)
    assert among["tasks"]["colour"] == alone["tasks"]["colour"] and among["label_errors"] == []


def test_calibration_by_hand():
    found = calibration(np.array([0.95, 0.95, 0.95, 0.95, 0.15]), np.array([True, True, True, False, False]))
    assert found["ece"] == pytest.approx((4 * 0.2 + 0.15) / 5)
    assert len(found["bins"]) == 10
    assert found["bins"][9] == {"lower": 0.9, "upper": 1.0, "confidence": 0.95, "accuracy": 0.75, "count": 4}
    assert found["bins"][1]["accuracy"] == 0 and found["bins"][5]["accuracy"] is None


@TASKS
def test_labels_are_calibrated_on_matched_objects_without_no_object(count):
    """Logits ln 4 and 0, and a high one of no-object: the first class has probability 4/5, and is correct in 3 of 4."""
    tasks = make_tasks(count)
    task = tasks[1] if count > 1 else tasks[0]
    logits = (np.log(4), 0.0, *[-50.0] * (task.num_classes - 2), 9.0)
    truth = [box_instance(box, {t.name: 0 for t in tasks} | {task.name: n // 3}) for n, box in enumerate(BOXES)]
    rows = [predict(i, tasks, query=n, **{task.name: 0}) for n, i in enumerate(truth)]
    rows = [replace(row, logits=row.logits | {task.name: logits}) for row in rows]
    rows.append(predict(box_instance(STRAY, truth[0].labels), tasks, query=9))
    own = report(one_image(*truth), rows, tasks)["tasks"][task.name]["calibration"]
    assert own["ece"] == pytest.approx(0.05)
    assert [each["count"] for each in own["bins"] if each["count"]] == [4]


def test_the_score_is_calibrated_on_place_and_main_class():
    tasks = make_tasks(1)
    truth = [box_instance(box, {"shape": 0}) for box in BOXES]
    rows = [predict(i, tasks, query=n, quality=0.55, strength=99, shape=n == 3) for n, i in enumerate(truth)]
    own = report(one_image(*truth), rows, tasks)["score"]["calibration"]
    assert own["ece"] == pytest.approx(0.2) and own["bins"][5]["accuracy"] == 0.75


def test_curves_by_hand():
    """Three objects of one class; scores .905 (hit), .705 (miss), .505 (hit): precision 1, 2/3; F1 1/2, 2/5, 2/3."""
    tasks = make_tasks(1)
    truth = [box_instance(box, {"shape": 0}) for box in BOXES[:3]]
    order = [(truth[0], 0.905), (box_instance((40, 40, 9, 9), {"shape": 0}), 0.705), (truth[1], 0.505)]
    rows = [predict(i, tasks, query=n, quality=q, strength=99) for n, (i, q) in enumerate(order)]
    found = report(one_image(*truth), rows, tasks)["tasks"]["shape"]
    for own in (found["curves"]["circle"], found["overall"]):
        assert own["precision"] == [1.0] * 34 + [0.6667] * 33 + [0.0] * 34
        sampled = [own["f1"][score] for score in (0, 50, 51, 70, 71, 90, 91)]
        assert sampled == [0.6667, 0.6667, 0.4, 0.4, 0.5, 0.5, 0.0]
        assert (own["best_f1"], own["best_score"]) == (0.6667, 0.505)
    undefined = {"precision": [None] * 101, "f1": [None] * 101, "best_f1": None, "best_score": None}
    assert found["curves"]["star"] == undefined
