"""The benchmark of faults: its cases are valid, and a few fast ones are found."""

from __future__ import annotations

import re

import pytest

from benchmarks.faults import pipeline, reports, runs
from benchmarks.faults.case import FAILURES, ROOT, Case, Fault, Outcome
from mtseg.checks.findings import CAUSES

SMALL = {"generate.train": 60, "generate.val": 20}  # with fewer images the check reports rare classes
REFUSED = (
    "a comma is missing in one label", "a loader that drops the further labels", "category ids off by one in train",
)  # fmt: skip


def run(name, folder, **options):
    case = runs.CASES[name]
    changed = {**vars(case), "changes": SMALL | case.changes}
    return pipeline.run(type(case)(**changed), folder / "run", **options)


def test_every_case_has_valid_params_and_a_name_of_its_own():
    names = [case.name for module in runs.LISTS for case in module.FAULTS]
    assert len(runs.CASES) == len(set(names)) + 40
    for case in runs.CASES.values():
        assert case.params()


def test_every_failure_of_the_catalogue_has_a_fault():
    assert {fault.failure for fault in runs.FAULTS} - {""} == {*FAILURES}
    catalogue = re.findall(r"^## (\w+)$", (ROOT / "docs/failures.md").read_text(encoding="utf-8"), re.M)
    assert [*FAILURES] == [name for name in catalogue if name != "untestable_parts"]


def test_every_expected_cause_exists():
    for fault in runs.FAULTS:
        assert set(fault.causes) <= set(CAUSES), fault.name
        assert fault.causes or fault.says, fault.name


def test_the_cases_of_the_quick_run_exist():
    assert set(runs.QUICK) | {runs.SHORT} <= set(runs.CASES)


@pytest.mark.parametrize("name", REFUSED)
def test_bad_records_are_refused_by_convert_with_the_place_named(name, tmp_path):
    outcome = run(name, tmp_path)
    assert outcome.when == "convert" and outcome.refused and outcome.right and not outcome.crash


@pytest.mark.slow
def test_a_patch_is_gone_when_the_run_is_over(tmp_path):
    name = "training returns the losses as a list"
    assert run(name, tmp_path / "a", until="check").named == (("loss_not_scalar", "error"),)
    assert pipeline.run(Case("healthy", changes=SMALL), tmp_path / "b", until="check").when is None


def test_causes_are_read_from_the_output_errors_first_without_notes():
    text = "warning: ranking: 3 points\nnote: queries_empty: 2\n  lr_too_low: x; y\nerror: fix these before training\n"
    assert pipeline.named(text) == (("lr_too_low", "error"), ("ranking", "warning"))


def test_the_record_of_the_first_try_is_of_unseen_faults():
    unseen = {fault.name for round in reports.ROUNDS for fault in round.FAULTS}
    assert runs.first_try().keys() <= unseen and len(unseen) > len(runs.FAULTS) / 3


def test_a_missed_target_fails_the_run(monkeypatch):
    monkeypatch.setattr(runs, "first_try", lambda: {"a": ("1", True)})
    listed = Fault("a", failure="label_string", says="2 parts")
    other, healthy = Fault("b", causes=("ranking",)), Case("c")
    refused = Outcome(listed, "convert", (), "error: 2 parts", False, 0.0)
    named = Outcome(other, "diagnosis", (("ranking", "warning"),), "", False, 0.0)
    silent = Outcome(healthy, None, (), "", False, 0.0)
    assert runs.verdict([refused, named, silent])[0]
    assert not runs.verdict([Outcome(listed, None, (), "", False, 0.0), named, silent])[0]
    assert not runs.verdict([refused, named, Outcome(healthy, "check", (), "warning: x", False, 0.0)])[0]
    assert not runs.verdict([refused, Outcome(other, "training", (), "KeyError", True, 0.0), silent])[0]
    first = runs.table([silent, named, refused]).splitlines()[2]
    assert first == "| a | label_string | convert | refused | yes | yes |"
    monkeypatch.setattr(runs, "first_try", lambda: {"a": ("1", True), "b": ("2", False)})
    assert not runs.verdict([refused, named, silent])[0], "none of the last round"
