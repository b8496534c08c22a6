import numpy as np
import PIL.Image
import pytest

from mtseg.core.masks import mask
from mtseg.data.formats import masks
from mtseg.data.labels import Vocabulary
from tests.data import folders
from tests.data.folders import HEIGHT, WIDTH


def voc_palette():
    """Of the VOC development kit's VOCcolormap, as a table of the first colours."""
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    first += [(128, 128, 128), (64, 0, 0)]
    return np.array(first + [(1, 1, index) for index in range(9, 255)] + [(224, 224, 192)], dtype=np.uint8)


def save(path, pixels, mode="P"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(pixels, dtype=np.uint8)
    if mode == "RGB":
        image = PIL.Image.fromarray(voc_palette()[pixels])
    else:
        image = PIL.Image.fromarray(pixels)
        if mode == "P":
            image = PIL.Image.fromarray(pixels, "L")
            image.putpalette(voc_palette().ravel().tolist())
    image.save(path)


def two_objects():
    """Objects 1 and 2 with a border; their classes are 7 (car) and 2 (bicycle)."""
    objects, classes = np.zeros((2, HEIGHT, WIDTH), dtype=np.uint8)
    objects[3:14, 3:14] = classes[3:14, 3:14] = 255
    objects[4:13, 4:13], classes[4:13, 4:13] = 1, 7
    objects[20:25, 20:30], classes[20:25, 20:30] = 2, 2
    return objects, classes


def write_voc(folder, name, mode="P", objects=None, classes=None):
    drawn = two_objects()
    folders.draw(folder / "JPEGImages" / f"{name}.jpg")
    save(folder / "SegmentationObject" / f"{name}.png", drawn[0] if objects is None else objects, mode)
    save(folder / "SegmentationClass" / f"{name}.png", drawn[1] if classes is None else classes, mode)


def read(folder, classes=None):
    return masks.read(folder, Vocabulary({"part": classes}))


def areas(image):
    return {item.labels["part"]: int(mask(item.segmentation, HEIGHT, WIDTH).sum()) for item in image.objects}


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_indexed_masks_are_objects_and_the_border_is_not(tmp_path, mode):
    write_voc(tmp_path, "a", mode)
    data = read(tmp_path)
    assert not data.faults and not data.unused
    assert data.images[0].file_name == "JPEGImages/a.jpg" and data.images[0].size == (HEIGHT, WIDTH)
    assert areas(data.images[0]) == {"car": 81, "bicycle": 50}


def test_the_split_is_that_of_image_sets(tmp_path):
    for name, listed in (("a", "train"), ("b", "val"), ("c", None)):
        write_voc(tmp_path / "VOC2012", name)
        for file in (listed, "trainval") if listed else ():
            path = tmp_path / "VOC2012" / "ImageSets" / "Segmentation" / f"{file}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as lines:
                lines.write(f"{name}\n")
    data = read(tmp_path)
    assert [image.split for image in data.images] == ["train", "val", None]
    assert data.split_source == "VOC2012/ImageSets/Segmentation: train, val"


@pytest.mark.parametrize(
    "name, text",
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbike:0,128,0::\nauto:128,128,128::\n"),
        ("class_names.txt", "__ignore__\n_background_\nx\nbike\nx\nx\nx\nx\nauto\n"),
    ],
)
@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_class_names_are_those_of_the_tool(tmp_path, mode, name, text):
    write_voc(tmp_path, "a", mode)
    (tmp_path / name).write_text(text)
    assert areas(read(tmp_path).images[0]) == {"auto": 81, "bike": 50}


def test_names_without_a_background_are_one_error(tmp_path):
    for name in "ab":
        write_voc(tmp_path, name, "L")
    (tmp_path / "class_names.txt").write_text("x\nbike\nx\nx\nx\nx\nx\nauto\n")
    data = read(tmp_path)
    assert not data.images and ["'x', is not that of the background" in fault.text for fault in data.faults] == [True]


def test_objects_of_no_one_class_and_other_sizes_are_named(tmp_path):
    objects, classes = two_objects()
    write_voc(tmp_path, "a", classes=np.where(objects == 1, 0, classes))
    write_voc(tmp_path, "b", classes=classes[:-1])
    write_voc(tmp_path, "c")
    (tmp_path / "SegmentationClass" / "c.png").unlink()
    data = read(tmp_path)
    assert [fault.reason for fault in data.faults] == ["unknown label", "size", "missing image"]
    assert [areas(image) for image in data.images] == [{"bicycle": 50}]


def test_numbers_of_objects_may_exceed_a_byte(tmp_path):
    objects, _ = two_objects()
    for name, pixels in {
        "a.png": np.where(objects < 255, objects.astype(np.uint16) * 1000, 0).astype(np.uint16),
        "b.tif": np.where(objects < 255, objects * np.float32(1000), 0).astype(np.float32),
        "c.tif": objects.astype(np.float32) / 2,
    }.items():
        write_voc(tmp_path, name[0])
        (tmp_path / "SegmentationObject" / f"{name[0]}.png").unlink()
        PIL.Image.fromarray(pixels).save(tmp_path / "SegmentationObject" / name)
    data = read(tmp_path)
    assert [areas(image) for image in data.images] == [{"car": 81, "bicycle": 50}] * 2
    assert [(fault.reason, fault.where) for fault in data.faults] == [("broken image", "SegmentationObject/c.tif")]


def test_objects_of_the_number_of_the_border_are_named(tmp_path):
    objects, _ = two_objects()
    write_voc(tmp_path, "a", "L", 255 * (objects == 1), 255 * (objects == 1))
    assert [fault.reason for fault in read(tmp_path).faults] == ["no objects"]


@pytest.mark.parametrize("colour", [0, 255, "noise"])
def test_transparent_pixels_are_of_no_object(tmp_path, colour):
    folders.draw(tmp_path / "images/a.png")
    area = two_objects()[0] == 1
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., 3] = 255 * area
    pixels[..., :3] = np.where(area, 9, 77)[..., None] if colour == "noise" else colour
    (tmp_path / "masks/a").mkdir(parents=True)
    PIL.Image.fromarray(pixels).save(tmp_path / "masks/a/car_1.png")
    data = read(tmp_path)
    assert not data.faults and areas(data.images[0]) == {"car": 81}


@pytest.mark.parametrize("inverted", [False, True])
def test_inverted_masks_are_noted(tmp_path, inverted):
    folders.draw(tmp_path / "images/a.png")
    save(tmp_path / "masks/a/car_1.png", 255 * ((two_objects()[0] == 1) ^ inverted), mode="L")
    data = read(tmp_path)
    assert not data.faults and [*data.notes.values()] == [1] * inverted


def test_a_mask_that_is_inverted_unlike_the_others_of_its_class_is_reported(tmp_path):
    folders.draw(tmp_path / "images/a.png")
    own = two_objects()[0]
    for number in range(8):
        save(tmp_path / f"masks/a/car_{number}.png", (np.roll(own, number) == 1) ^ (number == 3), mode="L")
    for number in range(4):
        save(tmp_path / f"masks/a/wall_{number}.png", np.roll(own, -number, axis=0) != 2, mode="L")
    data = read(tmp_path)
    ((line, count),) = data.warnings.items()
    assert "inverted" in line and "car_3.png" in line and count == 1 and not data.notes


def test_masks_of_an_image_in_another_folder_say_where_it_is(tmp_path):
    folders.draw(tmp_path / "images/train/a.png")
    save(tmp_path / "masks/a/car_1.png", two_objects()[0] == 1, mode="L")
    (fault,) = read(tmp_path).faults
    assert fault.reason == "missing image" and "images/train/a.png has this name: move it there" in fault.text


def test_a_mask_for_a_whole_image_is_refused(tmp_path):
    for name in "ab":
        folders.draw(tmp_path / f"images/{name}.png")
        save(tmp_path / f"masks/{name}.png", two_objects()[0], mode="L")
    assert [fault.reason for fault in read(tmp_path).faults] == ["no objects"] * 2


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_an_object_that_is_border_by_its_class_is_counted(tmp_path, mode):
    objects, classes = two_objects()
    classes[objects == 2] = 255
    write_voc(tmp_path, "a", mode, objects, classes)
    data = read(tmp_path)
    assert not data.faults and areas(data.images[0]) == {"car": 81}
    assert data.unused == {"objects that are border, 255, in SegmentationClass": 1}


def test_masks_of_classes_alone_are_refused(tmp_path):
    write_voc(tmp_path, "a")
    (tmp_path / "SegmentationObject" / "a.png").unlink()
    (tmp_path / "SegmentationObject").rmdir()
    assert "SegmentationObject" in read(tmp_path).faults[0].text


@pytest.mark.parametrize(
    "image, files",
    [
        ("images/a.png", ["masks/a/car_1.png", "masks/a/bus_2.png"]),
        ("images/train/a.jpg", ["masks/train/a/car_1.png", "masks/train/a/bus-02.png"]),
        ("a.png", ["masks/a/car/1.png", "masks/a/bus/1.png"]),
        ("Images/a.png", ["Masks/a/car_1.PNG", "Masks/a/bus_1.PNG"]),
        ("a/images/a.png", ["a/masks/car.png", "a/masks/bus.png"]),
        ("a/photo.jpg", ["a/masks/car 1.png", "a/masks/bus 1.png"]),
    ],
)
def test_a_file_for_each_object(tmp_path, image, files):
    folders.draw(tmp_path / image)
    objects, _ = two_objects()
    for number, name in enumerate(files, start=1):
        save(tmp_path / name, 255 * (objects == number), mode="L")
    data = read(tmp_path)
    assert not data.faults and not data.unused
    assert [(image.file_name, areas(image)) for image in data.images] == [(image, {"car": 81, "bus": 50})]
    assert data.images[0].split == ("train" if "train" in image else None)


def test_a_name_without_a_class_is_of_the_only_class(tmp_path):
    folders.draw(tmp_path / "a/images/a.png")
    objects, _ = two_objects()
    for number, name in enumerate(["0a1b2c3d4e5f", "mask_1"], start=1):
        save(tmp_path / f"a/masks/{name}.png", objects == number, mode="L")
    assert [item.labels["part"] for item in read(tmp_path, ("cell",)).images[0].objects] == ["cell"] * 2
    for classes in (None, ("cell", "dust")):
        assert [fault.reason for fault in read(tmp_path, classes).faults] == ["no label"] * 2


def test_broken_masks_are_named(tmp_path):
    folders.draw(tmp_path / "images/a.png")
    folders.draw(tmp_path / "images/bare.png")
    save(tmp_path / "masks/a/car_1.png", np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 5, mode="L")
    save(tmp_path / "masks/a/car_2.png", np.ones((HEIGHT, WIDTH - 1)), mode="L")
    save(tmp_path / "masks/b/car_1.png", np.ones((HEIGHT, WIDTH)), mode="L")
    (tmp_path / "masks/a/car_3.png").write_bytes(b"junk")
    data = read(tmp_path)
    assert sorted(fault.reason for fault in data.faults) == ["broken image", "geometry", "missing image", "size"]
    assert data.unused == {"images without masks": 1}


def test_a_mask_larger_than_the_image_is_not_decoded(tmp_path):
    folders.draw(tmp_path / "images" / "a.png")
    path = tmp_path / "masks" / "a" / "car_1.png"
    path.parent.mkdir(parents=True)
    PIL.Image.new("1", (9000, 9000)).save(path)
    assert [fault.text for fault in read(tmp_path).faults] == [f"is 9000 x 9000, the image is {WIDTH} x {HEIGHT}"]


def test_index_255_is_the_border_in_every_palette(tmp_path):
    objects, classes = two_objects()
    write_voc(tmp_path, "a", "P", objects, classes)
    for path in tmp_path.glob("Segmentation*/a.png"):
        with PIL.Image.open(path) as opened:
            opened.putpalette([value % 251 for value in range(768)])
            opened.save(path)
    data = read(tmp_path)
    assert not data.faults and len(data.images[0].objects) == 2


def test_names_that_are_vocs_by_default_are_noted(tmp_path):
    for name, noted in (("a", True), ("2007_000032", False)):
        write_voc(tmp_path / name, name, "L", *two_objects())
        assert any("named as Pascal VOC's" in text for text in read(tmp_path / name).notes) is noted
