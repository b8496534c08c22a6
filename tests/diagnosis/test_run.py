"""The whole diagnosis: which findings are reported, in which order, and how they are stored."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from mtseg.checks.findings import CAUSES, Finding
from mtseg.diagnosis import run
from mtseg.diagnosis.split import Split
from mtseg.evaluation.ap.evaluation import Evaluation
from tests.diagnosis.answers import healthy, split
from tests.scenes import make_tasks
from tests.tiny import params

ROOT = Path(__file__).parents[2]
TASKS = make_tasks(3)


def diagnosed(change=lambda row: row):
    """The diagnosis of a correct model with `change` applied to each prediction of val."""
    given = params(solver={"max_iter": 400})
    train = split(*healthy(TASKS, seed=1), TASKS)
    images, rows = healthy(TASKS)
    val = split(images, [change(row) for row in rows], TASKS)
    curve = pd.DataFrame({"step": [0, 200, 400], "lr": 2e-3, "loss": [60.0, 10.0, 8.0]})
    return run.diagnose(
        val.evaluation, train=sample(train), val=sample(val), known=[], curve=curve, health=curve,
        validated=pd.DataFrame({"step": [400], "joint_AP": [50.0]}), model=given.model, solver=given.solver,
        test=given.test, images=40,
    )  # fmt: skip


def sample(of: Split) -> run.Sample:
    """A sample whose predictions are bad with red and blue swapped."""
    some = of.predictions[of.image < 20]
    return run.Sample(of.images, of.predictions, some.replace(mask_quality=0.1 * some.mask_quality))


def test_a_correct_model_has_no_issues():
    found = diagnosed()
    assert not [finding for finding in found.findings if finding.severity != "note"]
    assert (found.metrics["errors"], found.metrics["warnings"]) == (0, 0)
    assert set(found.metrics["image_share"]) == {task.name for task in TASKS}
    assert run.text(found).endswith("No issues found.")


def test_a_fault_is_recorded_with_its_title():
    found = diagnosed(lambda row: replace(row, labels=row.labels | {"fill": (row.labels["fill"] + 1) % 3}))
    (first, *_) = run.record(found)["findings"]
    assert first["cause"] == "labels_off_by_one" and first["title"] == CAUSES["labels_off_by_one"]
    assert found.metrics["errors"] == len(found.findings) == 1
    assert "No issues" not in run.text(found)


def test_an_evaluator_that_is_wrong_is_reported_alone(monkeypatch):
    real = Evaluation.rank_by
    monkeypatch.setattr(Evaluation, "rank_by", lambda self, scores: real(self, -scores))
    found = diagnosed()
    assert [finding.cause for finding in found.findings] == ["evaluator_wrong"]
    assert found.metrics["errors"] == 1 and run.text(found).startswith("error: evaluator_wrong")


def finding(cause, severity="error"):
    return Finding(cause, severity, "evidence", "change")


def test_what_follows_from_a_cause_is_not_reported_beside_it():
    few, collapsed, note = finding("too_few_steps"), finding("collapse_to_background"), finding("queries_empty", "note")
    fallen, moved, fed = finding("prediction_differs"), finding("masks_displaced", "warning"), finding("normalisation")
    assert run.unexplained([], [], [few], [collapsed, note], []) == [few, note]
    assert run.unexplained([], [moved], [few], [collapsed], [fallen]) == [moved]
    assert run.unexplained([fed], [moved], [], [collapsed], []) == [fed]
    assert run.unexplained([], [], [few], [], [fallen]) == [fallen], "it was good in training"
    noise = finding("label_noise", "warning")
    assert run.unexplained([], [], [], [noise], [fallen]) == [fallen], "a worse prediction contradicts labels, too"
    assert run.unexplained([], [], [], [noise], []) == [noise]
    assert run.unexplained([], [], [], [note, collapsed], []) == [collapsed, note], "errors first"


def test_every_cause_has_its_section_in_the_guide():
    guide = (ROOT / "docs/diagnosis.md").read_text(encoding="utf-8").splitlines()
    sections = [line.removeprefix("### ") for line in guide if line.startswith("### ")]
    assert sorted(sections) == sorted(CAUSES)
