"""Matching at every threshold by numpy gives the numbers of hotcoco and pycocotools, and says which is which."""

from dataclasses import replace

import numpy as np
import pytest

from mtseg.core.tables import Image
from mtseg.evaluation import curves
from mtseg.evaluation.average_precision import EVERY, Curves, Scorer, joint, labels_found, labels_true
from mtseg.evaluation.matching import HIT
from mtseg.evaluation.overlaps import THRESHOLDS, Overlaps, match
from mtseg.evaluation.predictions import scores
from tests.scenes import SIZE, box_instance, make_tasks, predict, scene

TASKS = pytest.mark.parametrize("count", [1, 3, 4])


def noisy(images, tasks, seed=0):
    rng = np.random.default_rng(seed)
    predictions = []
    for image in images:
        for query, instance in enumerate(image.instances * 3):
            wrong = {t.name: int(rng.integers(t.num_classes)) for t in tasks if rng.random() < 0.3}
            options = {"shift": int(rng.integers(-9, 10)), "quality": round(rng.random(), 1)}  # with ties
            predictions.append(predict(instance, tasks, image_id=image.id, query=query, **options, **wrong))
    return predictions


@TASKS
@pytest.mark.parametrize("most", [1, 2, 100])
@pytest.mark.parametrize("seed", range(4))
def test_ap_and_ap50_are_those_of_hotcoco_to_the_last_bit(count, most, seed):
    tasks = make_tasks(count)
    images = scene(tasks, pictures=8, partial=True, crowds=True)
    predictions = noisy(images, tasks, seed)
    overlaps, scorer = Overlaps.of(images, predictions), Scorer(images, predictions)
    values = scores(predictions, tasks)["product_quality"]
    labels = [(labels_true(images, t), labels_found(predictions, t), t.num_classes) for t in tasks]
    *jointly, names = joint(images, predictions, tasks)
    for true, found, categories in (*labels, (*jointly, len(names))):
        matches = match(overlaps, true, found, values, categories=categories, most=most)
        once = np.ones((1, len(images)))
        scored = curves.average_precision(matches, (overlaps.found_picture, overlaps.true_picture), once)
        theirs = Curves.of(scorer.run(true, found, values, categories=categories, max_dets=(most,))).numbers()
        assert curves.mean(scored)[0] == pytest.approx(theirs["AP"], abs=1e-12)
        assert curves.mean(scored[:, :, :1])[0] == pytest.approx(theirs["AP50"], abs=1e-12)
        assert 0.02 < theirs["AP"] < 0.95


def one_picture(*instances):
    return [Image(1, "a.jpg", SIZE, SIZE, instances)]


def test_each_takes_the_best_that_is_free_and_higher_thresholds_decide_for_themselves():
    tasks = make_tasks(1)
    first, second = (box_instance((x, 2, 20, 20), {"shape": 0}) for x in (2, 6))
    close = predict(first, tasks, shift=1)  # IoU 19/21 = .905 with the first, 17/23 = .739 with the second
    between = predict(first, tasks, query=1, shift=1)
    images = one_picture(first, second)
    overlaps = Overlaps.of(images, [between, close])
    matches = match(overlaps, np.zeros(2, int), np.zeros(2, int), np.array([0.5, 0.9]), categories=1, most=9)
    reached = THRESHOLDS < 17 / 23
    assert matches.hit[:, 1].tolist() == [0] * 9 + [-1], "the surer one takes the first as long as it fits"
    assert matches.hit[:, 0].tolist() == np.where(reached, 1, -1).tolist(), "the other is left the second"
    assert not matches.ignored.any()


def test_crowds_and_unlabelled_objects_are_neither_hit_nor_miss():
    tasks = make_tasks(1)
    crowd = box_instance((2, 2, 40, 20), {"shape": 0}, crowd=True)
    unlabelled = box_instance((2, 34, 20, 20), {"shape": 1})
    images = one_picture(crowd, unlabelled)
    inside = box_instance((4, 4, 10, 10), {"shape": 0})
    found = [predict(inside, tasks), predict(inside, tasks, shape=1), predict(unlabelled, tasks, shape=2)]
    true, labels = np.array([0, EVERY]), labels_found(found, tasks[0])
    matches = match(Overlaps.of(images, found), true, labels, np.ones(3), categories=3, most=9)
    assert (matches.hit == -1).all() and not matches.objects.any()
    assert matches.ignored[0].tolist() == [True, False, True], "a crowd is of its class, an unlabelled object of any"


def test_kept_alone_take_part():
    tasks = make_tasks(1)
    truth = box_instance((2, 2, 20, 20), {"shape": 0})
    found = [predict(truth, tasks), predict(truth, tasks, query=1)]
    kept = np.array([False, True])
    options = {"categories": 1, "most": 9, "kept": kept, "thresholds": np.array([HIT])}
    matches = match(Overlaps.of(one_picture(truth), found), np.zeros(1, int), np.zeros(2, int), np.ones(2), **options)
    assert matches.hit.tolist() == [[-1, 0]] and matches.scored.tolist() == [1]


@pytest.mark.parametrize("empty", ["pictures", "predictions", "near"])
def test_nothing_is_no_fault(empty):
    tasks = make_tasks(1)
    images = scene(tasks)
    far = predict(box_instance((30, 30, 2, 2), {"shape": 0}), tasks, image_id=2)
    flat = replace(far, area=0.0, segmentation=predict(box_instance((0, 0, 0, 0), {"shape": 0}), tasks).segmentation)
    found = {"pictures": [far], "predictions": [], "near": [far, flat]}[empty]
    images = [Image(2, "a.jpg", SIZE, SIZE)] if empty == "pictures" else images
    true, labels = labels_true(images, tasks[0]), labels_found(found, tasks[0])
    matches = match(Overlaps.of(images, found), true, labels, np.ones(len(found)), categories=3, most=9)
    assert (matches.hit == -1).all() and not matches.ignored.any()
