"""Tiles cover the image, and their predictions become those of whole objects."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as coco_mask

from mtseg.core.errors import UserError
from mtseg.core.masks import mask
from mtseg.inference import sources
from mtseg.inference.postprocess import Detections
from mtseg.inference.predictor import Predictor
from mtseg.inference.tiling import tiles
from tests.scenes import FILTER, logits_of, make_tasks

TASKS = make_tasks(3)
SIZE = 64  # of the network's input


def colour(number):
    return np.array([number, 255 - number, 90], dtype=np.uint8)


class Perfect:
    """A network that reads objects off the pixels: number n has `colour(n)` and the labels `labels[n]`. It returns of
    each the part that it sees, the largest first."""

    def __init__(self, labels):
        self.labels, self.most = labels, 0

    def labels_of(self, number, part, size):
        """Of an object of which `part`, bool [h, w], is seen in an image of this size."""
        return self.labels[number]

    def detect(self, squares, content, sizes):
        return [self.one(s[:h, :w], size) for s, (h, w), size in zip(squares, content, sizes, strict=True)]

    def one(self, pixels, size):
        self.most = max(self.most, int(np.prod(size)))
        seen = {n: (pixels == colour(n)).all(axis=-1) for n in self.labels}
        seen = dict(sorted(((n, own) for n, own in seen.items() if own.any()), key=lambda item: -item[1].sum()))
        labels = np.array([self.labels_of(n, own, size) for n, own in seen.items()], dtype=int).reshape(-1, len(TASKS))
        full = [cv2.resize(own.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) for own in seen.values()]
        logits = {
            task.name: np.array([logits_of(task, row[t]) for row in labels]).reshape(-1, task.num_outputs)
            for t, task in enumerate(TASKS)
        }
        return Detections(
            query=np.arange(len(seen)), labels=labels, logits=logits, probabilities=None,
            mask_quality=np.array([0.5 + 0.4 * own.mean() for own in seen.values()]),
            masks=np.array(full, dtype=bool).reshape(-1, *size), mask=np.arange(len(seen)),
        )  # fmt: skip


def predictor(network, size=SIZE, **settings):
    own = SimpleNamespace(
        input=SimpleNamespace(size=size), filter=FILTER.model_copy(update=settings), ranking="product_quality",
        predicted_tasks=lambda: TASKS,
    )  # fmt: skip
    return Predictor(network, own)


def painted(numbers):
    """An image of object numbers, int [H, W], 0 for none."""
    pixels = np.zeros((*numbers.shape, 3), dtype=np.uint8)
    for n in np.unique(numbers)[1:]:
        pixels[numbers == n] = colour(n)
    return pixels


def labels_for(numbers, seed=0):
    rng = np.random.default_rng(seed)
    return {n: rng.integers([task.num_classes for task in TASKS]) for n in np.unique(numbers).tolist() if n}


def assert_true(result, numbers, labels):
    """Every object once, with its mask, box, area and labels."""
    assert len(result) == len(labels)
    assert np.array_equal(result.query, np.arange(len(result))) and (np.diff(result.score) <= 0).all()
    found = {}
    for i, rle in enumerate(result.rles()):
        own = mask(rle, *numbers.shape).astype(bool)
        assert len(here := np.unique(numbers[own])) == 1
        found[here.item()] = i
        assert np.array_equal(own, numbers == here)
        assert result.box[i].tolist() == coco_mask.toBbox(rle).tolist() and result.area[i] == own.sum()
        assert [result.labels[task.name][i] for task in TASKS] == list(labels[here.item()])
    assert {*found} == {*labels}
    for task in TASKS:
        chosen = result.labels[task.name][:, None]
        given = np.take_along_axis(result.probabilities[task.name], chosen, axis=1)[:, 0]
        assert np.array_equal(given, result.probability[task.name])
    main = result.probability[TASKS[0].name]
    assert np.array_equal(result.score, (main * result.mask_quality).round(5))


def scattered(height, width, largest, seed):
    """Discs, boxes and rings at random places, which touch now and then and do not overlap."""
    rng, numbers = np.random.default_rng(seed), np.zeros((height, width), dtype=int)
    for _ in range(400):
        n, canvas = numbers.max() + 1, np.zeros((height, width), dtype=np.uint8)
        centre, radius = (int(rng.integers(width)), int(rng.integers(height))), int(rng.integers(3, largest // 2))
        if n % 3 == 0:
            cv2.rectangle(canvas, centre, (centre[0] + radius, centre[1] + radius), 1, -1)
        else:
            cv2.circle(canvas, centre, radius, 1, -1 if n % 3 == 1 else max(2, radius // 3))
        if not numbers[canvas > 0].any() and n < 30:
            numbers[canvas > 0] = n
    return numbers


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.2, 0.5, 0.9])
def test_tiles_cover_every_pixel_and_share_the_overlap(overlap):
    rng = np.random.default_rng(0)
    for _ in range(100):
        (height, width), tile = rng.integers(1, 400, 2).tolist(), int(rng.integers(32, 200))
        count = np.zeros((height, width), dtype=int)
        found = tiles(height, width, tile, overlap)
        for left, top, right, bottom in found.tolist():
            count[top:bottom, left:right] += 1
            assert 0 <= left and right <= width and right - left == min(tile, width)
            assert 0 <= top and bottom <= height and bottom - top == min(tile, height)
        assert count.min() >= 1
        for first in (0, 1):
            starts = np.unique(found[:, first])
            assert (starts[:-1] + tile - starts[1:] >= int(tile * overlap)).all()
        assert len(found) == 1 or max(height, width) > tile


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("tile", "overlap", "batch"), [(64, 0.25, 8), (64, 0.5, 3), (48, 0.4, 1), (400, 0.2, 8)])
def test_every_object_is_found_once_with_its_true_mask(seed, tile, overlap, batch):
    numbers = scattered(230, 310, 40, seed)
    labels = labels_for(numbers)
    assert len(labels) > 15
    own = predictor(Perfect(labels), size=min(tile, 310))
    result = own.predict(painted(numbers), tile=tile, overlap=overlap, batch=batch)
    assert_true(result, numbers, labels)


def test_an_object_at_the_corner_of_four_tiles_that_none_shows_whole():
    numbers = np.zeros((112, 112), dtype=int)  # 64-pixel tiles at 0 and 48
    cv2.circle(canvas := numbers.astype(np.uint8), (56, 56), 25, 1, 9)
    numbers[:] = canvas
    assert_true(predictor(Perfect({1: (0, 1, 2)})).predict(painted(numbers), tile=64), numbers, {1: (0, 1, 2)})


def test_an_object_across_many_tiles_is_one():
    numbers = np.zeros((90, 500), dtype=int)
    numbers[20:70, 10:490] = 1
    numbers[30:60, 40:450] = 0  # a hole that several tiles see in part
    assert_true(predictor(Perfect({1: (2, 1, 0)})).predict(painted(numbers), tile=64), numbers, {1: (2, 1, 0)})


@pytest.mark.parametrize("second", [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)])
def test_objects_that_touch_stay_two_whatever_their_labels(second):
    numbers = np.zeros((64, 112), dtype=int)
    numbers[10:30, 20:90], numbers[30:50, 20:90] = 1, 2
    labels = {1: (0, 0, 0), 2: second}
    assert_true(predictor(Perfect(labels)).predict(painted(numbers), tile=64), numbers, labels)


def test_parts_that_differ_in_a_label_are_not_merged():
    numbers = np.zeros((64, 112), dtype=int)
    numbers[20:40, 10:100] = 1

    class Torn(Perfect):
        def labels_of(self, number, part, size):
            return (0, 0, 0) if part[30, -1] else (0, 0, 1)

        def one(self, pixels, size):
            return super().one(pixels if size == (64, 64) else 0 * pixels, size)

    result = predictor(Torn({1: (0, 0, 0)})).predict(painted(numbers), tile=64)
    assert sorted(result.area.tolist()) == [20 * 52, 20 * 54]


def test_what_is_cut_off_gives_way_to_the_whole_whatever_its_labels():
    numbers = np.zeros((64, 112), dtype=int)
    numbers[20:32, 50:70] = 1  # cut by the left tile, which ends at 64; whole in the right one, from 48
    labels = {1: (1, 1, 1)}

    class Misled(Perfect):
        def labels_of(self, number, part, size):
            return (1, 1, 1) if part.sum() == 240 else (0, 0, 0)

    for settings in ({}, {"nms": "none"}):
        own = predictor(Misled(labels), **settings)
        assert_true(own.predict(painted(numbers), tile=64, overlap=0.2), numbers, labels)


@pytest.mark.parametrize("agreeing", [True, False])
def test_an_object_larger_than_a_tile_is_found_in_the_whole_image(agreeing):
    numbers = np.zeros((256, 256), dtype=int)
    numbers[32:224, 32:224] = 1
    numbers[4:12, 4:12] = 2
    labels = {1: (1, 1, 1), 2: (2, 0, 0)}

    class Misled(Perfect):
        def labels_of(self, number, part, size):
            if number == 2 or size == (256, 256):
                return self.labels[number]
            return (0, 0, 0) if agreeing or part[0].any() else (2, 0, 0)

    for settings in ({}, {"nms": "none"}):
        result = predictor(Misled(labels), **settings).predict(painted(numbers), tile=64)
        assert_true_up_to_reduction(result, numbers, labels)


def assert_true_up_to_reduction(result, numbers, labels):
    assert len(result) == len(labels)
    for i, rle in enumerate(result.rles()):
        own = mask(rle, *numbers.shape).astype(bool)
        n = np.bincount(numbers[own]).argmax()
        assert (own & (numbers == n)).sum() / (own | (numbers == n)).sum() > 0.9
        assert [result.labels[task.name][i] for task in TASKS] == list(labels[n])


def test_an_image_smaller_than_the_tile_is_predicted_as_without_tiles():
    numbers = scattered(60, 50, 20, 0)
    labels = labels_for(numbers)
    own = predictor(Perfect(labels))
    one, other = (own.predict(painted(numbers), **given) for given in ({}, {"tile": 64}))
    for name in one.names:
        assert np.array_equal(one.column(name), other.column(name)), name


def test_images_without_objects_and_several_images():
    numbers = scattered(100, 150, 30, 1)
    labels = labels_for(numbers)
    own = predictor(Perfect(labels))
    empty = np.zeros((200, 90, 3), dtype=np.uint8)
    result = own.predict([empty, painted(numbers), empty], tile=64)
    assert result.images.id.tolist() == [1, 2, 3] and set(result.image_id) == {2} and len(result) == len(labels)
    assert {*own.predict(empty, tile=64).names} == {*result.names}


def test_memory_does_not_grow_with_the_image():
    side, labels = 9_000, {1: (0, 0, 0)}
    image = np.broadcast_to(np.zeros(3, dtype=np.uint8), (side, side, 3))

    class Virtual:
        """An image with one object, of which no more than asked for is there."""

        shape = image.shape

        def __getitem__(self, part):
            pixels = np.array(image[part])
            if isinstance(part, tuple):  # a slice beyond the tile is empty
                top, left = (place - own.start for place, own in zip((3000, 3800), part, strict=True))
                pixels[max(0, top) : max(0, top + 300), max(0, left) : max(0, left + 300)] = colour(1)
            return pixels

    source = sources.Source("virtual", Virtual)
    own = predictor(network := Perfect(labels), size=128)
    tracemalloc.start()
    result = own.predict(source, tile=1000, batch=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(result) == 1 and result.height.tolist() == [side] and network.most <= 1024 * 1024
    assert peak < 60e6, "a mask of the whole image has 81 million pixels"


@pytest.mark.parametrize("tile", [0, 31, -64, 64.0, "64", True])
def test_a_bad_tile_is_the_users_mistake(tile):
    with pytest.raises(UserError, match="tile: .* at least 32"):
        predictor(Perfect({})).predict(np.zeros((10, 10, 3), dtype=np.uint8), tile=tile)


@pytest.mark.parametrize("overlap", [-0.1, 0.95, 1, "0.2", float("nan"), True])
def test_a_bad_overlap_is_the_users_mistake(overlap):
    with pytest.raises(UserError, match=r"overlap: .* from 0 to 0.9"):
        predictor(Perfect({})).predict(np.zeros((10, 10, 3), dtype=np.uint8), tile=64, overlap=overlap)


def test_a_file_above_pillows_limit_is_read_and_one_above_ours_is_refused(tmp_path, monkeypatch):
    numbers = scattered(130, 200, 30, 2)
    labels = labels_for(numbers)
    PIL.Image.fromarray(painted(numbers)).save(tmp_path / "large.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 5000)  # Pillow refuses twice as many
    own = predictor(Perfect(labels))
    for tile in (None, 64):
        found = own.predict(tmp_path, tile=tile)
        assert PIL.Image.MAX_IMAGE_PIXELS == 5000
    assert_true(found, numbers, labels)
    monkeypatch.setattr(sources, "MOST_PIXELS", 25_000)
    for tile in (None, 64):
        with pytest.raises(UserError, match=r"large.png: .* 200 x 130 pixels, and at most 25000"):
            own.predict(tmp_path, tile=tile)


def test_a_file_as_large_as_the_networks_input_is_cut_into_tiles(tmp_path):
    pixels = painted(numbers := scattered(96, 128, 20, 2))
    PIL.Image.fromarray(pixels).save(tmp_path / "small.png")
    own = predictor(Perfect(labels_for(numbers)), size=128)
    assert [*own.predict(tmp_path, tile=64).rle] == [*own.predict(pixels, tile=64).rle] != []
