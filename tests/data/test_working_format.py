import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from mtseg.core.errors import UserError
from mtseg.data import coco
from tests.scenes import make_tasks, scene

# pycocotools' own arrays predate numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


@pytest.fixture(params=[1, 3, 4])
def tasks(request):
    return make_tasks(request.param)


@pytest.fixture
def path(tmp_path, tasks):
    coco.write(tmp_path / "val.json", scene(tasks, partial=True, crowds=True), tasks)
    return tmp_path / "val.json"


def spoil(path, **keys):
    """Change the second annotation; returns a pattern that names it and its picture."""
    raw = json.loads(path.read_bytes())
    raw["annotations"][1] |= keys
    path.write_text(json.dumps(raw))
    return r"val.json: 2.jpg, annotation 2: "


def test_what_is_written_is_read(path, tasks):
    images, found = coco.read(path)
    assert found == [(task.name, task.classes) for task in tasks]
    wanted = scene(tasks, partial=True, crowds=True)
    assert [image.file_name for image in images] == [image.file_name for image in wanted]
    for a, b in zip(images, wanted, strict=True):
        for x, y in zip(a.instances, b.instances, strict=True):
            assert (x.labels, x.crowd, x.bbox, x.area) == (y.labels, y.crowd, y.bbox, y.area)
            assert np.array_equal(coco.mask(x.segmentation, 64, 64), coco.mask(y.segmentation, 64, 64))


def test_any_coco_tool_reads_it(path, tasks, capsys):
    plain = COCO(str(path))
    assert len(plain.getImgIds()) == 6 and len(plain.getAnnIds()) == 20
    assert [category["name"] for category in plain.loadCats(plain.getCatIds())] == list(tasks[0].classes)
    assert plain.annToMask(plain.loadAnns(1)[0]).any()


def test_f8_a_category_out_of_range_names_picture_and_annotation(path, tasks):
    for category in (0, tasks[0].num_classes + 1, None):
        where = spoil(path, category_id=category)
        with pytest.raises(UserError, match=where + "category_id"):
            coco.read(path)


def test_f8_a_label_out_of_range_names_picture_annotation_and_classes(path, tasks):
    if len(tasks) == 1:
        where, allowed = spoil(path, labels={"colour": "red"}), "labels are of"
    else:
        labels = {task.name: None for task in tasks[1:]}
        where, allowed = spoil(path, labels=labels | {"colour": "purple"}), "no class 'purple'; it has red, green"
    with pytest.raises(UserError, match=where + ".*" + allowed):
        coco.read(path)


def test_an_annotation_without_a_picture_is_named(path):
    spoil(path, image_id=99)
    with pytest.raises(UserError, match="annotation 2: no picture has id 99"):
        coco.read(path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"tasks": 1}'])
def test_another_json_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(UserError, match="val.json is not COCO plus labels.*dvc repro convert"):
        coco.read(tmp_path / "val.json")


def test_masks_of_every_kind_of_segmentation_agree():
    polygons = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]
    wanted = np.zeros((5, 8), np.uint8)
    wanted[1:4, 2:6] = 1
    runs = {"size": [5, 8], "counts": [11, 3, 2, 3, 2, 3, 2, 3, 11]}
    for segmentation in (polygons, runs, coco.rle(polygons, 5, 8)):
        assert np.array_equal(coco.mask(segmentation, 5, 8), wanted)
        assert isinstance(coco.rle(segmentation, 5, 8)["counts"], str)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_f2_detectron2_reads_the_labels_beside_the_class(path, tasks):
    from detectron2.data.datasets import load_coco_json

    pictures = load_coco_json(str(path), "", extra_annotation_keys=["labels"])
    assert len(pictures) == 6
    for annotation in pictures[1]["annotations"]:
        assert set(annotation["labels"]) == {task.name for task in tasks[1:]}


def test_flip_pairs_are_held_against_the_classes_that_were_found():
    (task,) = make_tasks(1)
    task = task.model_copy(update={"classes": "auto", "flip_pairs": (("left", "right"),)})
    with pytest.raises(UserError, match=r"flip_pairs names \['left', 'right'\]"):
        coco.resolve([task], {"shape": ("circle",)})
