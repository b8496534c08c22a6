"""COCO's 12 numbers, of masks and boxes, and the AP of every task are those of pycocotools and detectron2."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.core.tables import Image, Instance
from mtseg.evaluation.ap import coco, scores
from tests.evaluation.oracle import by_detectron2, by_pycocotools, combinations, kept_by_hand
from tests.scenes import (
    Row,
    box_instance,
    evaluation,
    images_of,
    logits_of,
    make_tasks,
    noisy,
    one_image,
    predict,
    scene,
)

SIDE = 160
SIDES = [(32, 32), (33, 31), (31, 33), (25, 41), (64, 16), (96, 96), (97, 95), (95, 97), (72, 128), (103, 90), (90, 90)]
# COCO's sizes end at 32 * 32 and 96 * 96
AREAS = [1023.0, 1023.5, 1024.0, 1024.5, 1025.0, 9215.0, 9216.0, 9217.0]


def rectangle(x, y, width, height):
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    mask[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = 1
    packed = coco_mask.encode(mask)
    rle = {"size": [SIDE, SIDE], "counts": packed["counts"].decode()}
    return rle, tuple(coco_mask.toBbox(packed).tolist()), float(coco_mask.area(packed))


@cache
def all_sizes(tasks, seed):
    """Objects with areas near the limits of COCO's area ranges (some overlapping, crowds or unlabelled), and
    predictions near them with other areas and with boxes that differ from those of their masks."""
    rng = np.random.default_rng(seed)
    crowds, moved = rng.choice([0, 0.2, 0.5]), rng.choice([0, 3, 10])
    images, found = [], []
    for image_id in (6, 2, 4):
        instances = []
        for _ in range(rng.integers(1, 9)):
            width, height = SIDES[rng.integers(len(SIDES))] if rng.random() < 0.7 else rng.integers(8, 130, 2).tolist()
            x, y = rng.integers(0, SIDE - min(width, height), 2).tolist()
            if instances and rng.random() < 0.4:  # overlapping
                x, y = (max(0, int(side) + rng.integers(-3, 4)) for side in instances[-1].bbox[:2])
            rle, box, area = rectangle(x, y, width, height)
            area = (
                float(rng.choice(AREAS)) if rng.random() < 0.3 else area
            )  # annotated areas can differ from the mask's
            labels = {task.name: int(rng.integers(task.num_classes)) for task in tasks}
            known = labels | {task.name: None for task in tasks[1:] if rng.random() < 0.2}
            instances.append(Instance(rle, box, area, known, bool(rng.random() < crowds)))
            for _ in range(rng.integers(0, 5)):
                change = rng.integers(-moved, moved + 1, 4)
                rle, box, area = rectangle(*np.maximum((x, y, width, height) + change, (-9, -9, 1, 1)))
                box = tuple(np.maximum(box + rng.uniform(-1, 1, 4), (-9, -9, 1, 1)))
                own = {name: label if rng.random() < 0.8 else 0 for name, label in labels.items()}
                logits = {task.name: logits_of(task, own[task.name], rng.uniform(1, 5)) for task in tasks}
                query, quality = len(found) // 2, rng.choice([0.3, 0.6, rng.random()])
                found.append(Row(image_id, query, box, area, rle, quality, own, logits))
        images.append(Image(image_id, f"{image_id}.jpg", SIDE, SIDE, tuple(instances)))
    return images_of(images, tasks), [found[place] for place in rng.permutation(len(found))]


def many_classes(count):
    """A scene with more classes than objects."""
    main = make_tasks(1)[0].model_copy(update={"classes": tuple(f"c{n:02d}" for n in range(count))})
    tasks, rng = (main, *make_tasks(2)[1:]), np.random.default_rng(0)
    images = []
    for image in scene(make_tasks(2), count=12):
        labels = [{"shape": int(rng.integers(count)), "colour": int(rng.integers(2))} for _ in image.instances]
        own = [replace(i, labels=label) for i, label in zip(image.instances, labels, strict=True)]
        images.append(replace(image, instances=tuple(own)))
    images = images_of(images, tasks)
    found = noisy(images, tasks, copies=3)
    truth = {image.id: image.instances for image in images}
    for n, row in enumerate(found[::2]):  # correct ones, since random labels of 60 classes are all wrong
        instance = truth[row.image_id][row.query % len(truth[row.image_id])]
        found[2 * n] = predict(instance, tasks, image_id=row.image_id, query=row.query, quality=row.mask_quality)
    return images, found, tasks


def crowded(tasks):
    """Over 100 predictions of one class in one image, the good ones among the worst."""
    labels = {task.name: 0 for task in tasks}
    objects = [box_instance((2 + 20 * n, 2, 15, 15), labels) for n in range(3)]
    stray = box_instance((2, 40, 4, 4), labels)
    found = [predict(stray, tasks, query=n, quality=0.9 - n / 1000) for n in range(98)]
    found += [predict(instance, tasks, query=200 + n, quality=0.5 - n / 100) for n, instance in enumerate(objects)]
    return images_of(one_image(*objects), tasks), found


def equal_overlaps(tasks):
    """Predictions with equal IoU with two objects: midway between them, or on identical ones of which one is a
    crowd."""
    labels = {task.name: 0 for task in tasks}
    left, right = (box_instance((x, 2, 20, 20), labels) for x in (2, 8))
    twin = box_instance((34, 34, 20, 20), labels)
    places = [(left, 3), (right, 4), (left, 3)]  # midway; nearer to the right one
    found = [predict(i, tasks, query=n, shift=k, quality=0.9 - n / 10) for n, (i, k) in enumerate(places)]
    found += [predict(twin, tasks, query=5 + n, quality=0.85 - n / 10) for n in range(4)]
    images = one_image(left, right, twin, replace(twin, crowd=True), twin)
    return images_of(images, tasks), found


@cache
def cases(count):
    """name -> evaluation"""
    tasks = make_tasks(count)
    plain, mixed, crowds = scene(tasks), scene(tasks, partial=True, crowds=True), scene(tasks, crowds=True)
    empty = images_of([replace(image, instances=()) for image in plain], tasks)
    rows = noisy(plain, tasks, copies=3)
    classes, in_classes, many = many_classes(60)
    return {
        "random": evaluation(plain, rows, tasks),
        "one query, several predictions": evaluation(plain, [replace(r, query=r.query // 3) for r in rows], tasks),
        "no predictions": evaluation(plain, [], tasks),
        "no ground truth": evaluation(empty, rows, tasks),
        "nothing": evaluation(plain[:1], [], tasks),
        "one image": evaluation(plain[1:2], [row for row in rows if row.image_id == 2], tasks),
        "crowds": evaluation(crowds, noisy(crowds, tasks, copies=3), tasks),
        "unlabelled": evaluation(mixed, noisy(mixed, tasks, copies=3), tasks),
        "tied scores": evaluation(mixed, noisy(mixed, tasks, copies=3, tied=True), tasks),
        "ranked by logits": evaluation(mixed, noisy(mixed, tasks, copies=3), tasks, ranking="sum"),
        "maxDets without 100": evaluation(plain, rows, tasks, max_dets=(2, 1, 3)),
        "one maxDets": evaluation(plain, rows, tasks, max_dets=(2,)),
        "more than maxDets": evaluation(*crowded(tasks), tasks),
        "equal overlaps": evaluation(*equal_overlaps(tasks), tasks),
        "many classes": evaluation(classes, in_classes, many),
    }


NAMES = tuple(cases(1))


def hold(own):
    """Compare all numbers of an evaluation with pycocotools."""
    main, numbers = own.tasks[0], coco.numbers(own)
    true = {task.name: [i.labels[task.name] for image in own.images for i in image.instances] for task in own.tasks}
    for kind in ("segm", "bbox"):
        labels = true[main.name], own.predictions.labels[main.name]
        expected, _ = by_pycocotools(own, *labels, main.num_classes, kept_by_hand(own, main), kind)
        assert numbers[kind] == pytest.approx(expected, abs=6e-4, rel=0)  # 3 decimals
    of_tasks = [(true[task.name], own.predictions.labels[task.name], task.num_classes) for task in own.tasks]
    kept = [kept_by_hand(own, task if task is main else None) for task in own.tasks]
    matches = [own.matches[task.name] for task in own.tasks]
    for ours, arguments, rows in zip([*matches, own.joint], [*of_tasks, combinations(own)], [*kept, None], strict=True):
        _, expected = by_pycocotools(own, *arguments, rows)
        assert np.allclose(own.average_precision(ours)[0], expected, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("case", NAMES)
def test_every_number_is_that_of_pycocotools(count, case):
    hold(cases(count)[case])


@pytest.mark.parametrize("seed", range(16))
def test_every_number_is_that_of_pycocotools_for_objects_of_all_sizes(seed):
    tasks = make_tasks(2)
    hold(evaluation(*all_sizes(tasks, seed), tasks, max_dets=((1, 10, 100), (1, 2))[seed % 2]))


@pytest.mark.parametrize("case", ["random", "crowds", "tied scores", "more than maxDets", "many classes", "sizes"])
def test_the_main_numbers_are_those_of_detectron2(case, tmp_path):
    tasks = make_tasks(3)
    own = evaluation(*all_sizes(tasks, 0), tasks) if case == "sizes" else cases(3)[case]
    numbers = coco.numbers(own)
    for kind, expected in by_detectron2(own, tmp_path).items():
        defined = {name: value for name, value in expected.items() if not np.isnan(value)}
        assert {name: numbers[kind][name] for name in defined} == pytest.approx(defined, abs=6e-4, rel=0)
        assert set(numbers[kind]) - set(defined) == {name for name in numbers[kind] if name.startswith("AR")}


def test_the_cases_are_what_they_are_called():
    of = {name: scores.metrics(own) for name, own in cases(4).items()}
    assert set(of["no predictions"]["segm"].values()) == {0}
    assert of["no ground truth"]["segm"] == of["nothing"]["segm"] == {}
    assert of["equal overlaps"]["segm"]["AP50"] > 50 and of["more than maxDets"]["segm"]["AP"] < 5
    for name in set(of) - {"no predictions", "no ground truth", "nothing", "equal overlaps", "more than maxDets"}:
        assert all(5 < of[name][kind]["AP"] < 95 for kind in ("segm", "bbox", "joint")), name
    sizes = [coco.numbers(evaluation(*all_sizes(make_tasks(2), seed), make_tasks(2)))["segm"] for seed in range(16)]
    for size in "sml":
        assert len({numbers.get(f"AP{size}") for numbers in sizes} - {None, 0.0, 100.0}) > 8


def sizes(true_area, *squares):
    """The APs by size, of an object of 40 x 40 annotated with an area, and predictions of squares of (x, side), the
    best first."""
    tasks = make_tasks(1)
    truth = Instance(*rectangle(10, 10, 40, 40)[:2], true_area, {"shape": 0})
    rows = []
    for query, (x, side) in enumerate(squares):
        rle, box, area = rectangle(x, 10, side, side)
        logits = {"shape": logits_of(tasks[0], 0)}
        rows.append(Row(1, query, box, area, rle, 0.9 - query / 10, {"shape": 0}, logits))
    numbers = coco.numbers(evaluation([Image(1, "a.jpg", SIDE, SIDE, (truth,))], rows, tasks))["segm"]
    return {name: value for name, value in numbers.items() if name in ("APs", "APm", "APl")}


def test_an_object_has_the_size_of_its_annotation_whatever_the_size_of_what_finds_it():
    assert sizes(900.0, (10, 40)) == {"APs": 100} and sizes(1600.0, (10, 40)) == {"APm": 100}
    assert sizes(1024.0, (10, 40)) == {"APs": 100, "APm": 100}
    assert sizes(1600.0, (10, 30)) == {"APm": 20}  # IoU 900 / 1600, by a small prediction


def test_a_prediction_on_nothing_counts_in_its_own_size_alone():
    found = {side: sizes(1024.0, (90, side), (10, 40)) for side in (31, 32, 33)}
    assert found[31] == {"APs": 50, "APm": 100} and found[33] == {"APs": 100, "APm": 50}
    assert found[32] == {"APs": 50, "APm": 50}, "32 x 32 is small and medium"
