"""What annotations state twice: a disagreement is reported with its cause, and agreement is silent."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mtseg.core.errors import UserError
from mtseg.data import facts
from tests.data import folders
from tests.data.folders import HEIGHT, SQUARE, WIDTH, draw, shape

TASK = folders.tasks(category="auto")
SIX = [6, 3, 16, 3, 16, 10, 6, 10]  # x 6 to 16, y 3 to 10
BOX, AREA = [6, 3, 10, 7], 70


def annotation(image, polygons=(SIX,), **keys):
    value = {"image_id": image, "category_id": 1, "bbox": BOX, "area": AREA, "iscrowd": 0}
    return value | {"segmentation": [list(polygon) for polygon in polygons]} | keys


def rle(order):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:10, 6:16] = 1
    flat = mask.ravel(order=order)
    ends = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *ends, len(flat)]).tolist()}


def inverse():
    """RLE of all pixels outside the object: its runs without the first one, of background."""
    size, counts = rle("F").values()
    return {"size": size, "counts": [0, *counts]}


def report(raw, *wrong, count=6, sizes=True):
    """Report of a COCO folder whose other annotations are right."""
    for split in ("train", "val"):
        own = list(wrong) if split == "train" else []
        own += [annotation(number) for number in range(len(own) + 1, count + 1)]
        path = folders.coco(raw, split, own, count)
        if not sizes:
            value = json.loads(path.read_text())
            for image in value["images"]:
                del image["height"], image["width"]
            path.write_text(json.dumps(value))
    folders.converted(raw, TASK, format="coco")
    return folders.report(raw)


def test_agreement_and_rounding_are_silent(tmp_path):
    off = [
        annotation(1, bbox=[7.4, 1.6, 10, 7], area=77),
        annotation(2, area=None),
        annotation(5, bbox=[0, 0, 0, 0], area=0),
        annotation(3, segmentation=rle("F")),
        annotation(4, [[-2, 3, 16, 3, 16, 10, -2, 10]], bbox=[0, 3, 16, 7], area=112),
    ]
    assert report(tmp_path / "raw", *off)["warnings"] == []


@pytest.mark.parametrize("share", [1, 6])
@pytest.mark.parametrize(
    ("keys", "cause"),
    [
        ({"segmentation": rle("C")}, "row-major RLE"),
        (
            {"segmentation": [[y_or_x for x, y in zip(SIX[::2], SIX[1::2], strict=True) for y_or_x in (y, x)]]},
            "x and y",
        ),
        ({"segmentation": [[v / (HEIGHT if i % 2 else WIDTH) for i, v in enumerate(SIX)]]}, "normalised coordinates"),
        ({"segmentation": [[HEIGHT - v if i % 2 else v for i, v in enumerate(SIX)]]}, "y counted from the bottom"),
        ({"segmentation": [[*SIX[::2], *SIX[1::2]]]}, "all x before all y"),
        (
            {"segmentation": [[v for x, y in zip(SIX[::2], SIX[1::2], strict=True) for v in (x, y, 2)]]},
            "three numbers for each point",
        ),
        ({"segmentation": inverse()}, "inverted RLE"),
        ({"segmentation": [[2 * value for value in SIX]]}, "another image size"),
        ({"segmentation": [[value / 2 for value in SIX]]}, "another image size"),
        (
            {"segmentation": [[v * (2 if i % 2 else 0.5) for i, v in enumerate(SIX)]]},
            "another image size.* 2 times in width and 0.5 times in height",
        ),
    ],
)
def test_an_outline_that_is_wrong_is_an_error_with_its_cause(tmp_path, keys, cause, share):
    with pytest.raises(UserError, match=f"{share} invalid record(.|\n)*{cause}"):
        report(tmp_path / "raw", *(annotation(number + 1, **keys) for number in range(share)))


CORNER = [0, 0, 1, 0, 1, 1, 0, 1]


def test_the_pixel_at_the_top_left_is_not_taken_for_coordinates_from_0_to_1(tmp_path):
    pixel = annotation(1, [CORNER], bbox=[0, 0, 1, 1], area=1)
    assert report(tmp_path / "raw", pixel, annotation(2, [CORNER], bbox=None, area=None))["warnings"] == []
    for keys in ({"bbox": [0, 0, WIDTH, HEIGHT]}, {"bbox": None, "area": WIDTH * HEIGHT}):
        with pytest.raises(UserError, match="1 invalid record(.|\n)*normalised coordinates"):
            report(tmp_path / "raw", pixel | keys)
    folders.coco(tmp_path / "all", "train", [pixel, pixel | {"image_id": 2}])
    with pytest.raises(UserError, match="2 invalid record(.|\n)*normalised coordinates"):
        folders.converted(tmp_path / "all", TASK, format="coco")


def test_rows_are_found_without_a_box(tmp_path):
    circle = np.zeros((HEIGHT, WIDTH), np.uint8)
    circle[4:26, 5:33] = 1
    circle[[4, 25], 5:9] = 0
    flat = circle.ravel()
    counts = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), len(flat)]).tolist()
    wrong = {"size": [HEIGHT, WIDTH], "counts": counts}
    with pytest.raises(UserError, match="row-major RLE"):
        report(tmp_path / "raw", annotation(1, segmentation=wrong, bbox=None, area=None))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"bbox": [6, 3, 16, 10]}, "two corners"),
        ({"bbox": [11, 6.5, 10, 7]}, "centre and size"),
        ({"bbox": [6 / WIDTH, 3 / HEIGHT, 10 / WIDTH, 7 / HEIGHT]}, "in 0 to 1"),
        ({"bbox": [20, 20, 5, 5]}, "disagree"),
        (
            {"segmentation": [[2, 2, 32, 2, 32, 27, 2, 27]], "bbox": [10, 9, 24, 20]},
            "cropped or got borders after annotating",
        ),
        ({"area": 500}, "stated area"),
        (
            {"segmentation": [[2, 2, 32, 2, 32, 27, 2, 27], [8, 8, 24, 8, 24, 22, 8, 22]]}
            | {"bbox": [2, 2, 30, 25], "area": 750 - 16 * 14},
            "holes written as a second polygon",
        ),
        (
            {"segmentation": [[2, 2, 12, 2, 12, 12, 2, 12], [4, 4, 8, 4, 8, 8, 4, 8], [20, 10, 28, 10, 28, 18, 20, 18]]}
            | {"bbox": [2, 2, 26, 16], "area": 100 - 16 + 64},
            "holes written as a second polygon",
        ),
    ],
)
def test_what_is_in_doubt_is_a_warning_with_count_and_example(tmp_path, keys, words):
    (line,) = report(tmp_path / "raw", annotation(1, **keys))["warnings"]
    assert words in line and ": 1, such as annotations/train.json, annotation 1 (images/train/1.png)" in line


@pytest.mark.parametrize(("polygon", "cause"), [
    ([30, 5, 60, 5, 60, 20, 30, 20], "resized"),
    ([5, 20, 20, 20, 20, 38, 5, 38], "x and y are swapped"),
])  # fmt: skip
def test_outlines_beyond_the_image(tmp_path, polygon, cause):
    (line,) = report(tmp_path / "raw", annotation(1, [polygon], bbox=None, area=None), sizes=False)["warnings"]
    assert "beyond the image" in line and cause in line


def test_images_of_which_a_part_was_enlarged_after_annotating(tmp_path):
    wide = [annotation(number, [[25, 20, 38, 20, 38, 28, 25, 28]], bbox=None, area=None) for number in range(1, 13)]
    for enlarged, count in ((1, 0), (2, 1)):
        raw = tmp_path / str(enlarged) / "raw"
        report(raw, *wide, count=24, sizes=False)
        for number in range(13, 25):
            folders.draw(raw / "images" / "train" / f"{number}.png", (WIDTH * enlarged, HEIGHT * enlarged))
        folders.converted(raw, TASK, format="coco")
        lines = [line for line in folders.report(raw)["warnings"] if "top left" in line]
        assert len(lines) == count and all("80 x 60" in line and "enlarged by 2" in line for line in lines)


def test_images_that_were_enlarged_after_annotating(tmp_path):
    (line,) = report(tmp_path / "raw", count=12, sizes=False)["warnings"]
    assert "top left" in line and ": 24, such as" in line


def test_annotations_that_were_made_twice_are_found_by_the_overlap_of_equal_classes(tmp_path):
    for number, (other, by, count) in enumerate((("x", 1, 1), ("y", 1, 0), ("x", 3, 0))):
        raw = tmp_path / str(number) / "raw"
        near = [[x + 0.7, y + by] for x, y in SQUARE]
        for split in ("train", "val"):
            beside = shape("x", [[24, 4], [36, 4], [36, 14], [24, 14]])
            folders.labelme(raw, f"{split}/a", shape("x"), beside, shape(other, near))
        folders.converted(raw, TASK)
        lines = [line for line in folders.report(raw)["warnings"] if "near-duplicates" in line]
        assert len(lines) == count and all(": 2, such as train/a.png" in line for line in lines)


@pytest.mark.parametrize(("top", "bottom", "count"), [(3, 9, 1), (15, 21, 0), (0, HEIGHT, 0)])
def test_objects_on_the_borders_of_letterboxed_images(tmp_path, top, bottom, count):
    outline = [[0, top], [WIDTH, top], [WIDTH, bottom], [0, bottom]]  # also of a whole page, which has margins
    for split in ("train", "val"):
        path = folders.labelme(tmp_path / "raw", f"{split}/a", shape("x", outline), imagePath="a.jpg")
        pixels = np.full((HEIGHT, WIDTH, 3), 114, np.uint8)
        pixels[8:22] = np.asarray(Image.open(path.with_suffix(".png")))[8:22]
        path.with_suffix(".png").unlink()
        Image.fromarray(pixels).save(path.with_suffix(".jpg"), quality=95)
    folders.converted(tmp_path / "raw", TASK)
    lines = [line for line in folders.report(tmp_path / "raw")["warnings"] if "borders of one colour" in line]
    assert len(lines) == count and all(": 2, such as train/a.jpg" in line for line in lines)


@pytest.mark.parametrize("factor", [1, 2])
def test_few_images_that_were_enlarged_are_found_by_their_edges(tmp_path, factor):
    raw = tmp_path / "raw"
    for number in range(4):
        path = folders.labelme(
            raw, f"{'train' if number < 2 else 'val'}/{number}", shape("x", SQUARE), imageHeight=0, imageWidth=0
        )
        pixels = np.full((HEIGHT, WIDTH), 60 + 9 * number, np.uint8)
        pixels[4:14, 4:14] = 200
        Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1)).save(path.with_suffix(".png"))
    folders.converted(raw, TASK)
    lines = [line for line in folders.report(raw)["warnings"] if "top left" in line]
    assert len(lines) == factor - 1 and all("multiplied by 2 they follow edges): 4" in line for line in lines)


@pytest.mark.parametrize("sizes", [1, 2])
def test_outlines_at_the_top_left_that_follow_edges_are_right(tmp_path, sizes):
    """As those of a fixed camera over a part of a bench, also if a half of the images is larger."""
    for number in range(24):
        scale = 1 + number % sizes
        raw = folders.labelme(
            tmp_path / "raw", f"{'train' if number < 12 else 'val'}/{number}", shape("x"), imageHeight=0, imageWidth=0
        )
        pixels = np.full((HEIGHT * scale, WIDTH * scale), 60 + number, np.uint8)
        pixels[4:14, 4:14] = 200
        Image.fromarray(pixels).save(raw.with_suffix(".png"))
    folders.converted(tmp_path / "raw", TASK)
    assert not [line for line in folders.report(tmp_path / "raw")["warnings"] if "top left" in line]


@pytest.mark.parametrize(
    ("stated", "cause"),
    [
        ((60, 80), "by 0.5"),
        ((40, 30), "exchanged"),
        ((60, 160), "stretched after annotating, by 0.25 in width and 0.5"),
    ],
)
def test_a_stated_size_that_is_not_the_images(tmp_path, stated, cause):
    height, width = stated
    folders.labelme(tmp_path / "raw", "train/a", shape("x"), imageHeight=height, imageWidth=width)
    folders.labelme(tmp_path / "raw", "val/a", shape("x"))
    with pytest.raises(UserError, match=cause):
        folders.converted(tmp_path / "raw", TASK)


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_orientation(tmp_path, orientation):
    raw = tmp_path / "raw"
    for split in ("train", "val"):
        folders.labelme(raw, f"{split}/a", shape("x"), imagePath="a.jpg")
        (raw / split / "a.png").unlink()
        exif = Image.Exif()
        exif[0x0112] = orientation
        draw(raw / split / "a.jpg", exif=exif)
    if orientation == 6:
        with pytest.raises(UserError, match="pixels as stored, the image has EXIF orientation 6"):
            folders.converted(raw, TASK)
    else:
        folders.converted(raw, TASK)
        (line,) = folders.report(raw)["warnings"]
        assert "EXIF" in line and ": 2, such as train/a.jpg (3)" in line


def test_a_stated_size_of_the_turned_image_proves_that_the_tool_turned_it(tmp_path):
    raw = tmp_path / "raw"
    exif = Image.Exif()
    for name, orientation, size in (("a", 6, (HEIGHT, WIDTH)), ("b", 3, (WIDTH, HEIGHT)), ("c", 1, (WIDTH, HEIGHT))):
        exif[0x0112] = orientation
        for split in ("train", "val"):
            path = folders.labelme(raw, f"{split}/{name}", shape("x"), imagePath=f"{name}.jpg")
            path.with_suffix(".png").unlink()
            draw(path.with_suffix(".jpg"), size, exif=exif)
    folders.converted(raw, TASK)
    assert not folders.report(raw)["warnings"]


def test_the_name_of_another_image(tmp_path):
    raw = tmp_path / "raw"
    for split in ("train", "val"):
        for name, stated in (("a", "b.png"), ("b", "b.png"), ("c", "gone.png")):
            folders.labelme(raw, f"{split}/{name}", shape("x"), imagePath=stated)
    folders.converted(raw, TASK)
    (line,) = folders.report(raw)["warnings"]
    assert ": 2, such as train/a.json states b.png, used is train/a.png" in line


def test_the_image_of_another_folder_that_is_no_copy(tmp_path):
    raw = tmp_path / "raw"
    for place, stated in (("train", "../val/a.png"), ("val", "../copy/a.png")):
        folders.labelme(raw, f"{place}/a", shape("x"), imagePath=stated)
    (raw / "copy").mkdir()
    shutil.copy(raw / "val/a.png", raw / "copy")
    folders.converted(raw, TASK)
    (line,) = folders.report(raw)["warnings"]
    assert ": 1, such as train/a.json states ../val/a.png, used is train/a.png" in line


def embedded(image, kind="png", **save):
    file = io.BytesIO()
    image.save(file, kind, **save)
    return base64.b64encode(file.getvalue()).decode()


def test_an_embedded_image_that_is_not_the_file_is_reported(tmp_path):
    raw = tmp_path / "raw"
    size = {"imageHeight": None, "imageWidth": None}
    opened = {name: Image.open(draw(tmp_path / "drawn" / f"{name}.png", (320, 240))) for name in "ab"}
    dim = opened["a"].convert("L").point(lambda value: 120 + value // 60).convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, image, data in (
        ("same", opened["a"], embedded(opened["a"])),
        ("jpeg", opened["a"], embedded(opened["a"], "jpeg", quality=40)),
        ("dim", dim, embedded(dim, "jpeg", quality=30)),
        ("turned", opened["a"].rotate(90, expand=True), embedded(opened["a"].rotate(180), "jpeg", exif=turned)),
        ("junk", opened["b"], "junk"),
        ("other", opened["a"], embedded(opened["b"])),
        ("small", opened["a"], embedded(opened["a"].resize((160, 120)))),
    ):
        for split in ("train", "val"):
            path = folders.labelme(raw, f"{split}/{name}", shape("x"), imageData=data, **size)
            image.save(path.with_suffix(".png"))
    folders.converted(raw, TASK)
    other, small = (line for line in folders.report(raw)["warnings"] if "imageData" in line)
    assert "is another image" in other and ": 2, such as train/other.json, used is train/other.png (320 x 240)" in other
    assert "another size" in small and ": 2, such as train/small.json (160 x 120), used is" in small


def test_images_without_objects_and_a_split_without_any(tmp_path):
    raw = tmp_path / "raw"
    for number in range(5):
        folders.labelme(raw, f"train/{number}", *([shape("x", SQUARE)] if number < 1 else []))
    folders.labelme(raw, "val/a", shape("x"))
    folders.converted(raw, TASK)
    (line,) = folders.report(raw)["warnings"]
    assert "4 of 6 images have no object, such as train/1.png" in line
    folders.labelme(raw, "val/a")
    folders.converted(raw, TASK)
    (line,) = folders.report(raw)["warnings"]
    assert "val has no object" in line


def test_most_objects_are_crowds(tmp_path):
    packed = coco_mask.encode(np.asfortranarray(np.pad(np.ones((7, 10), np.uint8), ((3, 20), (6, 24)))))
    mask = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    crowds = [annotation(1 + number % 6, segmentation=mask, iscrowd=1) for number in range(14)]
    _, line = report(tmp_path / "raw", *crowds, annotation(1))["warnings"]  # the first is of duplicates
    assert "iscrowd" in line and line.startswith("14 objects")


STALE = {"bbox": [6, 6, 10, 14], "area": 140}  # the outline is 1.5 times as large
GROWN = [9, 9, 24, 9, 24, 30, 9, 30]


@pytest.mark.parametrize(
    ("wrong", "others"),
    [
        ({**STALE, "area": 315}, []),  # the area is the outline's
        (STALE, [annotation(1)]),  # another box of the image is in place
        ({"segmentation": [[1, 2, 31, 2, 31, 30, 1, 30]], "bbox": [1, 2, 20, 18.7], "area": 374}, []),  # in its place
    ],
)
def test_a_box_of_an_older_outline_is_no_other_image_size(tmp_path, wrong, others):
    stale = annotation(1, [GROWN]) | wrong
    (line,) = report(tmp_path / "raw", stale, *others)["warnings"]
    assert "the outline is used" in line or "the outline, which is used" in line
    with pytest.raises(UserError, match=r"another image size: .* 0\.667 times as large"):
        report(tmp_path / "other", annotation(1, [GROWN], **STALE), annotation(1, [GROWN], **STALE))


def test_a_split_of_crowds_alone_is_named_and_left_out_if_it_is_test(tmp_path):
    raw, names = tmp_path / "raw", ("train/a.png", "val/b.png", "test/c.png")
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    for name in names:
        draw(raw / name)
    for crowds in ("val", "train"):
        found = [annotation(number, id=number, iscrowd=int(crowds in name)) for number, name in enumerate(names)]
        found[2]["iscrowd"] = 1
        value = {"images": images, "annotations": found, "categories": [{"id": 1, "name": "a"}]}
        (raw / "all.json").write_text(json.dumps(value))
        folders.converted(raw, TASK, format="coco")
        said = folders.report(raw)
        assert any(line.startswith(f"{crowds} has no object but crowds") for line in said["warnings"])
        assert [*said["images"]] == ["train", "val"]
        assert said["unused"] == {"images of test, of which none has an object but crowds": 1}


BOW = [4, 2, 34, 28, 34, 2, 4, 28]  # two lobes, of equal area


@pytest.mark.parametrize("unequal", [0, 4])
def test_an_outline_whose_edges_cross_is_its_lobes_and_is_named(tmp_path, unequal):
    outline, thin = [*BOW[:6], 4 + unequal, 28 - unequal], [6, 3, 30, 4, 30, 3]
    silent = {"bbox": None, "area": None}
    wrong = [annotation(1, [outline], **silent), annotation(2, [thin], **silent)]
    (line,) = report(tmp_path / "raw", *wrong)["warnings"]
    assert "edges cross" in line and ": 1, such as annotations/train.json, annotation 1 " in line


def test_points_on_a_line_have_no_area(tmp_path):
    for line in ([6, 3, 12, 6, 18, 9], [6, 3] * 3):
        with pytest.raises(UserError, match="annotation 1: a polygon has no area: its points are on a line"):
            report(tmp_path / "raw", annotation(1, [line]))


def test_the_cause_of_an_outline_outside_the_image_is_named():
    assert facts.outside((2, 32, 6, 7), 30, 40).endswith("(likely cause: x and y are swapped)")
    assert "resized or cropped" in facts.outside((50, 50, 6, 7), 30, 40)
    assert "divided by another size" in facts.outside((2, 32, 6, 7), 30, 40, relative=True)


def test_shares_beyond_the_image_are_not_of_a_resized_one(tmp_path):
    raw = tmp_path / "raw"
    for split in ("train", "val"):
        draw(raw / f"{split}/images/a.png")
        (raw / split / "labels").mkdir()
        (raw / split / "labels/a.txt").write_text("0 0.1 0.1 1.2 0.1 1.2 0.5\n")
    (raw / "data.yaml").write_text("names: [car]\n")
    folders.converted(raw, TASK, format="yolo")
    (line,) = folders.report(raw)["warnings"]
    assert "beyond the image" in line and "divided by another size" in line and "resized" not in line
