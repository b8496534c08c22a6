import json
import multiprocessing
import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from mtseg.core.errors import UserError
from mtseg.core.params import Data, Generate
from mtseg.core.tables import Images
from mtseg.data.convert import convert
from mtseg.data.shapes import generate
from tests.data import folders
from tests.data.folders import HEIGHT, WIDTH, converted, draw, report, shape, tasks

PARAMS = YAML(typ="safe").load(Path(__file__).parents[2] / "params.yaml")
LABELS = ("circle", "red", "solid", "dashed")
FLAT = "circle,red,solid"


def data(raw, **keys):
    return Data(
        **{"raw": raw, "format": "labelme", "mapping": None, "split": 0.5, "share": 1, "seed": 0, "on_error": "error"}
        | {"flatten": False, "ignore_shapes": ()}
        | keys
    )


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("count", [1, 3, 4])
def test_one_three_or_four_tasks(tmp_path, count):
    names = [f"task{number}" for number in range(count)]
    for split in ("train", "val"):
        folders.labelme(tmp_path / "raw", f"{split}/a", shape(",".join(LABELS[:count])))
    images = converted(tmp_path / "raw", tasks(**dict.fromkeys(names, "auto")))
    for image in images.values():
        assert [instance.labels for instance in image.instances] == [dict.fromkeys(names, 0)]
    assert folders.report(tmp_path / "raw")["classes"] == {
        name: [label] for name, label in zip(names, LABELS, strict=False)
    }


def test_twice_the_same_bytes_and_no_path_of_this_machine(tmp_path):
    few = Generate(train=6, val=3, size=48, max_objects=3, scale=1, unseen=0, alike=0, seed=0)
    generate(few, tmp_path / "raw", seed=0)
    runs = []
    for out in ("one", "two"):
        convert(data(tmp_path / "raw"), tasks(), tmp_path / out, seed=0)
        runs.append(content(tmp_path / out))
    assert runs[0] == runs[1]
    assert set(runs[0]) == {"train.json", "train.parquet", "val.json", "val.parquet", "report.json"}
    assert not any(str(tmp_path).encode() in text for text in runs[0].values())


@pytest.mark.parametrize("cores", [2, 3])
def test_many_images_are_read_by_processes_with_the_same_outcome(tmp_path, monkeypatch, cores, capsys):
    few = Generate(train=6, val=3, size=48, max_objects=3, scale=1, unseen=0, alike=0, seed=0)
    generate(few, tmp_path / "raw", seed=0)
    (tmp_path / "raw/train/00002.jpg").write_bytes(b"no image")
    Image.new("I;16", (64, 64)).save(tmp_path / "raw/val/00001.jpg", "PNG")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    outcomes = []
    for most in (1024, 2):  # images that one process reads
        monkeypatch.setattr("mtseg.data.convert.AT_ONCE", most)
        convert(data(tmp_path / "raw", on_error="skip"), tasks(), tmp_path / "coco", seed=0)
        with pytest.raises(UserError) as error:
            convert(data(tmp_path / "raw"), tasks(), tmp_path / "none", seed=0)
        outcomes.append((content(tmp_path / "coco"), str(error.value), capsys.readouterr().out))
    assert outcomes[0] == outcomes[1] and "bit depth" in outcomes[0][2] and "does not decode" in outcomes[0][1]
    assert not multiprocessing.active_children()


def test_the_raw_folder_is_not_touched(tmp_path):
    folders.labelme(tmp_path / "raw", "a", shape(FLAT))
    folders.labelme(tmp_path / "raw", "b")
    before = content(tmp_path / "raw")
    converted(tmp_path / "raw", tasks())
    assert content(tmp_path / "raw") == before


def test_images_without_objects_are_kept(tmp_path):
    folders.labelme(tmp_path / "raw", "train/a", shape(FLAT))
    folders.labelme(tmp_path / "raw", "val/b")
    assert [len(image.instances) for image in converted(tmp_path / "raw", tasks()).values()] == [1, 0]


def test_all_bad_records_are_listed_together_and_counted_when_skipped(tmp_path):
    raw = tmp_path / "raw"
    folders.labelme(raw, "good", shape(FLAT))
    folders.labelme(raw, "good2", shape(FLAT))
    folders.labelme(raw, "label", shape("circle,red"), shape("circel,red,solid"))
    folders.labelme(raw, "size", imageWidth=WIDTH + 1)
    folders.labelme(raw, "broken", shape(FLAT))
    (raw / "broken.png").write_bytes((raw / "broken.png").read_bytes()[:200])
    folders.labelme(raw, "missing", shape(FLAT))
    (raw / "missing.png").unlink()
    listed = tasks(shape=["circle"], colour="auto", fill="auto")
    with pytest.raises(UserError) as caught:
        converted(raw, listed)
    text = str(caught.value)
    assert "5 invalid records" in text and len(text.splitlines()) == 1 + 5
    for part in (
        "label.json, shape 1: label 'circle,red' has 2 parts",
        "label.json, shape 2: label 'circel,red,solid': shape has no class 'circel', valid: circle",
        "size.json: states 41 x 30, size.png is 40 x 30",
        "broken.json: broken.png does not decode",
        "missing.json: no image 'missing.png'",
    ):
        assert part in text
    images = converted(raw, listed, on_error="skip")
    assert set(images) == {"good.png", "good2.png"}  # no object of label.png is left, which is no background
    assert folders.report(raw)["unused"] == {"images of which every object was skipped": 1}
    assert folders.report(raw)["left_out"] == {
        "broken image": 1,
        "missing label": 1,
        "missing image": 1,
        "size": 1,
        "unknown class": 1,
    }


def test_of_many_bad_records_five_of_a_kind_are_shown_and_a_file_has_all(tmp_path):
    raw = tmp_path / "raw"
    folders.labelme(raw, "a", *[shape("circle,red")] * 6000, shape(FLAT, [[1, 1], [2, 2]]))
    folders.labelme(raw, "b")
    with pytest.raises(UserError) as caught:
        converted(raw, tasks())
    text = str(caught.value)
    assert "6,001 invalid records" in text and len(text.splitlines()) == 1 + 1 + 5 + 1
    assert all(f"shape {number}: " in text for number in (*range(1, 6), 6001)) and "5,995 more" in text
    (file,) = tmp_path.rglob("*-faults.txt")
    assert str(file) in text and len(file.read_text(encoding="utf-8").splitlines()) == 6001
    folders.labelme(raw, "a", shape(FLAT))
    converted(raw, tasks())
    assert not file.exists()


def test_a_skipped_object_of_an_image_that_has_others_is_warned_of(tmp_path, capsys):
    for name in "ab":
        folders.labelme(tmp_path / "raw", name, shape(FLAT), shape("bad"), shape(FLAT, [[90, 90], [99, 90], [99, 99]]))
    assert len(converted(tmp_path / "raw", tasks(), on_error="skip")) == 2
    assert "warning: skipped objects are learnt as background" in " ".join(capsys.readouterr().out.split())
    assert folders.report(tmp_path / "raw")["warnings"][0].endswith(": 4")


def test_when_every_record_is_bad_what_was_skipped_is_counted(tmp_path):
    raw = tmp_path / "raw"
    for name in ("a", "b"):
        folders.labelme(raw, name, shape("circle,red"))
    with pytest.raises(
        UserError,
        match=r"task 'shape' has no labelled object.*\(skipped: missing label 2, such as a.json, shape 1: label",
    ):
        converted(raw, tasks(), on_error="skip")
    for name in ("a", "b"):
        (raw / f"{name}.png").unlink()
    with pytest.raises(UserError, match=r"no annotated image.*\(skipped: missing image 2, such as a.json: no image"):
        converted(raw, tasks(), on_error="skip")


@pytest.mark.parametrize("mode, kind", [("I", "tif"), ("I;16", "png"), ("I;16B", "tif"), ("F", "tif")])
def test_an_image_of_more_than_8_bits_is_refused(tmp_path, mode, kind):
    path = folders.labelme(tmp_path / "raw", "a", shape(FLAT))
    path.with_suffix(".png").unlink()
    Image.new(mode, (WIDTH, HEIGHT)).save(path.with_suffix(f".{kind}"))
    with pytest.raises(UserError, match=rf"a.json: a.{kind} has mode {mode[0]}.*save it with 8 bits"):
        converted(tmp_path / "raw", tasks())


@pytest.mark.parametrize("size", [(1500, 4), (4, 1500), (161, 10)])
def test_an_image_too_slim_to_be_resized_is_refused(tmp_path, size):
    path = folders.labelme(tmp_path / "raw", "a", imageWidth=size[0], imageHeight=size[1])
    draw(path.with_suffix(".png"), size)
    with pytest.raises(UserError, match="1 invalid record.*\n.*a.json: a.png is .*aspect ratio above 16"):
        converted(tmp_path / "raw", tasks())


def test_an_image_too_large_to_decode_is_a_bad_record(tmp_path):
    path = folders.labelme(tmp_path / "raw", "a", shape(FLAT))
    folders.png_of_size(path.with_suffix(".png"), 50_000, 50_000)
    with pytest.raises(UserError, match="a.json: a.png is 50000 x 50000, 2500 megapixels: .*data.max_megapixels"):
        converted(tmp_path / "raw", tasks())


def test_names_that_were_read_in_another_encoding_are_warned_of_with_the_likely_spelling(tmp_path):
    raw = tmp_path / "raw"
    for split in ("train", "val"):
        names = ("car", "Gr\u00fcn".encode().decode("cp1252"), "r\ufffdd")
        folders.labelme(raw, f"{split}/a", *(folders.shape(name) for name in names))
    folders.converted(raw, folders.tasks(shape="auto"))
    lost, likely = [line for line in folders.report(raw)["warnings"] if "class names" in line]
    assert "likely 'Gr\u00fcn'" in likely and "r\ufffdd" in lost and "'car'" not in likely
    with pytest.raises(UserError, match="likely 'Gr\u00fcn', escaped or read"):
        folders.converted(raw, folders.tasks(shape=["car", "Gr\u00fcn"]))


def test_classes_that_look_alike_are_warned_of_with_what_distinguishes_each(tmp_path, capsys):
    names = ["Cup", "cup", "\u0441up"]
    for split in ("train", "val"):
        folders.labelme(tmp_path / "raw", f"{split}/a", *(shape(f"{name},red,solid") for name in names))
    converted(tmp_path / "raw", tasks())
    line = " ".join(capsys.readouterr().out.partition("differ little")[2].split())
    assert "'Cup': 'cup' (case)" in line and "CYRILLIC SMALL LETTER ES" in line
    assert folders.report(tmp_path / "raw")["alike_classes"] == {"shape": [names], "colour": [], "fill": []}


def test_a_main_class_that_means_no_object_is_warned_of(tmp_path):
    for split in ("train", "val"):
        cup = shape("cup,red,solid", [[20, 4], [30, 4], [30, 14]])
        folders.labelme(tmp_path / "raw", f"{split}/a", shape("Background,red,void"), cup)
    converted(tmp_path / "raw", tasks())
    (line,) = folders.report(tmp_path / "raw")["warnings"]
    assert "'Background'" in line and "null in data.mapping" in line


def test_a_failed_run_leaves_what_was_there(tmp_path):
    raw = tmp_path / "raw"
    folders.labelme(raw, "a", shape(FLAT))
    folders.labelme(raw, "b")
    converted(raw, tasks())
    before = content(tmp_path / "coco")
    folders.labelme(raw, "c", shape("circle"))
    with pytest.raises(UserError):
        converted(raw, tasks())
    assert content(tmp_path / "coco") == before
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "coco"}


def test_objects_that_leave_the_image_are_clipped_and_counted(tmp_path):
    folders.labelme(
        tmp_path / "raw",
        "a",
        shape(FLAT, [[-10, -10], [5, -10], [5, 5], [-10, 5]]),
        shape(FLAT, [[WIDTH - 8, 0], [WIDTH + 8, HEIGHT / 2], [WIDTH - 8, HEIGHT]]),
        shape(FLAT),
    )
    folders.labelme(tmp_path / "raw", "b")
    corner, arrow, inside = converted(tmp_path / "raw", tasks())["a.png"].instances
    assert corner.bbox == (0, 0, 5, 5) and corner.area == 25
    # a triangle cut half way keeps three quarters of its area; clamped corners would keep a half
    assert arrow.area == pytest.approx(0.75 * 16 * HEIGHT / 2, rel=0.05)
    for instance in (corner, arrow, inside):
        values = np.array(instance.segmentation[0]).reshape(-1, 2)
        assert (values >= 0).all() and (values <= (WIDTH, HEIGHT)).all()
    assert folders.report(tmp_path / "raw")["clipped_objects"] == 2


def test_sizes_are_those_of_the_image_as_exif_turns_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, size in {"a": (HEIGHT, WIDTH), "b": (WIDTH, HEIGHT)}.items():
        path = folders.labelme(tmp_path / "raw", name, shape(FLAT))
        path.with_suffix(".png").unlink()
        draw(path.with_suffix(".jpg"), size, exif=exif)
    with pytest.raises(UserError, match="1 invalid record.*\n.*b.json: states 40 x 30, b.jpg is 30 x 40"):
        converted(tmp_path / "raw", tasks())


def test_an_image_annotated_twice_is_named(tmp_path):
    folders.labelme(tmp_path / "raw", "a", shape(FLAT))
    folders.labelme(tmp_path / "raw", "b", imagePath="a.png")
    (tmp_path / "raw" / "b.png").unlink()
    with pytest.raises(UserError, match="b.json: a.png is annotated in a.json too"):
        converted(tmp_path / "raw", tasks())


def test_a_task_without_an_example_stops_but_a_listed_class_without_one_does_not(tmp_path):
    for split in ("train", "val"):
        folders.labelme(tmp_path / "raw", f"{split}/a", shape("circle,-,solid"))
    with pytest.raises(UserError, match="task 'colour' has no labelled object"):
        converted(tmp_path / "raw", tasks())
    for split in ("train", "val"):
        folders.labelme(tmp_path / "raw", f"{split}/a", shape("circle,red,solid"))
    converted(tmp_path / "raw", tasks(shape="auto", colour="auto", fill=["solid", "dotted"]))
    assert folders.report(tmp_path / "raw")["classes"]["fill"] == ["solid", "dotted"]


def test_images_are_split_by_the_seed_when_raw_has_no_split(tmp_path):
    for number in range(20):
        folders.labelme(tmp_path / "raw", f"{number:02d}", shape(FLAT))
    splits = []
    for seed in (0, 0, 1):
        convert(data(tmp_path / "raw", split=0.2), tasks(), tmp_path / "coco", seed=seed)
        raw = json.loads((tmp_path / "coco" / "val.json").read_bytes())
        splits.append([image["file_name"] for image in raw["images"]])
    assert splits[0] == splits[1] != splits[2] and len(splits[0]) == len(splits[2]) == 4


def test_near_identical_images_stay_on_one_side(tmp_path):
    raw = tmp_path / "raw"
    for number in range(8):
        folders.labelme(raw, f"{number}", shape(FLAT))
        for copy, quality in (("b", 90), ("c", 60)):
            path = folders.labelme(raw, f"{number}{copy}", shape(FLAT))
            path.with_suffix(".png").unlink()
            with Image.open(raw / f"{number}.png") as original:
                original.save(path.with_suffix(".jpg"), quality=quality)
    for seed in range(5):
        convert(data(raw, split=0.3 if seed else 0.01), tasks(), tmp_path / "coco", seed=seed)
        sides = {}
        for split in ("train", "val"):
            for image in json.loads((tmp_path / "coco" / f"{split}.json").read_bytes())["images"]:
                sides.setdefault(image["file_name"][0], set()).add(split)
        assert all(len(side) == 1 for side in sides.values())
        assert {side for (side,) in sides.values()} == {"train", "val"}


def test_a_given_split_is_kept_and_warned_of_where_it_shares_images(tmp_path, capsys):
    raw = tmp_path / "raw"
    for name in ("train/a", "train/b", "val/c", "val/d"):
        folders.labelme(raw, name, shape(FLAT))
    shutil.copy(raw / "train" / "a.png", raw / "val" / "c.png")
    converted(raw, tasks())
    assert folders.report(raw)["straddling"] == [["train/a.png", "val/c.png"]]
    assert "warning: train and val share 1 near-identical images" in capsys.readouterr().out


def test_a_single_image_is_one_line_that_names_it_and_what_was_skipped(tmp_path):
    folders.labelme(tmp_path / "raw", "a", shape(FLAT))
    with pytest.raises(UserError, match="single annotated image, a.png: .*train/ and into val/$"):
        converted(tmp_path / "raw", tasks())
    folders.labelme(tmp_path / "raw", "b", shape(FLAT)).with_suffix(".png").unlink()
    with pytest.raises(
        UserError, match=r"single annotated image.*\(skipped: missing image 1, such as b.json: no image"
    ):
        converted(tmp_path / "raw", tasks(), on_error="skip")


def test_a_split_that_would_be_empty_is_one_line(tmp_path):
    for number in range(2):
        path = folders.labelme(tmp_path / "raw", f"{number}", shape(FLAT))
        draw(tmp_path / "same.png").replace(path.with_suffix(".png"))
    with pytest.raises(UserError, match="train has no image: .*make folders train/, val/, or raise data.split"):
        converted(tmp_path / "raw", tasks())


def test_bad_input_at_the_door_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"absent \(data.raw\) is missing"):
        converted(tmp_path / "absent", tasks())
    (tmp_path / "raw").mkdir()
    for format in ("labelme", "coco"):
        with pytest.raises(UserError, match="has no annotated image in the format"):
            converted(tmp_path / "raw", tasks(), format=format)


def test_shares_of_the_train_images_are_nested_and_val_stays_whole(tmp_path):
    generate(
        Generate.model_validate(PARAMS["generate"] | {"train": 20, "val": 4, "size": 48}), tmp_path / "raw", seed=0
    )
    names, val = [], set()
    for share in (0.01, 0.1, 0.25, 0.5, 1):
        convert(data(tmp_path / "raw", share=share), tasks(), tmp_path / "coco", seed=3)
        names.append({*Images.read(tmp_path / "coco" / "train.parquet").file_name})
        val.add((tmp_path / "coco" / "val.json").read_bytes())
    assert [len(chosen) for chosen in names] == [1, 2, 5, 10, 20]
    assert all(smaller < larger for smaller, larger in pairwise(names))
    assert len(val) == 1


def test_images_without_objects_are_counted(tmp_path, capsys):  # also those whose mask files are empty
    for name, own in (("a", [shape("x")]), ("b", [shape("x")]), ("c", [])):
        folders.labelme(tmp_path / "raw", name, *own)
    converted(tmp_path / "raw", tasks(part="auto"))
    assert "images without objects: 1\n" in capsys.readouterr().out and report(tmp_path / "raw")["empty_images"] == 1


def test_names_are_printed_escaped(tmp_path, capsys):
    for name in ("a\nerror: forged\x1b[31m", "b"):
        folders.labelme(tmp_path / "raw", name, shape("x"))
    converted(tmp_path / "raw", tasks(part="auto"), format="auto")
    assert r"a\nerror: forged\x1b[31m.json" in capsys.readouterr().out
