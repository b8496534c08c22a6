from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeTransform, TransformList

from ablations import mask_targets
from mtseg.core.tables import Image, Instance
from mtseg.data import loader
from mtseg.data.loader import Mapper
from tests import tiny
from tests.data.test_loader import TASKS, scene

TARGETS = ("hard", "half", "coverage")
HALVED = TransformList([ResizeTransform(40, 60, 20, 30)])
IMAGE = Image(1, "a.png", 40, 60, ())


def moved(kind, box, image=IMAGE, by=HALVED):
    x, y, width, height = box
    outline = [[float(v) for v in (x, y, x + width, y, x + width, y + height, x, y + height)]]
    return mask_targets.target(kind)(outline, image, by, (20, 30))


@pytest.mark.parametrize("kind", TARGETS)
def test_a_target_has_the_size_and_place_of_its_object(kind):
    drawn = moved(kind, (8, 6, 20, 12)).astype(float)
    assert drawn.sum() == pytest.approx(10 * 6, abs=0.5)
    assert (np.argwhere(drawn >= 0.5).mean(0) + 0.5).tolist() == pytest.approx([6, 9])


def test_coverage_is_fractional_on_the_border_only():
    drawn = moved("coverage", (7, 5, 20, 12))
    assert drawn[4:7, 5:12].min() == 1 and drawn[:2].max() == 0  # inside, outside
    assert 0.2 < drawn[5, 3] < 0.8
    assert drawn.sum() == pytest.approx(10 * 6, abs=0.5)
    assert np.array_equal(moved("half", (7, 5, 20, 12)), drawn >= 0.5)


@pytest.mark.parametrize("kind", ("half", "coverage"))
def test_an_object_that_fills_no_half_of_a_pixel_is_left_out(kind):
    assert not moved(kind, (9, 9, 1, 1)).any()


@pytest.mark.parametrize("kind", TARGETS)
def test_the_losses_get_the_target(kind, tmp_path, monkeypatch):
    for name in ("_moved_mask", "BitMasks"):
        monkeypatch.setattr(loader, name, getattr(loader, name))  # restored at the end
    mask_targets.use(kind)
    given = tiny.params(input={"size": 64, "min_scale": 0.7, "max_scale": 0.7, "flip": 1.0}).input
    example = Mapper(TASKS, given, root=tmp_path, training=True)(scene(tmp_path))
    masks = example["instances"].gt_masks.tensor
    assert len(masks) == 2 and ((masks > 0) & (masks < 1)).any() == (kind == "coverage")
    white = example["image"][0].numpy() > 192  # half covered
    assert (white == (masks.float() >= 0.5).any(0).numpy()).mean() > 0.98
    assert masks.dtype == (torch.float32 if kind == "coverage" else torch.bool)


def test_offsets_and_overlaps_are_measured_on_ground_truth(tmp_path):
    found = list(mask_targets.ground_truth("boxes", [scene(tmp_path)]))
    at_half = {row["target"]: row for row in found if row["factor"] == "0.5"}
    assert [float(found[0][axis]) for axis in ("dx", "dy")] == [0, 0]  # boxes along pixels are drawn exactly
    assert float(at_half["coverage"]["IoU"]) > float(at_half["hard"]["IoU"]) > 0.85
    assert abs(float(at_half["coverage"]["dx"])) < 0.01 and at_half["hard"]["objects"] == "2"
    assert {float(row["IoU"]) for row in found if row["factor"] == "1.0" and row["IoU"]} == {1.0}


def test_masks_of_outlines_traced_through_pixels_are_smaller():
    square = Instance([[8.0, 6.0, 20.0, 6.0, 20.0, 16.0, 8.0, 16.0]], (8, 6, 12, 10), 120.0, {})
    ((_, outline, whole),) = mask_targets.outlines([replace(IMAGE, instances=(square,))], traced=True)
    assert np.reshape(outline, (-1, 2)).max(0).tolist() == [19, 15] and whole.sum() == 11 * 9


def test_differences_are_paired_by_seed():
    scores = {("hard", 0): 40.0, ("hard", 1): 50.0, ("half", 0): 41.0, ("half", 1): 51.0, ("coverage", 1): 53.0}
    rows = [
        {"objects": "1.0", "target": target, "seed": str(seed), "AP": str(ap), "AP75": str(ap), "joint AP": str(ap)}
        for (target, seed), ap in scores.items()
    ]
    text = mask_targets.differences("embedded", rows)
    assert "| 1.0 | half | +1.0 ± 0.0 |" in text and "| 1.0 | coverage | +3.0 |" in text
