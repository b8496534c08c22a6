"""Any number of processes gives the numbers of one, and they end with their parent."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from mtseg.core.errors import UserError
from mtseg.core.tables import Predictions
from mtseg.evaluation import forks, intervals
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


def test_results_have_the_order_of_the_items(cores):
    waits = [0.2, 0.0, 0.1, 0.0]
    assert list(forks.in_forks(lambda item: time.sleep(item) or item, waits)) == waits
    assert list(forks.in_forks(str, [])) == []


def test_an_error_is_raised_here(cores):
    def refuse(item):
        raise UserError(f"{item} is wrong")

    with pytest.raises(UserError, match="^1 is wrong$"):
        list(forks.in_forks(refuse, [1, 2, 3]))


def test_a_process_that_ends_is_one_line(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    with pytest.raises(UserError, match="a process ended without an error"):
        list(forks.in_forks(lambda item: os.kill(os.getpid(), signal.SIGKILL), [1, 2, 3]))


def test_a_stop_does_not_wait_for_the_others(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    parent, began = os.getpid(), time.monotonic()

    def interrupt(item):
        if not item:
            os.kill(parent, signal.SIGINT)
        time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            list(forks.in_forks(interrupt, [0, 1]))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 30 and not multiprocessing.active_children()


def test_no_process_outlives_one_that_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))

    def note(item):
        (tmp_path / str(os.getpid())).touch()
        time.sleep(60)

    parent = multiprocessing.get_context("fork").Process(target=lambda: list(forks.in_forks(note, [1, 2, 3])))
    parent.start()
    until = time.monotonic() + 30
    while len(found := [int(path.name) for path in tmp_path.iterdir()]) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    parent.kill()
    parent.join()
    while any(map(alive, found)) and time.monotonic() < until:
        time.sleep(0.01)
    assert len(found) == 2 and not any(map(alive, found))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
