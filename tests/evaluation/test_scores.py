"""The scores, fed what is known: the ground truth scores 100, and each fault costs what it must, no more."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from mtseg.core.params import Ranking
from mtseg.core.tables import Image
from mtseg.evaluation import analysis, classes, scores
from tests.scenes import SIZE, box_instance, evaluation, images_of, logits_of, make_tasks, noisy, one_image, predict, predict_all, scene, table

RANKINGS = get_args(Ranking)
TASKS = pytest.mark.parametrize("count", [1, 3, 4])
BOXES = [(2, 2, 20, 20), (34, 2, 20, 20), (2, 34, 20, 20), (34, 34, 20, 20)]


def metrics(images, rows, tasks, **options):
    return scores.metrics(evaluation(images, rows, tasks, **options))


def numbers(metrics):
    """Every number under its dotted name, those aside that a limit of one detection holds below 100."""
    flat = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": number for name, number in numbers(value).items()}
        elif key != "AR1":
            flat[key] = value
    return flat


def average_precisions(images, rows, tasks):
    """Every AP and AP50 that anything reports, by name."""
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


@pytest.mark.parametrize(("shift", "thresholds"), [(0, 10), (1, 9), (2, 7), (4, 4), (6, 1), (7, 0)])
@TASKS
def test_shifted_masks_fall_as_computed(count, shift, thresholds):
    """20 x 20 moved by k: IoU (20 - k) / (20 + k), which is 19/21 = .905, 18/22 = .818, .667, .538, .481."""
    tasks = make_tasks(count)
    images = grid(tasks)
    for name, ap in average_precisions(images, predict_all(images, tasks, shift=shift), tasks).items():
        assert ap == pytest.approx(100 * (shift < 7) if name.endswith("50") else 10 * thresholds, abs=1e-3), name


@TASKS
@pytest.mark.parametrize("lost", [4, 8])
def test_objects_that_are_not_found_cost_as_computed(count, lost):
    """Precision is 1 up to the recall of the 16 objects that is reached."""
    tasks = make_tasks(count)
    images = grid(tasks)
    expected = 100 * (int(100 * (16 - lost) / 16) + 1) / 101
    for name, ap in average_precisions(images, predict_all(images, tasks)[lost:], tasks).items():
        assert ap == pytest.approx(expected, abs=1e-3), name


@TASKS
def test_duplicates_cost_as_computed(count):
    """Every object found twice: precision is 1 if the duplicates rank last, else falls to 1/2."""
    tasks = make_tasks(count)
    images = grid(tasks)
    sure = predict_all(images, tasks)
    last = sure + [replace(row, query=10 + row.query, mask_quality=0.1) for row in sure]
    in_turn = [replace(row, mask_quality=0.9 - 0.01 * n + d) for n, row in enumerate(sure) for d in (0, -0.005)]
    in_turn = [replace(row, query=query) for query, row in enumerate(in_turn)]
    halved = 100 / 101 * sum(max(n / (2 * n - 1) for n in range(max(1, -(-16 * r // 100)), 17)) for r in range(101))
    for rows, expected in ((last, 100), (in_turn, halved)):
        for name, ap in average_precisions(images, rows, tasks).items():
            assert ap == pytest.approx(expected, abs=1e-3), name


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


def test_further_labels_in_another_order_than_the_masks_are_seen():
    tasks = make_tasks(3)
    images = scene(tasks)
    rows, shuffled = predict_all(images, tasks), []
    for image in images:
        own = [row for row in rows if row.image_id == image.id]
        for mask, labels in zip(own, own[1:] + own[:1], strict=True):
            shuffled.append(replace(mask, labels=labels.labels | {"shape": mask.labels["shape"]}))
    found = metrics(images, shuffled, tasks)
    assert found["segm"]["AP"] == 100
    assert found["tasks"]["colour"]["accuracy"] < 60 and found["tasks"]["fill"]["accuracy"] < 60
    assert found["joint"]["AP"] < 50


@TASKS
def test_no_predictions_at_all_is_ap_0(count):
    tasks = make_tasks(count)
    own = evaluation(scene(tasks, partial=True, crowds=True), [], tasks)
    found, rows = scores.metrics(own), classes.table(own)
    assert set(numbers(found).values()) == {0.0}
    assert found["tasks"] == {task.name: {"AP": 0.0} for task in tasks}
    assert {row["AP"] for row in rows} == {0.0} and {row["accuracy"] for row in rows} == {None}


@TASKS
def test_no_ground_truth_at_all_is_undefined(count):
    tasks = make_tasks(count)
    stray = predict(box_instance((2, 2, 9, 9), {t.name: 0 for t in tasks}), tasks)
    for rows in ([], [stray]):
        own = evaluation(one_image(), rows, tasks)
        nothing = {"segm": {}, "bbox": {}, "tasks": {task.name: {} for task in tasks}, "joint": {}}
        assert scores.metrics(own) == nothing and {row["AP"] for row in classes.table(own)} == {None}


def test_an_unlabelled_instance_is_neither_hit_nor_miss_in_its_task():
    tasks = make_tasks(2)
    known = box_instance((2, 2, 20, 20), {"shape": 0, "colour": 0})
    unknown = box_instance((34, 34, 20, 20), {"shape": 1, "colour": None})
    for objects in ([known], [known, unknown]):
        for colour in (0, 1):
            rows = [predict(i, tasks, query=q) for q, i in enumerate(objects)]
            own = evaluation(one_image(known, unknown), [rows[0], *(relabel(r, tasks[1], colour) for r in rows[1:])], tasks)
            found = scores.metrics(own)
            assert found["tasks"]["colour"] == {"AP": 100, "accuracy": 100, "f1": 100}
            assert found["joint"]["AP"] == 100 and found["segm"]["AP"] == 50 * len(objects)
    assert [row["instances"] for row in classes.table(own)] == [1, 1, 0, 1, 0]


def test_a_second_class_of_the_same_query_is_no_duplicate_in_a_further_task():
    """The second class of the sure query ranks above the unsure query, where a duplicate would cost its AP."""
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


def test_predictions_on_a_crowd_are_ignored():
    tasks = make_tasks(3)
    labels = {task.name: 0 for task in tasks}
    truth, crowd = box_instance((2, 2, 20, 20), labels), box_instance((30, 2, 30, 60), labels, crowd=True)
    inside = [predict(box_instance((32, 4 + 12 * q, 10, 10), labels), tasks, query=q, strength=9) for q in range(4)]
    whole = predict(crowd, tasks, query=4, strength=9, shape=1, colour=1, fill=1)
    found = metrics(one_image(truth, crowd), [*inside, whole, predict(truth, tasks, query=9)], tasks)
    assert set(numbers(found).values()) == {100.0}


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
        figures.append((scores.metrics(own), classes.table(own), report, suspects, analysis.rankings(own)))
    assert figures[0] == figures[1] == figures[2]


def test_boxes_and_masks_without_area_do_no_harm():
    tasks = make_tasks(1)
    truth = box_instance((2, 2, 20, 20), {"shape": 0})
    nothing = predict(box_instance((0, 0, 0, 0), {"shape": 0}), tasks, query=5, strength=9)
    found = metrics(one_image(truth, replace(truth, bbox=(5.0, 5.0, 0.0, 0.0))), [nothing, predict(truth, tasks)], tasks)
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


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_that_of_a_slow_matching_of_masks_alone(seed):
    tasks = make_tasks(3)
    images = scene(tasks, count=8, partial=True, crowds=True)
    own = evaluation(images, [replace(r, query=r.query // 2) for r in noisy(images, tasks, seed=seed, copies=4)], tasks)
    predictions, true, taken, right = own.predictions, own.images.instances, set(), {task.name: [] for task in tasks}
    pairs = {(p, i): iou for p, i, iou in zip(own.pairs.prediction, own.pairs.instance, own.pairs.iou, strict=True)}
    queries = set()
    for row in np.argsort(own.rank):
        if (query := (predictions.image_id[row], predictions.query[row])) in queries:
            continue
        queries.add(query)
        free = [i for i in range(len(true)) if not true.crowd[i] and i not in taken and pairs.get((row, i), 0) >= 0.5]
        if free:
            taken.add(best := max(free, key=lambda i, row=row: pairs[row, i]))
            for name, labels in true.labels.items():
                right[name] += [labels[best] == predictions.labels[name][row]] if labels[best] >= 0 else []
    for name, found in scores.metrics(own)["tasks"].items():
        assert found["accuracy"] == pytest.approx(100 * np.mean(right[name]), abs=1e-3) and len(right[name]) >= 10


def test_the_headline_of_training_has_the_metrics_at_100_detections():
    tasks = make_tasks(3)
    images = scene(tasks)
    predictions = table(noisy(images, tasks), tasks)
    found = scores.metrics(evaluation(images, predictions, tasks))
    expected = {"segm_AP": found["segm"]["AP"], "joint_AP": found["joint"]["AP"]}
    expected |= {f"{name}_accuracy": own["accuracy"] for name, own in found["tasks"].items()}
    assert scores.headline(images, predictions, tasks) == expected
    assert scores.headline(images, predictions[:0], tasks) == {"segm_AP": 0.0, "joint_AP": 0.0}


def test_nothing_is_printed(capsys):
    tasks = make_tasks(3)
    metrics(scene(tasks), predict_all(scene(tasks), tasks), tasks)
    assert capsys.readouterr() == ("", "")
