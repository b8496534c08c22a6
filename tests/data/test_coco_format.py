import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.core.errors import UserError
from mtseg.core.masks import mask
from mtseg.data.formats import coco as coco_format
from mtseg.data.labels import Vocabulary
from tests.data import folders
from tests.data.folders import HEIGHT, WIDTH, annotation, converted, tasks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

MASK = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
MASK[4:14, 4:14] = 1
PACKED = coco_mask.encode(MASK)["counts"].decode()
RUNS = [124, *[10, 20] * 9, 10, HEIGHT * WIDTH - 124 - 280]


def read(folder, *names):
    return coco_format.read(folder, Vocabulary(dict.fromkeys(names or ("part",))))


def test_given_splits_are_kept_and_other_files_left_out(tmp_path):
    for name in ("train", "val", "test", "all"):
        folders.coco(tmp_path, name, [annotation()])
    data = read(tmp_path)
    assert {(image.file_name, image.split) for image in data.images} == {
        (f"images/{split}/{number}.png", split) for split in ("train", "val", "test") for number in (1, 2)
    }
    assert list(data.unused.values()) == [1] and data.split_source == "test, train, val"


def test_a_file_of_another_name_is_split_later(tmp_path):
    folders.coco(tmp_path, "all", [annotation()])
    assert {image.split for image in read(tmp_path).images} == {None}


def test_polygons_and_both_kinds_of_rle_give_the_same_mask(tmp_path):
    rles = [{"size": [HEIGHT, WIDTH], "counts": counts} for counts in (RUNS, PACKED)]
    annotations = [annotation()] + [annotation(segmentation=rle) for rle in rles]
    folders.coco(tmp_path / "raw", "all", annotations)
    instances = converted(tmp_path / "raw", tasks(part="auto"), format="coco")["images/all/1.png"].instances
    for instance in instances:
        assert np.array_equal(mask(instance.segmentation, HEIGHT, WIDTH), MASK)
        assert instance.bbox == (4, 4, 10, 10) and instance.area == 100


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"image_id": 9}, "no image has id 9"),
        ({"category_id": 9}, "no category has id 9"),
        ({"image_id": [1]}, "no image has id [1]"),
        ({"category_id": {}}, "no category has id {}"),
        ({"iscrowd": 2}, "iscrowd is 2"),
        ({"segmentation": [[1, 2, 3, 4, 5, 10**400]]}, "not a number"),
        ({"segmentation": []}, "expected polygons or an RLE"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "expected polygons or an RLE"),
        ({"segmentation": [[1, 2, 3, 4]]}, "2 points"),
        ({"segmentation": [[1, 2, 3, 4, 5, None]]}, "not a number"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": RUNS[:-1]}}, "not a valid RLE"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": PACKED[:-3]}}, "not a valid RLE"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [1000.5, HEIGHT * WIDTH - 1000.5]}}, "not an integer"),
        ({"segmentation": {"size": [HEIGHT, WIDTH + 0.5], "counts": RUNS}}, "not an integer"),
        ({"segmentation": {"size": [10**400, WIDTH], "counts": RUNS}}, "not a valid RLE"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": ""}}, "not a valid RLE"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "garbage!"}}, "not a valid RLE"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "ä€"}}, "not a valid RLE"),
        ({"segmentation": {"size": [HEIGHT], "counts": PACKED}}, "not a valid RLE"),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": PACKED}}, "the image is"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}, "no pixel"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path, keys, message):
    folders.coco(tmp_path / "raw", "all", [annotation(), annotation(**keys)])
    with pytest.raises(UserError) as caught:
        converted(tmp_path / "raw", tasks(part="auto"), format="coco")
    assert "1 invalid records" in str(caught.value)
    assert "annotations/all.json, annotation 2: " in str(caught.value) and message in str(caught.value)


def test_crowds_stay_crowds_and_may_be_booleans(tmp_path):
    folders.coco(tmp_path / "raw", "all", [annotation(iscrowd=value) for value in (0, 1, False, True)])
    instances = converted(tmp_path / "raw", tasks(part="auto"), format="coco")["images/all/1.png"].instances
    assert [instance.crowd for instance in instances] == [False, True, False, True]


def test_labels_on_the_annotation(tmp_path):
    annotations = [
        annotation(attributes={"colour": "red", "occluded": True}),
        annotation(labels={"colour": None}),
        annotation(),
        annotation(attributes={"occluded": False}, labels={"colour": "red"}),
        annotation(attributes={"colour": "green"}, labels={"colour": "red"}),
        annotation(attributes=[], labels={"colour": "red"}),
    ]
    folders.coco(tmp_path, "all", annotations)
    data = read(tmp_path, "part", "colour")
    assert [item.labels for item in data.images[0].objects] == [
        {"part": "a", "colour": "red"},
        {"part": "a", "colour": None},
        {"part": "a", "colour": "red"},
        {"part": "a", "colour": "green"},
        {"part": "a", "colour": "red"},
    ]
    assert [fault.where for fault in data.faults] == ["annotations/all.json, annotation 3"]


def test_a_flat_category_goes_through_the_mapping(tmp_path):
    names = ("_background_", "left_door", "wheel", "unused")
    for split in ("train", "val"):
        annotations = [annotation(category=category) for category in (1, 2, 2, 3)]
        folders.coco(tmp_path / "raw", split, annotations, names=names)
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("""
side: [none, right, left]
categories:
  _background_: null
  left_door: {part: door, side: left}
  wheel: {part: wheel, side: none}
""")
    images = converted(tmp_path / "raw", tasks(part="auto", side="auto"), format="coco", mapping=mapping)
    instances = images["images/train/1.png"].instances
    assert [instance.labels for instance in instances] == [{"part": 0, "side": 2}] * 2 + [{"part": 1, "side": 0}]
    report = folders.report(tmp_path / "raw")
    assert report["classes"] == {"part": ["door", "wheel"], "side": ["none", "right", "left"]}
    assert report["unused"] == {"objects that data.mapping leaves out": 2}


def test_a_category_that_the_mapping_lacks_is_named(tmp_path):
    folders.coco(tmp_path / "raw", "all", [annotation(category=2)])
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("categories: {a: {part: a}}")
    with pytest.raises(UserError, match="annotation 1: label 'b' is not in data.mapping"):
        converted(tmp_path / "raw", tasks(part="auto"), format="coco", mapping=mapping)


def test_images_that_are_missing_doubled_or_outside_are_named(tmp_path):
    path = folders.coco(tmp_path / "raw", "all", [], count=4)
    folders.draw(tmp_path / "secret.png")
    raw = json.loads(path.read_text())
    raw["images"][1]["id"] = 1
    raw["images"][2]["file_name"] = "absent.png"
    raw["images"][3]["file_name"] = "../../../secret.png"
    raw["images"] += [{"id": 5, "file_name": "x" * 5000}, {"id": [6], "file_name": "1.png"}, {"file_name": "1.png"}]
    path.write_text(json.dumps(raw))
    faults = read(tmp_path / "raw").faults
    assert [fault.text.split(" in ")[0] for fault in faults] == [
        "another image has the same id",
        "no image 'absent.png'",
        "no image '../../../secret.png'",
        f"no image '{'x' * 5000}'",
        *["expected an id (a number or text) and a file_name"] * 2,
    ]


@pytest.mark.parametrize("ids, message", [((1, 1), "two categories have id 1"), ((1, [2]), r"a category has id \[2\]")])
def test_a_category_that_cannot_be_told_by_its_id_is_one_line(tmp_path, ids, message):
    path = folders.coco(tmp_path / "raw", "all", [annotation(), annotation(category=2)])
    raw = json.loads(path.read_text())
    for category, key in zip(raw["categories"], ids, strict=True):
        category["id"] = key
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=f"1 invalid records.*\n.*annotations/all.json: {message}"):
        converted(tmp_path / "raw", tasks(part="auto"), format="coco")


@pytest.mark.parametrize(
    "content", ["{", "[" * 100_000, "[]", '{"images": []}', '{"images": [1], "annotations": [], "categories": []}']
)
def test_a_file_that_is_not_coco_is_named(tmp_path, content):
    folders.coco(tmp_path, "all", [])
    (tmp_path / "annotations" / "all.json").write_text(content)
    (fault,) = read(tmp_path).faults
    assert fault.where == "annotations/all.json"


def test_linked_images_are_in_the_folder(tmp_path):
    folders.coco(tmp_path / "raw", "all", [annotation()])
    (tmp_path / "raw" / "images").rename(tmp_path / "big")
    (tmp_path / "raw" / "images").symlink_to(tmp_path / "big", target_is_directory=True)
    data = read(tmp_path / "raw")
    assert len(data.images) == 2 and not data.faults
