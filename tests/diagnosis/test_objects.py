"""A fault of some objects, in any of the images, is reported with its share; a correct model gives no finding."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mtseg.core.tables import Image
from mtseg.diagnosis import objects
from tests.diagnosis.answers import healthy, jittered, split
from tests.diagnosis.test_masks import half_lost, moved, shifted
from tests.scenes import SIZE, box_instance, make_tasks, predict

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


def imprecise(rng):
    """A row of equal objects at random places; each predicted some pixels off."""
    boxes = [(x, int(rng.integers(5, 45)), 12, 12) for x in (4, 24, 44)]
    return boxes, [(x + rng.normal(0, 2), y + rng.normal(0, 2), w, h) for x, y, w, h in boxes]


def merged(rng):
    """Two objects that touch, of which a third of the predictions are one."""
    x, y = (int(value) for value in rng.integers(2, 30, 2))
    boxes = [(x, y, 12, 14), (x + 12, y, 12, 14)]
    return boxes, [(x, y, 24, 14)] if rng.random() < 0.3 else boxes


def in_parts(rng):
    """An object, of which a fifth are predicted as two."""
    x, y = (int(value) for value in rng.integers(2, 30, 2))
    return [(x, y, 24, 14)], [(x, y, 12, 14), (x + 12, y, 12, 14)] if rng.random() < 0.2 else [(x, y, 24, 14)]


def in_a_row(rng):
    """Equal objects at equal distances, of which a quarter are missed and a quarter have no annotation."""
    y = int(rng.integers(5, 45))
    boxes = [(x, y, 6, 12) for x in range(2, 58, 8)]
    return [box for box in boxes if rng.random() > 0.25], [box for box in boxes if rng.random() > 0.25]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [imprecise, merged, in_parts, in_a_row])
def test_errors_of_a_model_are_no_fault_of_some_objects(make, seed):
    task, rng, records, rows = TASKS[:1], np.random.default_rng(seed), [], []
    for number in range(1, 121):
        boxes, found = make(rng)
        labels = {task[0].name: int(rng.integers(2))}
        records.append(Image(number, f"{number}.jpg", SIZE, SIZE, tuple(box_instance(box, labels) for box in boxes)))
        for query, box in enumerate(found):
            low = np.clip(np.round(box[:2]).astype(int), 0, SIZE - 3)
            high = np.clip(np.round(np.add(box[:2], box[2:])).astype(int), low + 2, SIZE)
            own = box_instance((*low.tolist(), *(high - low).tolist()), labels)
            rows.append(jittered(predict(own, task, image_id=number, query=query), rng, float(rng.uniform(0.8, 1))))
    findings = objects.check(split(records, rows, task), "val")
    assert not [finding for finding in findings if " val objects " in finding.evidence]


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


def test_faults_of_whole_images_and_of_other_objects_are_both_reported():
    def turned_or_transposed(row):
        return (lambda mask: mask[::-1, ::-1]) if row.image_id % 7 == 0 else (lambda mask: mask.T)

    records, rows = healthy(TASKS, images=100, scattered=True)
    rng, changed = np.random.default_rng(0), []
    for row in rows:
        chosen = row.image_id % 7 == 0 or rng.random() < 0.3
        changed += moved([row], turned_or_transposed(row)) if chosen else [row]
    causes = {finding.cause for finding in objects.check(split(records, changed, TASKS), "val")}
    assert causes == {"images_turned", "masks_transposed"}
