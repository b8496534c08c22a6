"""Predictions survive the disk, a COCO tool reads them, and the rankings are those computed by hand (F13)."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mtseg.core.errors import UserError
from mtseg.core.params import RESERVED
from mtseg.evaluation.predictions import probability, read, score, write
from tests.scenes import box_instance, make_tasks, predict, predict_all, scene


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("background", [True, False])
def test_what_is_written_is_read(tmp_path, count, background):
    tasks = make_tasks(count, background)
    images = scene(tasks)
    predictions = predict_all(images, tasks)
    write(tmp_path / "val.json", tmp_path / "val.csv", predictions, images, tasks)
    assert read(tmp_path / "val.json", tasks) == predictions
    record = json.loads((tmp_path / "val.json").read_text())[0]
    assert record["category_id"] == predictions[0].labels[tasks[0].name] + 1
    assert record["labels"] == {task.name: task.classes[predictions[0].labels[task.name]] for task in tasks}


def test_the_table_has_a_row_a_prediction_and_columns_for_every_task(tmp_path):
    tasks = make_tasks(3)
    images = scene(tasks)
    predictions = predict_all(images, tasks)
    write(tmp_path / "val.json", tmp_path / "val.csv", predictions, images, tasks)
    table = pd.read_csv(tmp_path / "val.csv")
    own = {column for task in tasks for column in (task.name, f"{task.name}_probability")}
    assert set(table.columns) - own <= RESERVED, "or a task of that name would take the column's place"
    assert len(table) == len(predictions)
    assert table.file_name[0] == "2.jpg" and table.colour[0] in tasks[1].classes
    assert np.allclose(table.fill_probability, math.exp(6) / (math.exp(6) + 3), atol=1e-4)
    assert table.score.tolist() == [record["score"] for record in json.loads((tmp_path / "val.json").read_text())]


def test_no_predictions_at_all(tmp_path):
    tasks = make_tasks(3)
    write(tmp_path / "val.json", tmp_path / "val.csv", [], scene(tasks), tasks)
    assert read(tmp_path / "val.json", tasks) == []
    assert "colour_probability" in pd.read_csv(tmp_path / "val.csv").columns


def test_predictions_of_other_tasks_are_named(tmp_path):
    tasks = make_tasks(3)
    images = scene(tasks)
    write(tmp_path / "val.json", tmp_path / "val.csv", predict_all(images, tasks), images, tasks)
    path = tmp_path / "val.json"
    record = json.loads(path.read_text())[0]
    with pytest.raises(UserError, match=r"prediction 0: key 'side' is missing: run `dvc repro predict` again"):
        read(path, make_tasks(4))
    with pytest.raises(UserError, match="3 logits for task 'colour', which has 2"):
        read(path, make_tasks(3, background=False))
    renamed = (tasks[0], tasks[1].model_copy(update={"classes": ("cyan", "pink")}), tasks[2])
    with pytest.raises(UserError, match="task 'colour' has no class '(red|green)'; it has cyan, pink"):
        read(path, renamed)
    for segmentation, said in (({}, "key 'counts' is missing"), ({"counts": [1], "size": [1, 1]}, "no compressed RLE")):
        path.write_text(json.dumps([record | {"segmentation": segmentation}]))
        with pytest.raises(UserError, match=f"prediction 0: .*{said}"):
            read(path, tasks)
    path.write_text("{}")
    with pytest.raises(UserError, match="expected a list"):
        read(path, tasks)
    with pytest.raises(UserError, match="absent.json is missing: run `dvc repro predict` first"):
        read(tmp_path / "absent.json", tasks)


def test_probability_is_softmax_over_the_no_object_slot_too():
    task = make_tasks(2)[1]  # two classes and no-object
    for logits, wanted in (((0.0, math.log(2), 0.0), 0.25), ((1e4, -1e4, 0.0), 1.0)):
        given = predict(scene(make_tasks(2))[1].instances[0], make_tasks(2), colour=0)
        assert probability(replace(given, logits=given.logits | {"colour": logits}), task) == pytest.approx(wanted)


def test_f13_each_ranking_orders_as_computed_by_hand():
    tasks = make_tasks(2)  # shape: 3 classes and no-object, colour: 2 and no-object
    instance = box_instance((2, 2, 20, 20), {"shape": 0, "colour": 0})
    base = predict(instance, tasks, quality=0.5)
    sure = {"shape": (math.log(9), 0.0, 0.0, 0.0), "colour": (0.0, 0.0, 0.0)}  # p 9/12 and 1/3
    even = {"shape": (math.log(3), 0.0, 0.0, 0.0), "colour": (math.log(6), 0.0, 0.0)}  # p 3/6 and 6/8
    a, b = replace(base, logits=sure), replace(base, logits=even)
    assert score(a, tasks, "main_quality") == pytest.approx(0.75 * 0.5)
    assert score(b, tasks, "main_quality") == pytest.approx(0.5 * 0.5)
    assert score(a, tasks, "product_quality") == pytest.approx(0.75 / 3 * 0.5)
    assert score(b, tasks, "product_quality") == pytest.approx(0.5 * 0.75 * 0.5)
    for prediction in (a, b):
        for ranking in ("main", "product"):
            plain = score(prediction, tasks, ranking)
            assert score(prediction, tasks, f"{ranking}_quality") == pytest.approx(plain * 0.5)
        assert score(prediction, tasks, "sum_quality") == pytest.approx(score(prediction, tasks, "sum") + math.log(0.5))
    assert score(a, tasks, "sum") == pytest.approx(math.log(9))
    assert score(b, tasks, "sum") == pytest.approx(math.log(18))


@pytest.mark.parametrize("strength", [-3.0, 0.0, 3.0])
def test_f13_the_better_mask_ranks_first_also_where_logits_are_negative(strength):
    tasks = make_tasks(2)
    instance = box_instance((2, 2, 20, 20), {"shape": 0, "colour": 0})
    good, poor, none = (predict(instance, tasks, quality=quality, strength=strength) for quality in (0.9, 0.1, 0.0))
    for ranking in ("main_quality", "sum_quality", "product_quality"):
        better, worse, worst = (score(prediction, tasks, ranking) for prediction in (good, poor, none))
        assert math.inf > better > worse > worst > -math.inf, ranking
