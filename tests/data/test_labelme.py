import base64
import io
import json
import time
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from mtseg.core.errors import UserError
from mtseg.core.masks import mask
from mtseg.data import embedded
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
        (shape(None), "label is null, expected text"),
        ({}, "label is null, expected text"),
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
    folders.draw(tmp_path / "a.png")
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
    assert data.unused == {"images without a valid .json": 1}


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


def png(pixels):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("sizes", [{}, {"imageHeight": 0, "imageWidth": None}])
def test_a_mask_lies_at_its_corners(tmp_path, sizes):
    drawn = np.array([[0, 255, 0], [255, 255, 255]], dtype=np.uint8)
    where = {"shape_type": "mask", "points": [[7.0, 5.0], [9.0, 6.0]]}
    folders.labelme(tmp_path, "a", shape("a,b,c", mask=png(drawn), **where), **sizes)
    (item,) = read(tmp_path).images[0].objects
    found = mask(item.segmentation, HEIGHT, WIDTH)
    assert found[5:7, 7:10].tolist() == (drawn // 255).tolist() and found.sum() == 4


@pytest.mark.parametrize(
    "keys",
    [
        {"mask": None},
        {"mask": "junk"},
        {"points": [[38, 5], [40, 6]]},
        {"points": [[7, 5], [30, 6]]},
        {"points": [[7, 5]]},
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path, keys):
    good = {"shape_type": "mask", "points": [[7, 5], [9, 6]], "mask": png(np.full((2, 3), 255, np.uint8))}
    folders.labelme(tmp_path, "a", shape("a,b,c", **(good | keys)), shape("a,b,c", **good))
    data = read(tmp_path)
    assert [fault.reason for fault in data.faults] == ["geometry"] and len(data.images[0].objects) == 1


@pytest.mark.parametrize("on_error", ["error", "skip"])
def test_a_mask_is_not_drawn_in_a_size_that_no_image_may_have(tmp_path, on_error):
    mask = shape("a,b,c", [[0, 0], [0, 0]], shape_type="mask", mask=png(np.full((1, 1), 255, np.uint8)))
    for name in ("a", "b"):
        folders.labelme(tmp_path / "raw", name, shape("a,b,c"))
    folders.labelme(tmp_path / "raw", "c", mask, imageHeight=10**6, imageWidth=10**6)
    if on_error == "skip":
        assert len(converted(tmp_path / "raw", tasks(), on_error="skip")) == 2
    else:
        with pytest.raises(UserError, match=r"1 invalid record.*\n.*c.json: the annotated size is 1000000 x 1000000, "):
            converted(tmp_path / "raw", tasks())


def test_masks_and_polygons_of_a_group_are_one_object(tmp_path):
    square = np.full((5, 5), 255, np.uint8)
    folders.labelme(
        tmp_path,
        "a",
        shape("a,b,c", group_id=1),
        shape("a,b,c", [[20, 20], [24, 24]], shape_type="mask", mask=png(square), group_id=1),
    )
    (item,) = read(tmp_path).images[0].objects
    assert mask(item.segmentation, HEIGHT, WIDTH).sum() == 100 + 25


def test_polygons_far_outside_the_image_take_no_time_beside_a_mask(tmp_path):
    drawn = png(np.full((5, 5), 255, np.uint8))
    far = [[-9e6, -9e6], [9e6, -9e6], [0, 10]]
    beside = [[50, 5], [60, 5], [60, 9]]
    parts = [shape("a,b,c", points, group_id=1) for points in (*[far] * 12, beside)]
    parts.append(shape("a,b,c", [[20, 20], [24, 24]], shape_type="mask", mask=drawn, group_id=1))
    folders.labelme(tmp_path, "a", *parts)
    start = time.monotonic()
    (item,) = read(tmp_path).images[0].objects
    assert mask(item.segmentation, HEIGHT, WIDTH)[20:25, 20:25].all() and time.monotonic() - start < 5


def test_a_rotated_rectangle_is_its_four_corners(tmp_path):
    points = [[10.0, 2.0], [18.0, 10.0], [10.0, 18.0], [2.0, 10.0]]
    folders.labelme(tmp_path, "a", shape("a,b,c", points, shape_type="rotation", direction=0.78))
    (item,) = read(tmp_path).images[0].objects
    assert item.segmentation == [[value for point in points for value in point]]


def test_helper_shapes_are_left_out_by_their_kind_and_counted(tmp_path):
    helpers = [shape("nose", [[5, 5]], shape_type="point"), shape("axis", [[1, 1], [9, 9]], shape_type="line")]
    folders.labelme(tmp_path / "raw", "a", shape("a,b,c"), *helpers)
    folders.labelme(tmp_path / "raw", "b", *helpers[:1])
    with pytest.raises(UserError, match="data.ignore_shapes"):
        labelled = [item | {"label": "a,b,c"} for item in helpers]
        folders.labelme(tmp_path / "strict", "a", *labelled)
        converted(tmp_path / "strict", tasks())
    images = converted(tmp_path / "raw", tasks(), ignored=("point", "line"))
    assert [len(image.instances) for image in images.values()] in ([1, 0], [0, 1])
    assert sum(folders.report(tmp_path / "raw")["unused"].values()) == 3


@pytest.mark.parametrize("content", ["{}", '["door"]', '{"a": 1}'])
def test_other_json_files_are_counted(tmp_path, content):
    folders.labelme(tmp_path, "a")
    (tmp_path / "classes.json").write_text(content)
    data = read(tmp_path)
    assert not data.faults and data.unused_files == ["classes.json"] and len(data.images) == 1


def test_a_group_is_the_same_in_every_spelling_of_its_number(tmp_path):
    far = (np.array(SQUARE) + 15).tolist()
    folders.labelme(tmp_path, "a", shape("a,b,c", group_id=0), shape("a,b,c", far, group_id=0.0))
    assert [len(item.segmentation) for item in read(tmp_path).images[0].objects] == [2]


@pytest.mark.parametrize("group", [None, "", " ", "null", "None", -1, -1.0, float("nan")])
def test_an_empty_group_id_is_no_group(tmp_path, group):
    far = (np.array(SQUARE) + 15).tolist()
    folders.labelme(tmp_path, "a", shape("a,b,c", group_id=group), shape("a,b,c", far, group_id=group))
    assert len(read(tmp_path).images[0].objects) == 2


@pytest.mark.parametrize(("other", "warned"), [(0, [2]), (1, []), (None, [])])
def test_a_group_of_all_shapes_of_the_data_is_reported(tmp_path, other, warned):
    far = (np.array(SQUARE) + 15).tolist()
    for name in "ab":
        folders.labelme(tmp_path, name, shape("a,b,c", group_id=0), shape("a,b,c", far, group_id=0))
    folders.labelme(tmp_path, "c", shape("a,b,c", group_id=other))
    assert [*read(tmp_path).warnings.values()] == warned


def test_a_scrap_of_a_group_costs_the_part_and_not_the_object(tmp_path):
    scrap = shape("a,b,c", [[1, 1], [2, 2]], group_id=1)
    folders.labelme(tmp_path, "a", scrap, shape("a,b,c", group_id=1), shape("a,b,c", [[1, 1], [2, 2]]))
    data = read(tmp_path)
    assert [(len(item.segmentation), item.parts_left_out) for item in data.images[0].objects] == [(1, 1)]
    assert [fault.where for fault in data.faults] == ["a.json, shape 3"]


def test_a_polygon_inside_another_of_its_group_is_reported(tmp_path):
    inner = (np.array(SQUARE) * 0.5 + 4).tolist()
    folders.labelme(tmp_path, "a", *(shape("a,b,c", points, group_id=1) for points in (inner, SQUARE)))
    data = read(tmp_path)
    assert len(data.images[0].objects) == 1 and list(data.unused.values()) == [1]
    folders.labelme(tmp_path, "a", *(shape("a,b,c", points) for points in (inner, SQUARE)))
    assert not read(tmp_path).unused


def test_the_image_of_the_own_name_wins_over_a_stale_path(tmp_path):
    for number in range(3):
        folders.labelme(tmp_path, f"{number}", imagePath=f"{(number + 1) % 3}.png")
    assert [(image.where, image.file_name, image.stated_name) for image in read(tmp_path).images] == [
        ("0.json", "0.png", "1.png"),
        ("1.json", "1.png", "2.png"),
        ("2.json", "2.png", "0.png"),
    ]


@pytest.mark.parametrize(
    "place, images",
    [("json", "images"), ("train/json", "train/images"), ("train", "images/train"), ("labels/train", "images/train")],
)
def test_images_may_be_in_a_folder_of_their_own(tmp_path, place, images):
    folders.labelme(tmp_path, f"{place}/a")
    (tmp_path / images).mkdir(parents=True)
    (tmp_path / place / "a.png").rename(tmp_path / images / "a.png")
    assert [image.file_name for image in read(tmp_path).images] == [f"{images}/a.png"]


def test_of_several_images_of_the_own_name_the_stated_one_is_taken(tmp_path):
    folders.labelme(tmp_path, "a")
    folders.draw(tmp_path / "a.jpg")
    assert [image.file_name for image in read(tmp_path).images] == ["a.png"]
    folders.labelme(tmp_path, "a", imagePath="other.png")
    assert [fault.reason for fault in read(tmp_path).faults] == ["ambiguous image"]


def test_difficult_and_numbers_are_labels_of_tasks(tmp_path):
    folders.labelme(tmp_path, "a", shape("door", difficult=True, attributes={"count": 2.0, "open": False}))
    names = ("part", "difficult", "count", "open")
    data = labelme.read(tmp_path, Vocabulary(dict.fromkeys(names)))
    assert data.images[0].objects[0].labels == {"part": "door", "difficult": "true", "count": "2", "open": "false"}


def test_an_embedded_image_can_be_written_to_a_file(tmp_path):
    pixels = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
    folders.labelme(tmp_path, "deep/a", shape("a,b,c"), imageData=png(pixels))
    (tmp_path / "deep" / "a.png").unlink()
    (fault,) = read(tmp_path).faults
    assert "python -m mtseg.data.embedded" in fault.text
    assert embedded.unpack(tmp_path) == ["deep/a.png"]
    assert np.array_equal(PIL.Image.open(tmp_path / "deep" / "a.png"), pixels)
    assert not read(tmp_path).faults and embedded.unpack(tmp_path) == []


@pytest.mark.parametrize("size, shown", [((HEIGHT, WIDTH), True), ((100, 100), False)])
def test_an_embedded_image_that_is_too_large_is_not_decoded(tmp_path, size, shown):
    folders.labelme(tmp_path, "a", shape("a,b,c"), imageData=png(np.zeros(size, np.uint8)))
    (image,) = labelme.read(tmp_path, replace(FREE, max_megapixels=0.002)).images
    assert (image.shown is not None) == shown


def test_an_embedded_image_that_is_broken_is_named(tmp_path):
    folders.labelme(tmp_path, "a", imageData="junk").with_suffix(".png").unlink()
    with pytest.raises(UserError, match="a.json"):
        embedded.unpack(tmp_path)


def test_a_mask_larger_than_the_image_is_not_decoded(tmp_path):
    file = io.BytesIO()
    PIL.Image.new("1", (9000, 9000)).save(file, "png")
    mask = base64.b64encode(file.getvalue()).decode()
    folders.labelme(tmp_path, "a", shape("a,b,c", shape_type="mask", mask=mask, points=[[0, 0], [8999, 8999]]))
    (fault,) = read(tmp_path).faults
    assert "the mask has 9000 x 9000 pixels, the image" in fault.text
