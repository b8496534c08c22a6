"""Any number of processes gives the results of one, and they end with their parent."""

import multiprocessing
import os
import signal
import time

import pytest

from mtseg.core import forks
from mtseg.core.errors import UserError


@pytest.fixture(params=[1, 2, 3])
def cores(request, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(request.param))
    return request.param


def test_results_have_the_order_of_the_items(cores):
    waits = [0.2, 0.0, 0.1, 0.0]
    assert list(forks.in_forks(lambda item: time.sleep(item) or item, waits)) == waits
    assert list(forks.in_forks(str, [])) == []


def test_processes_have_the_data_of_their_start():
    seen = ["before"]
    with forks.forked(lambda item: (item, [*seen]), 2) as each:
        seen.append("after")
        assert [*each(range(3))] == [(item, ["before"]) for item in range(3)]


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


def test_a_stop_while_a_process_starts_is_left_to_its_parent(monkeypatch, capfd):
    begin = forks._begin

    def stopped(*given):
        os.kill(os.getpid(), signal.SIGINT)
        begin(*given)

    monkeypatch.setattr(forks, "_begin", stopped)
    with forks.forked(str, 2) as each:
        assert [*each([1, 2])] == ["1", "2"]
    assert capfd.readouterr().err == ""


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
