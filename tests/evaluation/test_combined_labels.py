"""Predictions of a softmax over combinations: several of one query, with the same main class and other labels."""

from dataclasses import replace
from typing import get_args

import pytest

from mtseg.core.params import Ranking
from mtseg.core.tables import Predictions
from mtseg.evaluation import analysis
from mtseg.evaluation.ap import scores
from mtseg.evaluation.filter import apply
from tests.scenes import FILTER, evaluation, make_tasks, predict_all, scene, table


@pytest.fixture(params=[2, 3, 4])
def tasks(request):
    return make_tasks(request.param, background=False)


def combined(tasks):
    """A scene, and its truth, sure, with the same query and the next label of the last task, unlikely; in the table
    the wrong one stands first where its label is the lower."""
    images, last, rows = scene(tasks), tasks[-1], []
    for row in predict_all(images, tasks):
        sure = {task.name: 0.9 for task in tasks}
        wrong = row.labels | {last.name: (row.labels[last.name] + 1) % last.num_classes}
        other = replace(row, labels=wrong, probabilities=sure | {last.name: 0.05})
        rows += sorted([replace(row, probabilities=sure), other], key=lambda row: row.labels[last.name])
    return images, table(rows, tasks)


@pytest.mark.parametrize("ranking", get_args(Ranking))
def test_the_likeliest_combination_of_a_query_is_its_answer(tasks, ranking):
    own, last = evaluation(*combined(tasks), tasks, ranking=ranking), tasks[-1].name
    metrics = scores.metrics(own)
    assert metrics["segm"]["AP"] == 100  # a second prediction of a query and main class is not counted
    assert metrics["tasks"][last]["accuracy"] == 100
    row = next(row for row in analysis.rankings(own) if row["ranking"] == ranking)
    assert (row["segm_AP"], row["joint_AP"]) == (metrics["segm"]["AP"], metrics["joint"]["AP"])
    kept, _ = apply(own, FILTER).predictions
    assert set(kept.probability[last]) == {0.9}


def test_what_is_written_is_read_and_scores_the_same(tasks, tmp_path):
    images, predictions = combined(tasks)
    predictions.write(tmp_path / "val.parquet", tasks)
    read = Predictions.read(tmp_path / "val.parquet", tasks)
    assert scores.metrics(evaluation(images, read, tasks)) == scores.metrics(evaluation(images, predictions, tasks))


def test_a_logit_to_filter_by_is_the_log_odds_of_the_label(tasks):
    images, predictions = combined(tasks)
    for limit, kept in ((2.1, len(predictions) // 2), (2.3, 0)):  # 0.9 has log-odds of 2.197
        settings = FILTER.model_copy(update={"min_logit": limit, "min_score": {}, "nms": "none"})
        left, _ = apply(evaluation(images, predictions, tasks), settings).predictions
        assert len(left) == kept
