"""Thresholds that are picked: the best there are, on what they were picked on, with the other rules as they are set."""

from dataclasses import replace

import numpy as np
import pytest

from mtseg.evaluation import thresholds
from mtseg.evaluation.f1 import Tally, summary
from mtseg.evaluation.filter import background, sieve
from mtseg.evaluation.found import gather
from mtseg.evaluation.matching import pictures
from tests.scenes import SIEVE, logits_of, make_tasks, predict_all, scene

TASKS = pytest.mark.parametrize("count_", [1, 3, 4])
OPTIONS = {"ranking": "product_quality"}


def found(tasks, seed=0):
    """A scene, and predictions of it: right ones that are sure, wrong ones less so, with noise on both."""
    images, rng = scene(tasks, pictures=8, partial=True), np.random.default_rng(seed)
    predictions = []
    for shift, sure in ((0, 4.0), (3, 2.5), (30, 1.5)):
        for p in predict_all(images, tasks, shift=shift):
            strength = float(max(0.1, rng.normal(sure, 1)))
            logits = {task.name: logits_of(task, p.labels[task.name], strength) for task in tasks}
            quality = float(np.clip(rng.normal(0.9 - 0.01 * shift, 0.1), 0, 1))
            predictions.append(replace(p, query=p.query + 10 * shift, logits=logits, mask_quality=quality))
    return images, predictions


def joint_f1(images, predictions, tasks, settings):
    kept = sieve(predictions, tasks=tasks, settings=settings, **OPTIONS).kept
    return summary(Tally(pictures(images, kept, tasks=tasks, **OPTIONS), tasks).counts())["joint_f1"]


@TASKS
@pytest.mark.parametrize("nms", ["agnostic", "matrix"])
def test_f14_what_is_picked_is_better_than_any_other_level_of_a_single_threshold(count_, nms):
    tasks = make_tasks(count_)
    images, predictions = found(tasks)
    settings = SIEVE.model_copy(update={"nms": nms, "largest_component": True, "most": 5})
    picked = thresholds.pick(images, predictions, tasks=tasks, settings=settings, **OPTIONS)
    assert picked == thresholds.pick(images, predictions[::-1], tasks=tasks, settings=settings, **OPTIONS)
    chosen = settings.model_copy(update=picked)
    best = joint_f1(images, predictions, tasks, chosen)
    bare = settings.model_copy(update={"min_score": {}, "min_logit": {}})
    assert best > joint_f1(images, predictions, tasks, bare)
    known = background(gather(predictions, tasks=tasks, **OPTIONS), settings)
    for key, columns in (("min_score", known.score), ("min_logit", known.logit)):
        for task, column in columns.items():
            for level in np.quantile(column, np.linspace(0, 1, thresholds.LEVELS)).round(thresholds.DECIMALS)[::12]:
                other = chosen.model_copy(update={key: picked[key] | {task: float(level)}})
                assert joint_f1(images, predictions, tasks, other) <= best


@TASKS
def test_one_threshold_that_tells_right_from_wrong_is_found_and_the_rest_left_out(count_):
    tasks = make_tasks(count_)
    images = scene(tasks)
    truth = predict_all(images, tasks)
    last = tasks[-1]
    wrong = [
        replace(p, query=p.query + 50, logits=p.logits | {last.name: logits_of(last, p.labels[last.name], 1.0)})
        for p in predict_all(images, tasks, shift=30)
    ]
    picked = thresholds.pick(images, truth + wrong, tasks=tasks, settings=SIEVE, **OPTIONS)
    assert list(picked["min_score"]) == [last.name] and not picked["min_logit"]
    settings = SIEVE.model_copy(update=picked)
    assert joint_f1(images, truth + wrong, tasks, settings) == 100


@TASKS
def test_f14_what_another_rule_removes_needs_no_threshold(count_):
    tasks = make_tasks(count_)
    images = scene(tasks)
    truth = predict_all(images, tasks)
    for shift, rule in ((0, {"nms": "agnostic"}), (30, {"most": 4})):
        worse = [replace(p, query=p.query + 50, mask_quality=0.5) for p in predict_all(images, tasks, shift=shift)]
        for setting, needed in ((rule, False), ({"nms": "none"}, True)):
            settings = SIEVE.model_copy(update=setting)
            picked = thresholds.pick(images, truth + worse, tasks=tasks, settings=settings, **OPTIONS)
            assert bool(picked["min_score"]) == needed and not picked["min_logit"]


@TASKS
def test_f14_what_a_threshold_removes_hides_nothing_from_the_search(count_):
    tasks = make_tasks(count_)
    images = scene(tasks)
    truth = predict_all(images, tasks)
    bold = [
        replace(p, query=p.query + 50, mask_quality=0.3, labels=p.labels | {"shape": label}, logits=p.logits | logits)
        for p in truth
        for label in [(p.labels["shape"] + 1) % 3]
        for logits in [{"shape": logits_of(tasks[0], label, 9.0)}]  # ranked before the true one on the same mask
    ]
    picked = thresholds.pick(images, truth + bold, tasks=tasks, settings=SIEVE, ranking="main")
    assert 0.29 < picked["min_score"]["shape"] < 0.9


def test_a_threshold_is_given_up_when_a_later_one_does_without_it():
    values = {(): 0, (("a", 1),): 1, (("a", 1), ("b", 1)): 2, (("b", 1),): 3}
    levels = {"a": [1, 2], "b": [1]}
    assert thresholds.ascend(lambda limits: values.get(tuple(sorted(limits.items())), 0), levels) == {"b": 1}


@TASKS
def test_where_there_is_nothing_to_gain_nothing_is_picked(count_):
    tasks = make_tasks(count_)
    images = scene(tasks)
    nothing = {"min_score": {}, "min_logit": {}}
    for predictions, shown in ((predict_all(images, tasks), images), ([], images), ([], images[:1])):
        assert thresholds.pick(shown, predictions, tasks=tasks, settings=SIEVE, **OPTIONS) == nothing


@pytest.mark.parametrize("gain, kept", [(0.04, {}), (0.06, {"a": 1})])
def test_a_threshold_that_gains_next_to_nothing_is_not_picked(gain, kept):
    assert thresholds.ascend(lambda limits: 50 + gain * len(limits), {"a": [1]}) == kept
