"""hotcoco's numbers are pycocotools', all 12 of masks and of boxes, whatever the scene, the categories and maxDets."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.core.params import Ranking
from mtseg.core.tables import Image, Instance
from mtseg.evaluation import rankings, reference
from mtseg.evaluation.average_precision import Curves, Scorer, first_of_query, joint, labels_found, labels_true
from mtseg.evaluation.evidence import Evidence
from mtseg.evaluation.predictions import scores
from mtseg.evaluation.scores import evaluate
from tests.scenes import make_tasks, predict, scene

COUNTS = (1, 3, 4)
COCO = (1, 10, 100)


def noisy(images, tasks, *, tied=False):
    """Three predictions of each instance, moved, now and then with other labels, two of them of one query."""
    rng = np.random.default_rng(0)
    found = []
    for image in images:
        for place, instance in enumerate(image.instances * 3):
            labels = {task.name: int(rng.integers(task.num_classes)) for task in tasks if rng.random() < 0.3}
            quality, strength = (0.5, 2.0) if tied else (float(rng.random()), float(rng.uniform(0.5, 5)))
            options = {"quality": quality, "strength": strength, "shift": int(rng.integers(-8, 9))}
            found.append(predict(instance, tasks, image_id=image.id, query=place // 2, **options, **labels))
    return [found[place] for place in rng.permutation(len(found))]


def ellipses(tasks):
    """Objects of COCO's three sizes, and each found with a pixel's fringe too much or too little."""
    rng = np.random.default_rng(1)
    images, found = [], []
    for image_id in (3, 8, 5):
        instances = []
        for query, radius in enumerate((9, 25, 60, 80)):
            labels = {task.name: int(rng.integers(task.num_classes)) for task in tasks}
            instances.append(ellipse(rng, radius, labels))
            moved = ellipse(rng, radius + int(rng.integers(-4, 5)), labels)
            options = {"image_id": image_id, "query": query, "strength": float(rng.uniform(1, 5))}
            own = predict(replace(instances[-1], bbox=(0.0, 0.0, 9.0, 9.0)), tasks, **options)
            found.append(replace(own, segmentation=moved.segmentation, bbox=moved.bbox, area=moved.area))
        images.append(Image(image_id, f"{image_id}.jpg", 200, 200, tuple(instances)))
    return images, found


def ellipse(rng, radius, labels):
    x, y = rng.integers(85, 115, 2)
    rows, columns = np.mgrid[:200, :200]
    packed = coco_mask.encode(np.asfortranarray((rows - y) ** 2 + (columns - x) ** 2 < radius**2, dtype=np.uint8))
    rle = {"size": [200, 200], "counts": packed["counts"].decode()}
    return Instance(rle, tuple(coco_mask.toBbox(packed).tolist()), float(coco_mask.area(packed)), labels)


def cases(tasks):
    """name -> pictures, predictions, maxDets"""
    plain, mixed = scene(tasks), scene(tasks, partial=True, crowds=True)
    return {
        "random": (plain, noisy(plain, tasks), COCO),
        "sizes": (*ellipses(tasks), COCO),
        "no predictions": (plain, [], COCO),
        "no ground truth": ([replace(image, instances=()) for image in plain], noisy(plain, tasks), COCO),
        "nothing": (plain[:1], [], COCO),
        "crowds": (scene(tasks, crowds=True), noisy(scene(tasks, crowds=True), tasks), COCO),
        "tied scores": (mixed, noisy(mixed, tasks, tied=True), COCO),
        "one picture": (plain[1:2], noisy(plain[1:2], tasks), COCO),
        "maxDets without 100": (plain, noisy(plain, tasks), (2, 1, 3)),
        "one maxDets": (plain, noisy(plain, tasks), (2,)),
        "unlabelled": (mixed, noisy(mixed, tasks), COCO),
    }


NAMES = tuple(cases(make_tasks(1)))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_f16_hotcoco_gives_all_numbers_of_pycocotools(count, case, kind):
    tasks = make_tasks(count)
    images, found, max_dets = cases(tasks)[case]
    scorer = Scorer(images, found)
    for ranking in ("sum", "product_quality"):
        values = scores(found, tasks)[ranking]
        first = first_of_query(found, values)
        true, combined, names = joint(images, found, tasks)
        runs = [(true, combined, len(names), None)]
        for task in tasks:
            labels = labels_true(images, task), labels_found(found, task)
            runs += [(*labels, task.num_classes, kept) for kept in (None, first)]
        for true, given, categories, kept in runs:
            options = {"categories": categories, "max_dets": max_dets, "kind": kind, "kept": kept}
            ours = Curves.of(scorer.run(true, given, values, **options))
            theirs = reference.run(scorer, true, given, values, **options)
            assert ours.max_dets == theirs.max_dets == tuple(sorted(max_dets))
            assert ours.numbers() == pytest.approx(theirs.numbers(), abs=1e-9, rel=0)
            assert np.allclose(ours.precision, theirs.precision, atol=1e-9, rtol=0)


def test_the_cases_hold_what_they_say():
    tasks = make_tasks(3)
    of = {
        name: evaluate(images, found, tasks=tasks, ranking="product_quality", max_dets=max_dets)[0]
        for name, (images, found, max_dets) in cases(tasks).items()
    }
    assert len(of["sizes"]["segm"]) == len(of["sizes"]["bbox"]) == 12
    assert set(of["no predictions"]["segm"].values()) == {0}
    assert of["no ground truth"]["segm"] == of["nothing"]["segm"] == {}
    for name in ("random", "sizes", "crowds", "tied scores", "one picture", "maxDets without 100", "unlabelled"):
        assert all(5 < of[name][kind]["AP"] < 95 for kind in ("segm", "bbox", "joint")), name


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", NAMES)
def test_f13_the_rankings_have_the_numbers_of_the_metrics(count, case):
    tasks = make_tasks(count)
    images, found, max_dets = cases(tasks)[case]
    rows = rankings.rows(Evidence.of(images, found, tasks=tasks, ranking="main", max_dets=max_dets))
    assert [row["ranking"] for row in rows] == list(get_args(Ranking))
    for row in rows:
        metrics, _ = evaluate(images, found, tasks=tasks, ranking=row["ranking"], max_dets=max_dets)
        ap = metrics["segm"].get("AP"), metrics["joint"].get("AP")
        assert (row["segm_AP"], row["joint_AP"]) == pytest.approx(ap, abs=1e-3)


@pytest.mark.parametrize("count", COUNTS)
def test_the_metrics_are_the_same_by_either_in_this_process_or_another(count, monkeypatch):
    tasks = make_tasks(count)
    images, found, max_dets = cases(tasks)["unlabelled"]
    options = {"tasks": tasks, "ranking": "sum_quality", "max_dets": max_dets}
    metrics, _ = evaluate(images, found, **options)
    for pays in (len(found) + 1, 0) if count == 3 else (len(found) + 1,):
        monkeypatch.setattr(reference, "PAYS", pays)
        with reference.started(images, found, **options) as by_pycocotools:
            assert by_pycocotools() == {kind: metrics[kind] for kind in ("segm", "bbox")}
