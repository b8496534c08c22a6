import numpy as np
import pytest

from mtseg.core.errors import UserError
from mtseg.core.masks import mask
from mtseg.data.formats import cvat
from mtseg.data.labels import Vocabulary
from tests.data import folders
from tests.data.folders import HEIGHT, WIDTH

IMAGE = f'width="{WIDTH}" height="{HEIGHT}"'
POLYGON = '<polygon label="car" points="4,4;14,4;14,14;4,14" {}>{}</polygon>'


def write(folder, content, name="annotations.xml"):
    folders.draw(folder / "images" / "a.png")
    (folder / name).write_text(f'<?xml version="1.0" encoding="utf-8"?><annotations>{content}</annotations>', "utf-8")


def read(folder, *names, ignored=()):
    return cvat.read(folder, Vocabulary(dict.fromkeys(names or ("part",)), ignored_shapes=ignored))


def areas(data):
    return [int(mask(item.segmentation, HEIGHT, WIDTH).sum()) for item in data.images[0].objects]


def test_polygons_boxes_ellipses_and_masks_are_objects(tmp_path):
    shapes = [
        POLYGON.format("", ""),
        '<box label="car" xtl="4" ytl="4" xbr="14" ybr="14"/>',
        '<box label="car" xtl="10" ytl="5" xbr="30" ybr="15" rotation="90"/>',
        '<ellipse label="car" cx="20" cy="15" rx="10" ry="5"/>',
        '<mask label="car" rle="1, 2, 3" left="20" top="10" width="3" height="2"/>',
    ]
    write(tmp_path, f'<image name="a.png" {IMAGE}>{"".join(shapes)}</image>')
    data = read(tmp_path)
    assert not data.faults
    polygon, box, turned, ellipse, two = areas(data)
    assert polygon == box == 100 and turned == 200 and two == 2
    assert ellipse == pytest.approx(np.pi * 50, rel=0.05)
    xs = data.images[0].objects[2].segmentation[0][::2]
    assert (min(xs), max(xs)) == pytest.approx((15, 25)), "a quarter turn about the centre"
    rows, columns = np.nonzero(mask(data.images[0].objects[4].segmentation, HEIGHT, WIDTH))
    assert (rows.tolist(), columns.tolist()) == ([10, 10], [21, 22])


def test_attributes_are_labels_and_undefined_is_unlabelled(tmp_path):
    attributes = "".join(
        f'<attribute name="{name}">{text}</attribute>'
        for name, text in (("damaged", "true"), ("doors", "4"), ("colour", "__undefined__"))
    )
    write(tmp_path, f'<image name="a.png" {IMAGE}>{POLYGON.format("", attributes)}</image>')
    (item,) = read(tmp_path, "part", "damaged", "doors", "colour").images[0].objects
    assert item.labels == {"part": "car", "damaged": "true", "doors": "4", "colour": None}


def test_shapes_of_a_group_are_one_object(tmp_path):
    far = POLYGON.replace("4,4;14,4;14,14;4,14", "20,4;24,4;24,8;20,8")
    shapes = [POLYGON.format(group, "") + far.format(group, "") for group in ('group_id="3"', 'group_id="0"', "")]
    write(tmp_path, f'<image name="a.png" {IMAGE}>{"".join(shapes)}</image>')
    assert areas(read(tmp_path)) == [116, 100, 16, 100, 16]


def test_helper_shapes_tags_and_tracks(tmp_path):
    helpers = '<points label="x" points="1,1;2,2"/><polyline label="x" points="1,1;2,2;3,3"/><tag label="x"/>'
    write(tmp_path, f'<image name="a.png" {IMAGE}>{POLYGON.format("", "")}{helpers}</image>')
    assert ["data.ignore_shapes" in fault.text for fault in read(tmp_path).faults] == [True, True]
    data = read(tmp_path, ignored=("points", "polyline"))
    assert not data.faults and sum(data.unused.values()) == 3 and len(data.images[0].objects) == 1
    write(tmp_path, "<track/>")
    assert "CVAT for images" in read(tmp_path).faults[0].text


def test_the_split_is_the_subsets_or_the_folders(tmp_path):
    for place in ("images/Train", "valid"):
        folders.draw(tmp_path / place / "b.png")
    images = [("a.png", ""), ("b.png", 'subset="Train"'), ("valid/b.png", ""), ("absent.png", 'subset="train"')]
    write(tmp_path, "".join(f'<image name="{name}" {keys}/>' for name, keys in images))
    data = read(tmp_path)
    assert [(image.file_name, image.split) for image in data.images] == [
        ("images/a.png", None),
        ("images/Train/b.png", "train"),
        ("valid/b.png", "val"),
    ]
    assert [fault.reason for fault in data.faults] == ["missing image"]


@pytest.mark.parametrize(
    "shape",
    [
        '<polygon label="car" points="1,1;2,2"/>',
        '<polygon label="car" points="1;2,2"/>',
        '<polygon label="car"/>',
        '<polygon label="car" points="1,1;nan,2;3,5"/>',
        '<mask label="car" rle="1, 2" left="20" top="10" width="3" height="2"/>',
        '<mask label="car" rle="6" left="38" top="10" width="3" height="2"/>',
        '<mask label="car" rle="-1, 7" left="20" top="10" width="3" height="2"/>',
        '<ellipse label="car" cx="20" cy="15" rx="10"/>',
    ],
)
def test_a_broken_shape_is_named(tmp_path, shape):
    write(tmp_path, f'<image name="a.png" {IMAGE}>{POLYGON.format("", "")}{shape}</image>')
    data = read(tmp_path)
    assert areas(data) == [100] and [fault.reason for fault in data.faults] == ["geometry"]
    assert "a.png" in data.faults[0].where and data.faults[0].where.endswith(" 2")


def test_entities_that_expand_without_end_are_refused(tmp_path):
    folders.draw(tmp_path / "a.png")
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol"}">' for n in range(10))
    (tmp_path / "a.xml").write_text(f'<!DOCTYPE x [{entities}]><annotations><image name="&e9;"/></annotations>')
    (fault,) = read(tmp_path).faults
    assert fault.reason == "broken xml" and "document type" in fault.text


@pytest.mark.parametrize("content", ["<annotations>", "", "junk", "<annotations><image></annotations>"])
def test_a_file_that_is_not_xml_is_named(tmp_path, content):
    (tmp_path / "a.xml").write_text(content)
    assert [fault.reason for fault in read(tmp_path).faults] == ["broken xml"]


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "a.xml").write_bytes("<annotations><image name='汽车.png'/></annotations>".encode("gbk"))
    (fault,) = read(tmp_path).faults
    assert fault.reason == "encoding" and "GBK" in fault.text


def test_a_mask_larger_than_the_image_is_refused_before_it_is_made(tmp_path):
    mask = f'<mask label="car" rle="{10**10}" left="0" top="0" width="{10**5}" height="{10**5}"/>'
    write(tmp_path, f'<image name="a.png">{mask}</image>')
    (fault,) = read(tmp_path).faults
    assert "100000 x 100000 pixels, the image is" in fault.text


def test_two_values_of_an_attribute_are_refused(tmp_path):
    values = "".join(f'<attribute name="part">{value}</attribute>' for value in "ab")
    shape = f'<polygon label="car" points="4,4;14,4;14,14">{values}</polygon>'
    write(tmp_path, f'<image name="a.png">{shape}</image>')
    assert [fault.reason for fault in read(tmp_path, "thing", "part").faults] == ["ambiguous label"]


def test_an_image_that_is_annotated_twice_in_one_file_is_refused(tmp_path):
    folders.draw(tmp_path / "raw" / "a.png")
    image = '<image id="0" name="a.png"><polygon label="car" points="4,4;14,4;14,14;"/></image>'
    (tmp_path / "raw" / "annotations.xml").write_text(f"<annotations>{image}{image}</annotations>")
    with pytest.raises(UserError, match="a.png is annotated in annotations.xml, image a.png too"):
        folders.converted(tmp_path / "raw", folders.tasks(part="auto"), format="cvat")


def test_images_that_no_file_lists_are_counted(tmp_path):
    write(tmp_path, f'<image name="a.png" {IMAGE}/>')
    folders.draw(tmp_path / "images" / "further.png")
    assert read(tmp_path).unused == {"images that no annotation file in use lists": 1}
