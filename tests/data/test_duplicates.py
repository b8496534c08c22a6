import tracemalloc

import numpy as np
from PIL import Image

from mtseg.data.duplicates import SIDE, groups, thumbnail


def images(count, size=60):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((size, size))


def test_copies_other_sizes_and_brightness_are_alike_and_others_are_not():
    thumbnails = []
    for image in images(6):
        darker = image.point(lambda value: value * 0.7)
        thumbnails += [thumbnail(copy) for copy in (image, image.copy(), image.resize((43, 43)), darker)]
    assert groups(np.stack(thumbnails)).tolist() == [number for number in range(6) for _ in range(4)]


def test_chains_are_one_group():
    a, b = (thumbnail(image).astype(float) for image in images(2))
    chain = np.stack([a + (b - a) * share for share in np.linspace(0, 1, 12)]).round().astype(np.uint8)
    assert groups(chain[[0, -1]]).tolist() == [0, 1]
    assert set(groups(chain).tolist()) == {0}


def test_empty_images_are_not_taken_for_copies():
    rng = np.random.default_rng(0)
    flat = rng.integers(254, 256, (5, SIDE * SIDE), dtype=np.uint8)
    assert len(set(groups(flat).tolist())) == 5


def test_images_of_a_fixed_camera_fit_into_memory():
    still = np.random.default_rng(0).integers(0, 256, SIDE * SIDE, dtype=np.uint8)
    alike = np.tile(still, (4000, 1))
    tracemalloc.start()
    assert set(groups(alike).tolist()) == {0}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000**2 / 2 * 16  # bytes of all pairs


def test_pairs_are_found_across_blocks():
    rng = np.random.default_rng(0)
    many = rng.integers(0, 256, (2100, SIDE * SIDE), dtype=np.uint8)
    many[2099] = many[3]
    found = groups(many)
    assert found[2099] == found[3] and len(set(found.tolist())) == 2099
