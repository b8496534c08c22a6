"""How exact masks can be at the network's resolution."""

import math
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.checks import resolution
from mtseg.checks.cost import Cost
from mtseg.core import masks
from mtseg.core.tables import Image, Instance
from mtseg.diagnosis.ranking import joint_ap
from tests import tiny
from tests.scenes import evaluation, images_of, make_tasks, predict

TASKS = make_tasks(1)
SIDE = 640


def discs(radius, count=12):
    """Images of one disc each, as polygons."""
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    found = []
    for number in range(1, count + 1):
        x, y = 200 + 17.3 * number, 310 + 5.7 * number
        outline = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).ravel().tolist()
        rle = masks.rle([outline], SIDE, SIDE)
        box, labels = (x - radius, y - radius, 2 * radius, 2 * radius), {TASKS[0].name: number % TASKS[0].num_classes}
        found.append(Image(number, f"{number}.png", SIDE, SIDE, (Instance(rle, box, masks.areas([rle])[0], labels),)))
    return images_of(found, TASKS)


def test_small_objects_need_a_larger_input_and_large_ones_do_not():
    small, large = (resolution.ceilings(discs(radius), TASKS[0], 160) for radius in (20, 90))
    assert list(small) == [64, 128, 160, 256, 320, 480]
    assert small[128] < 60 < 90 < max(small.values()), small
    assert min(large.values()) > 90, large
    assert list(small.values()) == sorted(small.values())


def test_the_ceiling_is_the_ap_that_the_evaluator_gives():
    images, size, rows = discs(20, 24), 160, []
    for image in images:
        (own,) = image.instances
        true = masks.mask(own.segmentation, SIDE, SIDE)
        found = resolution.representable(true, size)
        overlap = (true.astype(bool) & found).sum() / (true.astype(bool) | found).sum()
        rle = coco_mask.encode(np.asfortranarray(found.astype(np.uint8)))
        row = predict(own, TASKS, image_id=image.id, quality=float(overlap))
        rows.append(replace(row, segmentation=rle, box=tuple(coco_mask.toBbox(rle)), area=float(found.sum())))
    known = joint_ap(evaluation(images, rows, TASKS))
    assert resolution.ceilings(images, TASKS[0], size)[size] == pytest.approx(known, abs=0.1)


def test_a_warning_names_the_size_only_where_a_larger_one_helps():
    given = tiny.params(input={"size": 160}).input
    small, large, none = (resolution.ceilings(images, TASKS[0], 160) for images in (discs(20), discs(90), discs(9, 0)))
    (found,) = resolution.check(small, input=given)
    assert (found.cause, found.severity) == ("resolution_too_low", "warning") and "160" in found.evidence
    assert not [*resolution.check(large, input=given), *resolution.check(none, input=given)]


@pytest.mark.parametrize(
    ("found", "warned"),
    [
        ({224: 62.0, 320: 87.0, 448: 94.0}, True),  # the next size pays
        ({224: 50.0, 320: 55.0, 448: 75.0}, True),  # twice the size pays
        ({224: 79.0, 352: 92.0, 448: 96.0}, False),
        ({224: 60.0, 320: 66.0, 448: 70.0}, False),  # low, and no size of the table changes it much
    ],
)
def test_a_larger_size_must_pay(found, warned):
    given = tiny.params(input={"size": 224}).input
    assert bool([*resolution.check(found, input=given)]) == warned


def test_the_table_has_the_cost_of_each_size_beside_the_present_one():
    costs = {128: Cost(3e9, 1e9), 224: Cost(6e9, 2.04e9), 448: Cost(21e9, 6e9)}
    found = {128: 62.0, 224: 80.0, 448: 94.25}
    _, _, *rows = resolution.lines(found, costs, 224)
    assert [row.split() for row in rows] == [
        ["128", "62.0", "0.50", "times", "1.00", "GB"],
        ["224", "80.0", "1.00", "times", "2.04", "GB"],
        ["448", "94.2", "3.50", "times", "6.00", "GB"],
    ]
    assert [row.split() for row in resolution.lines(found, {}, 224)[2:]] == [[*row.split()[:2]] for row in rows]
    assert not resolution.lines({}, {}, 224)


@pytest.mark.parametrize("size", [128, 640, 1280])
def test_a_mask_of_straight_edges_on_the_grid_is_kept_without_a_shift(size):
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[160:480, 80:400] = 1
    kept = resolution.representable(mask, size)
    rows, columns = np.nonzero(kept)
    assert abs(rows.mean() - 319.5) < 0.1 and abs(columns.mean() - 239.5) < 0.1
    assert resolution._iou(mask, kept) > 0.98


def test_ideal_ap_is_that_of_the_share_of_exact_masks():
    true = np.array([0, 0, 1, 1])
    assert resolution.ideal(np.ones(4), true) == pytest.approx(100)
    assert resolution.ideal(np.zeros(4), true) == 0
    assert resolution.ideal(np.array([0.76, 0.76, 0.76, 0.76]), true) == pytest.approx(60)
