"""Tiles that overlap an image of another split are found; other images of one kind are not."""

import cv2
import numpy as np
import pytest

from mtseg.checks import tiles


def scenes(count: int, rng: np.random.Generator, *, common: np.ndarray | None = None) -> list[np.ndarray]:
    """Grey images of 48 x 64 pixels. common: a scene that all of them have in part."""
    found = [cv2.resize(rng.integers(0, 256, (9, 12)).astype(np.float32), (64, 48)).clip(0, 255) for _ in range(count)]
    return [(one if common is None else 0.3 * one + 0.7 * common).astype(np.uint8) for one in found]


@pytest.mark.parametrize("camera", [False, True])
def test_parts_of_other_images_are_found(camera):
    rng = np.random.default_rng(0)
    common = scenes(1, rng)[0] if camera else None
    train, val = scenes(60, rng, common=common), scenes(20, rng, common=common)
    assert not tiles.overlapping(train, val)
    val[3] = train[7][:, 16:]  # a tile of an image
    val[5] = np.hstack([train[9][:, 32:], scenes(1, rng, common=common)[0][:, :32]])  # its left half is in another one
    assert tiles.overlapping(train, val) == {3: 7, 5: 9}


def test_images_that_show_nothing_or_are_too_small_are_not_compared():
    flat, small = [np.full((48, 64), 114, np.uint8)] * 5, [np.full((8, 8), 0, np.uint8)] * 5
    assert not tiles.overlapping(flat, flat) and not tiles.overlapping(small, flat)
    assert not tiles.overlapping([], flat) and not tiles.overlapping(flat, [])
    some = scenes(3, np.random.default_rng(0))
    narrow = [one[:16] for one in some]
    for others in (small, narrow):
        assert not tiles.overlapping(some, others) and not tiles.overlapping(others, some)


def test_upright_and_wide_images_are_compared_together():
    rng = np.random.default_rng(0)
    train = [*scenes(20, rng), *(one.T for one in scenes(20, rng))]
    val = [*scenes(5, rng), train[30][16:]]
    assert tiles.overlapping(train, val) == {5: 30}


def test_images_before_one_of_several_backdrops_do_not_overlap():
    """Their corners are the same, what stands in the middle is not."""
    rng = np.random.default_rng(0)
    backdrops = scenes(10, rng)

    def shots(count):
        for one in scenes(count, rng):
            shot = backdrops[rng.integers(len(backdrops))].copy()
            shot[10:38, 24:40] = one[10:38, 24:40]
            yield shot

    assert not tiles.overlapping([*shots(60)], [*shots(20)])
