"""Known pictures through the loader: whose targets a picture of a batch has."""

from __future__ import annotations

import pytest

from mtseg.checks import batches
from mtseg.data import loader
from tests import tiny
from tests.scenes import make_tasks


def causes(count):
    return {(one.cause, one.where) for one in batches.check(make_tasks(count), input=tiny.params().input)}


def changed(monkeypatch, change):
    """`change(targets)` in place of the targets of every batch."""
    real = loader._load

    def load(*args):
        for batch in real(*args):
            targets = change([example["instances"] for example in batch])
            yield [example | {"instances": target} for example, target in zip(batch, targets, strict=True)]

    monkeypatch.setattr(loader, "_load", load)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_f12_batches_hold_what_the_mapper_made_of_their_pictures(count, monkeypatch):
    assert not causes(count)
    changed(monkeypatch, lambda targets: [target[[1, 0]] for target in targets])
    assert not causes(count), "the order of instances means nothing"


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize(
    "change",
    [
        lambda targets: targets[::-1],
        lambda targets: targets[-1:] * len(targets),
        lambda targets: [t[:0] for t in targets],
    ],
)
def test_f12_targets_of_another_picture_of_the_batch_are_told(count, change, monkeypatch):
    changed(monkeypatch, change)
    assert causes(count) == {("masks_of_other_image", None)}


@pytest.mark.parametrize("count", [1, 3, 4])
def test_f12_labels_of_another_picture_of_the_batch_are_told_by_task(count, monkeypatch):
    def last_task_of_next(targets):
        labels = [target.gt_labels for target in targets]
        for target, other in zip(targets, labels[::-1], strict=True):
            target.gt_labels = target.gt_labels.clone()
            target.gt_labels[:, -1] = other[:, -1]
        return targets

    changed(monkeypatch, last_task_of_next)
    assert causes(count) == {("labels_of_other_image", f"task '{make_tasks(count)[-1].name}'")}


def test_a_loader_that_fails_is_told(monkeypatch):
    changed(monkeypatch, lambda targets: [target.gt_labels for target in targets])
    assert causes(3) == {("step_fails", None)}
