"""Tuned thresholds: optimal on the predictions that they were tuned on, with the other rules as set."""

from dataclasses import replace

import numpy as np
import pytest

from mtseg.evaluation import f1, thresholds
from mtseg.evaluation.filter import Kept, apply, background, label_scores
from tests.scenes import FILTER, evaluation, logits_of, make_tasks, predict_all, scene, table

TASKS = pytest.mark.parametrize("count", [1, 3, 4])
NOTHING = {"min_score": {}, "min_logit": {}}


def mixed(tasks, seed=0):
    """A scene and predictions: correct ones with high scores, wrong ones with lower scores, both with noise."""
    images, rng = scene(tasks, count=5, partial=True), np.random.default_rng(seed)
    rows = []
    for shift, sure in ((0, 4.0), (3, 2.5), (30, 1.5)):
        for row in predict_all(images, tasks, shift=shift):
            strength = float(max(0.1, rng.normal(sure, 1)))
            logits = {task.name: logits_of(task, row.labels[task.name], strength) for task in tasks}
            quality = float(np.clip(rng.normal(0.9 - 0.01 * shift, 0.1), 0, 1))
            rows.append(replace(row, query=row.query + 10 * shift, logits=logits, mask_quality=quality))
    return images, table(rows, tasks)


def joint_f1(own, settings):
    *_, left = apply(own, settings).steps.values()
    return f1.summary(f1.counts(left.evaluation, left.as_mask()))["joint_f1"]


@pytest.mark.parametrize(("count", "nms"), [(1, "matrix"), (3, "agnostic")])
def test_what_is_picked_is_better_than_any_other_level_of_a_single_threshold(count, nms):
    tasks = make_tasks(count)
    images, predictions = mixed(tasks)
    own = evaluation(images, predictions, tasks)
    settings = FILTER.model_copy(update={"nms": nms, "largest_component": True, "most": 5})
    picked = thresholds.pick(own, settings)
    assert picked == thresholds.pick(evaluation(images, predictions[::-1], tasks), settings)
    chosen = settings.model_copy(update=picked)
    best = joint_f1(own, chosen)
    assert best > joint_f1(own, settings.model_copy(update=NOTHING))
    known = background(Kept.all(own), settings).predictions
    for key, columns in (("min_score", label_scores(known)), ("min_logit", known.logit)):
        for task, column in columns.items():
            for level in np.quantile(column, np.linspace(0, 1, thresholds.LEVELS)).round(thresholds.DECIMALS)[::24]:
                other = chosen.model_copy(update={key: picked[key] | {task: float(level)}})
                assert joint_f1(own, other) <= best


@TASKS
def test_one_threshold_that_separates_right_from_wrong_is_found_and_the_rest_left_out(count):
    tasks = make_tasks(count)
    images, last = scene(tasks), tasks[-1]
    wrong = [
        replace(row, query=row.query + 50, logits=row.logits | {last.name: logits_of(last, row.labels[last.name], 1.0)})
        for row in predict_all(images, tasks, shift=30)
    ]
    own = evaluation(images, predict_all(images, tasks) + wrong, tasks)
    picked = thresholds.pick(own, FILTER)
    assert list(picked["min_score"]) == [last.name] and not picked["min_logit"]
    assert joint_f1(own, FILTER.model_copy(update=picked)) == 100


@TASKS
def test_what_another_rule_removes_needs_no_threshold(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    for shift, rule in ((0, {"nms": "agnostic"}), (30, {"most": 4})):
        shifted = predict_all(images, tasks, shift=shift)
        worse = [replace(row, query=row.query + 50, mask_quality=0.5) for row in shifted]
        own = evaluation(images, predict_all(images, tasks) + worse, tasks)
        for setting, needed in ((rule, False), ({"nms": "none"}, True)):
            picked = thresholds.pick(own, FILTER.model_copy(update=setting))
            assert bool(picked["min_score"]) == needed and not picked["min_logit"]


@TASKS
def test_what_a_threshold_removes_hides_nothing_from_the_search(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    truth = predict_all(images, tasks)
    bold = []  # ranked before the true ones on the same masks
    for row in truth:
        label = (row.labels["shape"] + 1) % 3
        changed = {"labels": row.labels | {"shape": label}}
        changed["logits"] = row.logits | {"shape": logits_of(tasks[0], label, 9.0)}
        bold.append(replace(row, query=row.query + 50, mask_quality=0.3, **changed))
    picked = thresholds.pick(evaluation(images, truth + bold, tasks, ranking="main"), FILTER)
    assert 0.29 < picked["min_score"]["shape"] < 0.9


@TASKS
def test_where_there_is_nothing_to_gain_nothing_is_picked(count):
    tasks = make_tasks(count)
    images = scene(tasks)
    for rows, shown in ((predict_all(images, tasks), images), ([], images), ([], images[:1])):
        assert thresholds.pick(evaluation(shown, rows, tasks), FILTER) == NOTHING


def test_a_threshold_is_given_up_when_a_later_one_does_without_it():
    values = {(): 0, (("a", 1),): 1, (("a", 1), ("b", 1)): 2, (("b", 1),): 3}
    levels = {"a": [1, 2], "b": [1]}
    assert thresholds.ascend(lambda limits: values.get(tuple(sorted(limits.items())), 0), levels) == {"b": 1}


@pytest.mark.parametrize("gain, kept", [(0.04, {}), (0.06, {"a": 1})])
def test_a_threshold_that_gains_next_to_nothing_is_not_picked(gain, kept):
    assert thresholds.ascend(lambda limits: 50 + gain * len(limits), {"a": [1]}) == kept
