"""Metrics of known predictions: the ground truth scores 100, and each error lowers exactly the metrics it affects."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from mtseg.core.params import Ranking
from mtseg.core.tables import Image
from mtseg.evaluation import analysis, intervals
from mtseg.evaluation.ap import average_precision, classes, scores
from tests.scenes import (
    SIZE,
    box_instance,
    evaluation,
    images_of,
    logits_of,
    make_tasks,
    noisy,
    one_image,
    predict,
    predict_all,
    scene,
    table,
)

RANKINGS = get_args(Ranking)
TASKS = pytest.mark.parametrize("count", [1, 3, 4])
BOXES = [(2, 2, 20, 20), (34, 2, 20, 20), (2, 34, 20, 20), (34, 34, 20, 20)]


def numbers(metrics):
    """{dotted name: metric}, without those that a limit of one detection keeps below 100."""
    flat = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": number for name, number in numbers(value).items()}
        elif key != "AR1":
            flat[key] = value
    return flat


def average_precisions(images, rows, tasks):
    """{name: value} of all AP and AP50 in metrics and tables."""
    own = evaluation(images, rows, tasks)
    found, report = scores.metrics(own), analysis.report(own)
    aps = {"segm": found["segm"]["AP"], "segm50": found["segm"]["AP50"], "joint": found["joint"]["AP"]}
    aps |= {"joint50": found["joint"]["AP50"], "analysed joint": report["joint"]["ap"]}
    aps |= {task.name: found["tasks"][task.name]["AP"] for task in tasks}
    return aps | {f"{task.name} errors50": report["tasks"][task.name]["errors"]["ap50"] for task in tasks}


def grid(tasks):
    """Four images of four boxes of 20 x 20, all of one combination of labels."""
    labels = {task.name: 1 for task in tasks}
    instances = tuple(box_instance(box, labels) for box in BOXES)
    return images_of([Image(n, f"{n}.jpg", SIZE, SIZE, instances) for n in range(1, 5)], tasks)


def relabel(row, task, label):
    return replace(row, labels=row.labels | {task.name: label}, logits=row.logits | {task.name: logits_of(task, label)})


@TASKS
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("crowds", [False, True])
def test_ground_truth_as_predictions_scores_100(count, partial, crowds):
    tasks = make_tasks(count)
    images = scene(tasks, partial=partial, crowds=crowds)
    own = evaluation(images, predict_all(images, tasks), tasks)
    flat, rows = numbers(scores.metrics(own)), classes.table(own)
    assert set(flat.values()) == {100.0}
    expected = {"segm.AP", "segm.AP50", "segm.AP75", "segm.APs", "segm.AR10", "bbox.AP", "joint.AP", "joint.AP50"}
    assert expected | {f"tasks.{t.name}.{key}" for t in tasks for key in ("AP", "accuracy", "f1")} <= set(flat)
    assert not any(key.endswith(("APl", "ARl")) for key in flat), "there is no large object: undefined, so left out"
    assert [(row["task"], row["class"]) for row in rows] == [(t.name, c) for t in tasks for c in t.classes]


@TASKS
def test_every_ap_falls_as_computed_by_hand(count):
    """Moved by k of 20 pixels the IoU is (20 - k) / (20 + k): .905, .818, .667, .538, .481 for 1, 2, 4, 6, 7. Where
    objects are lost precision is 1 up to the recall reached; where each is found twice in turn it falls to 1/2."""
    tasks = make_tasks(count)
    images = grid(tasks)
    truth = predict_all(images, tasks)
    last = [replace(row, query=10 + row.query, mask_quality=0.1) for row in truth]
    turns = [replace(row, mask_quality=0.9 - 0.01 * n - d) for n, row in enumerate(truth) for d in (0, 0.005)]
    turns = [replace(row, query=query) for query, row in enumerate(turns)]
    halved = sum(max(n / (2 * n - 1) for n in range(max(1, -(-16 * r // 100)), 17)) for r in range(101)) / 1.01
    moved = [(predict_all(images, tasks, shift=k), 10 * n, 100) for k, n in ((1, 9), (2, 7), (4, 4), (6, 1))]
    cases = [(predict_all(images, tasks, shift=7), 0, 0), (truth[4:], 7600 / 101, 7600 / 101)]
    for rows, ap, ap50 in [*moved, *cases, (truth + last, 100, 100), (turns, halved, halved)]:
        for name, found in average_precisions(images, rows, tasks).items():
            assert found == pytest.approx(ap50 if name.endswith("50") else ap, abs=1e-3), name


@TASKS
def test_no_predictions_are_ap_0_and_no_ground_truth_is_undefined(count):
    tasks = make_tasks(count)
    own = evaluation(scene(tasks, partial=True, crowds=True), [], tasks)
    found, rows = scores.metrics(own), classes.table(own)
    assert set(numbers(found).values()) == {0.0} and found["tasks"] == {task.name: {"AP": 0.0} for task in tasks}
    assert {row["AP"] for row in rows} == {0.0} and {row["accuracy"] for row in rows} == {None}
    stray = predict(box_instance((2, 2, 9, 9), {t.name: 0 for t in tasks}), tasks)
    for predictions in ([], [stray]):
        own = evaluation(one_image(), predictions, tasks)
        nothing = {"segm": {}, "bbox": {}, "tasks": {task.name: {} for task in tasks}, "joint": {}}
        assert scores.metrics(own) == nothing and {row["AP"] for row in classes.table(own)} == {None}


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("wrong", [4, 8, 16])
def test_wrong_labels_hurt_their_task_and_the_joint_score_alone(count, wrong):
    tasks = make_tasks(count)
    images = grid(tasks)
    rows = [relabel(row, tasks[2], 0) if n < wrong else row for n, row in enumerate(predict_all(images, tasks))]
    expected = 100 * (int(100 * (16 - wrong) / 16) + 1) / 101 if wrong < 16 else 0
    for name, ap in average_precisions(images, rows, tasks).items():
        assert ap == pytest.approx(expected if "fill" in name or "joint" in name else 100, abs=1e-3), name
    own = evaluation(images, rows, tasks)
    accuracy = {name: task["accuracy"] for name, task in scores.metrics(own)["tasks"].items()}
    assert accuracy == {task.name: 100 for task in tasks} | {"fill": 100 - 100 * wrong / 16}
    report = analysis.report(own)
    cost = report["joint"]["label_cost"]
    assert cost.pop("fill") == pytest.approx(100 - expected, abs=2e-3) and set(cost.values()) == {0.0}
    confusion = np.array(report["tasks"]["fill"]["confusion"]["matrix"])
    assert (confusion[1, 1], confusion[1, 0], confusion.sum()) == (16 - wrong, wrong, 16)


def test_an_unlabelled_instance_is_neither_hit_nor_miss_in_its_task():
    tasks = make_tasks(2)
    known = box_instance((2, 2, 20, 20), {"shape": 0, "colour": 0})
    unknown = box_instance((34, 34, 20, 20), {"shape": 1, "colour": None})
    for colour, ap in ((None, 50), (0, 100), (1, 100)):
        rows = [] if colour is None else [predict(unknown, tasks, query=1, colour=colour)]
        own = evaluation(one_image(known, unknown), [predict(known, tasks), *rows], tasks)
        found = scores.metrics(own)
        assert found["tasks"]["colour"] == {"AP": 100, "accuracy": 100, "f1": 100}
        assert found["joint"]["AP"] == 100 and found["segm"]["AP"] == ap
    assert [row["instances"] for row in classes.table(own)] == [1, 1, 0, 1, 0]


def test_a_second_class_of_the_same_query_is_no_duplicate_in_a_further_task():
    """The second class of a confident query ranks above another query, where a duplicate would lower AP."""
    tasks = make_tasks(3)
    labels = {task.name: 0 for task in tasks}
    near = box_instance((4, 2, 20, 20), labels | {"colour": 1})
    truth = box_instance((2, 2, 20, 20), labels), box_instance((34, 34, 20, 20), labels)
    sure = predict(truth[0], tasks, query=0)
    second = replace(sure, labels=sure.labels | {"shape": 1})
    own = evaluation(one_image(*truth, near), [second, predict(truth[1], tasks, query=1, quality=0.001), sure], tasks)
    assert own.rank.tolist() == [1, 2, 0]
    assert scores.metrics(own)["tasks"]["colour"] == {"AP": 50, "accuracy": 100, "f1": 100}
    aps = {row["class"]: row["AP"] for row in classes.table(own) if row["task"] == "colour"}
    assert aps == {"red": 100, "green": 0}, "red is found, green is not"


@pytest.mark.parametrize("tied", [False, True])
def test_no_figure_depends_on_the_order_of_rows_or_images(tied):
    tasks = make_tasks(3)
    images = scene(tasks, partial=True, crowds=True)
    predictions = table(noisy(images, tasks, copies=3, tied=tied), tasks)
    figures = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(predictions))
        own = evaluation(images_of(list(images)[:: (-1) ** seed], tasks), predictions[order], tasks)
        report = analysis.report(own)
        suspects = [suspect | {"prediction": None} for suspect in report.pop("label_errors")]
        suspects.sort(key=lambda suspect: list(map(str, suspect.values())))
        tables = classes.table(own), analysis.rankings(own), intervals.tables(own)[0]
        figures.append((scores.metrics(own), report, suspects, tables))
    assert figures[0] == figures[1] == figures[2]


def test_boxes_and_masks_without_area_do_no_harm():
    tasks = make_tasks(1)
    truth = box_instance((2, 2, 20, 20), {"shape": 0})
    nothing = predict(box_instance((0, 0, 0, 0), {"shape": 0}), tasks, query=5, strength=9)
    flat = replace(truth, bbox=(5.0, 5.0, 0.0, 0.0))
    found = scores.metrics(evaluation(one_image(truth, flat), [nothing, predict(truth, tasks)], tasks))
    assert all(math.isfinite(value) for value in numbers(found).values())


def test_accuracy_and_macro_f1_as_computed_by_hand():
    tasks = make_tasks(2)
    truth = [box_instance(box, {"shape": 0, "colour": c}) for box, c in zip(BOXES, (0, 0, 0, 1), strict=True)]
    rows = [predict(i, tasks, query=q) for q, i in enumerate(truth)]
    own = evaluation(one_image(*truth), [relabel(rows[0], tasks[1], 1), *rows[1:]], tasks)
    found = scores.metrics(own)["tasks"]["colour"]
    assert found["accuracy"] == 75  # red 2 of 3, green 1 of 1
    assert found["f1"] == pytest.approx(100 * (4 / 5 + 2 / 3) / 2, abs=1e-3)
    assert [row["accuracy"] for row in classes.table(own)] == [100, None, None, pytest.approx(66.667), 100]


def test_the_headline_of_training_has_the_metrics_at_100_detections():
    tasks = make_tasks(3)
    images = scene(tasks)
    predictions = table(noisy(images, tasks), tasks)
    found = scores.metrics(evaluation(images, predictions, tasks))
    expected = {"segm_AP": found["segm"]["AP"], "joint_AP": found["joint"]["AP"]}
    expected |= {f"{name}_accuracy": own["accuracy"] for name, own in found["tasks"].items()}
    assert scores.headline(images, predictions, tasks) == expected
    assert scores.headline(images, predictions[:0], tasks) == {"segm_AP": 0.0, "joint_AP": 0.0}


def test_a_joint_ap_without_a_fully_labelled_object_is_left_out():
    tasks = make_tasks(3)
    boxes = [box_instance(box, {"shape": 1, "colour": None, "fill": 1}) for box in BOXES]
    images, rows = one_image(*boxes), [predict(one, tasks, query=query) for query, one in enumerate(boxes)]
    assert scores.metrics(evaluation(images, rows, tasks))["joint"] == {}
    own = scores.headline(images_of(images, tasks), table(rows, tasks), tasks)
    assert own == {"segm_AP": 100.0, "shape_accuracy": 100.0, "fill_accuracy": 100.0}


def test_the_least_hits_of_a_recall_are_those_of_a_search():
    objects = np.arange(1, 400)
    hits = np.arange(401)
    reached = hits / objects[:, None, None] >= average_precision.RECALLS[:, None]
    assert (average_precision.least(objects) == reached.argmax(-1)).all()


def test_areas_of_boxes_are_exact():
    (task,) = make_tasks(1)
    boxes = [box_instance(box, {task.name: 0}) for box in BOXES]
    own = table([predict(one, (task,), query=n) for n, one in enumerate(boxes)], (task,))
    own.box[0, 2:] = 10.01, 10.03
    found = evaluation(one_image(*boxes), own, (task,)).candidates_of_boxes().area
    assert found.tolist() == own.box[:, 2:].prod(1).tolist()


def test_joint_ap_of_a_hundred_tasks():
    """3 ** 100 combinations: their number does not fit into 64 bits."""
    tasks = tuple(make_tasks(1)[0].model_copy(update={"name": f"task{number}"}) for number in range(100))
    rng = np.random.default_rng(0)
    labels = [{task.name: int(rng.integers(task.num_classes)) for task in tasks} for _ in BOXES]
    truth = [box_instance(box, own) for box, own in zip(BOXES, labels, strict=True)]
    rows = [predict(one, tasks, query=query) for query, one in enumerate(truth)]
    assert scores.metrics(evaluation(one_image(*truth), rows, tasks))["joint"]["AP"] == 100
    rows[0] = relabel(rows[0], tasks[99], (labels[0]["task99"] + 1) % tasks[99].num_classes)
    assert scores.metrics(evaluation(one_image(*truth), rows, tasks))["joint"]["AP"] == 75
