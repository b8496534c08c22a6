"""What readers share: images by stated name, splits by name, encodings, and which format a folder is in."""

import errno
import json
import os
import tempfile
import time
from pathlib import Path

import PIL.Image
import pytest

from mtseg.core.errors import UserError
from mtseg.data import formats
from mtseg.data.files import Files, check_files
from mtseg.data.raw import BadRecord, read_text, read_value, stated_size, whole
from mtseg.data.splits import Splits, split_of
from tests.data import folders
from tests.data.folders import annotation, converted, shape, tasks


@pytest.mark.parametrize(
    "stated",
    [
        "b 0.png",
        "images\\b 0.png",
        "images/b%200.png",
        "b+0.png",
        "B 0.PNG",
        "./images/../images/b 0.png",
        "/home/me/data/images/b 0.png",
        "D:\\data\\images\\b 0.png",
        "https://example.org/data/upload/1/b%200.png?token=abc/d.png",
        "/data/local-files/?d=mine/b%200.png",
        "http://localhost:8080/data/local-files/?d=D:%5Cmine%5Cb%200.png",
        "https://example.org/storage-data/uploaded/?filepath=upload/12/b%200.png",
        "https://example.org/storage-data/uploaded/?token=abc&filepath=upload/12/b+0.png",
        "/tasks/1/resolve/?fileuri=czM6Ly9idWNrZXQvbWluZS9iIDAucG5n",
        "s3://bucket/mine/b 0.png",
        "https://[no-address/mine/b%200.png",
        "../../label-studio/data/media/upload/12/b 0.png",
    ],
)
def test_the_image_of_a_name_that_another_computer_wrote_is_found(tmp_path, stated):
    folders.draw(tmp_path / "images" / "b 0.png")
    assert Files(tmp_path).image(stated, ["images", "."]) == "images/b 0.png"


@pytest.mark.parametrize("stated", ["cam1/1.png", "2.png", "../../1.png", "", None, 3, "x" * 5000])
def test_a_name_of_no_image_is_not_taken_for_another_one(tmp_path, stated):
    folders.draw(tmp_path / "raw" / "cam2" / "1.png")
    folders.draw(tmp_path / "raw" / "1.png")
    folders.draw(tmp_path / "1.png")
    with pytest.raises(BadRecord) as caught:
        Files(tmp_path / "raw").image(stated, ["cam2"])
    assert caught.value.reason == "missing image"


@pytest.mark.parametrize(
    "stated, hint",
    [
        ("1.png", "in another folder, cam2/1.png"),
        ("1.jpg", "another suffix, cam2/1.png"),
        ("t\u00fcr.png", "unpacked in another encoding, cam2/t\u251c\u255dr.png"),
        ("tor\u00c3\u00bcr.png", "this name was read in another encoding, and there is an image, cam2/tor\u00fcr.png"),
        ("2.png", "rest.zip is an archive"),
        ("data:image/png;base64,iVBO", "embedded in the annotations"),
    ],
)
def test_the_error_says_where_an_image_may_be(tmp_path, stated, hint):
    for name in ("1", "t\u251c\u255dr", "tor\u00fcr"):
        folders.draw(tmp_path / "cam2" / f"{name}.png")
    (tmp_path / "rest.zip").write_bytes(b"")
    with pytest.raises(BadRecord, match=hint):
        Files(tmp_path).image(stated, ["images"])


def test_accents_that_macos_decomposes_are_the_same_name(tmp_path):
    folders.draw(tmp_path / "mu\u0308nchen.png")
    assert Files(tmp_path).image("m\u00fcnchen.png", ["."]) == "mu\u0308nchen.png"


def test_links_are_followed_but_not_to_a_folder_above_them(tmp_path):
    for path in ("raw/a/1.png", "other/b/2.png"):
        folders.draw(tmp_path / path)
    (tmp_path / "raw" / "a" / "back").symlink_to(tmp_path / "raw")
    (tmp_path / "raw" / "again").symlink_to(tmp_path / "raw" / "a")
    (tmp_path / "raw" / "out").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "b" / "back").symlink_to(tmp_path / "raw" / "..")
    (tmp_path / "other" / "b" / "loop").symlink_to(tmp_path / "other")
    names = Files(tmp_path / "raw").names
    assert {"a/1.png", "again/1.png", "out/b/2.png"} <= {*names} and len(names) < 12


def test_a_percent_sign_may_be_part_of_the_name(tmp_path):
    folders.draw(tmp_path / "a%20b.png")
    folders.draw(tmp_path / "a b.png")
    assert Files(tmp_path).image("a%20b.png", ["."]) == "a%20b.png"


def test_two_names_that_differ_in_case_only_are_distinguished(tmp_path):
    for name in ("a.png", "A.png"):
        folders.draw(tmp_path / name)
    files = Files(tmp_path)
    assert [files.image(name, ["."]) for name in ("a.png", "A.png")] == ["a.png", "A.png"]
    with pytest.raises(BadRecord):
        files.image("a.PNG", ["."])


def test_a_kind_of_file_that_pillow_does_not_read_is_named(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.raises(BadRecord, match=r"a\.heic exists, but Pillow does not read \.heic"):
        Files(tmp_path).image("a.heic", ["."])


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "gif", "tga", "ppm", "JPG", "webp"])
def test_every_suffix_that_pillow_reads_is_an_image(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(b"")
    assert Files(tmp_path).images == {f"a.{suffix}"}


@pytest.mark.parametrize(
    "value, number",
    [(3, 3), (3.0, 3), ("3", 3), ("3.0", 3), (" 3", 3), ("-3", -3)]
    + [(value, value) for value in (3.5, "03", "3.5", "a", "", None, float("inf"), "9" * 5000)],
)
def test_whole_numbers_in_any_spelling_are_equal(value, number):
    assert whole(value) == number and type(whole(value)) is type(number)


@pytest.mark.parametrize("height, width", [(None, None), (0, 0), (0, None), ("0", 0.0)])
def test_a_size_of_zero_is_not_stated(height, width):
    assert stated_size(height, width) is None
    assert stated_size(30.0, "40") == (30, 40)
    for half in ((30, 0), (None, 40), (-1, 40), (30.5, 40), ("a", 40)):
        with pytest.raises(BadRecord):
            stated_size(*half)


@pytest.mark.parametrize("height, width", [(10**400, 1), (1, 10**4299), (10**6, 10**6), (1e300, 1e300)])
def test_a_size_that_no_image_may_have_is_refused_in_a_short_line(height, width):
    with pytest.raises(BadRecord, match=r"above data.max_megapixels \(100\)") as caught:
        stated_size(height, width, 100.0)
    assert len(str(caught.value)) < 1000


def test_the_size_of_too_large_an_image_is_refused(tmp_path):
    folders.png_of_size(tmp_path / "a.png", 50_000, 50_000)
    with pytest.raises(BadRecord, match=r"a.png is 50000 x 50000, 2500 megapixels: .* data.max_megapixels \(100\)"):
        Files(tmp_path, 100.0).size("a.png")


@pytest.mark.parametrize(
    "encoding, text",
    [
        ("gbk", "汽车"),
        ("big5", "汽車"),
        ("cp932", "自動車"),
        ("cp949", "자동차"),
        ("cp1251", "машина"),
        ("cp1252", "grün"),
    ],
)
def test_of_an_encoding_that_is_not_utf8_the_candidates_are_named(tmp_path, encoding, text):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps({"label": text}, ensure_ascii=False).encode(encoding))
    with pytest.raises(BadRecord, match=rf"'{text}' in {encoding.upper()} .*iconv -f ENCODING"):
        read_value(path)
    path.write_bytes(json.dumps({"label": text}, ensure_ascii=False).encode("utf-8-sig"))
    assert read_value(path) == {"label": text}


def test_splits_are_known_by_the_usual_names(tmp_path):
    for split, names in {
        "train": "train Training train2017 instances_train2017 TrainImages train-set images_train",
        "val": "val VALID validation val2017 instances_val dev",
        "test": "test testing Test2017",
        None: "trainer test_car minival images valley all train_val",
    }.items():
        assert {split_of(name) for name in names.split()} == {split}
    folders.draw(tmp_path / "mine" / "valid" / "deep" / "a.png")
    folders.draw(tmp_path / "b.png")
    splits = Splits(Files(tmp_path))
    assert splits.of_folders("mine/valid/deep/a.png") == "val" and splits.of_folders("train.png") is None
    assert splits.source() == "valid/ (val)"


def write_each(folder: Path) -> dict[str, Path]:
    folders.labelme(folder / "labelme", "a", shape("x"))
    folders.coco(folder / "coco", "all", [annotation()])
    for format, name, text in [
        ("cvat", "annotations.xml", '<?xml version="1.0"?><annotations><image name="a.png"/></annotations>'),
        ("label_studio", "project.json", '[{"id": 1, "annotations": [], "data": {"image": "a.png"}}]'),
        ("yolo", "data.yaml", "names: [a]"),
    ]:
        (folder / format).mkdir()
        (folder / format / name).write_text(text)
    folders.draw(folder / "masks" / "masks" / "a" / "car_1.png")
    return {format: folder / format for format in formats.FORMATS}


def test_each_format_is_recognised(tmp_path):
    for format, folder in write_each(tmp_path).items():
        found, evidence = formats.recognise(folder)
        assert found == format and (folder / evidence).exists()


def test_several_formats_or_none_are_an_error_that_lists_them(tmp_path):
    write_each(tmp_path)
    with pytest.raises(UserError) as caught:
        formats.recognise(tmp_path)
    assert all(name in str(caught.value) for name in (*formats.FORMATS, "annotations.xml", "data.yaml"))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="coco, cvat, label_studio, labelme, masks, yolo"):
        formats.recognise(tmp_path / "none")


def test_names_of_classes_beside_yolo_files_are_no_coco(tmp_path):
    folder = write_each(tmp_path)["yolo"]
    (folder / "notes.json").write_text('{"categories": [{"id": 0, "name": "a"}], "info": {}}')
    assert formats.recognise(folder) == ("yolo", "data.yaml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("format, name", [("labelme", "a.json"), ("coco", "annotations/all.json")])
def test_a_format_is_recognised_in_every_unicode_encoding(tmp_path, encoding, format, name):
    path = write_each(tmp_path)[format] / name
    path.write_text(path.read_text(encoding="utf-8"), encoding)
    assert formats.recognise(tmp_path / format) == (format, name)


@pytest.mark.parametrize(
    "names, part",
    [
        ([], "it has no files"),
        (["a.png", "b.png", "c.jsonl"], "2 .png, 1 .jsonl"),
        (["a.png", "annotations.zip"], "unpack annotations.zip"),
    ],
)
def test_a_folder_in_no_known_format_is_described(tmp_path, names, part):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"<annotation>")
    with pytest.raises(UserError, match=part.replace(".", "[.]")):
        formats.recognise(tmp_path)


def test_packed_annotations_are_named_whatever_the_format(tmp_path):
    folders.draw(tmp_path / "raw" / "a.png")
    (tmp_path / "raw" / "annotations.zip").write_bytes(b"")
    for format in ("auto", "coco", "masks"):
        with pytest.raises(UserError, match=r"unpack annotations\.zip"):
            converted(tmp_path / "raw", tasks(part="auto"), format=format)


def test_what_is_not_used_is_named_if_nothing_is_left(tmp_path):
    for name in "ab":
        folders.draw(tmp_path / "raw" / f"{name}.png")
    (tmp_path / "raw" / "data.yaml").write_text("names: [car]")
    with pytest.raises(UserError, match=r"not used: images without a \.txt.*: 2"):
        converted(tmp_path / "raw", tasks(part="auto"), format="yolo")


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif"])
def test_images_of_several_frames_are_counted(tmp_path, suffix):
    raw = tmp_path / "raw"
    for number, name in enumerate(("train/a", "train/b", "val/c")):
        path = folders.labelme(raw, name, shape("car"), imagePath=f"{name[-1]}.{suffix}").with_suffix(".png")
        frames = [
            PIL.Image.new("RGB", (folders.WIDTH, folders.HEIGHT), (9 * number, 90 * frame, 0)) for frame in (1, 2)
        ]
        more = {"save_all": True, "append_images": frames[1:]} if name == "train/a" else {}
        frames[0].save(path.with_suffix(f".{suffix}"), **more)
        path.unlink()
    converted(raw, tasks(part="auto"))
    assert [count for text, count in folders.report(raw)["notes"].items() if "frames" in text] == [1]


@pytest.mark.parametrize("name", ["val/c.json", "splits.csv", "train.txt"])
def test_an_annotation_that_is_a_link_to_nowhere_is_named(tmp_path, name):
    for stem in ("train/a", "val/b"):
        folders.labelme(tmp_path / "raw", stem, shape("car"))
    (tmp_path / "raw" / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{name} is a link to nothing"):
        converted(tmp_path / "raw", tasks(part="auto"))


def test_a_link_to_nowhere_is_named(tmp_path):
    for name in ("train/a", "val/b"):
        folders.labelme(tmp_path / "raw", name, shape("car"))
    image = tmp_path / "raw" / "val" / "b.png"
    image.unlink()
    image.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="b.png is a link to a file that does not exist"):
        converted(tmp_path / "raw", tasks(part="auto"))
    with pytest.raises(BadRecord, match="b.png is a link"):
        Files(tmp_path / "raw").size("val/b.png")


def test_convert_says_which_format_it_recognised(tmp_path, capsys):
    for name in ("train/a", "val/b"):
        folders.labelme(tmp_path / "raw", name, shape("car"))
    converted(tmp_path / "raw", tasks(part="auto"), format="auto")
    assert "format labelme" in capsys.readouterr().out
    for format in ("coco", "cvat", "label_studio"):
        with pytest.raises(UserError, match=f"looks like labelme, and data.format is {format}"):
            converted(tmp_path / "raw", tasks(part="auto"), format=format)


@pytest.mark.parametrize("follow", [False, True])
def test_convert_records_whether_links_are_followed(tmp_path, follow):
    for name in ("train/a", "val/b"):
        folders.labelme(tmp_path / "raw", name, shape("car"))
    found = converted(tmp_path / "raw", tasks(part="auto"), follow_links=follow)
    assert [image.follow_links for image in found.values()] == [follow] * 2


def refused(folder, follow_links=False, most=1.0):
    with pytest.raises(UserError) as error:
        check_files(folder, follow_links=follow_links, most=most)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused_unless_allowed(tmp_path, kind):
    folders.draw(tmp_path / "raw" / "a" / "1.png")
    folders.draw(tmp_path / "other" / "2.png")
    (tmp_path / "raw" / "inside").symlink_to(tmp_path / "raw" / "a")
    (tmp_path / "data").symlink_to(tmp_path / "raw")  # the folder itself may be a link
    check_files(tmp_path / "data", follow_links=False, most=1)
    (tmp_path / "raw" / "out").symlink_to(tmp_path / "other" / ("2.png" if kind == "file" else ""))
    assert "raw/out is a link to" in refused(tmp_path / "raw") and "data.follow_links" in refused(tmp_path / "raw")
    check_files(tmp_path / "raw", follow_links=True, most=1)


def test_pipes_devices_and_files_of_the_system_are_refused(tmp_path):
    for number, target in enumerate(("/dev/zero", "/proc/self/environ", "/proc/self")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.json").symlink_to(target)
        assert "pipe, a device or a file of the system" in refused(tmp_path / str(number), follow_links=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "a.json")
    assert "pipe, a device" in refused(tmp_path / "pipe")


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="Linux keeps files in memory there")
def test_a_folder_in_memory_is_no_device():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        folders.draw(Path(folder) / "a" / "1.png")
        check_files(Path(folder), follow_links=False, most=1)
        assert Files(Path(folder)).names == ["a/1.png"]


def test_a_folder_that_cannot_be_read_is_refused_but_one_of_the_disk(tmp_path, monkeypatch):
    def scandir(path, scan=os.scandir):
        if str(path).endswith(("closed", "lost+found")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    (tmp_path / "lost+found").mkdir()
    check_files(tmp_path, follow_links=False, most=1)
    (tmp_path / "a" / "closed").mkdir(parents=True)
    assert f"{tmp_path}/a/closed cannot be read (Permission denied)" in refused(tmp_path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    assert r"caf\udce9.png: the name is not UTF-8" in refused(tmp_path)


@pytest.mark.parametrize("name", ["a.json", "split.jsonl", "train"])
def test_a_very_large_annotation_file_is_refused(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(2 * 10**6)
    assert f"{name} has 2 MB: split" in refused(tmp_path)
    check_files(tmp_path, follow_links=False, most=3)


@pytest.mark.parametrize("name", ["a.png", "a.json"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n")
    with pytest.raises(UserError, match="pointer of Git LFS.*git lfs pull"):
        check_files(tmp_path, follow_links=False, most=100)


@pytest.mark.parametrize(
    "content, tool",
    [
        ({"a.png1": {"filename": "a.png", "regions": [{"shape_attributes": {}}]}}, "VIA"),
        ({"description": "", "tags": [], "size": {}, "objects": []}, "Supervisely"),
        ({"imgHeight": 1, "imgWidth": 1, "objects": []}, "Cityscapes"),
        ({"data_row": {}}, "Labelbox"),
        ({"info": {}, "categories": {}, "items": []}, "Datumaro"),
        ({"version": "2.0", "item": {"slots": []}, "annotations": [{}]}, "V7 Darwin"),
        ({"image": {"image_id": 1}, "annotations": [{"predicted_iou": 0.9}]}, "Segment Anything"),
        ({"info": {"description": "ISAT"}, "objects": []}, "ISAT"),
        ({"channel_names": {"0": "R"}, "labels": {"background": 0}}, "nnU-Net"),
        ([{"image_id": 1, "category_id": 1, "score": 0.9}], "COCO's results"),
    ],
)
def test_a_format_that_is_not_read_is_named(tmp_path, content, tool):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"a.json is of {tool}.*COCO"):
        formats.recognise(tmp_path)


def test_a_file_that_looks_like_another_format_again_and_again_takes_no_time(tmp_path):
    (tmp_path / "a.txt").write_text('"tags" ' * 1000 + '"size" ' * 1000)
    start = time.monotonic()
    assert "Supervisely" not in formats.contents(tmp_path) and time.monotonic() - start < 10


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("via.csv", "filename,region_shape_attributes\n", "via.csv is of VIA"),
        ("a.xml", "<annotation><object><polygon><pt><x>1</x></pt></polygon></object></annotation>", "web tool"),
        ("a.xml", "<annotation><object><bndbox></bndbox></object></annotation>", "Pascal VOC and has boxes alone"),
        ("a.json", " \n", "a.json is empty"),
        ("a.json", "<!DOCTYPE html>", "a.json is no JSON, it starts with '<!DOCTYPE html>'"),
        ("data.yaml", "train: images\nnc: 2\n", "data.yaml has no `names`, the classes of YOLO"),
        ("P1.txt", "imagesource:GoogleEarth\ngsd:0.1\n", "DOTA"),
        ("P1.txt", "1.0 2.0 3.0 4.0 5.0 6.0 7.0 8.0 plane 0\n", "DOTA"),
        ("labelsTr/a.png", "", "the images in labelsTr/ are masks.*class of each pixel"),
        ("annotations/training/a.png", "", "the images in annotations/training/ are masks"),
    ],
)
def test_files_of_a_format_that_is_not_read_are_named(tmp_path, file, content, words):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=words):
        formats.recognise(tmp_path)


def test_a_text_in_utf_16_without_a_mark_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("abc".encode("utf-16-le"))
    with pytest.raises(BadRecord, match="zero bytes, as UTF-16"):
        read_text(tmp_path / "a.txt")
