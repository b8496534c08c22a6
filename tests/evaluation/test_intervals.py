"""Bootstrapped intervals: a draw is the AP of the pictures drawn, and the interval covers what it must."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mtseg.evaluation import bootstrap, curves, intervals
from mtseg.evaluation.average_precision import Curves, Scorer, joint
from mtseg.evaluation.evidence import Evidence
from mtseg.evaluation.predictions import scores
from mtseg.evaluation.scores import evaluate
from tests.scenes import make_tasks, predict, predict_all, scene

TASKS = pytest.mark.parametrize("count", [1, 3, 4])
OPTIONS = {"ranking": "product_quality", "max_dets": (1, 10, 100)}


def noisy(images, tasks, seed=0):
    rng = np.random.default_rng(seed)
    predictions = []
    for image in images:
        for query, instance in enumerate(image.instances * 2):
            wrong = {t.name: int(rng.integers(t.num_classes)) for t in tasks if rng.random() < 0.3}
            options = {"shift": int(rng.integers(-6, 7)), "quality": rng.random()}
            predictions.append(predict(instance, tasks, image_id=image.id, query=query, **options, **wrong))
    return predictions


@TASKS
@pytest.mark.parametrize("seed", range(3))
def test_a_draw_has_the_ap_of_its_pictures_each_as_often_as_it_was_drawn(count, seed):
    tasks = make_tasks(count)
    images = scene(tasks, pictures=8, partial=True, crowds=True)
    predictions = noisy(images, tasks, seed)
    evidence = Evidence.of(images, predictions, tasks=tasks, **OPTIONS)
    drawn = np.random.default_rng(seed).integers(len(images), size=len(images))
    again = [(1000 * n + images[index].id, images[index]) for n, index in enumerate(drawn)]
    copies = [replace(image, id=number) for number, image in again]
    found = [replace(p, image_id=number) for number, image in again for p in predictions if p.image_id == image.id]
    true, labels, names = joint(copies, found, tasks)
    values = scores(found, tasks)["product_quality"]
    evaluation = Scorer(copies, found).run(true, labels, values, categories=len(names), max_dets=(100,))
    weights = np.bincount(drawn, minlength=len(images))[None].astype(float)
    scored = curves.average_precision(evidence.jointly, evidence.pictures, weights)
    # drawn twice, a hit is ranked beside itself: its precision is read after both copies here, after each there
    assert curves.mean(scored)[0] == pytest.approx(Curves.of(evaluation).numbers()["AP"], abs=0.02)
    unweighted = np.minimum(weights, 1)
    once = [image for image, drawn in zip(images, unweighted[0], strict=True) if drawn]
    kept = [p for p in predictions if p.image_id in {image.id for image in once}]
    true, labels, names = joint(once, kept, tasks)
    values = scores(kept, tasks)["product_quality"]
    evaluation = Scorer(once, kept).run(true, labels, values, categories=len(names), max_dets=(100,))
    scored = curves.average_precision(evidence.jointly, evidence.pictures, unweighted)
    assert curves.mean(scored)[0] == pytest.approx(Curves.of(evaluation).numbers()["AP"], abs=1e-12)


@TASKS
def test_values_are_those_of_the_metrics_and_lie_inside(count):
    tasks = make_tasks(count)
    images = scene(tasks, pictures=12, partial=True, crowds=True)
    predictions = noisy(images, tasks)
    rows = intervals.rows(Evidence.of(images, predictions, tasks=tasks, **OPTIONS))
    metrics, _ = evaluate(images, predictions, tasks=tasks, **OPTIONS)
    expected = {f"segm.{name}": metrics["segm"][name] for name in ("AP", "AP50")}
    expected |= {f"joint.{name}": metrics["joint"][name] for name in ("AP", "AP50")}
    expected |= {f"tasks.{t.name}.{name}": metrics["tasks"][t.name][name] for t in tasks for name in ("AP", "accuracy")}
    del expected["tasks.shape.AP"]  # segm.AP
    assert {row["metric"]: row["value"] for row in rows} == pytest.approx(expected, abs=1e-3)
    assert all(0 <= row["low"] < row["value"] < row["high"] <= 100 for row in rows)


def test_the_interval_of_a_share_is_that_of_scipy():
    tasks = make_tasks(1)
    images = scene(tasks, pictures=40)
    rng = np.random.default_rng(0)
    found = [
        replace(p, labels={"shape": (p.labels["shape"] + 1) % 3}) if rng.random() < 0.3 else p
        for p in predict_all(images, tasks)
    ]
    evidence = Evidence.of(images, found, tasks=tasks, **OPTIONS)
    row = {row["metric"]: row for row in intervals.rows(evidence)}["tasks.shape.accuracy"]
    matched = np.array([len(image.instances) for image in images])
    truth = {id(i): None for image in images for i in image.instances}
    assert len(truth) == matched.sum() == len(found)
    labels = {(image.id, n): i.labels["shape"] for image in images for n, i in enumerate(image.instances)}
    right = np.array(
        [sum(labels[i.id, p.query] == p.labels["shape"] for p in found if p.image_id == i.id) for i in images]
    )
    theirs = stats.bootstrap(
        (right, matched),
        lambda r, m, axis: r.sum(axis=axis) / m.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        rng=0,
    ).confidence_interval
    assert (row["low"], row["high"]) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1.5)


def test_the_interval_is_as_wide_as_ap_varies_between_data_sets(monkeypatch):
    """95 % of a normal distribution lie within 1.96 standard deviations of its mean."""
    monkeypatch.setattr(bootstrap, "REPLICATES", 100)
    tasks, values, widths = make_tasks(1), [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        images = scene(tasks, pictures=16)[1:]
        hard = rng.choice([0.2, 0.8], size=20)  # of each picture
        kept = [p for p in predict_all(images, tasks) if rng.random() < hard[p.image_id]]
        rows = intervals.rows(Evidence.of(images, kept, tasks=tasks, **OPTIONS))
        row = next(row for row in rows if row["metric"] == "segm.AP50")
        values.append(row["value"])
        widths.append(row["high"] - row["low"])
    assert 0.75 < np.mean(widths) / (2 * 1.96 * np.std(values)) < 1.3  # 0.68 were a picture drawn twice to count once


@TASKS
def test_a_perfect_score_has_no_width_and_nothing_has_no_interval(count):
    tasks = make_tasks(count)
    images = scene(tasks, pictures=10)
    rows = intervals.rows(Evidence.of(images, predict_all(images, tasks), tasks=tasks, **OPTIONS))
    assert {(row["value"], row["low"], row["high"]) for row in rows} == {(100.0, 100.0, 100.0)}
    assert intervals.rows(Evidence.of(images[:1], [], tasks=tasks, **OPTIONS)) == []
    nothing = {row["metric"]: row["high"] for row in intervals.rows(Evidence.of(images, [], tasks=tasks, **OPTIONS))}
    assert set(nothing.values()) == {0.0} and not any(name.endswith("accuracy") for name in nothing)


def test_draws_that_run_high_do_not_move_the_interval_off_its_value():
    drawn = np.linspace(0.6, 0.8, 101)
    row = intervals._row("segm.AP", np.array([0.5, *drawn]))
    assert row == {"metric": "segm.AP", "value": 50.0, "low": pytest.approx(40.5), "high": pytest.approx(59.5)}


def test_the_same_every_time_and_in_any_order():
    tasks = make_tasks(3)
    images = scene(tasks, pictures=8)
    predictions = noisy(images, tasks)
    rows = intervals.rows(Evidence.of(images, predictions, tasks=tasks, **OPTIONS))
    assert rows == intervals.rows(Evidence.of(images[::-1], predictions[::-1], tasks=tasks, **OPTIONS))


def test_there_are_fewer_draws_where_they_cost_more():
    assert bootstrap.draws(100, 10_000).shape == (1 + bootstrap.REPLICATES, 100)
    assert bootstrap.draws(100, 100 * bootstrap.WORK).shape == (1 + bootstrap.FEWEST, 100)
    assert (bootstrap.draws(7, 1).sum(axis=1) == 7).all() and (bootstrap.draws(7, 1)[0] == 1).all()
    assert bootstrap.REPLICATES >= 200


def test_too_few_pictures_have_no_interval():
    tasks = make_tasks(3)
    for pictures, told in ((1, False), (2, False), (4, False), (5, True)):
        images = scene(tasks, pictures=pictures + 1)[1:]
        rows = intervals.rows(Evidence.of(images, noisy(images, tasks), tasks=tasks, **OPTIONS))
        assert rows and all((row["low"] <= row["high"]) == told != np.isnan(row["low"] + row["high"]) for row in rows)
