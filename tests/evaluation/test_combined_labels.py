"""Predictions of a softmax over combinations: several of one query, with the same main class and other labels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mtseg.evaluation import predictions, rankings, scores
from mtseg.evaluation.evidence import Evidence
from mtseg.evaluation.filter import sieve
from tests.scenes import SIEVE, make_tasks, predict_all, scene

RANKINGS = ("main", "sum", "product", "main_quality", "sum_quality", "product_quality")


@pytest.fixture(params=[2, 3, 4])
def tasks(request):
    return make_tasks(request.param, background=False)


def combined(tasks, images):
    """The truth, sure, and after it the same query with the next label of the last task, unlikely; in the file the
    wrong one stands first where its label is the lower."""
    last, found = tasks[-1], []
    for p in predict_all(images, tasks):
        sure = {task.name: 0.9 for task in tasks}
        wrong = p.labels | {last.name: (p.labels[last.name] + 1) % last.num_classes}
        other = replace(p, labels=wrong, probabilities=sure | {last.name: 0.05})
        found += sorted([replace(p, probabilities=sure), other], key=lambda p: p.labels[last.name])
    return found


@pytest.mark.parametrize("ranking", RANKINGS)
def test_the_likeliest_combination_of_a_query_is_its_answer(tasks, ranking):
    images = scene(tasks)
    found = combined(tasks, images)
    options = {"tasks": tasks, "ranking": ranking, "max_dets": (1, 10, 100)}
    metrics, _ = scores.evaluate(images, found, **options)
    assert metrics["segm"]["AP"] == 100  # the second of a query and a main class is no further detection of it
    assert metrics["tasks"][tasks[-1].name]["accuracy"] == 100
    row = next(row for row in rankings.rows(Evidence.of(images, found, **options)) if row["ranking"] == ranking)
    assert (row["segm_AP"], row["joint_AP"]) == (metrics["segm"]["AP"], metrics["joint"]["AP"])
    kept = sieve(found, tasks=tasks, settings=SIEVE, ranking=ranking).kept
    assert {p.probabilities[tasks[-1].name] for p in kept} == {0.9}


def test_files_keep_the_probabilities_and_rank_by_all_labels(tasks, tmp_path):
    images = scene(tasks)
    found = combined(tasks, images)
    predictions.write(tmp_path / "val.json", tmp_path / "val.csv", found, images, tasks)
    assert predictions.read(tmp_path / "val.json", tasks) == found
    written = predictions.read_json(tmp_path / "val.json")
    for record, p in zip(written, found, strict=True):
        chance = predictions.scores([p], tasks)["product"][0]
        assert record["score"] == pytest.approx(chance * p.mask_quality, abs=1e-5)
    assert f"{tasks[-1].name}_probability" in (tmp_path / "val.csv").read_text().partition("\n")[0]


def test_a_logit_to_filter_by_is_the_log_odds_of_the_label(tasks):
    images = scene(tasks)
    found = combined(tasks, images)
    for limit, wanted in ((2.1, 2 * len(found)), (2.3, 0)):  # 0.9 has log-odds of 2.197
        settings = SIEVE.model_copy(update={"min_logit": limit, "min_score": {}, "nms": "none"})
        kept = sieve(found, tasks=tasks, settings=settings, ranking="product").kept
        assert len(kept) == (len(found) // 2 if wanted else 0)
