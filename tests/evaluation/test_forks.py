"""Any number of processes gives the numbers of one."""

import os

import numpy as np
import pytest

from mtseg.core.tables import Predictions
from mtseg.evaluation import analysis, forks, intervals
from mtseg.evaluation.ap import pairs
from tests.scenes import evaluation, make_tasks, noisy, scene, table

TASKS = make_tasks(3)


def drawn():
    images = scene(TASKS, count=8, partial=True, crowds=True)
    return images, table(noisy(images, TASKS, copies=3), TASKS)


@pytest.fixture(params=[1, 2, 3])
def cores(request, monkeypatch):
    monkeypatch.setattr(forks, "PART", 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(request.param))
    return request.param


@pytest.mark.parametrize("stored", [False, True])
def test_pairs_are_those_of_one_process(cores, stored, tmp_path):
    images, predictions = drawn()
    expected = pairs.of_masks(images, predictions)
    if stored:
        predictions.write(tmp_path / "val.parquet", TASKS)
        predictions = Predictions.read(tmp_path / "val.parquet", TASKS)
    found = forks.overlaps(images, predictions)
    assert type(found) is type(expected) and found.names == expected.names and len(found) > 20
    for name in expected.names:
        assert found.column(name).dtype == expected.column(name).dtype
        assert np.array_equal(found.column(name), expected.column(name))


def test_intervals_are_those_of_one_process(cores, monkeypatch):
    found = evaluation(*drawn(), TASKS)
    shared = intervals.tables(found)
    monkeypatch.setattr(forks, "PART", 2**17)
    assert str(shared) == str(intervals.tables(found)) and len(shared[0]) > 5


def test_report_metrics_and_rankings_are_those_of_one_process(cores):
    figures = []
    for known in (forks.works(evaluation(*drawn(), TASKS)), {}):
        own = evaluation(*drawn(), TASKS)
        report = analysis.report(own, known)
        figures.append(str((report, analysis.metrics(own, report, [], known), analysis.rankings(own, known))))
    assert figures[0] == figures[1] and report["label_errors"]
    for _ in range(2):
        assert set(forks.works(own)) == (set() if cores == 1 else set(analysis.works(own)))
