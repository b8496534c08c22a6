"""The whole diagnosis: which findings are reported, in which order, and how they are stored."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtseg.checks.findings import CAUSES, Finding
from mtseg.core.tables import Images
from mtseg.diagnosis import classes, limits, ranking, run
from mtseg.diagnosis.limits import Weighed
from mtseg.diagnosis.split import Split
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.summary import summary
from tests.diagnosis.answers import healthy, relabelled, split
from tests.diagnosis.test_masks import moved, shifted
from tests.scenes import make_tasks
from tests.tiny import params

ROOT = Path(__file__).parents[2]
TASKS = make_tasks(3)


def diagnosed(change=lambda row: row, summary=(), **scene):
    """The diagnosis of a correct model with `change` applied to each prediction of val. summary: of its validation."""
    given = params(solver={"max_iter": 400})
    train = split(*healthy(TASKS, seed=1), TASKS)
    images, rows = healthy(TASKS, **scene)
    val = split(images, [change(row) for row in rows], TASKS)
    curve = pd.DataFrame({"step": [0, 200, 400], "lr": 2e-3, "loss": [60.0, 10.0, 8.0]})
    return run.diagnose(
        val.evaluation, train=sample(train), val=sample(val), known=[], curve=curve, health=curve,
        validated=pd.DataFrame({"step": [400], "joint_AP": [50.0]}), summary=summary, model=given.model,
        input=given.input, solver=given.solver, test=given.test, filter=given.filter, images=40,
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
    text = run.text(found)
    assert run.record(found)["verdict"] == "No issues found."
    assert "No issues found. Looked at: " in text and "Not visible here: " in text
    assert "What would raise AP" in text and re.search(r"twice the steps +\? ", text), "one validation shows no trend"


def test_other_predictions_than_in_training_explain_what_looks_like_wrong_annotations():
    whole = split(*healthy(TASKS, images=60, scattered=True), TASKS)
    known = summary(whole.images, whole.predictions, TASKS)

    def mirrored(row):
        return next(moved([row], lambda mask: mask[:, ::-1])) if row.image_id % 4 == 0 else row

    def unsure(row):
        return replace(mirrored(row), mask_quality=row.mask_quality * 0.95)

    for change, summary_then, blamed in ((mirrored, (), True), (mirrored, known, False), (unsure, known, None)):
        first, *others = diagnosed(change, summary_then, images=60, scattered=True).findings
        if blamed is None:
            assert (first.cause, first.severity) == ("prediction_differs", "error"), "few of the images are mirrored"
        else:
            assert first.cause == "masks_mirrored" and ("annotations" in first.change) == blamed
        assert all(one.severity == "note" for one in others)


def test_if_only_places_differ_from_training_a_small_shift_is_named():
    whole = split(*healthy(TASKS, images=60, scattered=True), TASKS)
    shift = shifted(2, 0)
    first, *_ = diagnosed(
        lambda row: next(moved([row], shift)),
        summary(whole.images, whole.predictions, TASKS),
        images=60,
        scattered=True,
    ).findings
    assert first.cause == "masks_displaced"


def test_a_split_that_is_no_random_part_of_the_data_is_a_warning():
    val, task = split(*healthy(TASKS), TASKS), TASKS[1]
    assert not list(run._other_split(val.images, val.evaluation))
    record = lambda image: replace(  # noqa: E731
        image, instances=tuple(replace(one, labels=one.labels | {task.name: 0}) for one in image.instances)
    )
    sorted_by_class = Images.from_records(map(record, val.images), val.images.classes)
    (found,) = run._other_split(sorted_by_class, val.evaluation)
    assert (found.cause, found.severity) == ("class_mix_differs", "warning")


def test_a_fault_is_recorded_with_its_title():
    found = diagnosed(lambda row: replace(row, labels=row.labels | {"fill": (row.labels["fill"] + 1) % 3}))
    (first, *_) = run.record(found)["findings"]
    assert first["cause"] == "labels_off_by_one" and first["title"] == CAUSES["labels_off_by_one"]
    assert found.metrics["errors"] == 1
    assert "No issues" not in run.text(found) and run.record(found)["verdict"] is None


@pytest.mark.parametrize(
    ("right_if_swapped", "strength", "cause"), [(0.4, 5.0, "labels_permuted"), (1.0, 9.0, "channels_swapped")]
)
def test_renamed_classes_and_swapped_colours(right_if_swapped, strength, cause):
    """Two classes exchange their names. The other order of the channels corrects a part of them, or all, and then the
    model is more certain."""
    images, rows = healthy(TASKS, images=60)
    wrong = [relabelled(row, "fill", (*row.logits["fill"][2::-1], *row.logits["fill"][3:])) for row in rows]
    rng = np.random.default_rng(0)
    undone = [right if rng.random() < right_if_swapped else row for right, row in zip(rows, wrong, strict=True)]
    undone = [
        replace(row, logits={name: tuple(strength / 5 * value for value in own) for name, own in row.logits.items()})
        for row in undone
    ]
    as_is, swapped = split(images, wrong, TASKS), split(images, undone, TASKS)
    own = run.Sample(as_is.images, as_is.predictions, swapped.predictions)
    found = run.colours(own, own, TASKS, classes.renaming(as_is))
    assert [[one.cause for one in part] for part in found] == (
        [["channels_swapped"], []] if cause == "channels_swapped" else [[], ["channels_swapped"]]
    )
    assert all(one.severity == "note" and "labels_permuted" in one.change for one in found[1])
    assert [one.severity for one in run.colours(own, own, TASKS)[0]] == ["error"], "nothing else explains it"


def test_an_evaluator_that_is_wrong_is_reported_alone(monkeypatch):
    real = Evaluation.rank_by
    monkeypatch.setattr(Evaluation, "rank_by", lambda self, scores: real(self, -scores))
    found = diagnosed()
    assert [finding.cause for finding in found.findings] == ["evaluator_wrong"]
    assert found.metrics["errors"] == 1 and run.text(found).startswith("error: evaluator_wrong")


def finding(cause, severity="error"):
    return Finding(cause, severity, "evidence", "change")


def unexplained(inputs=(), alignment=(), learning=(), outputs=(), decline=(), **options):
    """The causes that keep their severity, and those that became notes."""
    weighed = [Weighed(one, gain) for one, gain in outputs]
    found = run.unexplained(list(inputs), list(alignment), list(learning), weighed, list(decline), **options)
    notes = [one.cause for one in found if one.severity == "note"]
    return [one.cause for one in found if one.severity != "note"], notes


def test_what_follows_from_a_cause_is_a_note_beside_it():
    few, collapsed, note = finding("too_few_steps"), finding("collapse_to_background"), finding("queries_empty", "note")
    fallen, moved, fed = finding("prediction_differs"), finding("masks_displaced", "warning"), finding("normalisation")
    bad = [(collapsed, 20.0)]
    both = ["collapse_to_background", "queries_empty"]
    assert unexplained(learning=[few], outputs=[*bad, (note, 0.0)]) == (["too_few_steps"], both)
    assert unexplained(alignment=[moved], learning=[few], outputs=bad, decline=[fallen])[0] == ["masks_displaced"]
    assert unexplained(inputs=[fed], alignment=[moved], outputs=bad)[0] == ["normalisation"]
    assert unexplained(learning=[few], decline=[fallen])[0] == ["prediction_differs"], "it was good in training"
    assert unexplained(alignment=[moved], differing=[fallen], explained=[moved])[0] == ["prediction_differs"]
    assert unexplained(alignment=[moved], differing=[fallen])[0] == ["masks_displaced"]
    noise = (finding("label_noise", "warning"), 5.0)
    contradicts = "a worse prediction contradicts labels, too"
    assert unexplained(outputs=[noise], decline=[fallen])[0] == ["prediction_differs"], contradicts
    strict = (finding("filter_too_strict", "warning"), 5.0)
    assert unexplained(outputs=[strict], decline=[fallen])[0] == ["prediction_differs"], "the filter changes no AP"
    assert unexplained(outputs=[noise])[0] == ["label_noise"]
    (runner_up,) = (
        one for one in run.unexplained([], [], [few], [Weighed(collapsed, 20.0)], []) if one.severity == "note"
    )
    assert runner_up.change == "too_few_steps may explain it; if not: change"


def test_a_verdict_on_the_lr_waits_while_objects_are_found_with_wrong_labels():
    low, collapsed = finding("lr_too_low"), (finding("collapse_to_background"), 60.0)
    assert unexplained(learning=[low], outputs=[collapsed], found=0.9) == (["collapse_to_background"], ["lr_too_low"])
    assert unexplained(learning=[low], outputs=[collapsed], found=0.1) == (["lr_too_low"], ["collapse_to_background"])
    assert unexplained(learning=[low], found=0.9)[0] == ["lr_too_low"]


def test_findings_that_cost_much_less_than_the_first_are_notes():
    ranking, missing = (finding(cause, "warning") for cause in ("ranking", "annotations_missing"))
    assert unexplained(outputs=[(ranking, 1.0), (missing, 9.0)]) == (["annotations_missing"], ["ranking"])
    assert unexplained(outputs=[(ranking, 5.0), (missing, 9.0)])[0] == ["annotations_missing", "ranking"]


def test_a_strict_filter_is_a_note_beside_what_costs_ap():
    """A model that learnt from half the objects is unsure of them, and the filter removes its predictions."""
    val = split(*healthy(TASKS), TASKS)
    oracles = {"AP": 30.0, "labels": 31.0, "ranking": 33.0, "masks": 35.0, "all_found": 70.0}
    strict, missing = finding("filter_too_strict", "warning"), finding("annotations_missing", "warning")
    weighed = limits.by_gain([strict, replace(missing, where="train")], val, oracles)
    assert unexplained(outputs=weighed) == (["annotations_missing"], ["filter_too_strict"])
    assert unexplained(outputs=limits.by_gain([strict], val, oracles))[0] == ["filter_too_strict"]


def test_what_limits_ap_is_named_when_nothing_is_wrong():
    oracles = {"AP": 20.0, "labels": 21.0, "ranking": 25.0, "masks": 60.0, "all_found": 30.0}
    (limit,) = limits.factor(oracles)
    assert limit.severity == "note" and "20.0" in limit.evidence and "60.0" in limit.evidence
    diagnosis = run.Diagnosis([limit], {}, {"oracles": oracles, "raise_ap": {
        "masks": {"gain": 40.0, "cost": "c"}, "steps": {"gain": None, "cost": "d"},
    }})  # fmt: skip
    text = run.text(diagnosis)
    assert "No issues found" not in text and "masks  +40.0  c" in text and "steps      ?  d" in text
    assert not limits.factor(oracles | {"masks": 30.0}) and not limits.factor({})
    poor = {"AP": 8.0, "labels": 15.0, "ranking": 10.0, "masks": 20.0, "all_found": 16.5}
    assert len(limits.factor(poor)) == 1, "a model of AP 8 has issues, though no kind of error costs 20"
    assert not limits.factor({**dict.fromkeys(poor, 3.0), "AP": 0.0}), "nothing would help a model that finds nothing"


def test_the_table_of_what_would_raise_ap_has_the_gains_of_the_score():
    val = split(*healthy(TASKS, images=20), TASKS)
    worse = [
        relabelled(row, "fill", row.logits["fill"][::-1]) if row.image_id % 2 else row for row in healthy(TASKS)[1]
    ]
    train = split(healthy(TASKS)[0], worse, TASKS)
    oracles, validated = ranking.losses(val), pd.DataFrame({"step": [100, 200, 300, 400], "joint_AP": [10, 20, 25, 31]})
    rows = limits.table(val, train, oracles, validated=validated, input=params().input)
    for name, (what, _) in limits.WORDS.items():
        assert rows[what]["gain"] == pytest.approx(oracles[name] - oracles["AP"])
    assert rows["twice the steps"]["gain"] == pytest.approx(11), "what the second half of the steps brought"
    assert rows["val as good as train"]["gain"] == 0, "train is worse"
    few = limits.table(val, train, oracles, validated=validated.iloc[-2:], input=params().input)
    assert few.pop("twice the steps")["gain"] is None, "two validations say nothing"
    assert few == {what: row for what, row in rows.items() if what != "twice the steps"}
    other = limits.table(train, val, ranking.losses(train), validated=validated, input=params().input)
    known = ranking.joint_ap(val.evaluation) - ranking.joint_ap(train.evaluation)
    assert known > 10 and other["val as good as train"]["gain"] == pytest.approx(known)
    assert [row["gain"] for row in rows.values()] == sorted((row["gain"] for row in rows.values()), reverse=True)


def test_every_cause_has_its_section_in_the_guide():
    guide = (ROOT / "docs/diagnosis.md").read_text(encoding="utf-8").splitlines()
    sections = [line.removeprefix("### ") for line in guide if line.startswith("### ")]
    assert sorted(sections) == sorted(CAUSES)
