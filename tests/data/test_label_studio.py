import base64
import io
import json

import numpy as np
import PIL.Image
import pytest

from mtseg.core.masks import mask
from mtseg.data import formats
from mtseg.data.formats import label_studio
from mtseg.data.labels import Vocabulary
from tests.data import folders
from tests.data.folders import HEIGHT, WIDTH

SIZE = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
SQUARE = [[10, 10], [35, 10], [35, 43], [10, 43]]  # percents


def region(kind="polygonlabels", label="car", id="r1", **value):
    return SIZE | {
        "id": id,
        "from_name": "label",
        "type": kind,
        "value": (value or {"points": SQUARE}) | {kind: [label]},
    }


def choice(name, *given, id="r1", key="choices"):
    return SIZE | {
        "id": id,
        "from_name": name,
        "type": key,
        "value": {key: list(given) if key == "choices" else given[0]},
    }


def write(folder, *annotations, image="/data/upload/1/a.png", **task):
    folders.draw(folder / "images" / "a.png")
    tasks = [{"id": 7, "data": {"image": image}, "annotations": list(annotations)} | task]
    (folder / "export.json").write_text(json.dumps(tasks))


def read(folder, *names, ignored=()):
    return label_studio.read(folder, Vocabulary(dict.fromkeys(names or ("part",)), ignored_shapes=ignored))


@pytest.mark.parametrize("on", [[{"to_name": "left"}, {"to_name": "right"}], [{"item_index": 0}, {"item_index": 1}]])
def test_regions_on_several_images_of_a_task_are_refused(tmp_path, on):
    regions = [region(id=f"r{number}") | own for number, own in enumerate(on)]
    write(tmp_path, {"result": regions}, data={"left": "/data/upload/1/a.png", "right": "/data/upload/1/b.png"})
    assert [fault.reason for fault in read(tmp_path).faults] == ["several images"]


@pytest.mark.parametrize("name", ["left", "right"])
def test_of_several_images_the_one_that_the_regions_are_on_is_used(tmp_path, name):
    for other in ("left", "right"):
        folders.draw(tmp_path / "images" / f"{other}.png")
    data = {other: f"/data/upload/1/{other}.png" for other in ("left", "right")}
    write(tmp_path, {"result": [region() | {"to_name": name}, choice("colour", "red") | {"to_name": name}]}, data=data)
    assert [image.file_name for image in read(tmp_path).images] == [f"images/{name}.png"]


def test_polygons_rectangles_and_ellipses_are_objects(tmp_path):
    regions = [
        region(),
        region("rectanglelabels", id="r2", x=10, y=10, width=25, height=100 / 3, rotation=0),
        region("rectanglelabels", id="r3", x=50, y=20, width=25, height=100 / 3, rotation=90),
        region("ellipselabels", id="r4", x=50, y=50, radiusX=25, radiusY=100 / 6, rotation=0),
    ]
    write(tmp_path, {"result": regions})
    data = read(tmp_path)
    assert not data.faults
    polygon, box, turned, ellipse = (mask(item.segmentation, HEIGHT, WIDTH) for item in data.images[0].objects)
    assert abs(int(polygon.sum()) - 100) <= 10 and box.sum() == turned.sum() == 100
    assert box[3:13, 4:14].all() and turned[6:16, 10:20].all(), "turned clockwise about the top left corner"
    assert ellipse.sum() == pytest.approx(np.pi * 50, rel=0.05)


@pytest.mark.parametrize("size, valid", [((2 * WIDTH, 2 * HEIGHT), True), ((2 * WIDTH, HEIGHT), False)])
def test_percents_hold_for_an_image_that_was_resized_in_proportion(tmp_path, size, valid):
    write(tmp_path, {"result": [region()]})
    folders.draw(tmp_path / "images" / "a.png", size)
    data = read(tmp_path)
    assert [*data.notes.values()] == [1] * valid and data.images[0].size == (None if valid else (HEIGHT, WIDTH))
    assert max(data.images[0].objects[0].segmentation[0]) == 0.35 * WIDTH * (1 + valid)


def test_choices_and_numbers_of_a_region_are_its_labels(tmp_path):
    results = [
        choice("colour", "red"),
        region(),
        choice("doors", 4, key="number"),
        choice("weather", "wet", id="image"),
    ]
    write(tmp_path, {"result": results})
    data = read(tmp_path, "part", "colour", "doors")
    assert data.images[0].objects[0].labels == {"part": "car", "colour": "red", "doors": "4"}
    assert list(data.unused.values()) == [1]


def test_the_annotation_that_counts_is_the_ground_truth_or_the_first_that_is_not_skipped(tmp_path):
    three = [{"result": [region(label=label)]} for label in ("a", "b", "c")]
    for keys, label in (({}, "b"), ({"ground_truth": True}, "c")):
        write(tmp_path, three[0] | {"was_cancelled": True}, three[1], three[2] | keys)
        data = read(tmp_path)
        assert data.images[0].objects[0].labels == {"part": label} and list(data.unused.values()) == [1]


def test_an_image_without_annotations_is_not_taken_for_an_empty_one(tmp_path):
    write(tmp_path, predictions=[{"result": [region()]}])
    data = read(tmp_path)
    assert not data.images and list(data.unused.values()) == [1]
    write(tmp_path, {"result": []})
    assert [image.objects for image in read(tmp_path).images] == [()]


@pytest.mark.parametrize(
    "stated",
    ["a.png", "images\\a.png", "/data/upload/1/0123abcd-a.png", "http://localhost:8080/data/local-files/?d=x/a.png"],
)
def test_the_image_is_found_by_what_label_studio_calls_it(tmp_path, stated):
    write(tmp_path, {"result": []}, image=stated)
    assert [image.file_name for image in read(tmp_path).images] == ["images/a.png"]


def test_helper_shapes_are_left_out_by_their_kind(tmp_path):
    point, line = region("keypointlabels", id="k", x=1, y=1, width=0.5), region(id="l", points=SQUARE[:2], closed=False)
    write(tmp_path, {"result": [region(), point, line]})
    assert ["data.ignore_shapes" in fault.text for fault in read(tmp_path).faults] == [True, True]
    data = read(tmp_path, ignored=("keypoint", "line"))
    assert not data.faults and sum(data.unused.values()) == 2 and len(data.images[0].objects) == 1


@pytest.mark.parametrize(
    "broken, reason",
    [
        (region(points=SQUARE[:2]), "geometry"),
        (region(points="junk"), "geometry"),
        (region() | {"image_rotation": 90}, "geometry"),
        (region("brushlabels", rle=[1, 2, 3]), "geometry"),
        (region("brushlabels", rle="junk"), "geometry"),
        (region("bitmasklabels", imageDataURL="data:image/png;base64,"), "geometry"),
        (region("bitmasklabels", imageDataURL=None), "geometry"),
        (region(label=None), "no label"),
        (region() | {"value": {"points": SQUARE, "polygonlabels": ["a", "b"]}}, "ambiguous label"),
        (region() | {"value": {"points": SQUARE}}, "no label"),
    ],
)
def test_a_broken_region_is_named(tmp_path, broken, reason):
    write(tmp_path, {"result": [region(id="good"), broken]})
    data = read(tmp_path)
    assert [(fault.reason, fault.where) for fault in data.faults] == [(reason, "export.json, task 7, region r1")]
    assert len(data.images[0].objects) == 1


def test_an_outline_of_an_unknown_kind_is_not_taken_for_a_choice(tmp_path):
    write(tmp_path, {"result": [region("superpixellabels", superpixels=[3])]})
    data = read(tmp_path)
    assert [fault.reason for fault in data.faults] == ["geometry"] and "superpixellabels" in data.faults[0].text


def bitmask(width=WIDTH):
    """A PNG as Label Studio writes it: black pixels on a transparent background."""
    pixels, file = np.zeros((HEIGHT, width, 4), np.uint8), io.BytesIO()
    pixels[3:13, 4:14, 3] = 255
    PIL.Image.fromarray(pixels).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_bitmasks_are_objects(tmp_path):
    write(tmp_path, {"result": [region("bitmasklabels", imageDataURL=bitmask()), choice("colour", "red")]})
    (item,) = read(tmp_path, "part", "colour").images[0].objects
    area = mask(item.segmentation, HEIGHT, WIDTH)
    assert area[3:13, 4:14].all() and area.sum() == 100 and item.labels == {"part": "car", "colour": "red"}


def test_several_choices_of_a_task_are_ambiguous(tmp_path):
    write(tmp_path, {"result": [region(), choice("colour", "red", "blue")]})
    assert [fault.reason for fault in read(tmp_path, "part", "colour").faults] == ["ambiguous label"]


def test_a_bitmask_of_another_size_is_named(tmp_path):
    write(tmp_path, {"result": [region("bitmasklabels", imageDataURL=bitmask(WIDTH + 1))]})
    assert [fault.reason for fault in read(tmp_path).faults] == ["size"]


def test_the_short_export_is_named(tmp_path):
    (tmp_path / "a.json").write_text('[{"id": 1, "image": "a.png", "label": [{"points": [], "polygonlabels": ["a"]}]}]')
    assert formats.recognise(tmp_path) == ("label_studio", "a.json")
    assert "JSON-MIN" in read(tmp_path).faults[0].text


@pytest.mark.parametrize(
    "value",
    [
        {"x": 340, "y": 10, "width": 20, "height": 20},
        {"x": 10, "y": 10, "width": -20, "height": 20},
        {"x": 10, "y": 10, "width": 900, "height": 20},
        {"x": -40, "y": 10, "radiusX": 5, "radiusY": 5},
        {"points": [[10, 10], [300, 10], [10, 200]]},
    ],
)
def test_values_that_are_no_percents_are_refused(tmp_path, value):
    write(tmp_path, {"result": [region("polygonlabels", **value)]})
    (fault,) = read(tmp_path).faults
    assert fault.reason == "geometry" and "expected a percent" in fault.text


def test_coordinates_of_0_to_1_are_refused_within_a_pixel_and_warned_of_above(tmp_path):
    write(tmp_path, {"result": [region("polygonlabels", points=[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]])]})
    assert "multiply them by 100: Label Studio has percents" in read(tmp_path).faults[0].text
    size = {"original_width": 1000, "original_height": 1000}
    write(tmp_path, {"result": [region("polygonlabels", points=[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]) | size]})
    assert ["multiply them by 100" in text for text in read(tmp_path).warnings] == [True]


def test_the_split_of_a_task_is_read(tmp_path):
    write(tmp_path, {"result": [region()]}, data={"image": "/data/upload/1/a.png", "split": "val"})
    (image,) = read(tmp_path).images
    assert image.split == "val"


def test_images_that_no_task_lists_are_counted_apart_from_those_without_annotations(tmp_path):
    write(tmp_path, predictions=[{"result": [region()]}])
    path = next(tmp_path.glob("*.json"))
    path.write_text(json.dumps([*json.loads(path.read_text()), {"data": {"image": "b.png"}, "annotations": []}]))
    for name in ("b", "further"):
        folders.draw(tmp_path / "images" / f"{name}.png")
    assert read(tmp_path).unused == {
        "images that no annotation file in use lists": 1,
        "images without an annotation": 2,
    }
