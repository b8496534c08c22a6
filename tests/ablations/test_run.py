"""The runs' way through the queue: what is done, what fails, how one stops; without DVC."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ablations import experiments, run, studies
from mtseg.core.errors import UserError
from tests.repository import call, commit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def queue(monkeypatch):
    """A queue that ends one run at each look at it, in the order in which they came; `bad` fail."""
    state = {"order": [], "ended": [], "bad": set(), "starts": 0}

    def statuses():
        state["ended"] = state["order"][: len(state["ended"]) + 1]
        said = {name: "Failed" if name in state["bad"] else "Success" for name in state["ended"]}
        return dict.fromkeys(state["order"], "Queued") | said

    monkeypatch.setattr(experiments, "statuses", statuses)
    monkeypatch.setattr(experiments, "workers", lambda: False)
    monkeypatch.setattr(experiments, "start", lambda jobs: state.update(starts=state["starts"] + 1))
    monkeypatch.setattr(experiments, "finished", lambda: {n: ["ref"] for n in state["ended"] if n not in state["bad"]})
    monkeypatch.setattr(experiments, "result", lambda one, refs: refs.get(one.name))
    monkeypatch.setattr(run, "PERIOD", 0)
    run.STOPPED.clear()
    yield state
    run.STOPPED.clear()


def named(*names):
    return [SimpleNamespace(name=name) for name in names]


def test_runs_are_followed_until_each_has_ended_and_workers_that_went_are_started_again(queue, capsys):
    queue["order"], queue["bad"] = ["a", "b", "c"], {"b"}
    assert run.follow(named("a", "b", "c"), jobs=2) == ["b"]
    assert queue["starts"] == 2  # at each look after which some were left
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["a", "FAILED", "c"]


def test_what_vanished_from_the_queue_has_failed_at_the_second_look(queue, monkeypatch):
    assert run.follow(named("gone"), jobs=2) == ["gone"]
    looks = iter([{"a": "Queued"}, {}, {"a": "Running"}])  # a worker takes it, and it ends
    monkeypatch.setattr(experiments, "workers", lambda: True)
    monkeypatch.setattr(experiments, "statuses", lambda: next(looks, {}))
    monkeypatch.setattr(experiments, "finished", lambda: {} if "a" in next(seen) else {"a": ["ref"]})
    seen = iter(["a", "a", "a", ""])
    assert run.follow(named("a"), jobs=2) == []


def test_an_experiment_of_that_name_with_other_params_is_not_that_run(queue, monkeypatch):
    queue["order"] = ["a"]
    monkeypatch.setattr(experiments, "result", lambda one, refs: None)
    assert run.follow(named("a"), jobs=2) == ["a"]


def test_what_is_said_to_run_without_a_worker_has_failed_at_the_second_look(queue, monkeypatch):
    looks = []
    monkeypatch.setattr(experiments, "statuses", lambda: looks.append(1) or {"a": "Running"})
    assert run.follow(named("a"), jobs=2) == ["a"] and len(looks) == 2


def test_a_pid_that_is_anothers_by_now_is_no_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pid = tmp_path / experiments.TMP / "exps/celery/worker.pid"
    pid.parent.mkdir(parents=True)
    pid.write_text(str(os.getpid()))
    assert not experiments.workers()
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()", "exp", "queue-worker"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:  # fmt: skip
        worker.stdout.readline()
        pid.write_text(str(worker.pid))
        assert experiments.workers()
        worker.communicate(b"\n")
    assert not experiments.workers()


def test_experiments_of_ones_own_in_the_queue_are_not_run_along(monkeypatch):
    (ours, *_) = studies.runs(studies.read("backbones"), "embedded", params=ROOT / "params.yaml")
    waiting = {ours.name: "Queued", "mine": "Success"}
    monkeypatch.setattr(experiments, "statuses", lambda: waiting)
    assert run._waiting(ROOT / "params.yaml") == [ours.name]
    waiting["mine"] = "Queued"
    with pytest.raises(UserError, match=r"other experiments \(mine\)"):
        run._waiting(ROOT / "params.yaml")


@pytest.fixture
def calls(queue, monkeypatch, tmp_path):
    """What `_run` asks of `experiments`, in order; two trainings, and a run that waits for the first."""
    said = []
    for name in ("clear", "settle", "replace", "stop"):
        monkeypatch.setattr(experiments, name, lambda *_, name=name: said.append(name))
    monkeypatch.setattr(experiments, "idle", lambda: True)
    monkeypatch.setattr(experiments, "head", lambda: "abc1234")
    monkeypatch.setattr(experiments, "other_code", lambda commits: 0)
    monkeypatch.setattr(run, "_waiting", lambda params: [])
    monkeypatch.setattr(studies, "overrides", lambda one, base: [])
    monkeypatch.setattr(experiments, "queue", lambda one, _: (said.append(one.name), queue["order"].append(one.name)))
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield said
    for number, handler in handlers.items():
        signal.signal(number, handler)


HEAD = experiments.head
PLANNED = [SimpleNamespace(name=name, training=training) for name, training in (("a", 1), ("b", 2), ("c", 1))]


def test_what_shares_a_training_is_queued_once_that_has_ended(calls):
    run._run(PLANNED, Path("params.yaml"), jobs=2)
    assert calls == ["clear", "settle", "replace", "a", "b", "c", "settle"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("at", ["clear", "queue", "follow"])
def test_told_to_stop_it_ends_the_command_at_work_then_the_queue(calls, at, number, monkeypatch):
    """`at`: what is under way. A handler by default would end it in the middle."""
    where, name = (run, at) if at == "follow" else (experiments, at)
    whole = getattr(where, name)

    def told(*arguments, **options):
        os.kill(os.getpid(), number)
        done = whole(*arguments, **options)
        calls.append("ended")
        return done

    monkeypatch.setattr(where, name, told)
    monkeypatch.setattr(run, "PERIOD", 1)
    with pytest.raises(KeyboardInterrupt):
        run._run(PLANNED, Path("params.yaml"), jobs=2)
    assert calls[-2:] == ["stop", "settle"] and "c" not in calls
    assert at == "follow" or "ended" in calls


def test_code_that_changes_meanwhile_is_not_queued_unseen(calls, monkeypatch):
    changed = iter([0, 1])  # before the trainings, before the rest
    monkeypatch.setattr(experiments, "other_code", lambda commits: next(changed))
    with pytest.raises(UserError, match="a commit changed the code"):
        run._run(PLANNED, Path("params.yaml"), jobs=2)
    assert "b" in calls and "c" not in calls and calls[-2:] == ["stop", "settle"]


def test_code_that_is_not_committed_is_neither_queued_nor_measured(calls, monkeypatch):
    monkeypatch.setattr(experiments, "head", HEAD)
    monkeypatch.setattr(experiments, "git", lambda *words: "mtseg/train.py\n" if words[0] == "diff" else "abc1234\n")
    with pytest.raises(UserError, match=r"commit mtseg/train.py first"):
        run._run(PLANNED, Path("params.yaml"), jobs=2)
    assert not calls
    monkeypatch.setattr(experiments, "git", lambda *words: "" if words[0] == "diff" else "abc1234\n")
    assert HEAD() == "abc1234"


def test_the_status_of_a_name_is_that_of_its_task_at_work(monkeypatch):
    told = """Task     Name      Created    Status
63d4a09  c-s2      09:39 PM   Running
f70016d  c-s0      Nov 22, 2026   Queued
311225f  c-s0      09:39 PM   Failed
25dbeb8  c-s1      09:39 PM   Failed
2121813  a-one-s0  09:33 PM   Success

Worker status: 0 active, 0 idle
"""
    monkeypatch.setattr(experiments, "dvc", lambda *_: told)
    assert experiments.statuses() == {"c-s2": "Running", "c-s0": "Queued", "c-s1": "Failed", "a-one-s0": "Success"}


def test_the_lock_is_away_while_runs_are_queued_and_back_whatever_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.lock").write_text("mine")
    with pytest.raises(RuntimeError), experiments.without_lock():
        assert not (tmp_path / "dvc.lock").exists()
        raise RuntimeError
    assert (tmp_path / "dvc.lock").read_text() == "mine"


def test_a_lock_of_a_queueing_that_was_killed_comes_back_unless_another_was_written_since(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(tmp_path, "git", "init", "--quiet")
    lock = tmp_path / "dvc.lock"
    lock.write_text("committed")
    commit(tmp_path)
    lock.write_text("mine")

    for meanwhile, expected in ((None, "mine"), ("committed", "mine"), ("since", "since")):
        experiments.LOCK_ASIDE.parent.mkdir(parents=True, exist_ok=True)
        lock.replace(experiments.LOCK_ASIDE)  # where it was when the kill came
        if meanwhile:
            lock.write_text(meanwhile)
        with experiments.without_lock():
            assert not lock.exists()
        assert lock.read_text() == expected and not experiments.LOCK_ASIDE.exists()


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--scale", "carparts"], "needs --data"),
        (["--data", "."], "--data goes with --scale carparts"),
        (["nonesuch"], "no study 'nonesuch'"),
        (["--jobs", "0"], "--jobs 0 must be 1 or more"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(arguments, told, monkeypatch):
    monkeypatch.setattr("sys.argv", ["ablations.run", *arguments])
    with pytest.raises(UserError, match=told):
        run.main()


@pytest.mark.parametrize(("told", "tries"), [("Unable to acquire lock", 2), ("Expecting value: line 1", 2), ("no", 1)])
def test_dvc_is_asked_again_while_a_worker_is_at_its_files(told, tries, monkeypatch):
    asked = []

    def run(command, *, stdout, stderr, **_):
        asked.append(command)
        (stdout if len(asked) == 2 else stderr).write("fine" if len(asked) == 2 else told)
        return SimpleNamespace(returncode=0 if len(asked) == 2 else 1)

    monkeypatch.setattr(experiments.subprocess, "run", run)
    monkeypatch.setattr(experiments.time, "sleep", lambda _: None)
    monkeypatch.setattr(experiments, "environment", dict)
    if tries == 1:
        with pytest.raises(UserError, match="dvc queue status: no"):
            experiments.dvc("queue", "status")
    else:
        assert experiments.dvc("queue", "status") == "fine"
    assert len(asked) == tries


def test_tables_come_of_what_is_done_though_a_run_failed(tmp_path):
    """`make ablations` with a Python that fails in ablations.run."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text('#!/bin/sh\necho "$@"\n[ "$2" != ablations.run ]\n')
    python.chmod(0o755)
    pinned = b"".join((ROOT / name).read_bytes() for name in ("requirements.lock", "requirements-detectron2.txt"))
    stamp = subprocess.run(["cksum"], input=pinned, capture_output=True).stdout.decode().split()[0]
    (tmp_path / f".mtseg-{stamp}").touch()
    done = subprocess.run(["make", "ablations", f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["-m ablations.run", "-m ablations.tables"] and done.returncode
