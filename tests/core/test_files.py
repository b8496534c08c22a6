import os
import re
import resource
from pathlib import Path

import PIL.Image
import pytest

from mtseg.core.errors import UserError, as_user_error
from mtseg.core.files import (
    check_file,
    read_json,
    read_table,
    replace_file,
    replace_folder,
    sync,
    write_image,
    write_json,
    write_json_array,
    write_table,
)


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with replace_file(target) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("first")
    with pytest.raises(KeyboardInterrupt), replace_file(target) as temporary:
        temporary.write_text("second, in part")
        raise KeyboardInterrupt
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path):
    target = tmp_path / "new" / "folder"
    for content in ("first", "second"):
        with replace_folder(target) as temporary:
            (temporary / content).write_text(content)
    with pytest.raises(KeyboardInterrupt), replace_folder(target) as temporary:
        (temporary / "third").write_text("third")
        raise KeyboardInterrupt
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_a_folder_is_waited_for_with_what_is_in_it_but_not_with_thousands_of_images(tmp_path, monkeypatch):
    """A power failure cannot be had in a test: the calls are listed."""
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(os.fstat(number).st_ino), fsync(number)))
    write_json(tmp_path / "folder/below/a.json", 1)
    sync(tmp_path / "folder")
    of = [tmp_path / name for name in ("folder/below", "folder/below/a.json", "folder", "")]
    assert synced == [path.stat().st_ino for path in of]
    for number in range(200):
        (tmp_path / f"folder/below/{number}.png").touch()
    sync(tmp_path / "folder")
    assert len(synced) < 150


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_the_old_folder_stays_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch, error):
    target, rename = tmp_path / "folder", Path.rename
    with replace_folder(target) as temporary:
        (temporary / "first").touch()

    def fail(path, to):
        if path.name == ".tmp-folder":
            raise error
        return rename(path, to)

    with monkeypatch.context() as patch, pytest.raises(error), replace_folder(target):
        patch.setattr(Path, "rename", fail)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["folder", "folder/first"]
    target.rename(tmp_path / ".old-folder")  # as a kill between the two leaves it
    with pytest.raises(error), replace_folder(target):
        raise error
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["folder", "folder/first"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system that nobody can write to")
@pytest.mark.parametrize("place", ["/proc/new", "/proc/new/deep/er", "/proc/self/new"])
def test_a_file_system_that_allows_no_file_is_one_line(place):
    for replace in (replace_file, replace_folder):
        with pytest.raises(UserError, match=f"{place} cannot be created") as error, replace(place):
            pytest.fail("nothing is computed")
        assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").touch()
    for path, reason in [
        (tmp_path / "folder.onnx", "folder.onnx is a folder"), (tmp_path / "file" / "a.onnx", "file: file exists"),
        (tmp_path / f"{'x' * 300}.onnx", f"{tmp_path}/xxx.*: file name too long"),
    ]:  # fmt: skip
        with pytest.raises((UserError, OSError)) as error:
            check_file(path)
        assert re.search(reason, str(as_user_error(error.value)))
    (tmp_path / "a.txt").write_text("kept")
    check_file(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "kept" and len([*tmp_path.iterdir()]) == 3


def test_what_a_killed_run_left_is_not_taken_over(tmp_path):
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-folder" / "stale").touch()
    with replace_folder(tmp_path / "folder"):
        pass
    assert not list((tmp_path / "folder").iterdir())


def test_json_is_the_same_bytes_for_the_same_value(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "ä": None})
    write_json(tmp_path / "b.json", {"ä": None, "b": [1, 2.5]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5], "ä": None}


@pytest.mark.parametrize("values", [[], [{"b": 1.5, "a": "ä"}], [1, [2, None], {"c": {}}]])
def test_values_written_one_by_one_are_the_same_bytes(tmp_path, values):
    write_json(tmp_path / "a.json", values, indent=None)
    write_json_array(tmp_path / "b.json", iter(values))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("value", "keys", "fault"),
    [
        ({"a": 1}, ("a",), None),
        ({}, (), None),
        ([{"a": 1}, {"a": 2}], ["a"], None),
        ([], ["a"], None),
        ({"a": 1}, ("a", "b"), "'b' is missing"),
        ([], ("a",), "an object is expected"),
        (None, (), "an object is expected"),
        ({"a": 1}, ["a"], "a list is expected"),
        ([{"a": 1}, 5], ["a"], "'a' is missing"),
    ],
)
def test_json_of_another_shape_names_the_stage_that_makes_it(tmp_path, value, keys, fault):
    write_json(path := tmp_path / "a.json", value)
    if not fault:
        assert read_json(path, "evaluate", keys) == value
        return
    with pytest.raises(UserError) as error:
        read_json(path, "evaluate", keys)
    assert str(error.value) == f"{path} is not a file of this version ({fault}): run `dvc repro evaluate` again"


def test_a_table_of_other_columns_names_the_stage_that_makes_it(tmp_path):
    (path := tmp_path / "a.tsv").write_text("step\tloss\n1\t2\n")
    assert read_table(path, "train", keys=("step",)).loss.tolist() == [2]
    with pytest.raises(UserError, match=r"a.tsv is not a table of this version \('lr' is missing\): run `dvc repro tr"):
        read_table(path, "train", keys=("step", "lr"))


def test_nan_is_refused_and_the_old_file_stays(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == 1


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_a_missing_or_broken_file_is_one_line_with_the_stage_that_makes_it(tmp_path, content):
    for read, name in ((read_json, "a.json"), (read_table, "a.csv")):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content if read is read_json else content[:1] + b'\n"')
        with pytest.raises(UserError, match=f"{name}.*dvc repro register") as caught:
            read(path, made_by="register")
        assert "\n" not in str(caught.value)


def test_an_image_of_which_a_part_fits_on_the_disk_is_an_error(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    image = PIL.Image.effect_noise((64, 64), 50)
    write_image(tmp_path / "whole.jpg", image, "JPEG")
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "whole.jpg").stat().st_size - 40, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_image(tmp_path / "a.jpg", image, "JPEG")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("read", [read_json, read_table])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(UserError, match="a.csv is a pipe .*dvc repro register"):
        read(tmp_path / "a.csv", made_by="register")


@pytest.mark.parametrize("read", [read_json, read_table])
def test_a_file_without_permission_or_a_folder_is_a_user_error(tmp_path, monkeypatch, read):
    with pytest.raises(UserError, match="cannot be read .*directory"):
        read(tmp_path, made_by="register")

    def denied(*given, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)  # the superuser may read every file
    monkeypatch.setattr("io.open", denied)
    with pytest.raises(UserError, match="a.csv cannot be read .*Permission denied"):
        read(tmp_path / "a.csv", made_by="register")


def test_a_table_has_numbers_and_names_and_empty_cells_are_undefined(tmp_path):
    (tmp_path / "a.tsv").write_text("class\tAP\nNA\t0.5\nnone\t\n")
    table = read_table(tmp_path / "a.tsv", made_by="evaluate")
    assert table["class"].tolist() == ["NA", "none"] and table["AP"][0] == 0.5 and table["AP"].isna().tolist()[1]


def test_text_that_a_spreadsheet_would_run_is_written_with_an_apostrophe(tmp_path):
    names = ["=1+1", "+a", "-a", "@a", "\ta", "'=a", "'tis", "-", "a=1", "a"]
    rows = [{"class": name, "value": -1.5, "rle": "=0@"} for name in names] + [{"class": None, "value": None}]
    write_table(tmp_path / "a.csv", rows)
    cells = [line.split(",")[0] for line in (tmp_path / "a.csv").read_text().splitlines()[1:]]
    assert cells == ["'=1+1", "'+a", "'-a", "'@a", "'\ta", "''=a", "'tis", "-", "a=1", "a", ""]
    assert ",-1.5,=0@" in (tmp_path / "a.csv").read_text()
    assert read_table(tmp_path / "a.csv", "evaluate")["class"].tolist()[:-1] == names
