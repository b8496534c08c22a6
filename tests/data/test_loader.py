"""The data mapper transforms images, masks and labels together, and batches are reproducible."""

from __future__ import annotations

import os
import signal

import detectron2.data.transforms as T
import numpy as np
import PIL.Image
import pytest
import torch
from pycocotools import mask as coco_mask

from mtseg.core.errors import UserError
from mtseg.core.masks import rle as packed
from mtseg.core.params import Task
from mtseg.core.tables import Image, Images, Instance
from mtseg.data import loader
from mtseg.data.images import square
from mtseg.data.loader import Mapper, prediction_batches, training_batches
from tests import tiny

SIDES = Task(
    name="side", classes=("left", "none", "right"), loss_weight=1, match_weight=1, background=True,
    class_weights=None, flip_pairs=(("left", "right"),),
)  # fmt: skip
MAIN = Task(
    name="part", classes=("box",), loss_weight=1, match_weight=1, background=True, class_weights=None, flip_pairs=()
)
TASKS = (MAIN, SIDES)
CLASSES = [(task.name, task.classes) for task in TASKS]
BOXES = ((10, 20, 30, 25), (60, 5, 20, 50))  # x, y, width, height: white on black


def scene(folder, height=70, width=100, rle=False, name="a.png", labels=(0, 2), number=1):
    """An image whose white pixels are exactly its instances."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    instances = []
    for i, (x, y, w, h) in enumerate(BOXES):
        pixels[y : y + h, x : x + w] = 255
        segmentation = [[float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]]
        if rle:
            segmentation = packed(segmentation, height, width)
        instances.append(Instance(segmentation, (x, y, w, h), w * h, {"part": 0, "side": labels[i]}, False, i + 1))
    PIL.Image.fromarray(pixels).save(folder / name)
    return Image(number, name, height, width, tuple(instances))


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize("scales", [(0.4, 0.5), (1.0, 1.0), (1.6, 2.0)])
def test_image_and_masks_move_together(tmp_path, rle, scales):
    image = scene(tmp_path, rle=rle)
    given = tiny.params(input={"size": 128, "min_scale": scales[0], "max_scale": scales[1]}).input
    mapper = Mapper(TASKS, given, root=tmp_path, training=True)
    for seed in range(8):
        example = mapper(image, seed)
        assert example["image"].shape == (3, 128, 128)
        union = example["instances"].gt_masks.tensor.any(0).numpy()
        white = example["image"][0].numpy() > 140  # the grey beside the image is 128
        overlap = (white & union).sum() / max((white | union).sum(), 1)
        assert overlap > 0.85, f"masks and image drifted apart (IoU {overlap:.2f}, seed {seed})"
        offset = np.argwhere(white).mean(0) - np.argwhere(union).mean(0)
        assert abs(offset).max() < 0.6, f"displaced by {offset} pixels"


def test_nothing_lies_in_the_padding(tmp_path):
    image = scene(tmp_path, rle=True)
    given = tiny.params(input={"size": 128, "min_scale": 0.4, "max_scale": 0.5, "flip": 0.0}).input
    example = Mapper(TASKS, given, root=tmp_path, training=True)(image)
    padding = (example["image"] == 128).all(0).numpy()
    assert padding.any()
    assert not (example["instances"].gt_masks.tensor.numpy() & padding).any()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_flip_swaps_left_and_right(tmp_path, flip):
    image = scene(tmp_path, labels=(0, 1))
    given = tiny.params(input={"size": 128, "min_scale": 1.0, "max_scale": 1.0, "flip": flip}).input
    example = Mapper(TASKS, given, root=tmp_path, training=True)(image)
    expected = ["right", "none"] if flip else ["left", "none"]
    assert [SIDES.classes[label] for label in example["instances"].gt_labels[:, 1]] == expected
    centre = np.argwhere(example["instances"].gt_masks.tensor[0].numpy()).mean(0)[1]
    assert (centre > 64) == bool(flip)


def test_missing_labels_and_crowds_are_not_trained_on(tmp_path):
    image = scene(tmp_path, labels=(None, 2))
    crowd = Instance(image.instances[0].segmentation, BOXES[0], 1.0, {"part": 0, "side": 0}, True)
    given = tiny.params(input={"size": 128, "min_scale": 1.0, "max_scale": 1.0, "flip": 0.0}).input
    example = Mapper(TASKS, given, root=tmp_path, training=True)(
        Image(1, image.file_name, image.height, image.width, (*image.instances, crowd))
    )
    assert example["instances"].gt_labels.tolist() == [[0, -1], [0, 2]]


def test_a_label_outside_its_task_names_image_and_annotation(tmp_path):
    given = tiny.params().input
    with pytest.raises(UserError, match=r"a\.png, annotation 2: label 3 of task 'side' is outside 0\.\.2"):
        Mapper(TASKS, given, root=tmp_path, training=True)(scene(tmp_path, labels=(0, 3)))


def test_prediction_sees_the_whole_image_padded_to_the_square(tmp_path):
    image = scene(tmp_path)
    example = Mapper(TASKS, tiny.params(input={"size": 64}).input, root=tmp_path, training=False)(image)
    assert example["image"].shape == (3, 64, 64)
    assert example["image_size"] == (45, 64)
    assert (example["height"], example["width"]) == (70, 100)
    assert "instances" not in example


@pytest.mark.parametrize("size", [(70, 100), (100, 70), (64, 64), (31, 64), (13, 200), (333, 257), (1, 900)])
def test_the_square_is_that_of_detectron2s_transforms(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    padded, (height, width) = square(pixels, 64)
    given = T.AugInput(pixels)
    steps = [T.ResizeShortestEdge(64, max_size=64), T.FixedSizeCrop((64, 64), pad_value=128.0)]
    if min(size) > 1:  # detectron2 would resize the shorter side to 0
        resized = T.AugmentationList(steps)(given).transforms[0]
        assert (height, width) == (resized.new_h, resized.new_w)
        assert np.array_equal(padded, given.image)
    assert padded.dtype == np.uint8 and padded.shape == (64, 64, 3) and max(height, width) == 64 and min(height, width)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("of", [list, lambda images: Images.from_records(images, CLASSES)])
def test_batches_are_a_function_of_seed_and_step_alone(tmp_path, workers, of):
    """The images may be records or a table."""
    images = of([scene(tmp_path, name=f"{i}.png", number=i) for i in range(5)])
    mapper = Mapper(TASKS, tiny.params().input, root=tmp_path, training=True)

    def drawn(start, seed=7, workers=0):
        batches = training_batches(images, mapper, batch=2, start=start, stop=6, seed=seed, workers=workers)
        return [[(e["file_name"], e["image"].sum().item()) for e in batch] for batch in batches]

    whole = drawn(0)
    assert drawn(3, workers=workers) == whole[3:]
    assert drawn(0, seed=8) != whole
    names = [name for batch in whole for name, _ in batch]
    assert sorted(names[:5]) == sorted(names[5:10]) == [f"{i}.png" for i in range(5)]
    assert names[:5] != names[5:10], "each epoch has its own order"
    assert len({pixels for batch in whole for _, pixels in batch}) > 10, "each draw has its own augmentation"


@pytest.mark.parametrize("batch", [2, 5])
def test_processes_share_each_batch_without_gaps(batch):
    options = {"batch": batch, "start": 3, "stop": 9, "seed": 7}
    whole = [*loader._Steps(5, part=(0, 1), **options)]
    shares = zip(*(loader._Steps(5, part=(number, 2), **options) for number in (0, 1)), strict=True)
    assert [one + other for one, other in shares] == whole and {len(keys) for keys in whole} == {batch}


def test_every_image_is_predicted_once_and_in_order(tmp_path):
    images = [scene(tmp_path, name=f"{i}.png") for i in range(5)]
    mapper = Mapper(TASKS, tiny.params().input, root=tmp_path, training=False)
    batches = list(prediction_batches(images, mapper, batch=2, workers=0))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [e["file_name"] for batch in batches for e in batch] == [image.file_name for image in images]


def test_a_drawn_polygon_covers_what_pycocotools_covers_even_when_it_leaves_the_square():
    """Points outside the square, as after a crop, must not change the part inside."""
    from detectron2.structures.masks import polygons_to_bitmask

    polygon = np.array([-30.0, -20.0, 90.0, 30.0, 20.0, 110.0])
    shifted = polygon + np.tile([40.0, 40.0], 3)
    whole = coco_mask.decode(coco_mask.frPyObjects([shifted.tolist()], 200, 200))[..., 0]
    assert (polygons_to_bitmask([polygon], 64, 64) == whole[40:104, 40:104]).mean() > 0.99


def test_a_broken_image_is_one_line_with_and_without_workers(tmp_path):
    image = scene(tmp_path)
    mapper = Mapper(TASKS, tiny.params().input, root=tmp_path, training=False)
    (tmp_path / "a.png").write_bytes(b"no image")
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"^[^\n]*a\.png: the image does not decode[^\n]*$"):
            next(prediction_batches([image], mapper, batch=1, workers=workers))


def test_images_are_loaded_by_processes_where_cuda_leaves_cores_to_them(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    for cuda, wanted in ((False, 0), (True, 6)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert (loader.processes("auto"), loader.processes(3)) == (wanted, 3)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader.processes("auto") == 1


def test_processes_that_load_images_leave_signals_as_they_were(tmp_path, monkeypatch):
    """PyTorch handles SIGCHLD by an error, which could arrive within a step of the training."""
    monkeypatch.setattr(torch.utils.data._utils.signal_handling, "_SIGCHLD_handler_set", False)
    mapper = Mapper(TASKS, tiny.params().input, root=tmp_path, training=False)
    batches = prediction_batches([scene(tmp_path)], mapper, batch=1, workers=1)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


@pytest.mark.parametrize("number", [0, 5])
def test_a_process_that_dies_names_the_images_it_had_in_hand(tmp_path, monkeypatch, number):
    """As the system ends one that takes too much memory."""
    images = Images.from_records([scene(tmp_path, name=f"{n}.png", number=n + 1) for n in range(8)], CLASSES)
    read = loader.read_image

    def dies_at(root, image):
        return os.kill(os.getpid(), signal.SIGKILL) if image.file_name == f"{number}.png" else read(root, image)

    monkeypatch.setattr(loader, "read_image", dies_at)
    polled = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(polled, "__defaults__", (0.1,))  # seconds after which it looks for ended processes, else 5
    mapper = Mapper(TASKS, tiny.params().input, root=tmp_path, training=False)
    with pytest.raises(UserError, match=rf"had to load .*{number}\.png.*: lower input.workers"):
        list(prediction_batches(images, mapper, batch=1, workers=2))
