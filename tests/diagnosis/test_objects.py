"""A fault of some objects, in any of the images, is reported with its share; a correct model gives no finding."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mtseg.diagnosis import objects
from tests.diagnosis.answers import healthy, split
from tests.diagnosis.test_masks import half_lost, moved, shifted
from tests.scenes import SIZE, box_instance, make_tasks

TASKS = make_tasks(3)
FAULTS = [
    (lambda mask: mask[::-1, ::-1], "images_turned"),
    (lambda mask: mask[:, ::-1], "masks_mirrored"),
    (lambda mask: mask.T, "masks_transposed"),
    (lambda mask: np.pad(mask[::2, ::2], ((0, SIZE // 2), (0, SIZE // 2))), "masks_displaced"),
    (shifted(9, 6), "masks_displaced"),
    (half_lost, "masks_scaled"),
]


def found(change, chosen, images=100, seed=0):
    """The findings if the masks of the chosen predictions are changed. chosen: (rng, prediction) -> whether."""
    records, rows = healthy(TASKS, images=images, scattered=True, seed=seed)
    rng, changed = np.random.default_rng(seed), []
    for row in rows:
        changed += moved([row], change) if chosen(rng, row) else [row]
    return objects.check(split(records, changed, TASKS), "val")


@pytest.mark.parametrize("seed", range(3))
def test_a_correct_model_gives_no_finding(seed):
    assert not found(lambda mask: mask, lambda rng, row: False, seed=seed)


@pytest.mark.parametrize("share", [0.3, 0.15])
@pytest.mark.parametrize(("change", "cause"), FAULTS)
def test_objects_of_any_image_are_counted(change, cause, share):
    (finding,) = found(change, lambda rng, row: rng.random() < share)
    assert (finding.cause, finding.severity, finding.where) == (cause, "warning", "val")


@pytest.mark.parametrize(("change", "cause"), FAULTS)
def test_objects_of_one_class_are_named(change, cause):
    task = TASKS[0]
    (finding,) = found(change, lambda rng, row: row.labels[task.name] == 1)
    assert finding.cause == cause and re.search(rf"(9\d|100)% of them {task.name} {task.classes[1]}", finding.evidence)


def test_outlines_that_lack_a_part_are_told_from_masks_that_do():
    records, rows = healthy(TASKS, images=100, scattered=True)
    rng = np.random.default_rng(0)
    cut = [
        replace(record, instances=tuple(upper_half(i) if rng.random() < 0.3 else i for i in record.instances))
        for record in records
    ]
    (finding,) = objects.check(split(cut, rows, TASKS), "train")
    assert finding.cause == "masks_scaled" and "outlines lack about the lower 50%" in finding.evidence


def upper_half(instance):
    x, y, width, height = map(int, instance.bbox)
    return box_instance((x, y, width, height // 2), instance.labels)
