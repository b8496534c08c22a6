"""Predictions as other tools read them."""

import json

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO

from mtseg.data import coco as data
from mtseg.inference.export import coco, csv
from tests.scenes import make_tasks, predict_all, scene, table


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


def test_pycocotools_reads_the_json(tmp_path, images, predictions, tasks):
    data.write(tmp_path / "truth.json", images, tasks)
    coco.write(tmp_path / "val.json", predictions, tasks)
    results = COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "val.json"))
    read = results.loadAnns(results.getAnnIds())
    assert [one["image_id"] for one in read] == predictions.image_id.tolist()
    assert [one["score"] for one in read] == predictions.score.tolist()
    assert [one["bbox"] for one in read] == predictions.box.tolist()
    assert [one["area"] for one in read] == predictions.area.tolist()
    assert [one["category_id"] for one in read] == (predictions.labels[tasks[0].name] + 1).tolist()
    assert [one["segmentation"] for one in read] == predictions.rles()


def test_the_json_has_the_labels_and_logits_of_every_task(tmp_path, predictions, tasks):
    coco.write(tmp_path / "val.json", predictions, tasks)
    read = json.loads((tmp_path / "val.json").read_bytes())
    for task in tasks:
        names = [task.classes[label] for label in predictions.labels[task.name]]
        assert [one["labels"][task.name] for one in read] == names
        assert [one["logits"][task.name] for one in read] == predictions.logits[task.name].tolist()
    assert [one["query"] for one in read] == predictions.query.tolist()
    assert not any("probabilities" in one for one in read), "they are the softmax of the logits"


def test_the_json_has_the_probabilities_that_logits_do_not_give(tmp_path, predictions, tasks):
    given = combined(predictions, tasks)
    coco.write(tmp_path / "val.json", given, tasks)
    for i, one in enumerate(json.loads((tmp_path / "val.json").read_bytes())):
        for task in tasks:
            assert one["probabilities"][task.name] == pytest.approx(given.probability[task.name][i], rel=1e-5)


def test_pandas_reads_the_csv(tmp_path, images, predictions, tasks):
    given = combined(predictions, tasks)
    csv.write(tmp_path / "val.csv", given, images, tasks)
    read = pd.read_csv(tmp_path / "val.csv")
    assert read.file_name.tolist() == [f"{image}.jpg" for image in given.image_id]
    assert read[["x", "y", "width", "height"]].to_numpy().tolist() == given.box.tolist()
    assert read.rle.tolist() == given.rle.tolist() and read.score.tolist() == given.score.tolist()
    for task in tasks:
        assert read[task.name].tolist() == [task.classes[label] for label in given.labels[task.name]]
        assert read[f"{task.name}_probability"].tolist() == given.probability[task.name].round(5).tolist()


def test_no_predictions_are_an_empty_list_and_a_header(tmp_path, images, predictions, tasks):
    coco.write(tmp_path / "val.json", predictions[:0], tasks)
    csv.write(tmp_path / "val.csv", predictions[:0], images, tasks)
    assert json.loads((tmp_path / "val.json").read_bytes()) == []
    assert (tmp_path / "val.csv").read_text().count("\n") == 1
