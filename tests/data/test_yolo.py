import PIL.Image
import pytest

from mtseg.core.masks import mask
from mtseg.data.formats import yolo
from mtseg.data.labels import Vocabulary
from tests.data import folders
from tests.data.folders import HEIGHT, WIDTH

SQUARE = "0 0.1 0.1 0.35 0.1 0.35 0.4 0.1 0.4"
NAMES = "names: {0: car, 1: 2, 2: true}\n"


def write(folder, name, *lines, labels=None):
    image = folders.draw(folder / f"{name}.png")
    path = image.with_suffix(".txt") if labels is None else folder / labels
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def read(folder, vocabulary=None):
    return yolo.read(folder, vocabulary or Vocabulary({"part": None}))


@pytest.mark.parametrize(
    "description",
    [
        "train: images/train\nval: images/val\n",
        "path: /home/me/data\ntrain: images/train/\nval: ./images/val\ntest:\n",
        "path: ..\ntrain: ../raw/images/train\nval: [images/val]\ntest: ../test/images\n",
        "train: train.txt\nval: val.txt\n",
        "train: images/train\nvalidation: images/val\n",
        "Training: images/train\ndev: images/val\nval:\ntest_split: 0.1\n",
    ],
)
def test_the_split_is_that_of_the_description(tmp_path, description):
    for split in ("train", "val"):
        write(tmp_path, f"images/{split}/a", SQUARE, labels=f"labels/{split}/a.txt")
        (tmp_path / f"{split}.txt").write_text(f"data\\images\\{split}\\a.png\n")
    (tmp_path / "data.yaml").write_text(description + NAMES)
    data = read(tmp_path)
    assert not data.faults and not data.unused and data.split_source == "data.yaml"
    assert [(image.file_name, image.split) for image in data.images] == [
        ("images/train/a.png", "train"),
        ("images/val/a.png", "val"),
    ]
    area = mask(data.images[0].objects[0].segmentation, HEIGHT, WIDTH)
    assert area[3:12, 4:14].all() and area.sum() == 90


def test_roboflow_has_a_folder_for_each_split(tmp_path):
    for split in ("train", "valid"):
        write(tmp_path, f"{split}/images/a", SQUARE, labels=f"{split}/labels/a.txt")
    listed = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    (tmp_path / "data.yaml").write_text(listed + "names: [car]")
    assert [image.split for image in read(tmp_path).images] == ["train", "val"]


def test_folders_may_differ_in_case(tmp_path):
    write(tmp_path, "Images/Train/A", SQUARE, labels="Labels/Train/a.txt")
    (tmp_path / "data.yaml").write_text("train: Images/Train\n" + NAMES)
    assert [len(image.objects) for image in read(tmp_path).images] == [1]


def test_without_a_description_names_are_in_classes_txt(tmp_path):
    write(tmp_path, "images/a", SQUARE, "2 0.5 0.5 0.6 0.5 0.6 0.6", labels="labels/a.txt")
    (tmp_path / "classes.txt").write_text("car\nbus\nväg\n", encoding="utf-8")
    data = read(tmp_path)
    assert [item.labels["part"] for item in data.images[0].objects] == ["car", "väg"]
    assert data.images[0].split is None


def test_train_and_val_of_the_same_images_are_no_split(tmp_path):
    write(tmp_path, "images/a", SQUARE, labels="labels/a.txt")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\n" + NAMES)
    data = read(tmp_path)
    assert [image.split for image in data.images] == [None] and data.split_source is None


def test_numbers_and_booleans_are_class_names(tmp_path):
    write(tmp_path, "a", *(SQUARE.replace("0 ", f"{number} ", 1) for number in ("0", "1", "2.0")))
    (tmp_path / "data.yaml").write_text("train: .\nval: .\n" + NAMES)
    assert [item.labels["part"] for item in read(tmp_path).images[0].objects] == ["car", "2", "true"]


def test_names_are_text_as_it_stands(tmp_path):
    write(tmp_path, "a", *(SQUARE.replace("0 ", f"{number} ", 1) for number in range(4)))
    (tmp_path / "data.yaml").write_text("path: null\ntrain: .\nval: .\ntest: ~\nnames: [no, 1.0, 01, 1]\n")
    data = read(tmp_path)
    assert [item.labels["part"] for item in data.images[0].objects] == ["no", "1.0", "01", "1"]


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda path: path.with_name("copy.yaml").write_text(path.read_text()), "annotated twice"),
        (lambda path: path.write_text("train: train\nval: [val, train/b.png.txt]\nnames: [car]"), "several splits"),
    ],
)
def test_an_image_that_is_listed_twice_is_named(tmp_path, change, reason):
    for name in ("train/a", "train/b", "val/c"):
        write(tmp_path, name, SQUARE)
    (tmp_path / "train/b.png.txt").write_text("train/b.png")
    (tmp_path / "data.yaml").write_text("train: train\nval: val\nnames: [car]")
    assert not read(tmp_path).faults
    change(tmp_path / "data.yaml")
    data = read(tmp_path)
    (fault,) = data.faults
    assert fault.reason == reason and "train/" in fault.text
    assert len({image.file_name for image in data.images}) == len(data.images) >= 2


def test_images_that_are_not_listed_are_counted_and_labels_without_image_named(tmp_path):
    for name in ("train/a", "val/b", "test/c"):
        write(tmp_path, f"images/{name}", SQUARE, labels=f"labels/{name}.txt")
    (tmp_path / "labels" / "train" / "d.txt").write_text(SQUARE)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [car]")
    data = read(tmp_path)
    assert len(data.images) == 2 and [*data.unused.values()] == [1]
    assert [(fault.reason, fault.where) for fault in data.faults] == [("missing image", "labels/train/d.txt")]


def test_labels_outside_the_folders_of_their_image_say_where_it_is(tmp_path):
    write(tmp_path, "images/train/a", "0 0.1 0.1 0.3 0.1 0.3 0.5", labels="labels/a.txt")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [x]\n")
    (fault,) = read(tmp_path).faults
    assert fault.where == "labels/a.txt" and "images/train/a.png has this name: put both" in fault.text


def test_an_image_without_a_file_is_counted_and_one_with_an_empty_file_is_empty(tmp_path):
    write(tmp_path, "a")
    folders.draw(tmp_path / "b.png")
    (tmp_path / "data.yaml").write_text("train: .\nval: .\n" + NAMES)
    data = read(tmp_path)
    assert [(image.file_name, image.objects) for image in data.images] == [("a.png", ())]
    assert [(text[:21], count) for text, count in data.unused.items()] == [("images without a .txt", 1)]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("7 0.1 0.1 0.2 0.1 0.2 0.2", "unknown label"),
        ("0 40 40 140 40 140 140", "geometry"),
        ("0 0.1 0.1 0.2 0.1 0.2", "geometry"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 12", "geometry"),
        ("0 0.1 0.1 0.2 0.1 nan 0.2", "geometry"),
        ("car 0.1 0.1 0.2 0.1 0.2 0.2", "geometry"),
        ("0", "geometry"),
        ("0 0.5 0.5 0.1 0.1", "boxes only"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, reason):
    write(tmp_path, "a", SQUARE, line)
    (tmp_path / "data.yaml").write_text("train: .\nval: .\n" + NAMES)
    data = read(tmp_path)
    assert [(fault.reason, fault.where) for fault in data.faults] == [(reason, "a.txt, line 2")]
    assert len(data.images[0].objects) == 1


def test_a_data_set_of_boxes_is_one_error(tmp_path):
    for name in "abc":
        write(tmp_path, name, "0 0.5 0.5 0.1 0.1")
    (tmp_path / "data.yaml").write_text("train: .\nval: .\n" + NAMES)
    (fault,) = read(tmp_path).faults
    assert fault.reason == "boxes only" and "all 3 lines" in fault.text


@pytest.mark.parametrize(
    "text, part",
    [
        ("names: [", "YAML"),
        ("names: 3", "`names` is '3'"),
        ("train: .\nkpt_shape: [17, 3]\nnames: [a]", "poses"),
        ("train: nowhere\nnames: [a]", "nowhere"),
        ("train: .", "no data.yaml with `names`"),
    ],
)
def test_a_broken_description_is_named(tmp_path, text, part):
    write(tmp_path, "a", SQUARE)
    (tmp_path / "data.yaml").write_text(text)
    (fault,) = read(tmp_path).faults
    assert part in fault.text and fault.where == "data.yaml"


def test_further_tasks_come_from_the_mapping(tmp_path):
    write(tmp_path, "a", SQUARE)
    (tmp_path / "data.yaml").write_text("train: .\nval: .\n" + NAMES)
    classes = dict.fromkeys(("part", "side"))
    assert "data.mapping" in read(tmp_path, Vocabulary(classes)).faults[0].text
    mapped = Vocabulary(classes, {"car": {"part": "door", "side": "left"}})
    assert read(tmp_path, mapped).images[0].objects[0].labels == {"part": "door", "side": "left"}


def test_the_limit_of_pillow_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 500)  # an error above twice as many
    for split in ("train", "val"):
        write(tmp_path / "raw", f"{split}/a", SQUARE)
    (tmp_path / "raw" / "data.yaml").write_text("train: train\nval: val\n" + NAMES)
    images = folders.converted(tmp_path / "raw", folders.tasks(part="auto"), format="yolo")
    assert len(images) == 2 and PIL.Image.MAX_IMAGE_PIXELS == 500


def test_a_mapping_in_the_folder_is_no_description(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "raw", f"{split}/a", SQUARE)
    (tmp_path / "raw" / "data.yaml").write_text("train: train\nval: val\n" + NAMES)
    mapping = tmp_path / "raw" / "mapping.yaml"
    mapping.write_text("# the names of classes\ncategories:\n  car: {part: vehicle}\n")
    folders.converted(tmp_path / "raw", folders.tasks(part="auto"), format="yolo", mapping=mapping)
    assert folders.report(tmp_path / "raw")["classes"] == {"part": ["vehicle"]}


def test_two_images_with_one_label_file_are_counted(tmp_path):
    write(tmp_path, "a", SQUARE)
    folders.draw(tmp_path / "a.jpg")
    (tmp_path / "data.yaml").write_text(NAMES)
    warnings = read(tmp_path).warnings
    assert [count for text, count in warnings.items() if "the .txt of another" in text] == [1]


@pytest.mark.parametrize("lines, notes", [([SQUARE, SQUARE[:-3] + "0.5"], [2]), ([SQUARE, "1 0 0 0.5 0 0 0.5"], [])])
def test_only_outlines_of_four_corners_are_noted(tmp_path, lines, notes):
    write(tmp_path, "a", *lines)
    (tmp_path / "data.yaml").write_text(NAMES)
    assert list(read(tmp_path).notes.values()) == notes


def test_a_number_of_classes_that_is_not_that_of_the_names_is_refused(tmp_path):
    write(tmp_path, "a", SQUARE)
    (tmp_path / "data.yaml").write_text("train: .\nval: .\nnc: 7\n" + NAMES)
    assert "nc is 7, and `names` has" in read(tmp_path).faults[0].text


def test_names_in_another_order_than_those_of_classes_txt_are_reported(tmp_path):
    write(tmp_path, "images/a", SQUARE, labels="labels/a.txt")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [car, bus]\n")
    (tmp_path / "classes.txt").write_text("car\nbus\n")
    assert not read(tmp_path).warnings
    (tmp_path / "classes.txt").write_text("bus\ncar\n")
    (text,) = read(tmp_path).warnings
    assert "classes.txt lists other classes, or in another order, than data.yaml" in text


def test_train_and_val_of_the_same_images_are_noted(tmp_path):
    for name in ("a", "b"):
        write(tmp_path, f"images/{name}", SQUARE, labels=f"labels/{name}.txt")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\n" + NAMES)
    data = read(tmp_path)
    assert data.notes["images that data.yaml lists for train and val alike, which is no split"] == 2
    assert {image.split for image in data.images} == {None}


@pytest.mark.parametrize(
    ("side", "most", "unit"), [(300, 90, "percent, divide them by 100"), (300, 280, "pixels"), (100, 90, "pixels")]
)
def test_the_unit_of_coordinates_that_are_not_divided_is_found_in_all_lines(tmp_path, side, most, unit):
    for name, reach in (("a", most), ("b", 40)):
        write(tmp_path, name, f"0 10 10 {reach} 10 {reach} {reach}", SQUARE)
        folders.draw(tmp_path / f"{name}.png", (side, side))
    (tmp_path / "data.yaml").write_text(NAMES)
    data = read(tmp_path)
    assert len(data.faults) == 2 and all(f"they are likely {unit}" in fault.text for fault in data.faults)
    assert [image.invalid for image in data.images] == [1, 1]
