import json

import numpy as np
import pytest

from mtseg.core.errors import UserError
from mtseg.core.masks import mask
from mtseg.data.formats import labelme
from mtseg.data.labels import Vocabulary
from tests.data import folders
from tests.data.folders import HEIGHT, SQUARE, WIDTH, converted, shape, tasks

FREE = Vocabulary(dict.fromkeys(("shape", "colour", "fill")))


def read(folder):
    return labelme.read(folder, FREE)


@pytest.mark.parametrize("names", [["part"], ["part", "end", "side"], ["part", "end", "side", "state"]])
def test_a_missing_comma_or_part_names_file_shape_and_string(tmp_path, names):
    classes = dict(zip(names, ("door", "front", "left", "open"), strict=False))
    good = ",".join(classes.values())
    bad = {1: f"{good},more", 3: "," + good, 4: good.replace(",", " ", 1) if "," in good else ""}
    raw = tmp_path / "raw"
    folders.labelme(raw, "deep/down/a", *(shape(bad.get(number, good)) for number in range(1, 6)))
    folders.labelme(raw, "b", shape(good))
    listed = tasks(**dict.fromkeys(names, "auto"))
    with pytest.raises(UserError) as caught:
        converted(raw, listed)
    lines = str(caught.value).splitlines()
    assert "3 invalid records" in lines[0] and "data.on_error: skip" in lines[0]
    for number, label in bad.items():
        assert any(f"deep/down/a.json, shape {number}: " in line and repr(label) in line for line in lines)
    assert not (tmp_path / "coco").exists()

    images = converted(raw, listed, on_error="skip")
    assert len(images["deep/down/a.png"].instances) == 2
    assert sum(folders.report(raw)["left_out"].values()) == 3


@pytest.mark.parametrize("number", [10**400, 1e300, float("nan"), float("inf"), -1e7])
def test_a_coordinate_that_is_nowhere_is_refused(tmp_path, number):
    folders.labelme(tmp_path, "a", *(shape("circle,red,solid", [[1, 1], [9, number], [9, 9]]) for _ in range(2)))
    assert [fault.reason for fault in read(tmp_path).faults] == ["geometry"] * 2


def test_json_nested_without_end_is_refused(tmp_path):
    folders.labelme(tmp_path, "a").write_text("[" * 100_000)
    assert [fault.reason for fault in read(tmp_path).faults] == ["broken json"]


def test_a_name_of_thousands_of_letters_is_just_not_there(tmp_path):
    folders.labelme(tmp_path, "a", imagePath="x" * 5000).rename(tmp_path / "b.json")
    assert [fault.reason for fault in read(tmp_path).faults] == ["missing image"]


def test_group_id_joins_shapes_with_equal_labels(tmp_path):
    other = (np.array(SQUARE) + 15).tolist()
    folders.labelme(
        tmp_path / "raw",
        "a",
        shape("circle,red,solid", group_id=7),
        shape("circle,red,solid", other, group_id=7),
        shape("circle,blue,solid", group_id=7),
        shape("circle,red,solid", group_id=8),
        shape("circle,red,solid"),
        shape("circle,red,solid"),
    )
    folders.labelme(tmp_path / "raw", "b")
    instances = converted(tmp_path / "raw", tasks())["a.png"].instances
    assert [len(instance.segmentation) for instance in instances] == [2, 1, 1, 1, 1]
    assert instances[0].area == 2 * instances[1].area


def test_rectangles_and_circles_become_polygons(tmp_path):
    shapes = [
        shape("a,b,c", [[20, 14], [10, 4]], shape_type="rectangle"),
        shape("a,b,c", [[10, 4], [20, 4], [20, 14], [10, 14]], shape_type="rectangle"),
        shape("a,b,c", [[15, 15], [25, 15]], shape_type="circle"),
    ]
    folders.labelme(tmp_path / "raw", "a", *shapes)
    folders.labelme(tmp_path / "raw", "b")
    first, second, disc = converted(tmp_path / "raw", tasks())["a.png"].instances
    assert first.bbox == second.bbox == (10, 4, 10, 10)
    assert first.area == second.area == 100
    assert disc.area == pytest.approx(np.pi * 10**2, rel=0.02)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_the_mask_lies_where_the_polygon_does(tmp_path):
    folders.labelme(tmp_path / "raw", "a", shape("a,b,c"))
    folders.labelme(tmp_path / "raw", "b")
    (instance,) = converted(tmp_path / "raw", tasks())["a.png"].instances
    wanted = np.zeros((HEIGHT, WIDTH))
    wanted[4:14, 4:14] = 1
    assert np.array_equal(mask(instance.segmentation, HEIGHT, WIDTH), wanted)
    assert instance.bbox == (4, 4, 10, 10) and instance.area == 100


@pytest.mark.parametrize(
    "broken, message",
    [
        (shape("a,b,c", [[1, 1], [5, 5]]), "2 points"),
        (shape("a,b,c", [[1, 1], [5, 5], [9, 9]]), "has no area"),
        (shape("a,b,c", [[1, 1], [5, 5], [9, float("nan")]]), "not a number"),
        (shape("a,b,c", [[1, 1], [5, 5], [9]]), "expected [[x, y], ...]"),
        (shape("a,b,c", [[1, 1], [5, 5]], shape_type="line"), "line"),
        (shape("a,b,c", [[50, 50], [60, 50], [60, 60]]), "outside the image"),
        (shape("a,b,c", [[1.1, 1.1], [1.2, 1.1], [1.2, 1.2]]), "no pixel"),
        (shape(None), "label is None"),
        ({}, "label is None"),
    ],
)
def test_a_shape_that_is_none_is_named(tmp_path, broken, message):
    folders.labelme(tmp_path / "raw", "a", shape("a,b,c"), broken)
    folders.labelme(tmp_path / "raw", "b")
    with pytest.raises(UserError) as caught:
        converted(tmp_path / "raw", tasks())
    assert "a.json, shape 2: " in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [("{", "cannot be read as JSON"), ("[]", "expected a JSON object"), ("{}", "`shapes` is not a list")],
)
def test_a_file_that_is_not_labelme_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    (fault,) = read(tmp_path).faults
    assert fault.where == "a.json" and message in fault.text


def test_the_image_is_found_by_path_by_name_and_by_the_files_own_name(tmp_path):
    folders.draw(tmp_path / "images" / "far.png")
    for name, stated in {
        "a": "../images/far.png",
        "b": "C:\\Users\\me\\b.png",
        "c": "renamed.jpg",
        "d": None,
    }.items():
        folders.labelme(tmp_path / "json", name, imagePath=stated)
    (tmp_path / "json" / "a.png").unlink()
    data = read(tmp_path)
    assert not data.faults
    assert [image.file_name for image in data.images] == [
        "images/far.png",
        "json/b.png",
        "json/c.png",
        "json/d.png",
    ]
    (tmp_path / "json" / "d.png").unlink()
    folders.labelme(tmp_path / "json", "e", imagePath="../../outside.png")
    (tmp_path / "json" / "e.png").unlink()
    assert [fault.where for fault in read(tmp_path).faults] == ["json/d.json", "json/e.json"]


def test_what_is_not_taken_is_counted_and_hidden_files_are_not(tmp_path):
    for name in ("train/a", "val/b", "test/c", ".ipynb_checkpoints/d"):
        folders.labelme(tmp_path, name, shape("a,b,c"))
    folders.draw(tmp_path / "train" / "bare.png")
    data = read(tmp_path)
    assert [image.split for image in data.images] == ["test", "train", "val"]
    assert data.unused == {"images without a .json": 1}


def test_the_split_is_that_of_the_folders_names(tmp_path):
    for name in ("mine/Train/a", "mine/valid/deep/b", "mine/c", "testing2/d"):
        folders.labelme(tmp_path, name)
    data = read(tmp_path)
    assert [(image.file_name[-5:], image.split) for image in data.images] == [
        ("a.png", "train"),
        ("c.png", None),
        ("b.png", "val"),
        ("d.png", None),
    ]
    assert data.split_source == "Train/ (train), valid/ (val)"


def test_labels_stand_in_attributes_or_flags_too(tmp_path):
    folders.labelme(
        tmp_path,
        "a",
        shape("circle", attributes={"colour": "red", "fill": None}),
        shape("circle", flags={"colour=red": True, "fill=-": True, "occluded": True}),
    )
    one, two = read(tmp_path).images[0].objects
    assert one.labels == two.labels == {"shape": "circle", "colour": "red", "fill": None}


def test_sizes_that_the_json_leaves_out_are_no_fault(tmp_path):
    path = folders.labelme(tmp_path / "raw", "a", shape("a,b,c"))
    raw = json.loads(path.read_text())
    del raw["imageHeight"], raw["imageWidth"]
    path.write_text(json.dumps(raw))
    folders.labelme(tmp_path / "raw", "b", imageHeight=None, imageWidth=None)
    assert converted(tmp_path / "raw", tasks())["a.png"].width == WIDTH


def test_linked_folders_and_files_are_in_the_folder(tmp_path):
    folders.labelme(tmp_path / "elsewhere", "a", shape("a,b,c"))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert [image.file_name for image in read(tmp_path / "raw").images] == ["train/a.png"]
