"""The working format, read by pycocotools, by detectron2 and as a table."""

import numpy as np
import pytest
from pycocotools.coco import COCO

from mtseg.core.errors import UserError
from mtseg.core.masks import mask
from mtseg.core.tables import Images
from mtseg.data import coco
from tests.scenes import make_tasks, scene


@pytest.fixture(params=[1, 3, 4])
def tasks(request):
    return make_tasks(request.param)


@pytest.fixture
def images(tasks):
    return scene(tasks, partial=True, crowds=True)


@pytest.fixture
def path(tmp_path, images, tasks):
    coco.write(tmp_path / "val.json", images, tasks)
    return tmp_path / "val.json"


def test_the_table_beside_the_json_holds_what_was_written(path, images, tasks):
    read = Images.read(path.with_suffix(".parquet"))
    assert list(read) == list(images)
    assert read.classes == tuple((task.name, task.classes) for task in tasks)


def test_pycocotools_reads_the_same_objects_as_the_table_has(path, images, tasks):
    plain = COCO(str(path))
    assert [category["name"] for category in plain.loadCats(plain.getCatIds())] == list(tasks[0].classes)
    assert len(plain.getImgIds()) == len(images) and len(plain.getAnnIds()) == len(images.instances)
    for image in images:
        annotations = plain.loadAnns(plain.getAnnIds(imgIds=[image.id]))
        assert [one["id"] for one in annotations] == [instance.id for instance in image.instances]
        for one, instance in zip(annotations, image.instances, strict=True):
            assert np.array_equal(plain.annToMask(one), mask(instance.segmentation, image.height, image.width))
            assert (one["category_id"], one["iscrowd"]) == (instance.labels[tasks[0].name] + 1, instance.crowd)


def test_detectron2_reads_the_labels_beside_the_class(path, images, tasks):
    from detectron2.data.datasets import load_coco_json

    records = load_coco_json(str(path), "", extra_annotation_keys=["labels"])
    for record, image in zip(records, images, strict=True):
        for annotation, instance in zip(record["annotations"], image.instances, strict=True):
            for task in tasks[1:]:
                label = instance.labels[task.name]
                assert annotation["labels"][task.name] == (None if label is None else task.classes[label])


def test_flip_pairs_must_be_classes_that_were_found():
    (task,) = make_tasks(1)
    task = task.model_copy(update={"classes": "auto", "flip_pairs": (("left", "right"),)})
    with pytest.raises(UserError, match=r"flip_pairs has unknown classes \['left', 'right'\]"):
        coco.resolve([task], {"shape": ("circle",)})


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_table_in_parts_reads_as_one(tmp_path, monkeypatch, at_once):
    tasks = make_tasks(3)
    images = scene(tasks, partial=True, crowds=True)
    coco.write(tmp_path / "whole.json", images, tasks)
    monkeypatch.setattr(coco, "AT_ONCE", at_once)
    coco.write(tmp_path / "parts.json", images, tasks)
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    whole, parts = (Images.read(tmp_path / f"{name}.parquet") for name in ("whole", "parts"))
    assert list(whole) == list(parts)
    light = Images.read(tmp_path / "parts.parquet", outlines=False)
    assert not {"rle", "polygons"} & {*light.instances._columns}, "they are read when they are used"
    assert list(light) == list(whole) and list(light[1:]) == list(whole)[1:]
    assert light.instances.area.tolist() == whole.instances.area.tolist()
    for task in tasks:
        assert light.instances.labels[task.name].tolist() == whole.instances.labels[task.name].tolist()
