"""Overlays show every object with all its labels, legibly (F15)."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageDraw

from mtseg.core.tables import Image
from mtseg.report import draw
from tests.scenes import SIZE, box_instance, make_tasks, predict, scene

GREY = np.full((SIZE, SIZE, 3), 128, dtype=np.uint8)
TASKS = pytest.mark.parametrize("count", [1, 3, 4])


@pytest.fixture
def written(monkeypatch):
    """The labels that get drawn: (text, left, top, right, bottom)."""
    texts, original = [], ImageDraw.ImageDraw.multiline_text

    def note(self, xy, text, **options):
        shift = self.multiline_textbbox(xy, text, font=options["font"], spacing=options["spacing"])
        texts.append((text, *shift))
        return original(self, xy, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "multiline_text", note)
    return texts


@TASKS
def test_f15_every_label_of_every_object_is_written(written, count):
    tasks = make_tasks(count)
    image = scene(tasks)[1]
    overlays = draw.found(image, [predict(i, tasks, quality=0.5) for i in image.instances], tasks)
    draw.compare(GREY, {"ground truth": draw.truth(image, tasks), "predicted": overlays}, size=256)
    assert len(written) == 2 * len(image.instances)
    words = [set(text.replace(",", " ").split()) for text, *_ in written]
    for instance in image.instances:
        names = {task.classes[instance.labels[task.name]] for task in tasks}
        assert names in words and names | {"50", "%"} in words


def test_f15_no_label_and_crowds_are_told_apart(written):
    tasks = make_tasks(3)
    labels = {"shape": 0, "colour": None, "fill": 1}
    instances = (box_instance((2, 2, 20, 20), labels), box_instance((34, 34, 20, 20), labels, crowd=True))
    draw.compare(GREY, {"": draw.truth(Image(1, "a.jpg", SIZE, SIZE, instances), tasks)}, size=256)
    assert {text for text, *_ in written} == {"circle\n–, dotted", "circle crowd\n–, dotted"}


@pytest.mark.parametrize("size", [128, 256, 400])
def test_f15_labels_stay_in_the_frame_and_off_each_other(written, size):
    """Eight objects crowded into a corner, and one label longer than a line."""
    tasks = make_tasks(4)
    long = tasks[0].model_copy(update={"classes": ("a class with quite a long name", "square", "star")})
    tasks = (long, *tasks[1:])
    labels = {task.name: 0 for task in tasks}
    boxes = [(3 * i, 40 + 2 * i, 9, 9) for i in range(8)]
    image = Image(
        1, "a.jpg", SIZE, SIZE, tuple(box_instance(box, labels | {"shape": i % 3}) for i, box in enumerate(boxes))
    )
    draw.compare(GREY, {"ground truth": draw.truth(image, tasks)}, size=size)
    assert len(written) == 8
    for number, (_, left, top, right, bottom) in enumerate(written):
        assert left >= 0 and top >= 0 and right <= size and bottom <= size
        for _, x0, y0, x1, y1 in written[:number] if size > 128 else ():
            assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top


def test_columns_are_panels_of_the_asked_size_whatever_the_picture_is():
    tasks = make_tasks(1)
    for height, width in ((SIZE, SIZE), (300, 900), (900, 300), (7, 5)):
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        sheet = draw.compare(pixels, {"a": [], "b": [], "c": []}, size=256)
        panel = (sheet.width - 2 * draw.GAP) // 3
        assert max(panel, sheet.height - 16) in range(256, 262) or max(panel, sheet.height) == 256
    assert draw.truth(Image(1, "a.jpg", SIZE, SIZE), tasks) == []


def test_objects_are_where_their_masks_are():
    tasks = make_tasks(1)
    image = Image(1, "a.jpg", SIZE, SIZE, (box_instance((0, 0, 32, 64), {"shape": 0}),))
    overlay = replace(draw.truth(image, tasks)[0], text="")
    changed = np.array(draw.compare(GREY, {"": [overlay]}, size=64))[-64:] != 128
    assert changed[:, :30].any(axis=2).mean() > 0.9 and not changed[:, 36:].any()


def test_a_mask_without_pixels_is_no_trouble():
    tasks = make_tasks(1)
    empty = predict(box_instance((0, 0, 0, 0), {"shape": 0}), tasks)
    draw.compare(GREY, {"": draw.found(Image(1, "a.jpg", SIZE, SIZE), [empty], tasks)}, size=256)


def test_the_same_overlays_give_the_same_pixels():
    tasks = make_tasks(3)
    overlays = {"": draw.truth(scene(tasks)[2], tasks)}
    assert draw.compare(GREY, overlays, size=256).tobytes() == draw.compare(GREY, overlays, size=256).tobytes()
