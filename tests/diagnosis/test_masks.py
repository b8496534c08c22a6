"""Displaced masks are reported with their offset; a correct model gives no finding."""

import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.diagnosis import label_alignment, masks
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
    findings = masks.check(split(images, list(moved(predictions, change)), TASKS))[0]
    return [finding for finding in findings if finding.severity != "note"]


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


def half_lost(mask):
    rows = np.flatnonzero(mask.any(1))
    return np.where(np.arange(SIZE)[:, None] < rows[0] + (len(rows) + 1) // 2, mask, 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "cause", "words"),
    [
        (half_lost, "masks_scaled", "the lower 50% of their objects"),
        (lambda mask: mask[::-1, ::-1] | half_lost(mask[::-1])[::-1] | mask, "masks_mirrored", "turned by 180 degrees"),
        (lambda mask: mask | mask[:, ::-1], "masks_mirrored", "own mirror image as well, left to right"),
    ],
)
def test_masks_with_a_part_too_few_or_too_many(change, cause, words):
    (finding,) = found(change)
    assert (finding.cause, finding.severity) == (cause, "error") and words in finding.evidence


def test_masks_averaged_with_those_of_the_mirrored_image():
    """What is left of a mask is covered by its mirror image, so that most objects are lost."""
    (finding,) = found(lambda mask: mask & mask[:, ::-1], images=80)
    assert finding.cause == "masks_mirrored" and "left to right, covers them" in finding.evidence
    images, predictions = healthy(TASKS, images=80, scattered=True)
    few = split(images, [p for n, p in enumerate(predictions) if n % 10 == 0], TASKS)
    assert not masks.check(few)[0], "a model that finds little"


def test_masks_written_by_rows_and_read_by_columns_in_images_that_are_not_square():
    """Half of each mask is cut off with its image, so that pixels fall on other rows."""
    wide = (SIZE // 2, SIZE)

    def cut(rle, change=lambda mask: mask):
        packed = coco_mask.encode(np.asfortranarray(change(coco_mask.decode(rle)[: SIZE // 2])))
        return {"size": list(wide), "counts": packed["counts"].decode()}

    def within(record, **change):
        x, y, width, height = record.bbox if hasattr(record, "bbox") else record.box
        return y < SIZE // 2

    images, predictions = healthy(TASKS, scattered=True)
    records = []
    for image in images:
        own = tuple(
            replace(one, segmentation=(rle := cut(one.segmentation)), bbox=tuple(coco_mask.toBbox(rle)),
                    area=float(coco_mask.area(rle)))
            for one in image.instances if within(one)
        )  # fmt: skip
        records.append(replace(image, height=SIZE // 2, instances=own))
    rows = []
    for row in filter(within, predictions):
        rle = cut(row.segmentation, lambda mask: mask.reshape(-1).reshape(mask.shape, order="F"))
        box, area = tuple(coco_mask.toBbox(rle)), float(coco_mask.area(rle))
        rows.append(replace(row, segmentation=rle, box=box, area=area))
    first, *_ = masks.check(split(records, [row for row in rows if row.area], TASKS))[0]
    assert first.cause == "masks_transposed" and "written by rows and read by columns" in first.evidence


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


@pytest.mark.parametrize("at_once", [50_000, 10**7])
def test_the_scale_about_the_corner_of_crowded_images(at_once, monkeypatch):
    monkeypatch.setattr(masks, "AT_ONCE", at_once)
    rng, scale = np.random.default_rng(0), masks.SCALES[20]
    objects = np.column_stack([rng.uniform(0, 500, (40, 2)), rng.uniform(20, 60, (40, 2))])
    for axes in ((1, 1), (1, 0), (0, 1)):
        by = np.where(axes, scale, 1.0)
        best = SimpleNamespace(half=lambda half, by=by: [(objects[:30] * np.tile(by, 2), objects)] * 3)
        assert masks._corner_scale(best, 0) == pytest.approx(by)


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


def test_images_that_are_listed_in_another_order():
    images, predictions = healthy(TASKS, images=60, scattered=True)
    ids = [image.id for image in images]
    as_text = sorted(ids, key=str)
    other = [replace(p, image_id=as_text[ids.index(p.image_id)]) for p in predictions]
    first, *_ = masks.check(split(images, other, TASKS))[0]
    assert first.cause == "masks_of_other_image" and "no regular order" in first.evidence
    right = masks.elsewhere(split(images, predictions, TASKS))
    assert len(right.images) > 50 and abs(right.fit.sum() / right.by_chance.sum() - 1) < 0.15, "by chance"
    assert right.own.sum() > 1.2 * right.fit.sum()


def test_predictions_of_the_first_image_of_a_batch():
    images, predictions = healthy(TASKS, images=40, scattered=True)
    of = {image.id: [p for p in predictions if p.image_id == image.id] for image in images}
    first = [replace(p, image_id=image.id) for n, image in enumerate(images) for p in of[images[n - n % 4].id]]
    shared = split(images, first, TASKS)
    (finding,) = masks.shared(shared)
    assert (finding.cause, finding.severity) == ("masks_of_other_image", "error") and "40 of 40" in finding.evidence
    assert not label_alignment.check(shared)[0], "the labels are those of the masks"
    of_shape = [
        shifted(0, 0),
        lambda mask: mask * (np.arange(SIZE) < 44)[:, None],
        lambda mask: mask * (np.arange(SIZE) < 44),
    ]
    cut = split(images, [new for p in first for new in moved([p], of_shape[p.image_id % 3])], TASKS)
    assert masks.shared(cut) and not label_alignment.check(cut)[0], "images of other shapes cut the masks"
    copies = [replace(image, instances=images[n - n % 4].instances) for n, image in enumerate(images)]
    same = split(copies, first, TASKS)
    assert not masks.shared(same) and not label_alignment.check(same)[0], "copies of an image have its predictions"


def test_too_few_images_are_no_evidence():
    assert not found(shifted(4, 0), images=5)


@pytest.mark.parametrize("scattered", [False, True])
def test_detections_that_all_have_the_mask_of_the_first(scattered):
    images, rows = healthy(TASKS, scattered=scattered)
    assert not masks.repeated(split(images, rows, TASKS))
    first: dict = {}
    for row in rows:
        first.setdefault(row.image_id, row)
    place = ("box", "area", "segmentation")
    some = [
        replace(row, **{name: getattr(first[row.image_id], name) for name in place}) if row.image_id <= 20 else row
        for row in rows
    ]
    (finding,) = masks.repeated(split(images, some, TASKS))
    assert finding.cause == "labels_of_other_query" and finding.severity == "error"
    twice = rows + [replace(row, query=row.query + 100) for row in rows]
    assert not masks.repeated(split(images, twice, TASKS)), "duplicates have the same logits"


def test_masks_that_are_the_union_of_all_masks_of_their_image():
    images, rows = healthy(TASKS)
    union: dict = {}
    for row in rows:
        union[row.image_id] = union.get(row.image_id, 0) | coco_mask.decode(row.segmentation)
    (finding,) = masks.repeated(
        split(images, [next(moved([row], lambda mask, row=row: union[row.image_id])) for row in rows], TASKS)
    )
    assert finding.cause == "postprocessing_wrong" and "several objects" in finding.evidence


def in_thirds(rows, gap=0):
    """Each mask in three, the outer two further apart by a gap."""
    for row in rows:
        left, _, width, _ = map(int, row.box)
        third, half = width // 3, width // 2
        ends = [left + x for x in (0, third - gap, third, half, half + gap, width)]
        for part, (low, high) in enumerate(zip(ends[::2], ends[1::2], strict=True)):
            (own,) = moved([row], lambda mask, inside=range(low, high): mask * np.isin(np.arange(SIZE), inside))
            yield replace(own, query=row.query + 100 * part)


def test_masks_that_are_cut_at_seams():
    images, rows = healthy(TASKS)
    assert not masks.cut(split(images, rows, TASKS)) and not masks.cut(split(images, [], TASKS))
    thirds = list(in_thirds(rows))
    (finding,) = masks.cut(split(images, thirds, TASKS))
    assert (finding.cause, finding.severity) == ("duplicates", "error") and "parts of one mask" in finding.evidence
    halves = [row for row in thirds if row.query < 200]
    assert masks.cut(split(images, halves, TASKS))[0].cause == "duplicates"
    assert not masks.cut(split(images, list(in_thirds(rows, gap=2)), TASKS)), "parts that do not touch"
    few = [row for row in thirds if row.image_id < 5]
    assert not masks.cut(split(images, few, TASKS)), "three images with objects"
    rng = np.random.default_rng(0)
    own = [replace(row, logits={name: tuple(rng.normal(values, 0.01)) for name, values in row.logits.items()})
           for row in thirds]  # fmt: skip
    assert not masks.cut(split(images, own, TASKS)), "logits of their own"


def test_masks_of_which_no_pixel_belongs_to_two():
    """As if the masks of an image were drawn into one map. Here each object has two masks, of every other row."""
    images, rows = healthy(TASKS)
    rows = [row for row in rows if row.mask_quality > 0.5]
    twice = [replace(row, query=row.query + 100) for row in rows]
    halves = [moved(part, lambda mask, first=first: mask * (np.arange(SIZE) % 2 == first)[:, None])
              for first, part in enumerate((rows, twice))]  # fmt: skip
    (finding,) = masks.exclusive(split(images, [row for half in halves for row in half], TASKS))
    assert finding.cause == "postprocessing_wrong"
    assert not masks.exclusive(split(images, rows + twice, TASKS))
    assert not masks.exclusive(split(images, rows, TASKS)), "objects that lie apart show nothing"


def test_masks_of_many_predictions_of_an_image_are_compared_in_little_memory():
    images, rows = healthy(TASKS)
    some = split(images, [replace(rows[0], query=query) for query in range(1000)], TASKS)
    assert len(some.best) == 1000
    tracemalloc.start()
    assert not masks.exclusive(some)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6, "all pairs at once take 70 MB"
