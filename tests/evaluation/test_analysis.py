"""Confusion, calibration and curves by hand; the whole report for any number of tasks and for nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mtseg.core.errors import UserError
from mtseg.core.tables import Image
from mtseg.evaluation import analysis
from mtseg.evaluation.breakdown import KINDS
from mtseg.evaluation.calibration import calibration
from mtseg.evaluation.evidence import Evidence
from mtseg.evaluation.scores import evaluate
from tests.scenes import SIZE, box_instance, make_tasks, predict, predict_all, scene

TASKS = pytest.mark.parametrize("count", [1, 3, 4])
BOXES = [(2, 2, 20, 20), (34, 2, 20, 20), (2, 34, 20, 20), (34, 34, 20, 20)]


def run(images, predictions, tasks, ranking="product_quality"):
    return analysis.report(Evidence.of(images, predictions, tasks=tasks, ranking=ranking, max_dets=(1, 10, 100)))


def picture(*instances):
    return [Image(1, "a.jpg", SIZE, SIZE, instances)]


@TASKS
@pytest.mark.parametrize("ranking", ["main", "product_quality", "sum", "sum_quality"])
def test_ground_truth_as_predictions_has_no_fault_in_any_part(count, ranking):
    tasks = make_tasks(count)
    images = scene(tasks, partial=True, crowds=True)
    report = run(images, predict_all(images, tasks), tasks, ranking)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["ranking"] == ranking and list(report["tasks"]) == [task.name for task in tasks]
    assert len(report["scores"]) == 101 and (report["scores"][-1] == 1.0) == (not ranking.startswith("sum"))
    assert (report["score"]["calibration"] is None) == ranking.startswith("sum")
    assert report["joint"]["ap"] == 100 and set(report["joint"]["label_cost"].values()) == {0.0}
    assert report["label_errors"] == []
    for task in tasks:
        own = report["tasks"][task.name]
        matrix = np.array(own["confusion"]["matrix"])
        labelled = [i.labels[task.name] for image in images for i in image.instances if not i.crowd]
        labelled = [label for label in labelled if label is not None]
        assert matrix.shape == (task.num_classes + 1,) * 2
        assert (matrix == np.diag(np.bincount(labelled, minlength=task.num_classes + 1))).all()
        assert own["errors"] == {"ap50": 100.0, "cost": dict.fromkeys(KINDS, 0.0), "counts": dict.fromkeys(KINDS, 0)}
        assert list(own["curves"]) == list(task.classes)
        for curve in own["curves"].values():
            assert set(curve["precision"]) == {1.0} and curve["best_f1"] == 1.0
            assert len(curve["f1"]) == 101 and curve["f1"][0] == 1.0
        assert sum(bin["count"] for bin in own["calibration"]["bins"]) == len(labelled)


@TASKS
def test_nothing_at_all_is_undefined_and_no_fault(count):
    tasks = make_tasks(count)
    empty = [Image(1, "a.jpg", SIZE, SIZE)]
    stray = predict(box_instance(BOXES[0], {task.name: 0 for task in tasks}), tasks)
    for images, predictions in ((empty, []), (empty, [stray]), (scene(tasks), [])):
        report = run(images, predictions, tasks)
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        for task in tasks:
            own = report["tasks"][task.name]
            assert own["calibration"]["ece"] is None and own["overall"]["best_score"] is None
            assert own["errors"]["ap50"] == (0.0 if images is not empty else None)
        assert report["joint"]["ap"] == (0.0 if images is not empty else None)


def test_confusion_by_hand():
    """Found right, found as another, not found, found where nothing is, found below the score."""
    tasks = make_tasks(2)
    truth = [box_instance(box, {"shape": n % 3, "colour": n % 2}) for n, box in enumerate(BOXES)]
    found = [predict(truth[0], tasks, query=0), predict(truth[1], tasks, query=1, colour=0, quality=0.85)]
    found.append(predict(box_instance((26, 26, 6, 6), {"shape": 2, "colour": 1}), tasks, query=2, quality=0.95))
    found.append(predict(truth[3], tasks, query=3, quality=0.01, shape=1))
    found.append(predict(truth[0], tasks, query=0, quality=0.88, shape=1))  # a second class of the first query
    report = run(picture(*truth), found, tasks)["tasks"]
    assert report["shape"]["confusion"]["min_score"] == pytest.approx(
        0.85 * (np.exp(6) / (np.exp(6) + 3)) * TWO, abs=1e-4
    )
    assert report["shape"]["confusion"]["matrix"] == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert report["colour"]["confusion"]["matrix"] == [[1, 0, 1], [1, 0, 1], [0, 1, 0]]


TWO = np.exp(6) / (np.exp(6) + 2)  # probability of a colour in these scenes: two classes and no-object


def test_unlabelled_objects_and_crowds_count_nowhere():
    tasks = make_tasks(2)
    known = box_instance(BOXES[0], {"shape": 0, "colour": 0})
    unknown = box_instance(BOXES[1], {"shape": 0, "colour": None})
    crowd = box_instance((2, 34, 60, 20), {"shape": 0, "colour": 0}, crowd=True)
    images = picture(known, unknown, crowd)
    on_them = [predict(unknown, tasks, query=n, colour=n % 2) for n in (1, 2)]
    on_them += [predict(box_instance((4, 36, 10, 10), {"shape": 0, "colour": 0}), tasks, query=3)]
    alone = run(images, [predict(known, tasks)], tasks)["tasks"]["colour"]
    among = run(images, [predict(known, tasks), *on_them], tasks)["tasks"]["colour"]
    for part in ("confusion", "calibration", "errors", "curves"):
        assert among[part] == alone[part]
    assert run(images, [predict(known, tasks), *on_them], tasks)["label_errors"] == []


def test_calibration_by_hand():
    report = calibration(np.array([0.95, 0.95, 0.95, 0.95, 0.15]), np.array([True, True, True, False, False]))
    assert report["ece"] == pytest.approx((4 * 0.2 + 0.15) / 5)
    assert len(report["bins"]) == 10
    assert report["bins"][9] == {"lower": 0.9, "upper": 1.0, "confidence": 0.95, "accuracy": 0.75, "count": 4}
    assert report["bins"][1]["accuracy"] == 0 and report["bins"][5]["accuracy"] is None


@TASKS
def test_labels_are_calibrated_on_matched_objects_without_no_object(count):
    """Logits ln 4, 0 and, for no-object, much more: of the two classes the first has 4/5, and is right in 3 of 4."""
    tasks = make_tasks(count)
    task = next(t for t in tasks if t.num_classes == 2) if count > 1 else tasks[0]
    rest = -50.0 if task.num_classes == 3 else None
    logits = tuple(v for v in (np.log(4), 0.0, rest, 9.0) if v is not None)
    truth = [box_instance(box, {t.name: 0 for t in tasks}) for box in BOXES]
    truth[3] = replace(truth[3], labels=truth[3].labels | {task.name: 1})
    found = [predict(i, tasks, query=n, **{task.name: 0}) for n, i in enumerate(truth)]
    found = [replace(p, logits=p.logits | {task.name: logits}) for p in found]
    found.append(predict(box_instance((26, 26, 6, 6), truth[0].labels), tasks, query=9))  # of nothing
    own = run(picture(*truth), found, tasks)["tasks"][task.name]["calibration"]
    assert own["ece"] == pytest.approx(0.05)
    assert [bin["count"] for bin in own["bins"] if bin["count"]] == [4]


def test_the_score_is_calibrated_on_place_and_main_class():
    tasks = make_tasks(1)
    truth = [box_instance(box, {"shape": 0}) for box in BOXES]
    found = [predict(i, tasks, query=n, quality=0.55, strength=99, shape=n == 3) for n, i in enumerate(truth)]
    own = run(picture(*truth), found, tasks)["score"]["calibration"]
    assert own["ece"] == pytest.approx(0.2) and own["bins"][5]["accuracy"] == 0.75


def test_curves_by_hand():
    """Scores .905 right, .705 wrong, .505 right, of three objects of one class: precision 1, 2/3; F1 1/2, 2/5, 2/3."""
    tasks = make_tasks(1)
    truth = [box_instance(box, {"shape": 0}) for box in BOXES[:3]]
    elsewhere = box_instance((40, 40, 9, 9), {"shape": 0})
    order = [(truth[0], 0.905), (elsewhere, 0.705), (truth[1], 0.505)]
    found = [predict(i, tasks, query=n, quality=q, strength=99) for n, (i, q) in enumerate(order)]
    report = run(picture(*truth), found, tasks)["tasks"]["shape"]
    curves = report["curves"]
    for own in (curves["circle"], report["overall"]):
        assert own["precision"] == [1.0] * 34 + [0.6667] * 33 + [0.0] * 34
        f1 = dict(zip(range(101), own["f1"], strict=True))
        assert (f1[0], f1[50], f1[51], f1[70], f1[71], f1[90], f1[91]) == (0.6667, 0.6667, 0.4, 0.4, 0.5, 0.5, 0.0)
        assert (own["best_f1"], own["best_score"]) == (0.6667, 0.505)
    assert curves["star"] == {"precision": [None] * 101, "f1": [None] * 101, "best_f1": None, "best_score": None}


@pytest.mark.parametrize("count", [3, 4])
def test_label_cost_is_what_the_joint_ap_gains(count):
    """Half of the fills and a quarter of the colours are wrong, of different objects."""
    tasks = make_tasks(count)
    labels = {task.name: 0 for task in tasks}
    images = picture(*(box_instance(box, labels) for box in BOXES))
    found = predict_all(images, tasks)
    wrong = {0: {"fill": 1}, 1: {"fill": 2}, 2: {"colour": 1}}
    found = [replace(p, labels=p.labels | wrong.get(n, {})) for n, p in enumerate(found)]
    joint = run(images, found, tasks)["joint"]
    ap = [100 * (25 * n + 1) / 101 for n in range(5)]
    assert joint["ap"] == pytest.approx(ap[1], abs=1e-3)
    expected = dict.fromkeys(labels, 0.0) | {"fill": ap[3] - ap[1], "colour": ap[2] - ap[1]}
    assert joint["label_cost"] == pytest.approx(expected, abs=2e-3)
    assert joint["errors"]["counts"]["class"] == 3
    assert joint["errors"]["cost"]["class"] == pytest.approx(100 - ap[1], abs=2e-3)


@TASKS
def test_the_order_in_the_files_does_not_matter(count):
    tasks = make_tasks(count)
    images = scene(tasks, partial=True, crowds=True)
    predictions = predict_all(images, tasks) + predict_all(images, tasks, shift=5)
    predictions = [replace(p, query=q) for q, p in enumerate(predictions)]
    report, turned = run(images, predictions, tasks), run(images[::-1], predictions[::-1], tasks)
    report.pop("label_errors"), turned.pop("label_errors")
    assert report == turned
    assert (
        report["joint"]["ap"]
        == evaluate(images, predictions, tasks=tasks, ranking="product_quality", max_dets=(100,))[0]["joint"]["AP"]
    )


def test_predictions_for_other_pictures_are_refused():
    tasks = make_tasks(1)
    with pytest.raises(UserError, match="picture 77"):
        run(scene(tasks), [predict(box_instance((2, 2, 9, 9), {"shape": 0}), tasks, image_id=77)], tasks)
