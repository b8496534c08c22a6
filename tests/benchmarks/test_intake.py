"""benchmarks/intake.py: a case is right only if it does what the table says, and says no more."""

import json
import sys

import pytest

from benchmarks import intake
from benchmarks.intake import Outcome, judge
from tests.data import folders
from tests.data.folders import shape

RIGHT = {"images": {"train": 1, "val": 1}, "says": ["without objects: 1"]}
SUMMARY = ["raw: format coco, recognised by a.json", "raw (coco) -> data/coco: train 1 images", "  split: train/, val/"]


def outcome(*said, error="", images=None, check=()):
    lines = {"convert": [*SUMMARY, *said], "register": [], "check": [*check]}
    return Outcome(lines, error, {"train": 1, "val": 1} if images is None else images)


def test_what_is_right_does_not_differ():
    assert judge(RIGHT, outcome("  images without objects: 1")) == []
    assert judge(RIGHT | {"check": ["too small"]}, outcome("  images without objects: 1", check=["too", "small"])) == []
    assert judge({"error": ["a.json", "no image"]}, outcome(error="a.json:\n no  image")) == []


BARE = "  images without objects: 1"


@pytest.mark.parametrize(
    "right, found, fault",
    [
        (RIGHT, outcome(), "does not say: without objects"),
        (RIGHT, outcome(BARE, "  note, of a", "      long line: 2"), "says: note, of a long line: 2"),
        (RIGHT, outcome(BARE, images={"train": 2}), "images are {'train': 2}"),
        (RIGHT | {"check": ["small"]}, outcome(BARE), "check does not say: small"),
        ({"error": ["no image"]}, outcome(error="no label"), "the error is not: no image"),
        ({"error": ["no image"]}, outcome(), "the error is not: no image"),
    ],
)  # fmt: skip
def test_what_differs_is_named(right, found, fault):
    (line,) = judge(right, found)
    assert line.startswith(fault)


def test_an_error_where_none_is_right_differs():
    stopped = Outcome({"convert": ["no image"]}, "no image", {})
    assert judge(RIGHT, stopped) == ["fails: no image"]


def test_cases_are_run_and_judged(tmp_path, monkeypatch, capsys):
    for name, label in (("good", "circle,red,solid"), ("new", "circle,red,solid"), ("wrong", "")):
        for split in ("train", "val"):
            folders.labelme(tmp_path / name / "raw", f"{split}/a", shape(label))
        (tmp_path / name / "params.yaml").write_text("data: {raw: raw, format: labelme, mapping: null}\n")
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"good": {"images": {"train": 1, "val": 1}}, "wrong": {"error": ["no image"]}}))
    monkeypatch.setattr(sys, "argv", ["intake", "--cases", str(tmp_path), "--expected", str(table)])
    with pytest.raises(SystemExit, match="1 cases differ from what is right: wrong"):
        intake.main()
    out = capsys.readouterr().out
    assert out.count("DIFFERS") == 1 and "DIFFERS the error is not: no image" in out and f"not in {table}: new" in out
