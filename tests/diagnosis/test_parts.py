"""A fault of a part of the images is reported with its share and the images; a correct model gives no finding."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mtseg.diagnosis import parts, simulated
from tests.diagnosis.answers import healthy, split
from tests.diagnosis.test_masks import half_lost, moved, shifted
from tests.scenes import SIZE, make_tasks

TASKS = make_tasks(3)


def found(change, share, images=60, seed=0):
    """The findings if the masks of that share of the images, evenly spread, are changed."""
    records, rows = healthy(TASKS, images=images, scattered=True, seed=seed)
    ids = [record.id for record in records]
    chosen = {ids[i] for i in np.linspace(0, images - 1, round(share * images)).astype(int)}
    own = [row for row in rows if row.image_id not in chosen]
    others = list(moved([row for row in rows if row.image_id in chosen], change))
    return parts.check(split(records, [*own, *others], TASKS), "val")


def of(finding):
    return int(re.match(r"(\d+) of", finding.evidence).group(1))


@pytest.mark.parametrize("seed", range(3))
def test_a_correct_model_gives_no_finding(seed):
    assert not found(lambda mask: mask, 0.2, seed=seed)


@pytest.mark.parametrize(
    ("change", "cause", "least"),
    [
        (lambda mask: mask[::-1, ::-1], "images_turned", 0.8),
        (lambda mask: np.rot90(mask), "images_turned", 0.8),
        (lambda mask: mask[:, ::-1], "masks_mirrored", 0.5),
        (lambda mask: mask.T, "masks_transposed", 0.7),
        (lambda mask: np.pad(mask[::2, ::2], ((0, SIZE // 2), (0, SIZE // 2))), "masks_displaced", 0.5),
    ],
)
@pytest.mark.parametrize("share", [0.15, 0.05])
def test_turned_images_are_counted_and_named(change, cause, least, share):
    images = 200 if share < 0.1 else 100
    (finding,) = found(change, share, images=images)
    assert finding.cause == cause and finding.severity == "warning" and finding.where == "val"
    assert least * share * images <= of(finding) <= share * images
    assert "%" in finding.evidence and ".jpg" in finding.evidence


@pytest.mark.parametrize(
    ("change", "cause"), [(half_lost, "masks_scaled"), (lambda mask: mask | mask[:, ::-1], "masks_mirrored")]
)
def test_masks_with_a_part_too_few_or_too_many_are_counted(change, cause):
    (finding,) = found(change, 0.2)
    assert finding.cause == cause and 8 <= of(finding) <= 13 and finding.where == "val"


@pytest.mark.parametrize(
    ("change", "cause"),
    [(lambda mask: mask[::-1, ::-1], "images_turned"), (shifted(6, 6), "masks_displaced")],
)
def test_three_images_of_sixty_are_found(change, cause):
    (finding,) = found(change, 0.05)
    assert finding.cause == cause and 2 <= of(finding) <= 3


def test_a_shift_of_a_part_is_measured():
    (finding,) = found(shifted(5, 4), 0.3)
    assert finding.cause == "masks_displaced" and 12 <= of(finding) <= 18
    x, y = map(float, re.search(r"\(([-+.\d]+), ([-+.\d]+)\) px", finding.evidence).groups())
    assert (x, y) == pytest.approx((5, 4), abs=2)


def test_masks_that_lie_beside_their_objects_in_any_direction_are_found():
    rng = np.random.default_rng(1)

    def beside(mask):
        angle, (y, x) = rng.uniform(0, 2 * np.pi), np.nonzero(mask)
        step = np.ceil(0.7 * max(np.ptp(y), np.ptp(x)) * np.array([np.sin(angle), np.cos(angle)])).astype(int)
        return np.roll(mask, step, (0, 1))

    (finding,) = found(beside, 0.2)
    assert finding.cause == "masks_displaced" and 6 <= of(finding) <= 12


def test_exchanged_images_are_found():
    records, rows = healthy(TASKS, images=100, scattered=True)
    ids = [record.id for record in records]
    other = {ids[i + k]: ids[i + 1 - k] for i in range(0, 24, 4) for k in (0, 1)}
    rows = [replace(row, image_id=other.get(row.image_id, row.image_id)) for row in rows]
    (finding,) = parts.check(split(records, rows, TASKS), "train")
    assert finding.cause == "masks_of_other_image" and 8 <= of(finding) <= 12 and finding.where == "train"


def test_objects_kept_from_the_image_before_are_found():
    records, rows = healthy(TASKS, images=100, scattered=True)
    kept = [
        replace(record, instances=record.instances + records[i - 1].instances) if i % 4 == 1 else record
        for i, record in enumerate(records)
    ]
    (finding,) = parts.check(split(kept, rows, TASKS), "val")
    assert finding.cause == "masks_of_other_image" and "image 1 before" in finding.evidence
    assert 10 <= of(finding) <= 25


def test_of_large_images_fewer_masks_are_decoded_at_once(monkeypatch):
    images, rows = healthy(TASKS, images=10)
    whole = simulated.fits(split(images, rows, TASKS))
    monkeypatch.setattr(simulated, "PIXELS", 2 * images[0].height * images[0].width)
    some = simulated.fits(split(images, rows, TASKS))
    assert whole.sums().max() > 2 and some.sums().max() <= 2 and len(some.images)
