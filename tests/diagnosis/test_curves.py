"""The cause is reported if a model has learnt nothing."""

import numpy as np
import pandas as pd
import pytest

from mtseg.diagnosis import curves
from tests.diagnosis.answers import QUERIES, healthy, split
from tests.scenes import make_tasks
from tests.tiny import params

TASKS = make_tasks(3)


def curve(steps=400, lr=2e-3, end=8.0, noise=0.0):
    at = np.arange(0, steps + 1, 20)
    loss = end + (60 - end) * np.exp(-at / (steps / 6)) + noise * np.random.default_rng(0).random(len(at))
    return pd.DataFrame({"step": at, "lr": lr, "loss": loss})


VALIDATED = pd.DataFrame({"step": [200, 400], "joint_AP": [5.0, 6.0]})


def causes(*, learnt=True, curve=None, validated=VALIDATED, **solver):
    given = params(solver={"max_iter": 400, "ims_per_batch": 8, "reference_lr": 4e-3} | solver).solver
    images, predictions = healthy(TASKS)
    seen = split(images, predictions if learnt else predictions[::12], TASKS)
    findings, _ = curves.check(
        seen, seen, curve=curve, validated=validated, solver=given, images=300, checkpoint="last"
    )
    return [finding.cause for finding in findings]


def test_a_correct_training_gives_no_finding():
    assert causes(curve=curve()) == []


@pytest.mark.parametrize(
    ("shape", "solver", "cause"),
    [
        (curve(), {"base_lr": 3e-2}, "lr_for_batch"),
        (curve(steps=40), {"max_iter": 40}, "too_few_steps"),
        (curve(), {}, "overtrained"),  # the loss is gone, of other images than these
        (curve(end=30.0), {}, "lr_too_high"),  # it stands still where it should not
        (curve(lr=1e-5), {"warmup": 40000}, "lr_too_low"),
        (curve(noise=40.0), {}, "lr_too_high"),
        (curve().assign(loss=np.linspace(60, 50, 21)), {}, "lr_too_low"),
    ],
)
def test_why_nothing_was_learnt(shape, solver, cause):
    assert causes(learnt=False, curve=shape, **solver) == [cause]


def test_of_a_single_image_only_what_was_learnt_is_judged():
    images, rows = healthy(TASKS, images=2)  # the first is empty
    given, none = params(solver={"max_iter": 400}).solver, pd.DataFrame({"step": [200, 400], "joint_AP": [0.0, 0.0]})
    for own, expected in ((rows[QUERIES:], []), ([], ["lr_too_low"])):
        seen = split(images[1:], own, TASKS)
        findings, _ = curves.check(
            seen, seen, curve=curve(lr=1e-5), validated=none, solver=given, images=1, checkpoint="last"
        )
        assert [finding.cause for finding in findings] == expected


def test_a_val_ap_that_falls_while_training_goes_on():
    fallen = pd.DataFrame({"step": [100, 200, 400], "joint_AP": [20.0, 60.0, 15.0]})
    assert causes(curve=curve(), validated=fallen) == ["overtrained"]


def test_a_part_that_no_gradient_reaches_any_more():
    steps, alive = np.arange(20, 420, 20), np.linspace(3, 1, 20)
    table = pd.DataFrame({"step": steps, "gradient_head_fill": alive, "gradient_decoder": alive, "stability": 0.0})
    assert not curves.without_gradient(table, TASKS)
    table["gradient_head_fill"] = np.where(steps > 100, 0.0, alive)
    (found,) = curves.without_gradient(table, TASKS)
    assert (found.cause, found.where) == ("gradient_missing", "head fill") and "after step 100" in found.evidence
    muted = [task.model_copy(update={"loss_weight": 0.0}) if task.name == "fill" else task for task in TASKS]
    assert not curves.without_gradient(table, muted) and not curves.without_gradient(table[:2], TASKS)
