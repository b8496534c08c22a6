"""The splits in detectron2's catalogs: registered, loaded back and compared."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mtseg.core.errors import UserError
from mtseg.data import catalog, coco, manifest
from tests.scenes import make_tasks, scene


@pytest.fixture(params=[1, 3])
def tasks(request):
    return make_tasks(request.param)


@pytest.fixture
def folder(tmp_path, tasks):
    images = scene(tasks, partial=True, crowds=True)
    for name in images.file_name:
        (tmp_path / name).touch()
    for split in ("train", "val", "test"):
        coco.write(tmp_path / f"{split}.json", images, tasks)
    return tmp_path


def built(folder):
    return manifest.Manifest.of(manifest.build(folder))


def test_what_detectron2_loads_is_what_was_converted(folder, tasks):
    data = built(folder)
    catalog.check(data, folder)
    names = catalog.register(data, folder)
    for record, image in zip(DatasetCatalog.get(names["train"]), data.images("train"), strict=True):
        assert record["file_name"] == str(folder / image.file_name)
        for annotation, instance in zip(record["annotations"], image.instances, strict=True):
            assert annotation["category_id"] == instance.labels[tasks[0].name]
            assert set(annotation["labels"]) == {task.name for task in tasks[1:]}
    assert MetadataCatalog.get(names["test"]).thing_classes == list(tasks[0].classes)


@pytest.mark.parametrize("chunk", [37, 1 << 20])
def test_of_a_large_split_the_first_images_are_loaded(folder, monkeypatch, chunk):
    monkeypatch.setattr(catalog, "MOST", 2)
    monkeypatch.setattr(catalog, "CHUNK", chunk)
    catalog.check(built(folder), folder)
    path = folder / "train.json"
    raw = json.loads(path.read_text())
    raw["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(raw, sort_keys=True, separators=(",", ":")))
    with pytest.raises(UserError, match="train.json has other instances"):
        catalog.check(built(folder), folder)


def test_a_missing_image_is_one_line(folder):
    (folder / "3.jpg").unlink()
    with pytest.raises(UserError, match=r"3.jpg is missing \(1 images of train are\): is .* \(data.raw\)"):
        catalog.check(built(folder), folder)


@pytest.mark.parametrize("tasks", [3], indirect=True)
@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda raw: raw["annotations"].pop(), "crowds"),
        (lambda raw: raw["annotations"][0].update(segmentation=[[1, 2]]), "instances"),
        (lambda raw: raw["annotations"][0].update(iscrowd=1), "instances"),
        (lambda raw: raw["annotations"][0]["labels"].update(colour="purple"), "labels"),
        (lambda raw: raw["annotations"][0].update(category_id=1 + raw["annotations"][0]["category_id"] % 3), "labels"),
        (lambda raw: raw["images"].pop(), "images"),
    ],
)
def test_a_difference_is_named(folder, change, key):
    path = folder / "val.json"
    raw = json.loads(path.read_bytes())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=f"val.json has other {key} .* than .*val.parquet .*: one of them was changed"):
        catalog.check(built(folder), folder)
