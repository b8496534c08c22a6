"""Greedy matching: matched instances at each IoU threshold, and predictions that are ignored."""

from dataclasses import replace

import numpy as np

from mtseg.core.tables import UNLABELLED
from mtseg.evaluation import analysis
from mtseg.evaluation.ap.matching import THRESHOLDS, by, cuts
from mtseg.evaluation.ap.scores import metrics
from tests.scenes import box_instance, evaluation, make_tasks, noisy, one_image, predict, scene

TASKS = make_tasks(1)


def matches(images, rows, true=None, **options):
    own = evaluation(images, rows, TASKS)
    true = own.images.instances.labels["shape"] if true is None else np.array(true)
    found = own.match(true, own.predictions.labels["shape"], categories=3, **options)
    hit, ignored = np.full((len(found.hit), len(rows)), -1), np.zeros((len(found.hit), len(rows)), dtype=bool)
    hit[:, found.rows], ignored[:, found.rows] = found.hit, found.ignored
    assert (found.first_hit == hit[0]).all() and (found.first_ignored == ignored[0]).all()
    return found, hit, ignored


def test_each_takes_the_best_that_is_free_and_higher_thresholds_decide_for_themselves():
    first, second = (box_instance((x, 2, 20, 20), {"shape": 0}) for x in (2, 6))
    close = predict(first, TASKS, shift=1)  # IoU 19/21 = .905 with the first, 17/23 = .739 with the second
    between = predict(first, TASKS, query=1, shift=1, quality=0.5)
    _, hit, ignored = matches(one_image(first, second), [between, close])
    assert hit[:, 1].tolist() == [0] * 9 + [-1], "the surer one takes the first as long as it fits"
    expected = np.where(THRESHOLDS < 17 / 23, 1, -1)
    assert hit[:, 0].tolist() == expected.tolist(), "the other is left the second"
    assert not ignored.any()


def test_crowds_and_unlabelled_objects_are_neither_hit_nor_miss():
    crowd = box_instance((2, 2, 40, 20), {"shape": 0}, crowd=True)
    unlabelled = box_instance((2, 34, 20, 20), {"shape": 1})
    inside = box_instance((4, 4, 10, 10), {"shape": 0})
    found = [predict(inside, TASKS), predict(inside, TASKS, shape=1), predict(unlabelled, TASKS, shape=2)]
    own, hit, ignored = matches(one_image(crowd, unlabelled), found, true=[0, UNLABELLED])
    assert (hit == -1).all() and not own.objects.any()
    assert ignored[0].tolist() == [True, False, True], "a crowd is of its class, an unlabelled object of any"


def test_what_counts_is_preferred_to_what_is_ignored_with_more_overlap():
    truth = box_instance((2, 2, 20, 20), {"shape": 0})
    found = [predict(truth, TASKS, shift=4), predict(truth, TASKS, shift=4, query=1, quality=0.5)]
    large = replace(box_instance((6, 2, 20, 20), {"shape": 0}), area=500.0)
    own, hit, ignored = matches(one_image(large, truth), found, sizes=(0, 400))
    assert hit[0].tolist() == [1, -1] and ignored[0].tolist() == [False, True]
    assert hit[-1].tolist() == [-1, -1] and ignored[-1].tolist() == [True, False]


def test_the_best_prediction_of_a_query_counts_and_of_equal_ones_the_likeliest():
    instance = box_instance((2, 2, 12, 12), {"shape": 0})
    given = [(1, 0, 0.2), (2, 0, 0.1), (1, 0, 0.9), (1, 3, 0.5), (1, 0, 0.3)]  # image, query, quality
    rows = [predict(instance, TASKS, image_id=image, query=query, quality=quality) for image, query, quality in given]
    rows.append(predict(instance, TASKS, query=3, quality=0.5, shape=1, strength=9))
    own = evaluation(scene(TASKS), rows, TASKS)
    assert own.best_of_query().tolist() == [False, True, True, False, False, True]
    assert own.best_of_query(task=TASKS[0]).tolist() == [False, True, True, True, False, True]
    assert evaluation(scene(TASKS), [], TASKS).best_of_query().tolist() == []


def test_no_image_is_cut_in_two_and_images_out_of_order_are_not_cut():
    assert cuts(np.array([0, 0, 1, 1, 1, 3]), 2).tolist() == [0, 2, 5, 6]
    assert cuts(np.array([0, 1, 2, 3, 4]), 3).tolist() == [0, 3, 5]
    assert cuts(np.array([1, 0, 0, 2]), 1).tolist() == [0, 3, 4]
    assert cuts(np.zeros(0, dtype=int), 2).tolist() == [0, 0]


def test_metrics_do_not_depend_on_the_size_of_the_parts(monkeypatch):
    tasks = make_tasks(2)
    images = scene(tasks, partial=True, crowds=True)
    rows = sorted(noisy(images, tasks), key=lambda row: row.image_id)
    whole, found = evaluation(images, rows, tasks), []
    assert len(whole.candidates.cuts) == 2
    for size in ("ap.evaluation.PART", "label_errors.BLOCK"):
        monkeypatch.setattr(f"mtseg.evaluation.{size}", 1)
    parts = evaluation(images, rows, tasks)
    assert len(parts.candidates.cuts) == len({row.image_id for row in rows}) + 1
    for own in (whole, parts):
        found.append((metrics(own), analysis.report(own), analysis.rankings(own), own.tie_order.tolist()))
    assert found[0] == found[1]


def test_numbers_above_16_bits_are_sorted_and_equal_ones_keep_their_order():
    keys = np.random.default_rng(0).integers(0, 2**20, 5000) // 1000 * 1000
    assert by(keys).tolist() == np.argsort(keys, kind="stable").tolist()
    assert by(np.array([2**16, 0, 2**16 - 1])).tolist() == [1, 2, 0]


def test_predictions_are_listed_by_category_and_those_of_none_come_last():
    instance = box_instance((2, 2, 12, 12), {"shape": 0})
    rows = [predict(instance, TASKS, query=query, shape=shape) for query, shape in enumerate((2, 0, 1, 0))]
    own = evaluation(one_image(instance), rows, TASKS)
    found = own.match(np.zeros(1, dtype=int), own.predictions.labels["shape"], categories=2)
    assert found.starts.tolist() == [0, 2, 3] and len(found.scored) == 4
    assert own.predictions.query[found.scored].tolist() == [1, 3, 2, 0]
