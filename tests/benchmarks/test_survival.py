"""benchmarks/survival: what a case does to a process, and what counts as survived."""

import signal
from pathlib import Path

import pytest

from benchmarks.survival import faults
from benchmarks.survival.child import Outcome, run
from benchmarks.survival.project import Project, tree
from mtseg.core.errors import UserError
from mtseg.core.files import replace_file


def write():
    for name in ("one", "two"):
        with replace_file(name) as path:
            path.write_text(name)
    print("written")


def fail():
    raise UserError("a mistake")


@pytest.mark.parametrize(
    ("stage", "fault", "code", "left", "wrong"),
    [
        (write, lambda: None, 0, ["one", "two"], None),
        (fail, lambda: None, 1, [], None),
        (lambda: 1 / 0, lambda: None, 1, [], "a traceback: ZeroDivisionError: division by zero"),
        (write, faults.killed(2), -signal.SIGKILL, [".tmp-one"], "it ends with -9"),
        (write, faults.killed_before(".tmp-two"), -signal.SIGKILL, ["one"], "it ends with -9"),
        (write, faults.signalled(4, signal.SIGINT), 130, ["one"], None),
        (write, faults.full_disk(3), 1, ["one"], None),
        (write, faults.read_only(), 1, [], None),
    ],
)
def test_a_fault_is_at_its_place(tmp_path, stage, fault, code, left, wrong):
    outcome = run(stage, tmp_path, fault)
    assert (outcome.code, outcome.fault()) == (code, wrong), outcome
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_changes_are_counted(tmp_path):
    (tally := tmp_path / "tally").touch()
    (folder := tmp_path / "folder").mkdir()
    assert run(write, folder, faults.counted(tally)).out == "written\n"
    assert len(tally.read_bytes()) == 6, "two files are begun, written and renamed"


def test_copies_are_what_kills_leave(tmp_path):
    (whole := tmp_path / "whole").mkdir()
    run(write, whole, faults.copied(tmp_path / "copies"))
    for number in range(1, 7):
        (folder := tmp_path / str(number)).mkdir()
        run(write, folder, faults.killed(number))
        assert tree(folder) == tree(tmp_path / "copies" / str(number)), number
    assert tree(tmp_path / "copies" / "6") != tree(whole)


@pytest.mark.parametrize("err", ["error: one\nerror: two\n", "", "Traceback (most recent call last)\n"])
def test_an_exit_without_one_line_is_no_survival(err):
    assert Outcome(1, "", err).fault()
    assert Outcome(None, "", "").fault() and not Outcome(0, "", "").fault()


def test_a_file_that_differs_or_is_left_is_found(tmp_path):
    project = Project(tmp_path, tmp_path, ("train", "predict"), {"models/a": "hash"})
    assert project.difference(tmp_path) == "models/a differs, of 1"
    assert project.difference(tmp_path, until="train") == "models/a differs, of 1"
    project = Project(tmp_path, tmp_path, ("train", "predict"), {"data/predictions/val.csv": "hash"})
    assert project.difference(tmp_path, until="train") is None
    Path(tmp_path / ".tmp-models").touch()
    assert project.difference(tmp_path, until="train") == ".tmp-models differs, of 1"
