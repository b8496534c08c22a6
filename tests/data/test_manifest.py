import json
import os
from collections import Counter

import pytest

from mtseg.core.errors import UserError
from mtseg.core.files import write_json
from mtseg.data import coco, manifest
from tests.scenes import make_tasks, scene


@pytest.fixture(params=[1, 3, 4])
def tasks(request):
    return make_tasks(request.param)


@pytest.fixture
def path(tmp_path, tasks):
    coco.write(tmp_path / "train.json", scene(tasks, count=6, partial=True, crowds=True), tasks)
    coco.write(tmp_path / "val.json", scene(tasks, count=3), tasks)
    write_json(tmp_path / "manifest.json", manifest.build(tmp_path))
    return tmp_path / "manifest.json"


def test_counts_add_up(path, tasks):
    train = json.loads(path.read_bytes())["splits"]["train"]
    assert (train["images"], train["empty_images"], train["instances"], train["crowds"]) == (6, 1, 15, 5)
    assert set(train["labels"]) == {task.name for task in tasks}
    for task, counts in train["labels"].items():
        assert sum(counts.values()) + train["unlabelled"][task] == 15
    assert sum(train["areas"].values()) == 15
    assert train["unlabelled"][tasks[0].name] == 0
    assert sum(train["instances_per_image"].values()) == 6
    assert sum(int(number) * images for number, images in train["instances_per_image"].items()) == 15


def test_combinations_are_counted_where_no_label_lacks(path, tasks):
    records = manifest.load(path)
    for split in ("train", "val"):
        found = Counter()
        for instance in (instance for image in records.images(split) for instance in image.instances):
            labels = tuple(instance.labels[task.name] for task in tasks)
            found[labels] += not instance.crowd and None not in labels
        assert records.combinations(split) == +found
    assert len(tasks) == 1 or sum(records.combinations("train").values()) < records.splits["train"]["instances"]


def test_a_class_called_null_keeps_its_count(tmp_path):
    tasks = tuple(task.model_copy(update={"classes": ("null", *task.classes[1:])}) for task in make_tasks(3))
    for split in ("train", "val"):
        coco.write(tmp_path / f"{split}.json", scene(tasks, count=6, partial=True), tasks)
    built = manifest.build(tmp_path)
    train = built["splits"]["train"]
    for task in tasks[1:]:
        assert train["unlabelled"][task.name] and train["labels"][task.name]["null"]
        assert sum(train["labels"][task.name].values()) + train["unlabelled"][task.name] == 20
    assert "(unlabelled)" in manifest.table(built)


def test_images_come_back_as_they_were_registered(path, tasks):
    records = manifest.load(path)
    assert [image.file_name for image in records.images("val")] == ["1.jpg", "2.jpg", "3.jpg"]
    assert records.tasks(tasks) == tasks


def test_a_file_changed_since_is_noticed(path, tasks):
    coco.write(path.parent / "val.json", scene(tasks, count=2), tasks)
    with pytest.raises(UserError, match="val.parquet has changed.*dvc repro register"):
        manifest.load(path).images("val")
    (path.parent / "val.parquet").unlink()
    with pytest.raises(UserError, match="val.parquet is missing: run `dvc repro convert` first"):
        manifest.load(path).images("val")
    os.mkfifo(path.parent / "val.parquet")
    with pytest.raises(UserError, match="val.parquet is a pipe.*dvc repro convert"):
        manifest.load(path).images("val")


def test_classes_that_are_auto_are_filled_in(path, tasks):
    free = tuple(task.model_copy(update={"classes": "auto"}) for task in tasks)
    assert manifest.load(path).tasks(free) == tasks


def test_class_weights_that_are_auto_balance_what_train_holds(path, tasks):
    records = manifest.load(path)
    auto = tuple(task.model_copy(update={"class_weights": "auto"}) for task in tasks)
    for task in records.tasks(auto):
        counts = [records.splits["train"]["labels"][task.name][name] for name in task.classes]
        sums = [count * weight for count, weight in zip(counts, task.weights, strict=True) if count]
        assert sums == pytest.approx([sum(counts) / len(sums)] * len(sums))
        assert all(weight == 1 for count, weight in zip(counts, task.weights, strict=True) if not count)


def test_tasks_of_other_names_or_classes_are_refused(path, tasks):
    records = manifest.load(path)
    more = (*tasks, tasks[0].model_copy(update={"name": "more"}))
    fewer_classes = (tasks[0].model_copy(update={"classes": ("circle",)}), *tasks[1:])
    other_order = (tasks[0].model_copy(update={"classes": tasks[0].classes[::-1]}), *tasks[1:])
    for other in (more, fewer_classes, other_order):
        with pytest.raises(UserError, match="params.yaml has .*, the data .*dvc repro register"):
            records.tasks(other)


def test_a_missing_or_foreign_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="manifest.json is missing: run `dvc repro register` first"):
        manifest.load(tmp_path / "manifest.json")
    with pytest.raises(UserError, match="train.parquet is missing: run `dvc repro convert` first"):
        manifest.build(tmp_path)
    for value in ([], {}, {"tasks": 1, "splits": {}}, {"tasks": [], "splits": None}, {"tasks": [], "splits": {}}):
        write_json(tmp_path / "manifest.json", value)
        with pytest.raises(UserError, match="is not a manifest of this version"):
            manifest.load(tmp_path / "manifest.json")


def test_the_table_names_a_class_that_train_never_shows(path, tasks):
    built = manifest.build(path.parent)
    assert "warning" not in manifest.table(built)
    built["splits"]["train"]["labels"][tasks[0].name]["star"] = 0
    assert "warning: train has no example of shape star" in manifest.table(built)
