"""Average precision: pycocotools' own numbers, and numbers where pycocotools has none."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtseg.core.tables import Image
from mtseg.evaluation.average_precision import first_of_query
from mtseg.evaluation.predictions import score
from mtseg.evaluation.scores import evaluate
from tests.scenes import SIZE, box_instance, make_tasks, predict, predict_all, scene


def run(images, predictions, tasks, max_dets=(1, 10, 100)):
    metrics, _ = evaluate(images, predictions, tasks=tasks, ranking="main_quality", max_dets=max_dets)
    return metrics


@pytest.mark.parametrize("count", [1, 3, 4])
def test_f16_the_main_numbers_are_those_of_pycocotools(count):
    tasks = make_tasks(count)
    images = scene(tasks, pictures=12, crowds=True)
    rng = np.random.default_rng(1)
    predictions = []
    for image in images:
        for query, instance in enumerate(image.instances * 2):
            wrong = int(rng.integers(3)) if rng.random() < 0.3 else instance.labels["shape"]
            shift, strength = int(rng.integers(-8, 9)), float(rng.uniform(0.5, 5))
            options = {"quality": rng.random(), "strength": strength, "shift": shift, "shape": wrong}
            predictions.append(predict(instance, tasks, image_id=image.id, query=query, **options))
    metrics = run(images, predictions, tasks)
    for kind in ("segm", "bbox"):
        expected = reference(images, predictions, tasks, kind)
        assert metrics[kind] == pytest.approx({k: v for k, v in expected.items() if v > -1}, abs=1e-3)
        assert 5 < metrics[kind]["AP"] < 80


def reference(images, predictions, tasks, kind):
    annotations = [
        {
            "id": 100 * image.id + index,
            "image_id": image.id,
            "category_id": instance.labels["shape"] + 1,
            "segmentation": instance.segmentation,
            "bbox": list(instance.bbox),
            "area": instance.area,
            "iscrowd": int(instance.crowd),
        }
        for image in images
        for index, instance in enumerate(image.instances)
    ]
    found = [
        {
            "image_id": p.image_id,
            "category_id": p.labels["shape"] + 1,
            "score": score(p, tasks, "main_quality"),
            **({"segmentation": p.segmentation} if kind == "segm" else {"bbox": list(p.bbox)}),
        }
        for p in predictions
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image.id, "height": SIZE, "width": SIZE} for image in images],
            "categories": [{"id": index + 1} for index in range(3)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    return {name: 100 * value if value > -1 else -1 for name, value in zip(names, evaluation.stats, strict=True)}


@pytest.mark.parametrize("max_dets", [(1, 5), (5, 1), (3,)])
def test_f7_ap_is_defined_for_any_max_dets(max_dets):
    tasks = make_tasks(3)
    images = scene(tasks)
    metrics = run(images, predict_all(images, tasks), tasks, max_dets=max_dets)
    assert metrics["segm"]["AP"] == 100
    assert {key for key in metrics["segm"] if key[2:].isdigit()} == {"AP50", "AP75"} | {f"AR{m}" for m in max_dets}


def test_f7_detections_past_the_last_max_dets_do_not_count():
    tasks = make_tasks(1)
    labels = {"shape": 0}
    boxes = [(2, 2, 12, 12), (22, 2, 12, 12), (42, 2, 12, 12), (2, 32, 12, 12)]
    images = [Image(1, "a.jpg", SIZE, SIZE, tuple(box_instance(box, labels) for box in boxes))]
    metrics = run(images, predict_all(images, tasks), tasks, max_dets=(1, 2))
    assert metrics["segm"]["AR1"] == 25 and metrics["segm"]["AR2"] == 50
    assert metrics["segm"]["AP"] == pytest.approx(51 / 101 * 100, abs=1e-3)


def test_the_best_prediction_of_a_query_counts_and_of_equal_ones_the_first():
    tasks = make_tasks(1)
    instance = box_instance((2, 2, 12, 12), {"shape": 0})
    places = [(1, 0), (2, 0), (1, 0), (1, 3), (1, 3), (1, 0)]  # of picture and query
    found = [predict(instance, tasks, image_id=image_id, query=query) for image_id, query in places]
    best = first_of_query(found, np.array([0.2, 0.1, 0.9, 0.5, 0.5, 0.3]))
    assert best.tolist() == [False, True, True, True, False, False]
    assert first_of_query([], np.zeros(0)).tolist() == []
