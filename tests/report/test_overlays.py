"""Outlines cover their masks, and overlays show every object with all its labels, legibly."""

import re
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as coco_mask

from mtseg.core.errors import UserError
from mtseg.core.tables import Image
from mtseg.inference.overlays import draw, labelled
from mtseg.report import overlays
from tests.scenes import SIZE, box_instance, box_rle, images_of, make_tasks, predict, scene, table

SVG = "{http://www.w3.org/2000/svg}"


def words(svg: str) -> list[str]:
    """The lines of the labels."""
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def drawn(instances, tasks) -> str:
    images = images_of([Image(1, "1.jpg", SIZE, SIZE, tuple(instances))], tasks)
    return overlays.as_svg(labelled(images.instances, tasks, scale=4), (4 * SIZE, 4 * SIZE), "test", "test")


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_an_outline_covers_its_mask(scale):
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = ((x - 30) ** 2 + (y - 28) ** 2 < 20**2) & ((x - 30) ** 2 + (y - 28) ** 2 > 8**2)
    packed = coco_mask.encode(np.asfortranarray(disc, dtype=np.uint8))
    path = overlays.path({"size": [SIZE, SIZE], "counts": packed["counts"].decode()}, scale=scale)
    assert path.count("M") == path.count("z") == 2, "its rim and its hole"
    area = abs(sum(_area(ring) for ring in path.split("z")[:-1])) / scale**2
    assert area == pytest.approx(disc.sum(), rel=0.15)


def _area(ring: str) -> float:
    start, steps = ring[1:].split("l")
    numbers = np.array(steps.replace("-", " -").split(), dtype=float).reshape(-1, 2)
    x, y = np.concatenate([[list(map(float, start.split()))], numbers]).cumsum(axis=0).T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def test_a_tiny_mask_is_visible_and_an_empty_one_has_no_outline():
    assert overlays.path(box_rle(10, 20, 1, 1), scale=0.5) == "M5 10l2 0 0 2-2 0z"
    assert overlays.path(box_rle(0, 0, 0, 0), scale=1) == ""
    tasks = make_tasks(1)
    assert words(drawn([box_instance((0, 0, 0, 0), {"shape": 0})], tasks)) == []


@pytest.mark.parametrize("count", [1, 3, 4])
def test_every_label_of_every_object_is_written(count):
    tasks = make_tasks(count)
    image = scene(tasks)[1]
    found = table([predict(i, tasks, image_id=image.id, quality=0.5) for i in image.instances], tasks)
    svg = overlays.as_svg(labelled(found, tasks, scale=4), (4 * SIZE, 4 * SIZE), "test", "test")
    lines = words(svg)
    for instance in image.instances:
        main, *further = (task.classes[instance.labels[task.name]] for task in tasks)
        assert any(re.fullmatch(rf"{main} \d+ %", line) for line in lines)
        assert not further or ", ".join(further) in lines
    assert svg == overlays.as_svg(labelled(found, tasks, scale=4), (4 * SIZE, 4 * SIZE), "test", "test")


def test_a_missing_label_is_a_dash_and_a_crowd_is_named():
    labels = {"shape": 0, "colour": None, "fill": 1}
    instances = box_instance((2, 2, 20, 20), labels), box_instance((34, 34, 20, 20), labels, crowd=True)
    assert sorted(words(drawn(instances, make_tasks(3)))) == ["circle", "circle crowd", "–, dotted", "–, dotted"]


@pytest.mark.parametrize("side", [256, 400])
def test_labels_stay_in_the_frame_and_off_each_other(side):
    """Eight objects crowded into a corner, and one label longer than a line."""
    tasks = make_tasks(4)
    long = tasks[0].model_copy(update={"classes": ("a class with quite a long name", "square", "star")})
    tasks = (long, *tasks[1:])
    labels = {task.name: 0 for task in tasks}
    boxes = [(3 * i, 40 + 2 * i, 9, 9) for i in range(8)]
    instances = tuple(box_instance(box, labels | {"shape": i % 3}) for i, box in enumerate(boxes))
    images = images_of([Image(1, "1.jpg", SIZE, SIZE, instances)], tasks)
    figure = overlays.Figure(figsize=(side / 72, side / 72), dpi=72)
    axes = figure.add_axes((0, 0, 1, 1))
    draw(axes, labelled(images.instances, tasks, scale=side / SIZE), (side, side))
    texts = [text.get_window_extent() for text in axes.texts]
    assert len(texts) == 8
    for number, one in enumerate(texts):
        assert one.x0 >= 0 and one.y0 >= 0 and one.x1 <= side and one.y1 <= side
        assert not any(one.overlaps(other) for other in texts[:number])


def test_a_file_has_ground_truth_beside_predictions(tmp_path):
    tasks = make_tasks(2)
    images = scene(tasks)
    for name in images.file_name:
        PIL.Image.new("RGB", (SIZE, SIZE), "grey").save(tmp_path / name)
    rows = [predict(instance, tasks, image_id=image.id) for image in images for instance in image.instances]
    options = {"tasks": tasks, "root": tmp_path}
    overlays.save(tmp_path / "out.jpg", images, table(rows[:4], tasks), [2, 3], **options)
    with PIL.Image.open(tmp_path / "out.jpg") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] == overlays.WIDTH
    width = overlays.WIDTH // 4  # columns: truth and prediction of image 2, of image 3, which has no prediction
    grey = [(np.ptp(pixels[60:, i * width + 30 : (i + 1) * width - 30], axis=2) < 20).mean() for i in range(4)]
    assert max(grey[:3]) < 0.95 < grey[3]
    with pytest.raises(UserError, match="no image 99"):
        overlays.save(tmp_path / "out.jpg", images, table(rows, tasks), [99], **options)
