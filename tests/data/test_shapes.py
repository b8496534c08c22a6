import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mtseg.core.params import Generate
from mtseg.data.shapes import FILLS, HUES, SHAPES, draw, generate, unseen

SMALL = Generate(train=12, val=4, size=64, max_objects=4, scale=1, unseen=0, alike=0, seed=0)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "shapes"
    generate(SMALL, folder, seed=0)
    return folder


def test_twice_the_same_bytes_and_another_seed_others(folder, tmp_path):
    for seed in (0, 1):
        generate(SMALL, tmp_path / str(seed), seed=seed)
    assert content(tmp_path / "0") == content(folder) != content(tmp_path / "1")


def test_more_images_leave_the_first_as_they_are(folder, tmp_path):
    generate(SMALL.model_copy(update={"train": 2, "val": 1}), tmp_path / "few", seed=0)
    everything = content(folder)
    assert all(everything[name] == value for name, value in content(tmp_path / "few").items())


def test_every_image_is_labelme_with_flat_labels(folder):
    assert len(list(folder.glob("train/*.jpg"))) == 12 and len(list(folder.glob("val/*.jpg"))) == 4
    for path in folder.glob("*/*.json"):
        raw = json.loads(path.read_bytes())
        with Image.open(path.parent / raw["imagePath"]) as image:
            assert image.size == (raw["imageWidth"], raw["imageHeight"]) and max(image.size) == 64
        for shape in raw["shapes"]:
            kind, colour, fill = shape["label"].split(",")
            assert kind in SHAPES and colour in HUES and fill in FILLS
            points = np.array(shape["points"])
            assert len(points) >= 3 and (points >= 0).all() and (points <= image.size).all()


def scenes(count, max_objects=6):
    for seed in range(count):
        image, shapes = draw(np.random.default_rng(seed), 128, max_objects)
        packed = [
            coco_mask.merge(coco_mask.frPyObjects([np.ravel(shape["points"]).tolist()], *image.shape[:2]))
            for shape in shapes
        ]
        yield image, shapes, packed


def test_visible_regions_do_not_overlap_and_parts_share_a_group():
    parts = {}
    for number, (_, shapes, packed) in enumerate(scenes(40)):
        if packed:
            shared = sum(coco_mask.area(packed)) - coco_mask.area(coco_mask.merge(packed))
            assert shared <= 0.02 * sum(coco_mask.area(packed))
        for shape in shapes:
            if shape["group_id"] is not None:
                parts.setdefault((number, shape["group_id"]), []).append(shape["label"])
    assert parts and all(len(labels) > 1 and len(set(labels)) == 1 for labels in parts.values())


def test_some_images_are_empty_most_are_not():
    counts = [len(draw(np.random.default_rng(seed), 32, 3)[1]) for seed in range(150)]
    assert 1 <= counts.count(0) <= 15


def test_the_scale_is_that_of_the_objects():
    def largest(scale):
        drawn = [shape for seed in range(8) for shape in draw(np.random.default_rng(seed), 128, 6, scale)[1]]
        return max(np.ptp(shape["points"], axis=0).max() for shape in drawn)

    assert 0.2 < largest(0.3) / largest(1) < 0.4


def test_objects_that_are_alike_are_copies_of_one():
    for seed in range(20):
        image, shapes = draw(np.random.default_rng(seed), 128, 6, 0.5, alike=1)
        assert len({shape["label"] for shape in shapes}) <= 1
        whole = [np.asarray(shape["points"]) for shape in shapes if shape["group_id"] is None]
        inside = [p for p in whole if (p > 1).all() and (p < np.array(image.shape[1::-1]) - 1).all()]
        sizes = [np.ptp(points, axis=0) for points in inside]
        lone = sizes and max(sizes, key=np.prod)  # not covered by others
        assert sum(np.allclose(size, lone, atol=1.5) for size in sizes) >= len(sizes) / 2
    drawn = [draw(np.random.default_rng(seed), 64, 6, 0.5, alike=0.5)[1] for seed in range(40)]
    several = [len({shape["label"] for shape in shapes}) > 1 for shapes in drawn if len(shapes) > 1]
    assert 0.25 < np.mean(several) < 0.75


def shown(folder):
    """The labels in train and in val."""
    texts = ([json.loads(path.read_bytes()) for path in folder.glob(f"{split}/*.json")] for split in ("train", "val"))
    return [{shape["label"] for raw in split for shape in raw["shapes"]} for split in texts]


def test_combinations_kept_from_train_are_in_val_as_before(folder, tmp_path):
    few = SMALL.model_copy(update={"train": 40, "val": 30, "size": 32, "max_objects": 3})
    for count in (0, 24):
        generate(few.model_copy(update={"unseen": count}), tmp_path / str(count), seed=0)
    kept = unseen(24, seed=0)
    train, val = shown(tmp_path / "24")
    assert not train & kept and val & kept and shown(tmp_path / "0")[0] & kept
    assert [{part for label in train for part in label.split(",")}] == [{*SHAPES, *HUES, *FILLS}]
    assert content(tmp_path / "24" / "val") == content(tmp_path / "0" / "val")


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_left_whatever_is_kept_from_train(seed):
    every = {f"{shape},{colour},{fill}" for shape in SHAPES for colour in HUES for fill in FILLS}
    before = frozenset()
    for count in range(37):
        drawn = unseen(count, seed=seed)
        assert len(drawn) == count and before <= drawn < every
        assert {part for label in every - drawn for part in label.split(",")} == {*SHAPES, *HUES, *FILLS}
        before = drawn
    assert unseen(12, seed=seed) != unseen(12, seed=seed + 1)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_the_colour_of_a_pixel_does_not_tell_object_from_background():
    """Guess from a pixel's coarse colour whether it is an object, learned on some images and tested on others."""
    counts = np.zeros((2, 2, 8, 8, 8))
    for number, (image, _, packed) in enumerate(scenes(90)):
        mask = coco_mask.decode(coco_mask.merge(packed)) if packed else np.zeros(image.shape[:2], np.uint8)
        np.add.at(counts[number % 2], (mask.ravel(), *(image.reshape(-1, 3) // 32).T), 1)
    (outside, inside), tried = counts
    for threshold in np.linspace(0.1, 0.9, 9):
        guess = inside > threshold * (inside + outside)
        assert tried[1][guess].sum() < 0.6 * (tried[1].sum() + tried[0][guess].sum())  # IoU
