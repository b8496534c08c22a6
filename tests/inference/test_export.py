"""Predictions as tables, COCO and JSON, and what all formats have in common."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO

from mtseg.core.errors import UserError
from mtseg.core.masks import polygons, rle
from mtseg.core.tables import Image, Predictions
from mtseg.data import coco as data
from mtseg.data.formats import coco as reader
from mtseg.data.labels import Vocabulary
from mtseg.inference import export
from mtseg.inference.export import coco, csv
from tests.scenes import SIZE, box_instance, images_of, make_tasks, predict, predict_all, scene, table


@pytest.fixture(params=[1, 3, 4])
def tasks(request):
    return make_tasks(request.param)


@pytest.fixture
def images(tasks):
    return scene(tasks, crowds=True)


@pytest.fixture
def predictions(images, tasks):
    return table(predict_all(images, tasks), tasks)


def combined(predictions, tasks):
    """As one softmax over combinations stores them: a label's probability is given the labels before it."""
    chances = np.linspace(0.1, 0.9, len(predictions))
    return predictions.replace(**{f"probability.{task.name}": chances for task in tasks})


def named(names, tasks):
    """Images of these names, and one prediction on each, a box as wide as the image's number."""
    instances = [box_instance((2, 2, n + 10, 12), {task.name: 0 for task in tasks}) for n in range(len(names))]
    images = images_of([Image(n, name, SIZE, SIZE) for n, name in enumerate(names, start=1)], tasks)
    rows = [predict(instance, tasks, image_id=n) for n, instance in enumerate(instances, start=1)]
    return images, table(rows, tasks)


def contents(path):
    return {file: file.read_bytes() for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()}


def test_pycocotools_reads_the_results(tmp_path, images, predictions, tasks):
    data.write(tmp_path / "truth.json", images, tasks)
    coco.write_results(tmp_path / "val.json", predictions, tasks)
    results = COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "val.json"))
    check_annotations(results, predictions, tasks)


def test_pycocotools_reads_the_data_set(tmp_path, images, predictions, tasks):
    read = COCO(str(export.write("coco", tmp_path, images, predictions, tasks)))
    check_annotations(read, predictions, tasks)
    assert [one["name"] for one in read.loadCats(read.getCatIds())] == list(tasks[0].classes)
    assert [one["file_name"] for one in read.loadImgs(read.getImgIds())] == images.file_name.tolist()


def check_annotations(results, predictions, tasks):
    read = results.loadAnns(results.getAnnIds())
    assert [one["image_id"] for one in read] == predictions.image_id.tolist()
    assert [one["score"] for one in read] == predictions.score.tolist()
    assert [one["bbox"] for one in read] == predictions.box.tolist()
    assert [one["area"] for one in read] == predictions.area.tolist()
    assert [one["category_id"] for one in read] == (predictions.labels[tasks[0].name] + 1).tolist()
    assert [one["segmentation"] for one in read] == predictions.rles()


def test_our_coco_reader_reads_the_data_set_with_all_labels(tmp_path, images, predictions, tasks):
    written = export.write("coco", tmp_path, images, predictions, tasks)
    (tmp_path / "annotations").mkdir()
    shutil.move(written, tmp_path / "annotations" / "all.json")
    for name in images.file_name:
        (tmp_path / name).touch()
    read = reader.read(tmp_path, Vocabulary({task.name: task.classes for task in tasks}))
    assert not read.faults
    objects = [one for image in read.images for one in image.objects]
    assert [one.segmentation for one in objects] == predictions.rles()
    for task in tasks:
        assert [one.labels[task.name] for one in objects] == classes_of(predictions, task)


def classes_of(predictions, task):
    return [task.classes[label] for label in predictions.labels[task.name]]


def test_the_json_has_the_labels_and_logits_of_every_task(tmp_path, predictions, tasks):
    coco.write_results(tmp_path / "val.json", predictions, tasks)
    read = json.loads((tmp_path / "val.json").read_bytes())
    for task in tasks:
        assert [one["labels"][task.name] for one in read] == classes_of(predictions, task)
        assert [one["logits"][task.name] for one in read] == predictions.logits[task.name].tolist()
    assert [one["query"] for one in read] == predictions.query.tolist()
    assert not any("probabilities" in one for one in read), "they are the softmax of the logits"


def test_the_json_has_the_probabilities_that_logits_do_not_give(tmp_path, predictions, tasks):
    given = combined(predictions, tasks)
    coco.write_results(tmp_path / "val.json", given, tasks)
    for i, one in enumerate(json.loads((tmp_path / "val.json").read_bytes())):
        for task in tasks:
            assert one["probabilities"][task.name] == pytest.approx(given.probability[task.name][i], rel=1e-5)


def test_pandas_reads_the_csv(tmp_path, images, predictions, tasks):
    given = combined(predictions, tasks)
    read = pd.read_csv(export.write("csv", tmp_path, images, given, tasks))
    assert read.file_name.tolist() == [f"{image}.jpg" for image in given.image_id]
    assert read[["x", "y", "width", "height"]].to_numpy().tolist() == given.box.tolist()
    assert read.rle.tolist() == given.rle.tolist() and read.score.tolist() == given.score.tolist()
    for task in tasks:
        assert read[task.name].tolist() == classes_of(given, task)
        assert read[f"{task.name}_probability"].tolist() == given.probability[task.name].round(5).tolist()


def test_tasks_called_like_other_columns_of_the_csv_have_their_own():
    """Files of older versions may hold such tasks."""
    for names in (("width", "width_label", "rle"), ("a", "a_probability", "a_probability_probability")):
        tasks = tuple(task.model_copy(update={"name": name}) for task, name in zip(make_tasks(3), names, strict=True))
        images = scene(tasks)
        predictions = table(predict_all(images, tasks), tasks)
        found = csv.frame(images, predictions, tasks)
        assert found.width.tolist() == predictions.box[:, 2].tolist() and found.rle.tolist() == predictions.rle.tolist()
        for task, (label, probability) in zip(tasks, csv.task_names(tasks, ["width", "rle"]), strict=True):
            assert found[label].tolist() == classes_of(predictions, task)
            assert found[probability].tolist() == predictions.probability[task.name].round(5).tolist()


def test_the_table_reads_the_parquet(tmp_path, images, predictions, tasks):
    path = export.write("parquet", tmp_path, images, predictions, tasks)
    read = Predictions.read(path, tasks)
    assert read.file_name.tolist() == [f"{image}.jpg" for image in predictions.image_id]
    for name in predictions.names:
        assert read.column(name).tolist() == predictions.column(name).tolist()
    assert pd.read_parquet(path)[f"labels.{tasks[0].name}"].tolist() == classes_of(predictions, tasks[0])


def test_a_line_of_json_is_an_image_with_all_its_predictions(tmp_path, images, predictions, tasks):
    given = combined(predictions, tasks)
    path = export.write("jsonl", tmp_path, images, given, tasks)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["file_name"] for line in lines] == images.file_name.tolist()
    assert {(line["height"], line["width"]) for line in lines} == {(SIZE, SIZE)}
    assert lines[0]["predictions"] == [], "image 1 is empty"
    found = [one for line in lines for one in line["predictions"]]
    assert [one["rle"] for one in found] == given.rles()
    assert [one["polygons"] for one in found] == [polygons(one) for one in given.rles()]
    assert [one["box"] for one in found] == given.box.tolist()
    assert [one["score"] for one in found] == given.score.tolist()
    for task in tasks:
        assert [one["labels"][task.name] for one in found] == classes_of(given, task)
        chances = [one["probabilities"][task.name] for one in found]
        assert chances == pytest.approx(given.probability[task.name], rel=1e-5)


def test_predictions_in_any_order_go_to_their_images(tmp_path, images, predictions, tasks):
    mixed = predictions[np.random.default_rng(0).permutation(len(predictions))]
    path = export.write("jsonl", tmp_path, images, mixed, tasks)
    for line, key in zip(path.read_text().splitlines(), images.id.tolist(), strict=True):
        own = mixed[mixed.image_id == key]
        assert [one["rle"]["counts"] for one in json.loads(line)["predictions"]] == own.rle.tolist()


def test_no_predictions_are_an_empty_list_and_a_header(tmp_path, images, predictions, tasks):
    coco.write_results(tmp_path / "val.json", predictions[:0], tasks)
    csv.write(tmp_path / "val.csv", images, predictions[:0], tasks)
    assert json.loads((tmp_path / "val.json").read_bytes()) == []
    assert (tmp_path / "val.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("format", export.FORMATS)
def test_the_same_predictions_give_the_same_bytes_and_replace_old_files(tmp_path, format, images, predictions, tasks):
    path = export.write(format, tmp_path, images, predictions, tasks)
    first = contents(path)
    if path.is_dir():
        (path / "old").touch()
    assert export.write(format, tmp_path, images, predictions, tasks) == path
    assert contents(path) == first and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("format", export.FORMATS)
def test_images_without_ground_truth_and_without_predictions_are_written(tmp_path, format, tasks):
    images, predictions = named(["a.jpg", "b/c.jpg"], tasks)
    export.write(format, tmp_path, images, predictions[:0], tasks)
    assert export.write(format, tmp_path, images, predictions, tasks).exists()


@pytest.mark.parametrize("format", export.FORMATS)
def test_images_of_one_stem_in_several_folders_are_kept_apart(tmp_path, format, tasks):
    names = ["a/x.jpg", "b/x.jpg", "x.jpg", "ü/тест 1.jpg"]
    written = export.write(format, tmp_path, *named(names, tasks), tasks)
    text = b"".join(contents(written).values()).decode(errors="ignore")
    texts = {*text.replace("%20", " ").splitlines(), *(str(file.relative_to(tmp_path)) for file in contents(written))}
    for name in names[:3]:
        assert any(name.removesuffix(".jpg") in line for line in texts), name
    if written.is_dir() and format != "label-studio":
        own = [file for file in contents(written) if file.stem in ("x", "тест 1")]
        assert len(own) == 4 and len({file.read_bytes() for file in own}) == 4


@pytest.mark.parametrize("format", ["labelme", "yolo"])
@pytest.mark.parametrize("names", [["a/x.jpg", "a/x.png"], ["a.jpg", "../b.jpg"], ["/a.jpg"], ["a.jpg", "a.jpg"]])
def test_file_names_that_would_overwrite_others_are_refused(tmp_path, format, names, tasks):
    with pytest.raises(UserError, match=r"x\.png|\.\./b\.jpg|'/?a\.jpg"):
        export.write(format, tmp_path / "out", *named(names, tasks), tasks)
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]


@pytest.mark.parametrize("format", ["labelme", "yolo"])
def test_the_frames_of_a_video_have_a_file_each(tmp_path, format, tasks):
    written = export.write(format, tmp_path, *named(["v.mp4#1", "v.mp4#2", "image0"], tasks), tasks)
    assert {"v.mp4#1", "v.mp4#2", "image0"} <= {file.name.rsplit(".", 1)[0] for file in contents(written)}


def test_an_unknown_format_lists_those_there_are(tmp_path, images, predictions, tasks):
    with pytest.raises(UserError, match="coco, csv, cvat, jsonl, label-studio, labelme, parquet, yolo"):
        export.write("voc", tmp_path, images, predictions, tasks)


def test_formats_are_listed_without_importing_them():
    code = "import sys, mtseg.inference.export as e; print(any(f'{e.__name__}.{f}' in sys.modules for f in e.FORMATS))"
    root = Path(__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "False"


ODD = ("Tür", "car, red", 'the "big" one', "a\nb", "<&>'", "赤")
CARRIED = {  # of ODD, how many each format can carry, where not all
    "cvat": ODD[:3] + ODD[4:],
    "label-studio": ODD[:3] + ODD[4:],
    "labelme": ("Tür", 'the "big" one', "a\nb", "<&>'", "赤"),
}


@pytest.mark.parametrize("format", export.FORMATS)
@pytest.mark.parametrize("name", ODD)
def test_a_class_name_is_carried_or_refused_by_name(tmp_path, format, name):
    main, further = make_tasks(2)
    tasks = (main, further.model_copy(update={"classes": (name, "other")}))
    written = named(["a.jpg"], tasks)
    if name in CARRIED.get(format, ODD):
        export.write(format, tmp_path, *written, tasks)
    else:
        with pytest.raises(UserError) as caught:
            export.write(format, tmp_path, *written, tasks)
        assert repr(name) in str(caught.value) and further.name in str(caught.value)
        assert not [*tmp_path.iterdir()]


def test_tables_carry_any_class_name(tmp_path):
    main, further = make_tasks(2)
    tasks = (main, further.model_copy(update={"classes": ODD}))
    instances = [box_instance((2, 2, 12, 12), {main.name: 0, further.name: label}) for label in range(len(ODD))]
    images = images_of([Image(1, "a.jpg", SIZE, SIZE)], tasks)
    predictions = table([predict(one, tasks) for one in instances], tasks)
    assert pd.read_csv(export.write("csv", tmp_path, images, predictions, tasks))[further.name].tolist() == [*ODD]
    lines = export.write("jsonl", tmp_path, images, predictions, tasks).read_text(encoding="utf-8").splitlines()
    assert [one["labels"][further.name] for one in json.loads(lines[0])["predictions"]] == [*ODD]
    assert Predictions.read(export.write("parquet", tmp_path, images, predictions, tasks), tasks).labels[
        further.name
    ].tolist() == [*range(len(ODD))]


def test_a_polygon_of_the_json_is_the_mask(tmp_path):
    tasks = make_tasks(1)
    instance = box_instance((2, 2, 20, 12), {tasks[0].name: 0})
    images = images_of([Image(1, "a.jpg", SIZE, SIZE)], tasks)
    path = export.write("jsonl", tmp_path, images, table([predict(instance, tasks)], tasks), tasks)
    (found,) = json.loads(path.read_bytes())["predictions"]
    assert rle(found["polygons"], SIZE, SIZE) == instance.segmentation == found["rle"]
