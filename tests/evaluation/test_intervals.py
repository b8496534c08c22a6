"""Bootstrap intervals: values of samples are those of the images drawn, and intervals have the nominal coverage."""

from dataclasses import replace

import numpy as np
import pytest

from mtseg.evaluation import bootstrap, intervals
from mtseg.evaluation.ap import scores
from mtseg.evaluation.ap.average_precision import RECALLS, least, mean
from tests.scenes import evaluation, images_of, make_tasks, noisy, predict_all, scene

TASKS = pytest.mark.parametrize("count", [1, 3, 4])


def drawn(images, rows, tasks, counts):
    """The images and their predictions, repeated as often as drawn, with new ids."""
    again = [(1000 * n + i.id, i) for i, count in zip(images, counts, strict=True) for n in range(int(count))]
    copies = images_of([replace(image, id=number) for number, image in again], tasks)
    found = [replace(row, image_id=number) for number, image in again for row in rows if row.image_id == image.id]
    return evaluation(copies, found, tasks)


@TASKS
@pytest.mark.parametrize("seed", range(3))
def test_a_draw_has_the_ap_of_its_images_each_as_often_as_it_was_drawn(count, seed):
    tasks = make_tasks(count)
    images = scene(tasks, count=8, partial=True, crowds=True)
    rows = noisy(images, tasks, seed=seed)
    own = evaluation(images, rows, tasks)
    weights = np.bincount(np.random.default_rng(seed).integers(8, size=8), minlength=8)[None].astype(float)
    # copies of a hit are adjacent in the ranking: its precision is taken after both here, after each there
    for given, difference in ((weights, 0.02), (np.minimum(weights, 1), 1e-12)):
        alone = drawn(images, rows, tasks, given[0])
        expected = mean(alone.average_precision(alone.joint))[0]
        assert mean(own.average_precision(own.joint, given))[0] == pytest.approx(expected, abs=difference)


@TASKS
def test_the_ap_of_a_draw_does_not_depend_on_the_other_draws(count):
    tasks = make_tasks(count)
    images = scene(tasks, count=8, partial=True, crowds=True)
    own = evaluation(images, noisy(images, tasks, copies=3), tasks)
    weights = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=20).astype(float)
    for matches in (own.joint, *own.matches.values()):
        alone = [own.average_precision(matches, one[None])[0] for one in weights]
        assert np.array_equal(own.average_precision(matches, weights), alone, equal_nan=True)


def test_a_recall_is_reached_with_the_least_number_of_hits():
    objects = np.arange(1, 400)
    recalls = np.arange(400) / objects[:, None]  # of 0 to 399 hits
    reached = np.stack([(recalls >= recall).argmax(axis=1) for recall in RECALLS], axis=1)
    assert (least(objects) == reached).all()


@TASKS
def test_values_are_those_of_the_metrics_and_lie_inside(count):
    tasks = make_tasks(count)
    images = scene(tasks, count=12, partial=True, crowds=True)
    own = evaluation(images, noisy(images, tasks, copies=4), tasks)
    rows, metrics = intervals.tables(own)[0], scores.metrics(own)
    expected = {f"{kind}.{name}": metrics[kind][name] for kind in ("segm", "joint") for name in ("AP", "AP50")}
    expected |= {f"tasks.{t.name}.{name}": metrics["tasks"][t.name][name] for t in tasks for name in ("AP", "accuracy")}
    del expected["tasks.shape.AP"]  # segm.AP
    assert {row["metric"]: row["value"] for row in rows} == pytest.approx(expected, abs=1e-3)
    assert all(0 <= row["low"] < row["value"] < row["high"] <= 100 for row in rows)


def test_the_interval_is_as_wide_as_ap_varies_between_data_sets():
    """95 % of a normal distribution lie within 1.96 standard deviations of its mean."""
    tasks, values, widths = make_tasks(1), [], []
    images = scene(tasks, count=16)[1:]
    truth = predict_all(images, tasks)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        hard = rng.choice([0.2, 0.8], size=20)  # of each image
        own = evaluation(images, [row for row in truth if rng.random() < hard[row.image_id]], tasks)
        weights = bootstrap.draws(len(images), len(truth))[:101]
        ap50 = intervals.samples(own, weights, intervals.average_precisions(own, weights))["segm.AP50"]
        value, low, high = bootstrap.interval(ap50)
        values.append(value)
        widths.append(high - low)
    assert 0.75 < np.mean(widths) / (2 * 1.96 * np.std(values)) < 1.3  # 0.68 if an image drawn twice counted once


@TASKS
def test_a_perfect_score_has_no_width_and_nothing_has_no_interval(count):
    tasks = make_tasks(count)
    images = scene(tasks, count=10)
    rows = intervals.tables(evaluation(images, predict_all(images, tasks), tasks))[0]
    assert {(row["value"], row["low"], row["high"]) for row in rows} == {(100.0, 100.0, 100.0)}
    assert intervals.tables(evaluation(images[:1], [], tasks))[0] == []
    nothing = {row["metric"]: row["high"] for row in intervals.tables(evaluation(images, [], tasks))[0]}
    assert set(nothing.values()) == {0.0} and not any(name.endswith("accuracy") for name in nothing)


def test_draws_that_run_high_do_not_move_the_interval_off_its_value():
    values = np.array([0.5, *np.linspace(0.6, 0.8, 101)])
    assert bootstrap.interval(values) == (50.0, pytest.approx(40.5), pytest.approx(59.5))


def test_there_are_fewer_draws_where_they_cost_more():
    assert bootstrap.draws(100, 10_000).shape == (1 + bootstrap.REPLICATES, 100)
    assert bootstrap.draws(100, 100 * bootstrap.MAX_WORK).shape == (1 + bootstrap.MIN_REPLICATES, 100)
    assert (bootstrap.draws(7, 1).sum(axis=1) == 7).all() and (bootstrap.draws(7, 1)[0] == 1).all()


@pytest.mark.parametrize(("count", "defined"), [(1, False), (2, False), (4, False), (5, True)])
def test_too_few_images_have_no_interval(count, defined):
    tasks = make_tasks(3)
    images = scene(tasks, count=count + 1)[1:]
    rows = intervals.tables(evaluation(images, noisy(images, tasks), tasks))[0]
    assert rows and all((row["low"] <= row["high"]) == defined != np.isnan(row["low"] + row["high"]) for row in rows)


def test_intervals_of_a_diagnosis():
    rng = np.random.default_rng(0)
    hits = rng.random(400) < 0.3
    images, sums = rng.integers(20, size=400), np.zeros((2, 20))
    np.add.at(sums[0], images, hits)
    np.add.at(sums[1], images, 1)
    share, by_image = bootstrap.proportion(hits), bootstrap.mean(hits, images, 20)
    assert by_image == bootstrap.ratio(*sums) and by_image.value == pytest.approx(share.value) == hits.mean()
    for own in (share, by_image):  # 2.576 standard errors either way
        assert own.low < own.value < own.high
        assert own.high - own.low == pytest.approx(2 * 2.576 * np.sqrt(0.3 * 0.7 / 400), rel=0.35)
    assert (
        bootstrap.ratio(np.zeros(3), np.zeros(3)) is None and bootstrap.mean(np.zeros(0), np.zeros(0, int), 3) is None
    )
    none = bootstrap.proportion(np.zeros(0, dtype=bool))
    assert none.value == 0 and 0 <= none.low < none.high <= 1


def test_auc_is_the_share_of_pairs_in_order():
    scores, hits = np.array([0.1, 0.4, 0.35, 0.8, 0.7] * 4), np.array([False, False, True, True, True] * 4)
    pairs = [(a > b) + (a == b) / 2 for a in scores[hits] for b in scores[~hits]]
    area = bootstrap.auc(scores, hits)
    assert area.value == pytest.approx(np.mean(pairs)) and area.low < area.value < area.high
    assert bootstrap.auc(scores, np.ones(20, dtype=bool)) is None


def test_an_interval_is_wider_if_the_objects_of_an_image_are_alike():
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(50), 10)
    apart, alike = rng.random(500) < 0.5, np.repeat(rng.random(50) < 0.5, 10)
    narrow, wide = (bootstrap.mean(values.astype(float), images, 50) for values in (apart, alike))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert bootstrap.ratio(np.zeros(3), np.zeros(3)) is None


@TASKS
def test_a_class_has_the_interval_of_its_own_ap(count):
    tasks = make_tasks(count)
    images = scene(tasks, count=12)
    own = evaluation(images, noisy(images, tasks), tasks)
    _, rows = intervals.tables(own)
    assert {(row["task"], row["class"]) for row in rows} == {
        (task.name, name) for task in tasks for name in task.classes
    }
    known = [row for row in rows if row["AP"] is not None]
    assert known and all(0 <= row["AP_low"] <= row["AP"] <= row["AP_high"] <= 100 for row in known)
    _, few = intervals.tables(evaluation(images[:3], [], tasks))
    assert all(np.isnan([row["AP_low"], row["AP_high"]]).all() for row in few)


def test_scores_of_different_images_differ_by_chance_as_often_as_stated():
    draw = np.random.default_rng(0)

    def score(chance: float) -> dict[str, float]:
        values = bootstrap.draws(60, 60) @ (draw.random(60) < chance) / 60
        return dict(zip(intervals.COLUMNS[1:], bootstrap.interval(values), strict=True))

    def outside(one: float, other: float, comparisons: int = 1) -> float:
        found = [intervals.difference(score(one), score(other), comparisons) for _ in range(400)]
        return np.mean([not low <= 0 <= high for _, low, high in found])

    assert 0.02 < outside(0.7, 0.7) < 0.09
    assert outside(0.7, 0.7, comparisons=10) < 0.02
    assert outside(0.9, 0.4) > 0.99
    delta, low, high = intervals.difference(score(0.9), score(0.4))
    assert low < delta < high < 0
    assert intervals.difference(score(0.9), {"value": 40.0, "low": np.nan, "high": np.nan}) is None


def test_a_single_image_has_no_interval():
    """Each draw is the same: its interval would have no width."""
    for given in (bootstrap.ratio([3.0], [4.0]), bootstrap.median(np.array([0.75]), np.array([0]), 1)):
        assert (given.value, given.low, given.high) == (0.75, -np.inf, np.inf) and "no interval" in given.text()
    assert bootstrap.ratio([3.0, 4.0], [4.0, 4.0]).low == 0.75


def test_many_images_have_fewer_replicates(monkeypatch):
    monkeypatch.setattr(bootstrap, "MAX_WORK", 60_000)
    assert bootstrap.resamples.__wrapped__(60).shape == (1000, 60)
    assert bootstrap.resamples.__wrapped__(300).shape == (200, 300)
