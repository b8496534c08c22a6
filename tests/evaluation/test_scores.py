"""The evaluator, fed what is known: the ground truth scores 100, and each fault costs what it must, no more (F16)."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from mtseg.core.errors import UserError
from mtseg.core.params import Ranking
from mtseg.core.tables import Image
from mtseg.evaluation import rankings
from mtseg.evaluation.evidence import Evidence
from mtseg.evaluation.predictions import score
from mtseg.evaluation.scores import evaluate
from tests.scenes import SIZE, box_instance, logits_of, make_tasks, predict, predict_all, scene

RANKINGS = get_args(Ranking)
TASKS = pytest.mark.parametrize("count", [1, 3, 4])


def run(images, predictions, tasks, ranking="product_quality", max_dets=(1, 10, 100)):
    return evaluate(images, predictions, tasks=tasks, ranking=ranking, max_dets=max_dets)


def numbers(metrics):
    """Every number under its dotted name, those aside that a limit of one detection holds below 100."""
    flat = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": number for name, number in numbers(value).items()}
        elif key != "AR1":
            flat[key] = value
    return flat


@TASKS
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("ranking", RANKINGS)
def test_f16_ground_truth_as_predictions_scores_100(count, partial, crowds, ranking):
    tasks = make_tasks(count)
    images = scene(tasks, partial=partial, crowds=crowds)
    metrics, classes = run(images, predict_all(images, tasks), tasks, ranking)
    flat = numbers(metrics)
    assert set(flat.values()) == {100.0}
    expected = {"segm.AP", "segm.AP50", "segm.AP75", "segm.APs", "segm.AR10", "bbox.AP", "joint.AP", "joint.AP50"}
    assert expected | {f"tasks.{t.name}.{key}" for t in tasks for key in ("AP", "accuracy", "f1")} <= set(flat)
    assert not any(key.endswith(("APl", "ARl")) for key in flat), "there is no large object: undefined, so left out"
    assert [(row["task"], row["class"]) for row in classes] == [(t.name, c) for t in tasks for c in t.classes]


@TASKS
def test_f16_shifted_masks_fall_as_computed(count):
    """Boxes of 20 x 20 shifted by 4: IoU 16 / 24 = 0.667, over the thresholds 0.5, 0.55, 0.6, 0.65 of ten."""
    tasks = make_tasks(count)
    labels = {task.name: 0 for task in tasks}
    boxes = [(2, 2, 20, 20), (34, 34, 20, 20)]
    images = [Image(1, "a.jpg", SIZE, SIZE, tuple(box_instance(box, labels) for box in boxes))]
    metrics, _ = run(images, predict_all(images, tasks, shift=4), tasks)
    for found in (metrics["segm"], metrics["bbox"], metrics["joint"]):
        assert found["AP"] == pytest.approx(40, abs=0.01) and found["AP50"] == 100
    metrics, _ = run(images, predict_all(images, tasks, shift=8), tasks)  # IoU 12 / 28
    assert metrics["segm"]["AP50"] == metrics["joint"]["AP50"] == 0
    assert not metrics["tasks"]["shape"].keys() & {"accuracy", "f1"}, "nothing is matched: undefined, so left out"


def test_f16_a_relabelled_task_hurts_itself_and_the_joint_score_alone():
    tasks = make_tasks(4)
    images = scene(tasks)
    predictions = [relabel(p, tasks[2], (p.labels["fill"] + 1) % 3) for p in predict_all(images, tasks)]
    metrics, _ = run(images, predictions, tasks)
    assert metrics["tasks"]["fill"] == {"AP": 0, "accuracy": 0, "f1": 0}
    assert metrics["joint"]["AP"] == 0
    assert metrics["segm"]["AP"] == metrics["bbox"]["AP"] == 100
    for name in ("shape", "colour", "side"):
        assert metrics["tasks"][name] == {"AP": 100, "accuracy": 100, "f1": 100}


def relabel(prediction, task, label):
    return replace(
        prediction,
        labels=prediction.labels | {task.name: label},
        logits=prediction.logits | {task.name: logits_of(task, label)},
    )


def test_f12_further_labels_in_another_order_than_the_masks_are_seen():
    tasks = make_tasks(3)
    images = scene(tasks)
    predictions = predict_all(images, tasks)
    shuffled = []
    for image in images:
        own = [p for p in predictions if p.image_id == image.id]
        for mask, labels in zip(own, own[1:] + own[:1], strict=True):
            further = {name: labels.labels[name] for name in ("colour", "fill")}
            shuffled.append(replace(mask, labels=mask.labels | further))
    metrics, _ = run(images, shuffled, tasks)
    assert metrics["segm"]["AP"] == 100
    assert metrics["tasks"]["colour"]["accuracy"] < 60 and metrics["tasks"]["fill"]["accuracy"] < 60
    assert metrics["joint"]["AP"] < 50


def test_f13_the_ranking_changes_ap_as_computed_by_hand():
    """One object, a right and a displaced prediction: AP is 100 if the right one ranks first, else 50."""
    tasks = make_tasks(2)
    truth = box_instance((2, 2, 20, 20), {"shape": 0, "colour": 0})
    images = [Image(1, "a.jpg", SIZE, SIZE, (truth,))]
    right = predict(truth, tasks, query=0, quality=1.0)
    wrong = predict(truth, tasks, query=1, quality=1.0, shift=30)
    right = replace(right, logits={"shape": (1.0, 0.0, 0.0, 0.0), "colour": (4.0, 0.0, 0.0)})
    wrong = replace(wrong, logits={"shape": (2.0, 0.0, 0.0, 0.0), "colour": (1.0, 0.0, 0.0)})
    ap = {ranking: run(images, [right, wrong], tasks, ranking)[0]["segm"]["AP"] for ranking in RANKINGS}
    assert ap == {ranking: 50.0 if ranking.startswith("main") else 100.0 for ranking in RANKINGS}
    rows = rankings.rows(Evidence.of(images, [right, wrong], tasks=tasks, ranking="sum", max_dets=(1, 10, 100)))
    assert {row["ranking"]: row["segm_AP"] for row in rows} == ap
    assert {row["ranking"]: row["joint_AP"] for row in rows} == ap


@TASKS
def test_no_predictions_at_all_is_ap_0(count):
    tasks = make_tasks(count)
    images = scene(tasks, partial=True, crowds=True)
    metrics, classes = run(images, [], tasks)
    assert set(numbers(metrics).values()) == {0.0}
    assert metrics["tasks"] == {task.name: {"AP": 0.0} for task in tasks}
    assert {row["AP"] for row in classes} == {0.0} and {row["accuracy"] for row in classes} == {None}


@TASKS
def test_no_ground_truth_at_all_is_undefined(count):
    tasks = make_tasks(count)
    empty = [Image(1, "a.jpg", SIZE, SIZE)]
    for predictions in ([], [predict(box_instance((2, 2, 9, 9), {t.name: 0 for t in tasks}), tasks)]):
        metrics, classes = run(empty, predictions, tasks)
        assert metrics == {"segm": {}, "bbox": {}, "tasks": {task.name: {} for task in tasks}, "joint": {}}
        assert {row["AP"] for row in classes} == {None}


def test_an_unlabelled_instance_is_neither_hit_nor_miss_in_its_task():
    tasks = make_tasks(2)
    known = box_instance((2, 2, 20, 20), {"shape": 0, "colour": 0})
    unknown = box_instance((34, 34, 20, 20), {"shape": 1, "colour": None})
    images = [Image(1, "a.jpg", SIZE, SIZE, (known, unknown))]
    for found in ([known], [known, unknown]):
        for colour in (0, 1):
            predictions = [predict(i, tasks, query=q) for q, i in enumerate(found)]
            predictions[1:] = [relabel(p, tasks[1], colour) for p in predictions[1:]]
            metrics, classes = run(images, predictions, tasks)
            assert metrics["tasks"]["colour"] == {"AP": 100, "accuracy": 100, "f1": 100}
            assert metrics["joint"]["AP"] == 100
            assert metrics["segm"]["AP"] == 50 * len(found)
    assert [row["instances"] for row in classes] == [1, 1, 0, 1, 0]


def test_a_second_class_of_the_same_query_is_no_duplicate_in_a_further_task():
    """The second class of the sure query ranks above the unsure query, where a duplicate would cost its AP."""
    tasks = make_tasks(3)
    labels = {task.name: 0 for task in tasks}
    near = box_instance((4, 2, 20, 20), labels | {"colour": 1})
    truth = (box_instance((2, 2, 20, 20), labels), box_instance((34, 34, 20, 20), labels))
    images = [Image(1, "a.jpg", SIZE, SIZE, (*truth, near))]
    sure = predict(truth[0], tasks, query=0)
    second = replace(sure, labels=sure.labels | {"shape": 1})
    unsure = predict(truth[1], tasks, query=1, quality=0.001)
    assert score(second, tasks, "product_quality") > score(unsure, tasks, "product_quality")
    metrics, classes = run(images, [second, unsure, sure], tasks)
    assert metrics["tasks"]["colour"] == {"AP": 50, "accuracy": 100, "f1": 100}, "red is found, green is not"
    assert [row["AP"] for row in classes if row["class"] in ("red", "green")] == [100, 0]


def test_predictions_on_a_crowd_are_ignored():
    tasks = make_tasks(3)
    labels = {task.name: 0 for task in tasks}
    crowd = box_instance((30, 2, 30, 60), labels, crowd=True)
    images = [Image(1, "a.jpg", SIZE, SIZE, (box_instance((2, 2, 20, 20), labels), crowd))]
    inside = [predict(box_instance((32, 4 + 12 * q, 10, 10), labels), tasks, query=q, strength=9) for q in range(4)]
    whole = predict(crowd, tasks, query=4, strength=9, shape=1, colour=1, fill=1)
    metrics, _ = run(images, [*inside, whole, predict(images[0].instances[0], tasks, query=9)], tasks)
    assert set(numbers(metrics).values()) == {100.0}


def test_the_order_in_the_file_does_not_matter_even_among_equal_scores():
    tasks = make_tasks(3)
    images = scene(tasks, partial=True, crowds=True)
    predictions = predict_all(images, tasks) + predict_all(images, tasks, shift=5)
    predictions = [replace(p, query=q) for q, p in enumerate(predictions)]
    order = np.random.default_rng(0).permutation(len(predictions))
    shuffled = [predictions[i] for i in order]
    assert run(images, shuffled, tasks) == run(images[::-1], predictions, tasks)


def test_boxes_and_masks_without_area_do_no_harm():
    tasks = make_tasks(1)
    truth = box_instance((2, 2, 20, 20), {"shape": 0})
    flat = replace(truth, bbox=(5.0, 5.0, 0.0, 0.0))
    images = [Image(1, "a.jpg", SIZE, SIZE, (truth, flat))]
    nothing = predict(box_instance((0, 0, 0, 0), {"shape": 0}), tasks, query=5, strength=9)
    metrics, _ = run(images, [nothing, predict(truth, tasks)], tasks)
    assert all(math.isfinite(value) for value in numbers(metrics).values())


def test_accuracy_and_macro_f1_as_computed_by_hand():
    tasks = make_tasks(2)
    boxes = [(2, 2, 20, 20), (34, 2, 20, 20), (2, 34, 20, 20), (34, 34, 20, 20)]
    truth = [box_instance(box, {"shape": 0, "colour": c}) for box, c in zip(boxes, (0, 0, 0, 1), strict=True)]
    images = [Image(1, "a.jpg", SIZE, SIZE, tuple(truth))]
    predictions = [predict(i, tasks, query=q) for q, i in enumerate(truth)]
    predictions[0] = relabel(predictions[0], tasks[1], 1)
    metrics, classes = run(images, predictions, tasks)
    assert metrics["tasks"]["colour"]["accuracy"] == 75  # red 2 of 3, green 1 of 1
    assert metrics["tasks"]["colour"]["f1"] == pytest.approx(100 * (4 / 5 + 2 / 3) / 2, abs=1e-3)
    assert [row["accuracy"] for row in classes] == [100, None, None, pytest.approx(66.667), 100]


def test_predictions_for_other_pictures_are_refused():
    tasks = make_tasks(1)
    images = scene(tasks)
    stray = predict(box_instance((2, 2, 9, 9), {"shape": 0}), tasks, image_id=77)
    with pytest.raises(UserError, match="picture 77 .* is absent: run `dvc repro predict` again"):
        run(images, [stray], tasks)
    small = replace(stray, image_id=2, segmentation={"size": [32, 32], "counts": "PP1"})
    with pytest.raises(UserError, match=r"picture 2 of size \[32, 32\].* \[64, 64\]"):
        run(images, [small], tasks)


def test_nothing_is_printed(capsys):
    tasks = make_tasks(3)
    images = scene(tasks)
    run(images, predict_all(images, tasks), tasks)
    assert capsys.readouterr() == ("", "")
