"""Scores of the rankings, compared with hand-computed values, and AP with each ranking."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mtseg.evaluation import analysis
from mtseg.evaluation.ap import rankings
from mtseg.evaluation.ap.rankings import RANKINGS
from mtseg.evaluation.ap.scores import metrics
from tests.scenes import box_instance, evaluation, make_tasks, noisy, one_image, predict, scene, table

TASKS = make_tasks(2)  # shape: 3 classes and no-object, colour: 2 and no-object
TRUTH = box_instance((2, 2, 20, 20), {"shape": 0, "colour": 0})


def scores(rows):
    return {name: rankings.score(table(rows, TASKS), name) for name in RANKINGS}


def test_each_ranking_as_computed_by_hand():
    base = predict(TRUTH, TASKS, quality=0.5)
    sure = {"shape": (math.log(9), 0.0, 0.0, 0.0), "colour": (0.0, 0.0, 0.0)}  # p 9/12 and 1/3
    even = {"shape": (math.log(3), 0.0, 0.0, 0.0), "colour": (math.log(6), 0.0, 0.0)}  # p 3/6 and 6/8
    found = scores([replace(base, logits=sure), replace(base, logits=even)])
    expected = {"main": [0.75, 0.5], "product": [0.75 / 3, 0.5 * 0.75], "sum": [math.log(9), math.log(18)]}
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-5)
        worth = np.add(values, math.log(0.5)) if name == "sum" else np.multiply(values, 0.5)
        assert found[f"{name}_quality"] == pytest.approx(worth, abs=1e-5)


@pytest.mark.parametrize("strength", [-3.0, 0.0, 3.0])
def test_the_better_mask_ranks_first_also_where_logits_are_negative(strength):
    rows = [predict(TRUTH, TASKS, quality=quality, strength=strength) for quality in (0.9, 0.1, 0.0)]
    found = scores(rows)
    for ranking in ("main_quality", "sum_quality", "product_quality"):
        assert (np.diff(found[ranking]) < 0).all() and np.isfinite(found[ranking]).all(), ranking


def test_equal_scores_rank_by_image_then_query_then_likelier_labels():
    rows = [predict(TRUTH, TASKS, image_id=image, query=query) for image, query in ((2, 0), (1, 1), (1, 0))]
    likelier = replace(rows[2], logits=rows[2].logits | {"colour": (9.0, 0.0, 0.0)})
    ties = evaluation(scene(TASKS), [*rows, likelier], TASKS).tie_order
    assert ties.tolist() == [3, 2, 1, 0]
    assert rankings.ranks(np.array([0.5, 0.5, 0.5, 0.1]), ties).tolist() == [2, 1, 0, 3]


def test_the_ranking_changes_ap_as_computed_by_hand():
    """One object, a right and a displaced prediction: AP is 100 if the right one ranks first, else 50."""
    right, wrong = predict(TRUTH, TASKS, quality=1.0), predict(TRUTH, TASKS, query=1, quality=1.0, shift=30)
    right = replace(right, logits={"shape": (1.0, 0.0, 0.0, 0.0), "colour": (4.0, 0.0, 0.0)})
    wrong = replace(wrong, logits={"shape": (2.0, 0.0, 0.0, 0.0), "colour": (1.0, 0.0, 0.0)})
    rows = analysis.rankings(evaluation(one_image(TRUTH), [right, wrong], TASKS))
    ap = {ranking: 50.0 if ranking.startswith("main") else 100.0 for ranking in RANKINGS}
    assert {row["ranking"]: row["segm_AP"] for row in rows} == {row["ranking"]: row["joint_AP"] for row in rows} == ap


@pytest.mark.parametrize("max_dets", [(1, 10, 100), (2,)])
def test_the_table_of_rankings_has_the_numbers_of_the_metrics(max_dets):
    tasks = make_tasks(3)
    images = scene(tasks, partial=True, crowds=True)
    for rows in (noisy(images, tasks), noisy(images, tasks, tied=True), []):
        for row in analysis.rankings(evaluation(images, rows, tasks, max_dets=max_dets)):
            found = metrics(evaluation(images, rows, tasks, ranking=row["ranking"], max_dets=max_dets))
            assert (row["segm_AP"], row["joint_AP"]) == (found["segm"]["AP"], found["joint"]["AP"])
