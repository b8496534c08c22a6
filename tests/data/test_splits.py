"""The stated split is kept, in every layout and spelling; a missing one is drawn only where nothing contradicts it."""

import json

import numpy as np
import pytest
from PIL import Image

from mtseg.core.errors import UserError
from mtseg.core.params import Data
from mtseg.core.tables import Images
from mtseg.data import manifest
from mtseg.data.convert import convert
from tests.data import folders
from tests.data.folders import annotation, shape, tasks

ONE = tasks(part=["a", "b"])


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


def split(raw, **keys):
    """File names of each split after `convert`."""
    settings = {"format": "labelme", "mapping": None, "split": 0.5, "share": 1, "seed": 0, "on_error": "error"}
    convert(Data(raw=raw, flatten=False, **settings | keys), ONE, raw.parent / "coco", seed=0)
    tables = sorted((raw.parent / "coco").glob("*.parquet"))
    return {table.stem: sorted(Images.read(table).file_name) for table in tables}


def write(raw, *names):
    for name in names:
        folders.labelme(raw, name, shape("a"))


@pytest.mark.parametrize(
    "names",
    [
        "train val test",
        "Train Valid TEST",
        "training validation testing",
        "train2017 val2017 test2017",
        "set1/train set1/dev set1/test",
        "train_images val_images test_images",
        "trainset valset testset",
        "images/train images/val images/test",
        "test/train test/val test/test",  # one folder that holds all is no split
    ],
)
def test_folders_of_the_usual_names_are_the_split(raw, capsys, names):
    train, val, test = names.split()
    write(raw, f"{train}/x", f"{train}/y", f"{val}/z", f"{test}/t")
    assert split(raw) == {
        "train": [f"{train}/x.png", f"{train}/y.png"],
        "val": [f"{val}/z.png"],
        "test": [f"{test}/t.png"],
    }
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "split: " in line]
    assert "train 2, val 1, test 1" in line and train.rpartition("/")[2] in line


@pytest.mark.parametrize(
    "line",
    ["{}", "{}.png", "pictures/{}.png", "./pictures/{}.png", "/home/me/data/pictures/{}.png", "{}.png {}_mask.png"],
)
def test_text_files_list_the_images_of_each_split(raw, line):
    write(raw, *(f"pictures/{name}" for name in "wxyz"))
    for name, listed in {"train": "wx", "Val": "y", "test": "z"}.items():
        (raw / f"{name}.txt").write_text("\n".join(line.replace("{}", one) for one in listed) + "\n")
    found = split(raw)
    assert {name: "".join(path[9] for path in paths) for name, paths in found.items()} == {
        "train": "wx",
        "val": "y",
        "test": "z",
    }
    assert "train.txt" in folders.report(raw)["split"]


def listed_by(raw, tables):
    write(raw, *(str(number) for number in range(6)))
    for name, lines in tables.items():
        (raw / name).write_text("\n".join(lines))


@pytest.mark.parametrize(
    "row",
    [
        "{0}.png",
        "images/{0}.png,car",
        '"{0}.png";"car"',
        "{1},{0}.png,car",
        "{1}\t{0}.png",
        "{0}.png {1}.tif",
        "{0}%2Epng",
    ],
)
def test_a_list_may_be_a_table_with_other_columns(raw, row):
    numbers = {"train.csv": (0, 1, 2), "valid.csv": (3, 4, 5)}
    listed_by(raw, {name: [row.format(own, 5 - own) for own in some] for name, some in numbers.items()})
    assert split(raw) == {"train": ["0.png", "1.png", "2.png"], "val": ["3.png", "4.png", "5.png"]}


@pytest.mark.parametrize("name, head", [("split.csv", "id,image,Split"), ("meta.tsv", "id\timage\tset")])
def test_a_column_of_a_table_may_state_the_split(raw, capsys, name, head):
    separator = "," if "," in head else "\t"
    splits = ["train"] * 3 + ["Valid", "Valid", "test"]
    rows = [separator.join((str(5 - number), f"{number}.png", own)) for number, own in enumerate(splits)]
    listed_by(raw, {name: [head, *rows]})
    (raw / "prices.csv").write_bytes(b"split,price\nbanana,\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        split(raw)
    (raw / "prices.csv").write_bytes(b"split,price\nbanana,1")
    assert split(raw) == {"train": ["0.png", "1.png", "2.png"], "val": ["3.png", "4.png"], "test": ["5.png"]}
    assert f"split: {name} (train), {name} (val), {name} (test): train 3" in capsys.readouterr().out
    (raw / name).write_text("\n".join([head, *rows[:-1], separator.join(("0", "5.png", ""))]))
    with pytest.raises(UserError, match="has no split, unlike others"):
        split(raw)


@pytest.mark.parametrize("pattern", ["{}_list.txt", "{}-files.txt", "autosplit_{}.txt", "my {} ids.txt", "{}.json"])
def test_lists_may_have_other_words_in_their_names(raw, pattern):
    numbers = {"train": "012", "val": "345"}
    lines = {name: [f"{number}.png" for number in some] for name, some in numbers.items()}
    lines = {name: [json.dumps(own)] if "json" in pattern else own for name, own in lines.items()}
    listed_by(raw, {pattern.format(name): own for name, own in lines.items()})
    assert split(raw) == {"train": ["0.png", "1.png", "2.png"], "val": ["3.png", "4.png", "5.png"]}


def test_labels_of_yolo_beside_images_are_no_lists(raw):
    for name in ("train_1", "train_2", "val_3"):
        folders.draw(raw / f"{name}.png")
        (raw / f"{name}.txt").write_text("0 0.1 0.1 0.4 0.1 0.4 0.5" if name != "train_2" else "")
    (raw / "data.yaml").write_text("names: [a]")
    assert split(raw, format="yolo")["val"] == ["val_3.png"]
    assert folders.report(raw)["split"] == "names of the images"


@pytest.mark.parametrize("name", ["{}_log.txt", "{}_metrics.csv", "latest_{}.json"])
def test_logs_are_no_lists(raw, name):
    lines = ["epoch 1", "3"] if name.endswith("txt") else ["epoch,loss", "3,4"]
    lines = ['{"loss": [1, 2]}'] if name.endswith("json") else lines
    listed_by(raw, {name.format(split): lines for split in ("train", "val")})
    assert len(split(raw)["val"]) == 3 and "drawn" in folders.report(raw)["split"]


@pytest.mark.parametrize(
    "names, stated",
    [("train_1 train_2 val_3 test_4", True), ("train1 train2 val1", True)]
    + [("train_1 train_2 3 4", False), ("test_1 test_2 test_3", False), ("train_1 train_2", False)],
)
def test_the_names_of_all_images_may_state_the_split(raw, capsys, names, stated):
    write(raw, *names.split())
    found = split(raw)
    assert ("names of the images" in capsys.readouterr().out) == stated
    if stated:
        assert all(name.startswith(own) for own, some in found.items() for name in some)


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_a_json_file_may_list_the_images_of_each_split(raw, suffix):
    lists = {"train": (0, 1, 2), "Valid": (3, 4), "test": (5,)}
    content = {name: [f"{number}{suffix}" for number in some] for name, some in lists.items()} | {"seed": 3}
    listed_by(raw, {"dataset_splits.json": [json.dumps(content)]})
    assert split(raw) == {"train": ["0.png", "1.png", "2.png"], "val": ["3.png", "4.png"], "test": ["5.png"]}


def test_lists_divide_the_images_of_a_folder_of_train(raw):
    write(raw, "training/x", "training/y")
    (raw / "train.txt").write_text("x\nabsent\n")
    (raw / "val.txt").write_text("y\n")
    assert split(raw) == {"train": ["training/x.png"], "val": ["training/y.png"]}
    assert list(folders.report(raw)["unused"].values()) == [1]


def test_lists_that_contradict_each_other_or_folders_are_refused(raw):
    write(raw, "train/x", "val/y")
    (raw / "val.txt").write_text("x\n")
    with pytest.raises(UserError, match="train/x.png is of train.*of val by val.txt"):
        split(raw)
    (raw / "train.txt").write_text("x\n")
    with pytest.raises(UserError, match="train/x.png is in train.txt and val.txt"):
        split(raw)


def test_a_list_of_no_image_is_refused(raw):
    write(raw, "x", "y")
    (raw / "test.txt").write_text("notes on the tests\n")
    with pytest.raises(UserError, match="test.txt looks like a list of splits.*'notes on the tests', name no image"):
        split(raw)
    (raw / "train.txt").write_text("x\ny\n")
    with pytest.raises(UserError, match="test.txt .*its lines, such as 'notes on the tests', name no image"):
        split(raw)


def test_a_list_of_images_without_annotations_is_left_out_for_test_and_refused_for_val(raw):
    write(raw, "w", "x", "y")
    folders.draw(raw / "z.png")
    for name, listed in {"train": "wx", "val": "y", "test": "z"}.items():
        (raw / f"{name}.txt").write_text("".join(f"{image}.png\n" for image in listed))
    assert split(raw) == {"train": ["w.png", "x.png"], "val": ["y.png"]}
    (raw / "y.json").unlink()
    with pytest.raises(UserError, match="1 images of val, and no annotation"):
        split(raw)


def test_val_is_drawn_from_a_folder_of_train_alone(raw, capsys):
    write(raw, *(f"train/{name}" for name in "wxyz"))
    found = split(raw)
    assert [len(found["train"]), len(found["val"])] == [2, 2]
    assert "val drawn from train with data.split 0.5" in capsys.readouterr().out


def test_val_is_not_drawn_beside_test_unless_asked_for_and_never_from_test(raw):
    write(raw, *(f"train/{name}" for name in "wxyz"), "test/t")
    with pytest.raises(UserError, match=r"train and test, but no val .*data.split to \{val: 0.5\}"):
        split(raw)
    found = split(raw, split={"val": 0.25})
    assert {name: len(own) for name, own in found.items()} == {"train": 3, "val": 1, "test": 1}
    assert found["test"] == ["test/t.png"]


@pytest.mark.parametrize("names", [["test"], ["val"], ["val", "test"]])
def test_images_of_val_or_test_alone_are_not_drawn_anew(raw, names):
    write(raw, *(f"{name}/{number}" for name in names for number in range(3)))
    with pytest.raises(UserError, match=f"no image of train, all are of {' and '.join(sorted(names))}"):
        split(raw)


@pytest.mark.parametrize("names", ["fold1 fold2", "trainval eval", "evaluation learn", "my_tst my_trn", "a_test b"])
def test_folders_that_look_like_an_unknown_split_are_named(raw, names):
    one, other = names.split()
    write(raw, f"{one}/x", f"{other}/y")
    with pytest.raises(UserError, match=f"{one}/.* look.* like a split, but not which"):
        split(raw)


@pytest.mark.parametrize("names", ["day night", "VOCdevkit contest", "cars valley", "my_test/a my_test/b"])
def test_other_folders_are_pooled(raw, names):
    write(raw, *(f"{name}/x" for name in names.split()))
    assert len(split(raw)["val"]) == 1


@pytest.mark.parametrize(
    "names", ["trains vals", "mytrain myval", "imagesTr imagesTs", "tr va", "训练集 验证集", "TRAINset VALset"]
)
def test_folders_that_differ_in_the_name_of_the_split_alone_are_the_split(raw, names):
    one, other = names.split()
    write(raw, f"{one}/a", f"{one}/b", f"{other}/c")
    found = split(raw, split={"val": 0.3})
    assert found["train"][-1].startswith(f"{one}/") and not any(name.startswith(other) for name in found["train"])


@pytest.mark.parametrize("pattern", ["fold{0}/{1}/x{0}{1}", "split_{0}/{1}/images/x{0}{1}"])
def test_folds_with_splits_in_each_are_refused(raw, pattern):
    write(raw, *(pattern.format(fold, own) for fold in (0, 1) for own in ("train", "val")))
    with pytest.raises(UserError, match="2 folds.*keep the files of one fold"):
        split(raw)


@pytest.mark.parametrize("names", ["train1 train2", "train_part1 train_part2", "Train-A Train-B"])
def test_numbered_folders_of_train_are_one_split(raw, capsys, names):
    one, other = names.split()
    write(raw, f"{one}/x", f"{other}/x", "val/y")
    assert split(raw) == {"train": sorted([f"{one}/x.png", f"{other}/x.png"]), "val": ["val/y.png"]}
    assert f"{one}/ (train), {other}/ (train)" in capsys.readouterr().out


@pytest.mark.parametrize("pattern", ["{}/x", "{}/images/x"])
def test_numbered_folders_of_several_splits_may_be_folds_and_are_refused(raw, pattern):
    write(raw, *map(pattern.format, ("train1", "val1", "train2", "val2")))
    with pytest.raises(UserError, match="look like a split, but not which"):
        split(raw)


def test_images_of_no_split_are_refused_or_left_out_and_counted(raw):
    write(raw, "train/x", "val/y", "evaluation/z")
    with pytest.raises(UserError, match=r"1 of 3 images, such as evaluation/z.png \(in evaluation/\)"):
        split(raw)
    assert split(raw, on_error="skip") == {"train": ["train/x.png"], "val": ["val/y.png"]}
    assert list(folders.report(raw)["unused"].values()) == [1]


def test_a_folder_of_val_without_annotations_is_not_replaced_by_a_draw(raw):
    write(raw, "train/x", "train/y")
    folders.draw(raw / "valid" / "z.png")
    with pytest.raises(UserError, match="1 images of val, and no annotation"):
        split(raw)


def test_a_test_split_without_objects_is_left_out_and_counted(raw):
    write(raw, "train/x", "val/y")
    folders.labelme(raw, "test/z")
    assert set(split(raw)) == {"train", "val"}
    assert list(folders.report(raw)["unused"].values()) == [1]


def test_data_split_draws_test_too_and_the_val_of_a_share_alone_stays(raw):
    write(raw, *(f"{number:02}" for number in range(20)))
    alone = split(raw, split=0.2)
    both = split(raw, split={"val": 0.2, "test": 0.1})
    assert [len(both[name]) for name in ("train", "val", "test")] == [14, 4, 2]
    assert both["val"] == alone["val"]
    assert not {*both["test"]} & {*both["train"], *both["val"]}


def test_test_is_drawn_from_train_where_train_and_val_are_given(raw):
    write(raw, *(f"train/{name}" for name in "wxyz"), "val/v")
    found = split(raw, split={"val": 0.2, "test": 0.25})
    assert found["val"] == ["val/v.png"] and len(found["test"]) == 1 and len(found["train"]) == 3


def test_near_identical_images_are_drawn_into_one_split(raw):
    for group in range(6):
        for number in range(3):
            path = folders.labelme(raw, f"{group}_{number}", shape("a"))
            folders.draw(raw / "same" / f"{group}.png").replace(path.with_suffix(".png"))
    for seed in range(3):
        found = split(raw, split={"val": 0.3, "test": 0.3}, seed=seed)
        sides = {}
        for name, paths in found.items():
            for path in paths:
                sides.setdefault(path[0], set()).add(name)
        assert set(found) == {"train", "val", "test"} and all(len(own) == 1 for own in sides.values())


def coco_in(raw, path, image, **keys):
    """A COCO file of one image with one object."""
    folders.draw(raw / image)
    record = {"id": 1, "file_name": keys.get("file_name", image), "height": folders.HEIGHT, "width": folders.WIDTH}
    content = {"images": [record], "annotations": [annotation() | {"id": 1}], "categories": [{"id": 1, "name": "a"}]}
    (raw / path).parent.mkdir(parents=True, exist_ok=True)
    (raw / path).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "pattern",
    [
        "annotations/instances_{}.json",
        "annotations/instances_{}2017.json",
        "lvis_v1_{}.json",
        "{}.json",
        "{}/_annotations.coco.json",
        "{}_coco.json",
    ],
)
def test_the_names_of_coco_files_are_the_split(raw, pattern):
    for name in ("train", "val", "test"):
        coco_in(raw, pattern.replace("{}", name), f"pool/{name[:2]}.png")
    assert split(raw, format="coco") == {"train": ["pool/tr.png"], "val": ["pool/va.png"], "test": ["pool/te.png"]}


@pytest.mark.parametrize(
    "names",
    [
        "fold1 fold2",
        "trainval minival",
        "trainval test",
        "train eval",
        "Trainingsdaten Validierung",
        "entrenamiento validacion",
    ],
)
def test_coco_files_that_look_like_an_unknown_split_are_named(raw, names):
    for number, name in enumerate(names.split()):
        coco_in(raw, f"annotations/{name}.json", f"pool/{number}.png")
    with pytest.raises(UserError, match=r"annotations/\w+.json"):
        split(raw, format="coco")


def test_coco_files_of_folds_are_refused(raw):
    for name in ("train1", "val1", "train2", "val2"):
        coco_in(raw, f"annotations/{name}.json", f"images/{name}.png")
    with pytest.raises(UserError, match="look like a split, but not which"):
        split(raw, format="coco")


def test_text_files_divide_one_coco_file(raw):
    folders.coco(raw, "all", [annotation(image) for image in (1, 2, 3)], count=3)
    for number, name in enumerate(("train", "valid", "test"), start=1):
        (raw / f"{name}.txt").write_text(f"{number}.png\n")
    found = split(raw, format="coco")
    assert [found[name][0][-5] for name in ("train", "val", "test")] == ["1", "2", "3"]


@pytest.mark.parametrize("pattern", ["{}.xml", "export_{}.xml", "{}/annotations.xml"])
def test_the_names_of_cvat_files_are_the_split(raw, pattern):
    for name in ("train", "val", "test"):
        folders.draw(raw / "images" / f"{name[:2]}.png")
        points = ";".join(f"{x},{y}" for x, y in folders.SQUARE)
        size = f'width="{folders.WIDTH}" height="{folders.HEIGHT}"'
        path = raw / pattern.replace("{}", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<annotations><image id="0" name="{name[:2]}.png" {size}><polygon label="a" points="{points}"/></image>'
            "</annotations>"
        )
    found = split(raw, format="cvat")
    assert found == {name: [f"images/{name[:2]}.png"] for name in ("train", "val", "test")}


def test_the_names_of_label_studio_files_are_the_split(raw):
    for name in ("train", "val", "test"):
        folders.draw(raw / "images" / f"{name[:2]}.png")
        size = {"original_width": folders.WIDTH, "original_height": folders.HEIGHT}
        value = {"points": [[10, 10], [40, 10], [40, 40]], "polygonlabels": ["a"]}
        result = [{"id": "r", "type": "polygonlabels", "from_name": "part", "value": value, **size}]
        task = {"id": 1, "data": {"image": f"images/{name[:2]}.png"}, "annotations": [{"result": result}]}
        (raw / f"{name}.json").write_text(json.dumps([task]))
    found = split(raw, format="label_studio")
    assert found == {name: [f"images/{name[:2]}.png"] for name in ("train", "val", "test")}


@pytest.mark.parametrize("described", [False, True])
def test_the_splits_of_yolo_are_those_of_data_yaml_or_of_its_folders(raw, described):
    for name in ("train", "valid", "test"):
        folders.draw(raw / name / "images" / "x.png")
        (raw / name / "labels").mkdir(parents=True)
        (raw / name / "labels" / "x.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    entries = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n" * described
    (raw / "data.yaml").write_text(entries + "names: [a]\n")
    found = split(raw, format="yolo")
    assert found == {name[:5].replace("valid", "val"): [f"{name}/images/x.png"] for name in ("train", "valid", "test")}


def test_masks_of_objects_take_the_split_of_their_folders(raw, capsys):
    for name in ("train", "valid", "test"):
        folders.draw(raw / name / "images" / f"{name}.png")
        (raw / name / "masks" / name).mkdir(parents=True)
        mask = np.zeros((folders.HEIGHT, folders.WIDTH), np.uint8)
        mask[3:9, 3:9] = 255
        Image.fromarray(mask).save(raw / name / "masks" / name / "a_1.png")
    assert set(split(raw, format="masks")) == {"train", "val", "test"}
    assert "test/, train/, valid/ (val)" in capsys.readouterr().out


def test_labelme_files_apart_from_images_take_the_split_of_their_images(raw):
    for name in ("train", "val"):
        folders.labelme(raw, f"{name}/{name[0]}", shape("a"), imagePath=f"../{name}/{name[0]}.png")
        (raw / "json").mkdir(exist_ok=True)
        (raw / name / f"{name[0]}.json").rename(raw / "json" / f"{name[0]}.json")
    assert split(raw) == {"train": ["train/t.png"], "val": ["val/v.png"]}


def test_the_manifest_has_the_splits_that_exist(raw):
    write(raw, "train/x", "val/y")
    split(raw)
    built = manifest.build(raw.parent / "coco")
    assert set(built["splits"]) == {"train", "val"} and "test" not in manifest.table(built)
    write(raw, "test/z")
    split(raw)
    built = manifest.build(raw.parent / "coco")
    assert manifest.Manifest.of(built).images("test").file_name == ("test/z.png",)
    assert manifest.table(built).split("\n")[0].split() == ["train", "val", "test"]


NAMES = ["a", "b", "c"]


def test_records_and_columns_of_splits_are_read(raw):
    write(raw, *NAMES)
    records = [
        {"image": f"{name}.png", "split": kind} for name, kind in zip(NAMES, ("train", "train", "val"), strict=True)
    ]
    for file, text in (
        ("splits.json", json.dumps(records)),
        ("meta.csv", "image,data_split\na.png,train\nb.png,train\nc.png,val\n"),
    ):
        (raw / file).write_text(text)
        assert split(raw) == {"train": ["a.png", "b.png"], "val": ["c.png"]}
        (raw / file).unlink()


FOLDS = "image,fold\na.png,0\nb.png,1\nc.png,2\n"
BY_SPLIT = {"train": ["a.png", "b.png"], "val": ["c.png"]}
SPLIT_OF = {"a.png": "train", "b.png": "train", "c.png": "val"}


def test_a_column_of_folds_beside_one_of_splits_is_not_used(raw):
    write(raw, *NAMES)
    (raw / "meta.csv").write_text("image,fold,split\na,0,train\nb,1,train\nc,2,val\n")
    assert split(raw) == BY_SPLIT


@pytest.mark.parametrize(
    "file, content",
    [
        ("split.json", SPLIT_OF),
        ("Splits.json", {"splits": BY_SPLIT, "seed": 1}),
        ("split.json", {"train": {"images": ["a", "b"]}, "valid": [{"image": "c.png", "label": "x.txt"}]}),
        ("split.json", {"train": {"x": ["a"], "y": ["b"]}, "val": {"x": ["c"]}}),
        ("my_split.json", {name: {"split": own, "size": 3} for name, own in SPLIT_OF.items()}),
        ("split.json", [[*pair] for pair in SPLIT_OF.items()]),
        ("split.yaml", "train: [a, b]\nval:\n- c\n"),
        ("folds.yml", "a.png: train\nb.png: train\nc.png: val\n"),
        ("split.jsonl", "\n".join(json.dumps({"file_name": name, "split": own}) for name, own in SPLIT_OF.items())),
        ("split.txt", "a.png train\nb.png train\nc.png val\n"),
        ("split.csv", "a.png,train\nb.png,train\nc.png,val\n"),
        ("all.csv", '"note","image","split"\n"one, two",a.png,train\n,b.png,train\n"x",c.png,val\n'),
        ("config.yaml", "seed: 1\ntrain:\n  - a.png\n  - b.png\nval: [c.png]\n"),
        ("meta.csv", "image,role\na.png,TRAIN\nb.png,TRAIN\nc.png,VAL\n"),
        ("meta.csv", "image,train/val\na,train\nb,train\nc,val\n"),
        ("meta.csv", "image,is_train\na,True\nb,True\nc,False\n"),
        ("meta.csv", "image,train,val\na,1,0\nb,1,0\nc,0,1\n"),
        ("splits.json", [{"image": name, "usage": own} for name, own in SPLIT_OF.items()]),
        ("split.csv", "previous,image,split\nc,a,train\na,b,train\nb,c,val\n"),
        ("split.csv", f"image,split,mask\na,train,{'1 ' * 99_000}\nb,train,\nc,val,\n"),
        ("train_test_split.txt", "a\ttraining\nb\ttraining\nc\tvalidation\n"),
    ],
)
def test_the_obvious_forms_of_a_split_are_read(raw, capsys, file, content):
    write(raw, *NAMES)
    (raw / file).write_text(content if isinstance(content, str) else json.dumps(content))
    assert split(raw) == BY_SPLIT
    out = capsys.readouterr().out
    assert f"split: {file} (train), {file} (val): train 2, val 1" in out and "not used" not in out


@pytest.mark.parametrize(
    "file, content",
    [
        ("folds.csv", FOLDS),
        ("folds.json", json.dumps([{"image": f"{name}.png", "fold": 0} for name in NAMES])),
        ("folds.json", json.dumps({"fold0": BY_SPLIT, "fold1": {"train": ["c.png"], "val": ["a.png", "b.png"]}})),
        ("split.json", json.dumps({"train": 0.8, "val": 0.2})),
        ("split.json", json.dumps(["a.png"])),
        ("split.yaml", "a.png: 1\n"),
        ("split.json", json.dumps({"train": None, "val": ["c"]})),
        ("meta.csv", "image,split\na,0\nb,0\nc,1\n"),
        ("meta.csv", FOLDS),
        ("fold0_train.txt", "a\nb\n"),
        ("dataset.yaml", "train: lists/a.txt\nval: lists/b.txt\n"),
        ("split.xlsx", "PK"),
        ("train_val.npz", "PK"),
        ("kfold.pkl", ""),
        ("split.txt", "a b c\n"),
        ("train_test_split.txt", "1 0\n2 1\n"),
        ("trainval.txt", "a\nb\nc\n"),
    ],
)
def test_a_split_that_is_not_understood_is_not_drawn_over(raw, file, content):
    write(raw, *NAMES)
    (raw / file).write_text(content)
    with pytest.raises(UserError, match=rf"{file} looks like a list of splits.*\{{image: split\}}"):
        split(raw)
    (raw / "train.txt").write_text("a\nb\n")
    (raw / "val.txt").write_text("c\n")
    assert split(raw) == BY_SPLIT


@pytest.mark.parametrize(
    "file", ["eval.json", "val_results.json", "test_metrics.csv", "train.py", "training-log.txt", "train.cache"]
)
def test_other_files_are_no_splits(raw, file):
    write(raw, *NAMES)
    (raw / file).write_text('{"AP": 0.5}')
    split(raw)
    assert "drawn" in folders.report(raw)["split"]


def test_a_column_of_a_class_called_train_is_no_split(raw):
    write(raw, *NAMES)
    (raw / "meta.csv").write_text("image,car,train\na,1,0\nb,0,1\nc,1,1\n")
    split(raw)
    assert "drawn" in folders.report(raw)["split"]


def test_several_lists_of_splits_must_agree(raw):
    write(raw, *NAMES)
    (raw / "split.json").write_text(json.dumps(SPLIT_OF))
    (raw / "meta.csv").write_text("image,split\na.png,train\nb.png,val\nc.png,val\n")
    with pytest.raises(UserError, match="b.png is in meta.csv and split.json"):
        split(raw)


@pytest.mark.parametrize("form", ["coco", "label_studio"])
def test_lists_in_json_beside_one_annotation_file_are_no_annotations(raw, form):
    if form == "coco":
        folders.coco(raw, "all", [annotation(number) for number in (1, 2, 3)], count=3)
        names = ["images/all/1.png", "images/all/2.png", "images/all/3.png"]
    else:
        size = {"original_width": folders.WIDTH, "original_height": folders.HEIGHT}
        value = {"points": [[10, 10], [40, 10], [40, 40]], "polygonlabels": ["a"]}
        result = [{"id": "r", "type": "polygonlabels", "from_name": "part", "value": value, **size}]
        names = [folders.draw(raw / "images" / f"{name}.png").relative_to(raw).as_posix() for name in NAMES]
        found = [{"id": name, "data": {"image": name}, "annotations": [{"result": result}]} for name in names]
        (raw / "export.json").write_text(json.dumps(found))
    expected = {"train": names[:2], "val": names[2:]}
    for name, own in expected.items():
        (raw / f"{name}.json").write_text(json.dumps(own))
    assert split(raw, format=form) == expected
    for name in expected:
        (raw / f"{name}.json").unlink()
    records = [{"image": one, "split": own} for own, some in expected.items() for one in some]
    (raw / "split.json").write_text(json.dumps(records))
    assert split(raw, format=form) == expected and not folders.report(raw)["unused"]


def test_a_split_of_each_coco_image_is_read(raw):
    path = folders.coco(raw, "all", [annotation(1), annotation(2), annotation(3)], count=3)
    content = json.loads(path.read_text())
    for image, kind in zip(content["images"], ("train", "val", "train"), strict=True):
        image["split"] = kind
    path.write_text(json.dumps(content))
    found = split(raw, format="coco")
    assert found == {"train": ["images/all/1.png", "images/all/3.png"], "val": ["images/all/2.png"]}
    content["images"][0]["split"] = "test"
    path.unlink()
    (raw / "annotations" / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is of test by its own split, and of train"):
        split(raw, format="coco")


@pytest.mark.parametrize("key", ["data_split", "image_set", "subset", "usage"])
def test_a_split_of_each_coco_image_is_read_under_its_usual_names(raw, key):
    path = folders.coco(raw, "all", [annotation(1), annotation(2)], count=2)
    content = json.loads(path.read_text())
    for image, kind in zip(content["images"], ("val", "train"), strict=True):
        image[key] = kind
    path.write_text(json.dumps(content))
    assert split(raw, format="coco") == {"train": ["images/all/2.png"], "val": ["images/all/1.png"]}


@pytest.mark.parametrize("key, drawn", [("split", False), ("fold", False), ("kfold_id", False), ("subset", True)])
def test_keys_of_coco_images_that_divide_them_are_not_drawn_over(raw, capsys, key, drawn):
    path = folders.coco(raw, "all", [annotation(1), annotation(2)], count=2)
    content = json.loads(path.read_text())
    for number, image in enumerate(content["images"]):
        image[key] = number
    path.write_text(json.dumps(content))
    if drawn:
        split(raw, format="coco")
        assert f"images whose `{key}` has no split" in " ".join(capsys.readouterr().out.split())
        return
    with pytest.raises(UserError, match=f"`{key}` of the images, such as '0', '1', looks like a split"):
        split(raw, format="coco")
    (raw / "train.txt").write_text("1\n")
    (raw / "val.txt").write_text("2\n")
    assert split(raw, format="coco") == {"train": ["images/all/1.png"], "val": ["images/all/2.png"]}


@pytest.mark.parametrize(
    "file, content",
    [
        ("data_info.json", [{"image": name, "split": own} for name, own in SPLIT_OF.items()]),
        ("images.json", {name: {"patient": 1, "usage": own} for name, own in SPLIT_OF.items()}),
        ("assignment.json", SPLIT_OF),
        ("metadata.jsonl", "".join(f'{{"file_name": "{name}", "split": "{own}"}}\n' for name, own in SPLIT_OF.items())),
    ],
)
def test_records_of_images_with_their_split_are_read_whatever_the_file_is_called(raw, capsys, file, content):
    write(raw, *NAMES)
    (raw / file).write_text(content if isinstance(content, str) else json.dumps(content))
    assert split(raw) == BY_SPLIT
    assert "not used" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{"mode": "train"}, {"lr": 1, "phase": "train"}, [{"label": "train", "n": 2}]])
def test_other_json_files_with_the_word_train_are_no_splits(raw, content):
    write(raw, *NAMES)
    (raw / "config.json").write_text(json.dumps(content))
    split(raw)
    assert "drawn" in folders.report(raw)["split"]


def test_records_of_splits_beside_a_coco_file_are_no_coco_file(raw):
    folders.coco(raw, "all", [annotation(1), annotation(2)], count=2)
    records = [{"image": f"{number}.png", "split": kind} for number, kind in ((1, "val"), (2, "train"))]
    (raw / "split.json").write_text(json.dumps(records))
    assert split(raw, format="coco") == {"train": ["images/all/2.png"], "val": ["images/all/1.png"]}


def test_no_split_is_drawn_in_place_of_an_empty_list(raw):
    write(raw, *NAMES)
    (raw / "train.txt").write_text("a\nb\nc\n")
    (raw / "val.txt").write_text("\n")
    with pytest.raises(UserError, match="val.txt lists no image"):
        split(raw)
    (raw / "val.txt").write_text("c\n")
    (raw / "train.txt").write_text("a\nb\n")
    (raw / "test.txt").write_text("")
    assert split(raw) == BY_SPLIT


def test_an_annotation_file_of_val_without_images_says_so_beside_one_of_test(raw):
    for name in ("train", "test"):
        folders.coco(raw, name, [annotation(1), annotation(2)], count=2)
    folders.coco(raw, "val", [], count=0)
    with pytest.raises(UserError, match="val.json lists no image"):
        split(raw, format="coco")


def test_images_of_no_split_are_reported_with_the_list_that_is_not_read(raw):
    write(raw, *NAMES)
    (raw / "trainval.txt").write_text("a\nb\n")
    (raw / "test.txt").write_text("c\n")
    with pytest.raises(UserError, match="2 of 3 images.*trainval.txt is not read"):
        split(raw)


def test_images_with_splits_and_no_annotations_beside_a_coco_file_are_no_coco_file(raw):
    folders.coco(raw, "all", [annotation(1), annotation(2)], count=2)
    records = [{"filename": f"{number}.png", "split": kind} for number, kind in ((1, "val"), (2, "train"))]
    (raw / "dataset.json").write_text(json.dumps({"images": records, "dataset": "mine"}))
    assert split(raw, format="coco") == {"train": ["images/all/2.png"], "val": ["images/all/1.png"]}


def test_lists_may_be_in_utf_16(raw):
    write(raw, *NAMES)
    rows = "".join(f"{name}\t{own}\n" for name, own in SPLIT_OF.items())
    (raw / "splits.csv").write_text(f"image\tsplit\n{rows}", encoding="utf-16")
    assert split(raw) == BY_SPLIT
    (raw / "splits.csv").unlink()
    (raw / "train.txt").write_text("a.png\nb.png\n", encoding="utf-16")
    (raw / "val.txt").write_text("c.png\n")
    assert split(raw) == BY_SPLIT


def test_a_json_of_any_name_with_several_splits_is_one(raw):
    write(raw, *NAMES)
    content = {"training": [{"image": "./a.png"}, {"image": "./b.png"}], "validation": [{"image": "./c.png"}]}
    (raw / "dataset.json").write_text(json.dumps({"name": "x"} | content))
    assert split(raw) == BY_SPLIT


def test_a_broken_list_of_splits_is_refused_where_records_are_skipped(raw):
    write(raw, *NAMES)
    (raw / "split.json").write_text('{"train": ["a.png"')
    with pytest.raises(UserError, match="split.json .*cannot be read as JSON"):
        split(raw, on_error="skip")


@pytest.mark.parametrize("file, depth", [("split.jsonl", 5000), ("split.json", 800)])
def test_a_list_of_splits_that_is_nested_too_deep_is_one_line(raw, file, depth):
    write(raw, *NAMES)
    (raw / file).write_text('{"a":' * depth + "1" + "}" * depth)
    with pytest.raises(UserError, match=f"{file} .*cannot be read: it is nested too deep"):
        split(raw)


def test_lists_of_single_classes_of_pascal_voc_are_no_splits(raw):
    write(raw, *NAMES)
    lines = {"train": "a\nb\n", "val": "c\n", "car_train": "a 1\nb -1\n", "car_val": "b 1\n"}
    for name, text in lines.items():
        (raw / f"{name}.txt").write_text(text)
    assert split(raw) == BY_SPLIT and folders.report(raw)["split"] == "train.txt, val.txt"


def test_the_head_of_a_list_is_no_line(raw):
    write(raw, *NAMES)
    for name, own in BY_SPLIT.items():
        (raw / f"{name}.csv").write_text("\n".join(["Image_ID,label", *(f"{one},car" for one in own)]))
    assert split(raw) == BY_SPLIT and not folders.report(raw)["unused"]


def test_ids_and_names_that_mean_different_images_are_refused(raw):
    path = folders.coco(raw, "all", [annotation(1), annotation(2), annotation(3)], count=3)
    content = json.loads(path.read_text())
    (raw / "split.json").write_text(json.dumps({"train": [1, 2], "val": [3]}))
    whole = split(raw, format="coco")
    assert whole == {"train": ["images/all/1.png", "images/all/2.png"], "val": ["images/all/3.png"]}
    for item in (*content["images"], *content["annotations"]):
        key = "image_id" if "image_id" in item else "id"
        item[key] = 4 - item[key]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="'1' may mean images/all/1.png or images/all/3.png: write file names"):
        split(raw, format="coco")


def test_a_coco_file_may_list_the_ids_of_its_splits(raw):
    path = folders.coco(raw, "all", [annotation(1), annotation(2), annotation(3)], count=3)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": {"train": [3, 1], "val": [2]}}))
    assert split(raw, format="coco") == {"train": ["images/all/1.png", "images/all/3.png"], "val": ["images/all/2.png"]}


@pytest.mark.parametrize("key, values", [("split", "train val"), ("is_val", [False, True]), ("phase", "train valid")])
def test_a_key_of_a_labelme_file_may_state_its_split(raw, key, values):
    write(raw, "a", "b")
    for name, value in zip("ab", values.split() if isinstance(values, str) else values, strict=True):
        path = raw / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert split(raw) == {"train": ["a.png"], "val": ["b.png"]}


def test_images_of_val_without_annotations_beside_images_of_no_split_are_refused(raw):
    write(raw, *NAMES)
    folders.draw(raw / "val" / "x.png")
    with pytest.raises(UserError, match="has 1 images of val, and no annotation of them was read"):
        split(raw)
