"""Displaced masks are reported with their offset; a correct model gives no finding."""

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.diagnosis import masks
from tests.diagnosis.answers import healthy, split
from tests.scenes import SIZE, make_tasks

TASKS = make_tasks(3)


def moved(predictions, change):
    """The predictions with `change(mask [H, W])` applied, without empty masks."""
    for prediction in predictions:
        mask = np.asfortranarray(change(coco_mask.decode(prediction.segmentation)))
        packed = coco_mask.encode(mask)
        if mask.any():
            yield replace(
                prediction,
                segmentation={"size": [SIZE, SIZE], "counts": packed["counts"].decode()},
                box=tuple(coco_mask.toBbox(packed)),
                area=float(coco_mask.area(packed)),
            )


def shifted(dx, dy):
    def change(mask):
        target = np.zeros_like(mask)
        target[max(dy, 0) : SIZE + min(dy, 0), max(dx, 0) : SIZE + min(dx, 0)] = mask[
            max(-dy, 0) : SIZE + min(-dy, 0), max(-dx, 0) : SIZE + min(-dx, 0)
        ]
        return target

    return change


def found(change, images=40):
    images, predictions = healthy(TASKS, images=images, scattered=True)
    return masks.check(split(images, list(moved(predictions, change)), TASKS))[0]


def test_a_correct_model_gives_no_finding():
    findings, numbers = masks.check(split(*healthy(TASKS), TASKS))
    assert not findings
    assert abs(numbers["dx"]) < 0.3 and abs(numbers["dy"]) < 0.3 and numbers["scale"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("dx", "dy", "words"), [(4, 0, "4.0 px to the right"), (-3, 5, "5.0 px below")])
def test_the_shift_of_the_masks_is_measured(dx, dy, words):
    (finding,) = found(shifted(dx, dy))
    assert finding.cause == "masks_displaced" and words in finding.evidence


def test_the_offset_is_that_of_most_masks_to_a_tenth_of_a_pixel():
    """A tenth of the masks lies far off, which would move a mean by 0.6 pixels."""
    images, predictions = healthy(TASKS, images=40, scattered=True)
    few = predictions[::10]
    rest = [prediction for number, prediction in enumerate(predictions) if number % 10]
    given = [*moved(rest, shifted(1, 0)), *moved(few, shifted(7, 0))]
    numbers = masks.offsets(split(images, given, TASKS))
    assert abs(numbers["dx"] - 1) < 0.1 and abs(numbers["dy"]) < 0.1
    assert numbers["dx_low"] <= numbers["dx"] <= numbers["dx_high"] < 1.5


def test_a_shift_by_more_than_an_object_is_measured():
    (finding,) = found(shifted(26, 0))
    assert (finding.cause, finding.severity) == ("masks_displaced", "error")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda mask: mask[:, ::-1], "masks_mirrored"),
        (lambda mask: mask[::-1], "masks_mirrored"),
        (lambda mask: np.pad(mask[::2, ::2], ((0, SIZE // 2), (0, SIZE // 2))), "masks_displaced"),
    ],
)
def test_other_frames_have_their_names(change, cause):
    (finding,) = found(change)
    assert finding.cause == cause


def test_masks_that_are_too_large_have_theirs():
    def grown(mask):
        return np.max([np.roll(mask, (y, x), (0, 1)) for y in (-2, 0, 2) for x in (-2, 0, 2)], axis=0)

    (finding,) = found(grown)
    assert finding.cause == "masks_scaled"


@pytest.mark.parametrize("by", [0.7, 1.0, 1.35])
def test_masks_of_another_size_that_nothing_undoes(by, monkeypatch):
    """If no hypothesis is accepted, the size ratio of matched masks is still reported."""
    monkeypatch.setattr(masks, "FIT", 2.0)
    images, predictions = healthy(TASKS, scattered=True)
    other = []
    for p in predictions:
        x, y, width, height = p.box
        size = np.round((by * width, by * height))
        box = (x + (width - size[0]) / 2, y + (height - size[1]) / 2, *size)
        other.append(replace(p, box=tuple(map(float, box))))
    assert [f.cause for f in masks.check(split(images, other, TASKS))[0]] == ["masks_scaled"] * (by != 1)


def test_boxes_that_are_corners():
    images, predictions = healthy(TASKS, scattered=True)
    assert not masks.boxes(split(images, predictions, TASKS))
    corners = [replace(p, box=(*p.box[:2], p.box[0] + p.box[2], p.box[1] + p.box[3])) for p in predictions]
    assert [f.cause for f in masks.boxes(split(images, corners, TASKS))] == ["boxes_not_of_masks"]
    assert not masks.boxes(split(images, [], TASKS))


def test_masks_of_the_next_image():
    images, predictions = healthy(TASKS, scattered=True)
    assert not masks.check(split(images, predictions, TASKS))[0]
    other = [replace(p, image_id=p.image_id % len(images) + 1) for p in predictions]
    assert [f.cause for f in masks.check(split(images, other, TASKS))[0]] == ["masks_of_other_image"]


def test_too_few_images_are_no_evidence():
    assert not found(shifted(4, 0), images=5)
