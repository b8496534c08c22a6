import base64
import json
import time
from zlib import compress

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.core.errors import UserError, quoted
from mtseg.core.masks import mask
from mtseg.data.formats import coco as coco_format
from mtseg.data.formats._reading import note_duplicates
from mtseg.data.labels import Vocabulary
from mtseg.data.raw import RawData, RawObject
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
    assert list(data.unused.values()) == [1, 2] and data.split_source == "test, train, val"


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
        ({"segmentation": "[[1, 2, 3, 4, 5, 6]]"}, "not text: write it without quotes"),
        ({"segmentation": [[1, 2, 3, 4]]}, "2 points"),
        ({"segmentation": [[1, 2, 3, 4, 5, None]]}, "not a number"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": RUNS[:-1]}}, "not a valid RLE"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": PACKED[:-3]}}, "not a valid RLE"),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [1000.5, HEIGHT * WIDTH - 1000.5]}},
            "not a whole number",
        ),
        ({"segmentation": {"size": [HEIGHT, WIDTH + 0.5], "counts": RUNS}}, "not a whole number"),
        ({"segmentation": {"size": [10**400, WIDTH], "counts": RUNS}}, "not a valid RLE"),
        ({"segmentation": {"size": [2**32, 1], "counts": [2**32 - 1, 1]}}, "of at most 100 megapixels"),
        ({"segmentation": {"size": [0, 5], "counts": [0, 0]}}, "expected height and width above 0"),
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
    assert "1 invalid record" in str(caught.value)
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
        annotation(attributes=[{"name": "colour", "value": "blue"}, {"name": "worn", "value": True}]),
    ]
    folders.coco(tmp_path, "all", annotations)
    data = read(tmp_path, "part", "colour")
    assert [item.labels for item in data.images[0].objects] == [
        {"part": "a", "colour": "red"},
        {"part": "a", "colour": None},
        {"part": "a", "colour": "red"},
        {"part": "a", "colour": "green"},
        {"part": "a", "colour": "red"},
        {"part": "a", "colour": "blue"},
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
        f"no image {quoted('x' * 5000)}",
        *["expected an id (a number or text) and a file_name"] * 2,
    ]


@pytest.mark.parametrize("ids, message", [((1, 1), "two categories have id 1"), ((1, [2]), r"a category has id \[2\]")])
def test_a_category_that_cannot_be_told_by_its_id_is_one_line(tmp_path, ids, message):
    path = folders.coco(tmp_path / "raw", "all", [annotation(), annotation(category=2)])
    raw = json.loads(path.read_text())
    for category, key in zip(raw["categories"], ids, strict=True):
        category["id"] = key
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=f"1 invalid record.*\n.*annotations/all.json: {message}"):
        converted(tmp_path / "raw", tasks(part="auto"), format="coco")


@pytest.mark.parametrize(
    "content", ["{", "[" * 100_000, "[]", '{"images": []}', '{"images": [1], "annotations": [], "categories": []}']
)
def test_a_file_that_is_not_coco_is_named(tmp_path, content):
    folders.coco(tmp_path, "all", [])
    (tmp_path / "annotations" / "all.json").write_text(content)
    (fault,) = read(tmp_path).faults
    assert fault.where == "annotations/all.json"


def test_many_categories_and_equal_outlines_take_no_long_time(tmp_path):
    path = folders.coco(tmp_path, "all", [], names=range(20_000))
    raw = json.loads(path.read_text())
    raw["categories"][-1]["id"] = 19_999
    path.write_text(json.dumps(raw))
    start = time.monotonic()
    assert [fault.text for fault in read(tmp_path).faults] == ["two categories have id 19999"]
    data = RawData()
    note_duplicates(data, [RawObject("", {"part": "a"}, [[1.0, 2.0, 3.5] * 100]) for _ in range(5000)])
    assert [*data.warnings.values()] == [4999] and time.monotonic() - start < 10


def test_linked_images_are_in_the_folder(tmp_path):
    folders.coco(tmp_path / "raw", "all", [annotation()])
    (tmp_path / "raw" / "images").rename(tmp_path / "big")
    (tmp_path / "raw" / "images").symlink_to(tmp_path / "big", target_is_directory=True)
    data = read(tmp_path / "raw")
    assert len(data.images) == 2 and not data.faults


def rewritten(path, change):
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_coco_own_layout_has_its_split_in_the_files_names(tmp_path):
    for split in ("train", "val"):
        folders.coco(tmp_path, split, [annotation()])
        (tmp_path / "images" / split).rename(tmp_path / f"{split}2017")
        (tmp_path / "annotations" / f"{split}.json").rename(tmp_path / "annotations" / f"instances_{split}2017.json")
    (tmp_path / "annotations" / "captions_val2017.json").write_text('{"images": [], "annotations": [{"caption": "a"}]}')
    data = read(tmp_path)
    assert not data.faults and sum(data.unused.values()) == 1
    assert [(image.file_name, image.split) for image in data.images] == [
        (f"{split}2017/{number}.png", split) for split in ("train", "val") for number in (1, 2)
    ]
    assert data.split_source == "instances_train2017 (train), instances_val2017 (val)"


def test_annotations_may_be_in_a_folder_of_each_split(tmp_path):
    for split in ("train", "val"):
        path = folders.coco(tmp_path, split, [annotation()])
        (tmp_path / "annotations" / split).mkdir()
        path.rename(tmp_path / "annotations" / split / "instances.json")
    data = read(tmp_path)
    assert not data.faults and {(image.file_name[:9], image.split) for image in data.images} == {
        ("images/tr", "train"),
        ("images/va", "val"),
    }


def test_roboflow_layout_has_its_split_in_the_folders_names(tmp_path):
    for name in ("train", "valid"):
        path = folders.coco(tmp_path, name, [annotation(category=2)], names=("super", "car"))
        (tmp_path / "images" / name).rename(tmp_path / name)
        path.rename(tmp_path / name / "_annotations.coco.json")
    data = read(tmp_path)
    assert not data.faults
    assert {(image.file_name.split("/")[0], image.split) for image in data.images} == {
        ("train", "train"),
        ("valid", "val"),
    }


def test_the_images_folders_are_the_split_if_the_annotations_have_none(tmp_path):
    path = folders.coco(tmp_path, "all", [])
    for number, split in ((1, "train"), (2, "valid")):
        folders.draw(tmp_path / "images" / split / f"{number}.png")
    rewritten(
        path,
        lambda raw: [
            image.update(file_name=name)
            for image, name in zip(raw["images"], ("train/1.png", "valid/2.png"), strict=True)
        ],
    )
    assert [image.split for image in read(tmp_path).images] == ["train", "val"]


@pytest.mark.parametrize("kinds", [(float, float), (str, int), (int, str), (str, float)])
def test_ids_may_be_text_or_floats_that_are_whole(tmp_path, kinds):
    def change(raw):
        of_images, of_annotations = kinds
        for image in raw["images"]:
            image.update(id=of_images(image["id"]), width=float(image["width"]))
        for item in raw["annotations"]:
            item.update(image_id=of_annotations(item["image_id"]), category_id=of_annotations(item["category_id"]))

    rewritten(folders.coco(tmp_path, "all", [annotation(), annotation(image=2, category=2)]), change)
    data = read(tmp_path)
    assert not data.faults and [image.objects[0].labels["part"] for image in data.images] == ["a", "b"]


def test_an_image_id_that_is_not_there_shows_one_that_is(tmp_path):
    path = folders.coco(tmp_path, "all", [annotation()])
    rewritten(path, lambda raw: [image.update(id=f"00{image['id']}") for image in raw["images"]])
    assert "no image has id 1" in read(tmp_path).faults[0].text and "'001'" in read(tmp_path).faults[0].text


@pytest.mark.parametrize(
    "written",
    [str, lambda counts: base64.b64encode(counts).decode(), lambda counts: base64.b64encode(compress(counts)).decode()],
    ids=["printed", "base64", "base64 of zlib"],
)
def test_an_rle_whose_bytes_were_written_as_text_is_read(tmp_path, written):
    rle = {"size": [HEIGHT, WIDTH], "counts": written(coco_mask.encode(MASK)["counts"])}
    folders.coco(tmp_path, "all", [annotation(segmentation=rle)])
    (item,) = read(tmp_path).images[0].objects
    assert np.array_equal(mask(item.segmentation, HEIGHT, WIDTH), MASK)
    folders.coco(tmp_path, "all", [annotation(segmentation=rle | {"counts": "b'junk"})])
    assert [fault.reason for fault in read(tmp_path).faults] == ["geometry"]


def test_boxes_without_outlines_are_one_error_and_beside_outlines_one_each(tmp_path):
    boxes = [annotation(segmentation=[], bbox=[1, 1, 5, 5]) for _ in range(5)]
    folders.coco(tmp_path, "all", boxes)
    (fault,) = read(tmp_path).faults
    assert fault.reason == "boxes only" and "all 5 annotations" in fault.text
    folders.coco(tmp_path, "all", [*boxes, annotation()])
    assert [fault.reason for fault in read(tmp_path).faults] == ["boxes only"] * 5


def test_a_scrap_costs_the_part_and_stated_facts_are_kept(tmp_path):
    parts = [*annotation()["segmentation"], [1, 1, 2, 2], [1, 1, 2, 2, 3, 3]]
    folders.coco(tmp_path, "all", [annotation(segmentation=parts, bbox=[4, 4, 10, 10], area=100)])
    (item,) = read(tmp_path).images[0].objects
    assert (len(item.segmentation), item.parts_left_out, item.box, item.area) == (1, 2, (4, 4, 10, 10), 100)
    folders.coco(tmp_path, "all", [annotation(bbox="junk", area=None)])
    (item,) = read(tmp_path).images[0].objects
    assert (item.parts_left_out, item.box, item.area) == (0, None, None)


@pytest.mark.parametrize(
    "keys, crowds",
    [({}, [False] * 3), ({"iscrowd": 0}, [True, True, False]), ({"attributes": {"occluded": False}}, [False] * 3)],
)
def test_masks_that_cvat_calls_crowds_are_objects(tmp_path, keys, crowds):
    cvat = {"attributes": keys.get("attributes", {})}
    last = annotation(iscrowd=keys.get("iscrowd", 0 if "attributes" in keys else 1), category=2, **cvat)
    folders.coco(tmp_path, "all", [annotation(iscrowd=1, **cvat), annotation(2, iscrowd=1, **cvat), last])
    data = read(tmp_path)
    assert sorted(item.crowd for image in data.images for item in image.objects) == sorted(crowds)
    assert bool(data.notes) == (not any(crowds))


def test_duplicates_are_counted(tmp_path):
    twice = [annotation(), annotation()]
    folders.coco(tmp_path, "all", [*twice, annotation(category=2), annotation(category=2), annotation(2)])
    data = read(tmp_path)
    assert [(text[:10], count) for text, count in data.warnings.items()] == [("duplicates", 2), ("objects wi", 1)]
    assert len(data.images[0].objects) == 4


def test_checkboxes_and_numbers_are_text(tmp_path):
    attributes = [{"damaged": False, "doors": 4}, {"damaged": ["true"], "doors": 2.0}]
    folders.coco(tmp_path, "all", [annotation(attributes=one) for one in attributes])
    data = read(tmp_path, "part", "damaged", "doors")
    assert [item.labels for item in data.images[0].objects] == [
        {"part": "a", "damaged": "false", "doors": "4"},
        {"part": "a", "damaged": "true", "doors": "2"},
    ]


def dentex(raw):
    del raw["categories"]
    for level, names in enumerate((["upper", "lower"], ["1", "2"], ["caries", "impacted"]), start=1):
        raw[f"categories_{level}"] = [{"id": number, "name": name} for number, name in enumerate(names)]
    for item in raw["annotations"]:
        del item["category_id"]
        item |= {"category_id_1": 1, "category_id_2": 0, "category_id_3": 1}


@pytest.mark.parametrize(
    "names, labels",
    [
        (("jaw", "tooth", "finding"), {"jaw": "lower", "tooth": "1", "finding": "impacted"}),
        (("category_3", "category_1"), {"category_3": "impacted", "category_1": "lower"}),
        (("category_2",), {"category_2": "1"}),
    ],
)
def test_several_categories_per_annotation_are_the_tasks_in_order_or_by_name(tmp_path, names, labels):
    rewritten(folders.coco(tmp_path, "all", [annotation()]), dentex)
    data = read(tmp_path, *names)
    assert not data.faults and data.images[0].objects[0].labels == labels


def test_several_categories_of_another_number_than_the_tasks_are_refused(tmp_path):
    rewritten(folders.coco(tmp_path, "all", [annotation()]), dentex)
    assert "category_1, category_2, category_3" in read(tmp_path, "tooth").faults[0].text


def test_attribute_ids_are_labels_by_their_type(tmp_path):
    def change(raw):
        raw["attributes"] = [{"id": number, "name": name} for number, name in enumerate(("red", "blue", "wood"))]
        raw["attr_type_to_attr_idxs"] = {"colour": [0, 1], "material": [2]}

    annotations = [annotation(attribute_ids=ids) for ids in ([1, 2], [0, 1], [], [9, [0]], 1)]
    rewritten(folders.coco(tmp_path, "all", annotations), change)
    data = read(tmp_path, "part", "colour", "material")
    assert [(fault.reason, fault.where) for fault in data.faults] == [
        ("broken json", "annotations/all.json, annotation 5")
    ]
    assert [item.labels for item in data.images[0].objects] == [
        {"part": "a", "colour": "blue", "material": "wood"},
        *[{"part": "a", "colour": None, "material": None}] * 3,
    ]
    assert [count for text, count in data.notes.items() if "several values" in text or "lacks" in text] == [1, 2]


def test_attribute_ids_by_the_files_own_list_become_names(tmp_path):
    def change(raw):
        categories = [{"id": 3, "name": "red"}, {"id": 4, "name": "blue"}]
        raw["attributes"] = [{"name": "colour", "categories": categories}]

    annotations = [annotation(attributes={"colour": value}) for value in (4, 3.0, "red")]
    rewritten(folders.coco(tmp_path, "all", annotations), change)
    labels = [item.labels["colour"] for item in read(tmp_path, "part", "colour").images[0].objects]
    assert labels == ["blue", "red", "red"]


def test_attributes_that_are_missing_or_not_in_the_files_list_are_unlabelled_and_the_latter_counted(tmp_path):
    def change(raw):
        raw["attributes"] = [{"name": "colour", "categories": [{"id": 3, "name": "red"}, {"id": 4, "name": "3"}]}]

    annotations = [annotation(attributes=own) for own in ({}, {"colour": 9}, {"colour": [1]}, {"colour": "3"})]
    rewritten(folders.coco(tmp_path, "all", [*annotations, annotation()]), change)
    data = read(tmp_path, "part", "colour")
    assert [item.labels["colour"] for item in data.images[0].objects] == [None, None, None, "3", None]
    assert [count for text, count in data.notes.items() if "lacks" in text] == [2]


@pytest.mark.parametrize("categories", ["[no, '1', 2]", "[{id: 0, name: no}, {id: 1, name: '1'}, {id: 2}]"])
def test_attributes_beside_the_file_are_its_annotations(tmp_path, categories):
    for split in ("train", "val"):
        folders.coco(tmp_path, split, [annotation(), annotation(2), annotation(2, 2)])
    (tmp_path / "attributes.yaml").write_text(f"attributes:\n- name: state\n  categories: {categories}\n")
    (tmp_path / "attributes").mkdir()
    (tmp_path / "attributes" / "train.json").write_text('{"1": {"state": 0}, "2": {"state": "1"}, "3": {"state": 2}}')
    data = read(tmp_path, "part", "state")
    assert not data.faults and not data.unused and data.split_source == "train, val"
    found = {image.split: [] for image in data.images}
    for image in data.images:
        found[image.split] += [item.labels["state"] for item in image.objects]
    assert found == {"train": ["no", "1", "2"], "val": [None] * 3}
    assert [count for text, count in data.notes.items() if "attributes/val.json" in text] == [3]


@pytest.mark.parametrize(
    "list, values, reason",
    [("colours: []", "{}", "yaml"), ("attributes: [{name: a}]", "{}", "yaml"), ("attributes: []", '{"9": {}}', "json")],
)
def test_broken_attributes_beside_the_file_are_named(tmp_path, list, values, reason):
    folders.coco(tmp_path, "train", [annotation()])
    (tmp_path / "attributes.yaml").write_text(list)
    (tmp_path / "attributes").mkdir()
    (tmp_path / "attributes" / "train.json").write_text(values)
    assert [fault.reason for fault in read(tmp_path).faults] == [f"broken {reason}"]


@pytest.mark.parametrize("attributes", [[{"name": "a", "categories": [3]}], [{"name": {}, "categories": [{}]}]])
def test_a_broken_list_of_attributes_is_named(tmp_path, attributes):
    rewritten(folders.coco(tmp_path, "all", [annotation()]), lambda raw: raw.update(attributes=attributes))
    assert ["`attributes`" in fault.text for fault in read(tmp_path).faults] == [True]


def test_keypoints_are_counted_and_alone_they_are_one_error(tmp_path):
    folders.coco(tmp_path, "all", [annotation(keypoints=[5, 5, 2]), annotation(2)])
    data = read(tmp_path)
    assert len(data.images[0].objects) == 1 and list(data.unused.values()) == [1]
    folders.coco(tmp_path, "all", [annotation(keypoints=[5, 5, 2], segmentation=None)] * 2)
    assert [fault.reason for fault in read(tmp_path).faults] == ["keypoints only"]


@pytest.mark.parametrize(
    "change, name",
    [
        (lambda raw: raw.update(annotations=[{"image_id": 1, "segments_info": []}] * 2), "panoptic"),
        (lambda raw: raw.update(items=raw.pop("images")), "Datumaro"),
    ],
)
def test_files_of_related_formats_are_refused_by_their_name(tmp_path, change, name):
    rewritten(folders.coco(tmp_path, "all", []), change)
    assert [name in fault.text for fault in read(tmp_path).faults] == [True]


def test_polygons_may_be_pairs(tmp_path):
    folders.coco(tmp_path, "all", [annotation(segmentation=[folders.SQUARE]), annotation()])
    objects = read(tmp_path).images[0].objects
    assert [*objects[0].segmentation[0]] == [*objects[1].segmentation[0]]


def test_images_may_be_in_the_only_folder_that_has_them_all(tmp_path):
    for split in ("train", "val"):
        folders.coco(tmp_path / split, "all", [annotation()], names=("a",))
        (tmp_path / split / "images" / "all").rename(tmp_path / split / "xrays")
    data = read(tmp_path)
    assert [image.file_name for image in data.images] == [
        f"{split}/xrays/{number}.png" for split in ("train", "val") for number in (1, 2)
    ]
    (tmp_path / "train" / "xrays" / "1.png").rename(tmp_path / "val" / "xrays" / "3.png")
    assert [fault.where for fault in read(tmp_path).faults] == [
        f"train/annotations/all.json, image {n}" for n in (1, 2)
    ]


def test_images_of_another_split_are_not_taken(tmp_path):
    folders.coco(tmp_path, "train", [annotation()])
    (tmp_path / "images" / "train").rename(tmp_path / "val2017")
    assert len(read(tmp_path).faults) == 2


def test_images_of_lvis_have_addresses(tmp_path):
    path = folders.coco(tmp_path, "all", [], count=1)
    rewritten(path, lambda raw: raw["images"][0].update(file_name=None, coco_url="http://x.org/images/all/1.png"))
    assert [image.file_name for image in read(tmp_path).images] == ["images/all/1.png"]


def test_other_json_files_are_counted(tmp_path):
    folders.coco(tmp_path, "all", [annotation()])
    (tmp_path / "settings.json").write_text('{"a": 1}')
    data = read(tmp_path)
    assert not data.faults and data.unused_files == ["settings.json"]


@pytest.mark.parametrize("counts", ["Q" * 10**6, "o" * 10**6, [0] * 10**6], ids=["digits", "no end", "empty runs"])
def test_a_hostile_rle_is_refused_at_once(tmp_path, counts):
    folders.coco(tmp_path, "all", [annotation(segmentation={"size": [HEIGHT, WIDTH], "counts": counts})])
    start = time.monotonic()
    (fault,) = read(tmp_path).faults
    assert fault.reason == "geometry" and time.monotonic() - start < 1


def test_a_bbox_of_no_numbers_is_noted(tmp_path):
    endless = [0, 0, float("inf"), 1]
    folders.coco(tmp_path, "all", [annotation(bbox=endless), annotation(area="big"), annotation(bbox=[])])
    assert list(read(tmp_path).notes.values()) == [2]


def test_a_polygon_inside_another_of_its_object_is_counted_where_no_area_tells(tmp_path):
    ring = [[2, 2, 22, 2, 22, 22, 2, 22], [6, 6, 16, 6, 16, 16, 6, 16]]
    apart = [ring[0], [26, 2, 30, 2, 30, 6, 26, 6]]
    folders.coco(
        tmp_path,
        "all",
        [annotation(segmentation=ring), annotation(segmentation=apart), annotation(2, segmentation=ring, area=300)],
    )
    assert read(tmp_path).unused == {"polygons inside another one of their object (a union: they cut no hole)": 1}


def test_images_that_no_file_lists_are_counted(tmp_path):
    folders.coco(tmp_path, "all", [annotation()])
    folders.draw(tmp_path / "images" / "all" / "further.png")
    assert read(tmp_path).unused == {"images that no annotation file in use lists": 1}


def test_annotations_to_ignore_are_counted(tmp_path):
    folders.coco(tmp_path, "all", [annotation(1, ignore=1), annotation(2, ignore=0)])
    assert read(tmp_path).notes == {"annotations with `ignore` 1, read as objects": 1}
