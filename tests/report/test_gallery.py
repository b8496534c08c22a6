"""What the gallery shows of a picture: verdicts that hold at every threshold, outlines, the choice of pictures."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.core.tables import Image
from mtseg.evaluation import f1
from mtseg.evaluation.matching import pictures
from mtseg.report import gallery, outline, suspects
from mtseg.report.verdicts import Kind, judge
from tests.reports import LOUD, SETTINGS, make_images, predicted
from tests.scenes import SIZE, box_instance, box_rle, make_tasks, predict

RANKING = "main_quality"


def judged(instances, predictions, tasks):
    (picture,) = pictures([Image(1, "1.jpg", SIZE, SIZE, tuple(instances))], predictions, tasks=tasks, ranking=RANKING)
    return judge(picture, tasks), picture


@pytest.mark.parametrize("count", [1, 3, 4])
def test_every_kind_of_verdict(count):
    tasks = make_tasks(count)
    zero, one = ({task.name: label for task in tasks} for label in (0, 1))
    first, second = box_instance((2, 2, 20, 20), zero), box_instance((34, 2, 20, 20), one)
    crowd = box_instance((2, 34, 28, 28), zero, crowd=True)
    main, last = tasks[0].name, tasks[-1].name
    cases = [  # quality, prediction, verdict
        (0.9, predict(first, tasks), ("right", 0, ())),
        (0.8, predict(first, tasks, shift=1), ("duplicate", None, ())),
        (0.7, predict(second, tasks, **{main: 2, last: 0}), ("label", 1, (0, count - 1) if count > 1 else (0,))),
        (0.6, predict(second, tasks, shift=9), ("localisation", None, ())),
        (0.5, predict(box_instance((4, 36, 9, 9), zero), tasks), ("crowd", None, ())),
        (0.4, predict(box_instance((50, 50, 9, 9), one), tasks), ("false", None, ())),
    ]
    predictions = [replace(p, mask_quality=quality, query=n) for n, (quality, p, _) in enumerate(cases)]
    verdicts, picture = judged([first, second, crowd], predictions, tasks)
    assert [(v.kind, v.truth, v.wrong) for v in verdicts] == [expected for *_, expected in cases]
    assert f1.count(picture, tasks)[3] == sum(verdict.kind == "right" for verdict in verdicts)
    for kept in range(len(cases)):  # what is worse changes nothing
        assert judged([first, second, crowd], predictions[:kept], tasks)[0] == verdicts[:kept]


def test_the_page_has_a_word_and_a_colour_for_every_kind():
    templates = Path(gallery.__file__).parent / "templates"
    for kind in (*get_args(Kind), "missed"):
        assert f" {kind}: " in (templates / "script.js").read_text()
        assert f".{kind} {{ --c: " in (templates / "style.css").read_text()


def test_where_there_is_no_label_none_is_wrong():
    tasks = make_tasks(3)
    instance = box_instance((2, 2, 20, 20), {"shape": 0, "colour": None, "fill": 1})
    (verdict,), _ = judged([instance], [predict(instance, tasks, colour=1)], tasks)
    assert verdict.kind == "right"


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_an_outline_covers_its_mask(scale):
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = ((x - 30) ** 2 + (y - 28) ** 2 < 20**2) & ((x - 30) ** 2 + (y - 28) ** 2 > 8**2)
    packed = coco_mask.encode(np.asfortranarray(disc, dtype=np.uint8))
    path = outline.path({"size": [SIZE, SIZE], "counts": packed["counts"].decode()}, SIZE, SIZE, scale=scale)
    assert path.count("M") == path.count("z") == 2, "its rim and its hole"
    area = abs(sum(_area(ring) for ring in path.split("z")[:-1])) / scale**2
    assert area == pytest.approx(disc.sum(), rel=0.15)


def _area(ring: str) -> float:
    start, steps = ring[1:].split("l")
    numbers = np.array(steps.replace("-", " -").split(), dtype=float).reshape(-1, 2)
    x, y = np.concatenate([[list(map(float, start.split()))], numbers]).cumsum(axis=0).T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def test_small_and_empty_masks():
    assert outline.path(box_rle(10, 20, 1, 1), SIZE, SIZE, scale=0.5) == "M5 10h2v2h-2z", "to be seen"
    assert outline.path(box_rle(0, 0, 0, 0), SIZE, SIZE, scale=1) == ""


@pytest.mark.parametrize("count", [1, 3, 4])
def test_an_entry_tells_all_that_is_drawn(tmp_path, count):
    tasks = make_tasks(count)
    images = make_images(tmp_path, tasks)
    raw = predicted(images, tasks)
    removed = [None if p.mask_quality >= LOUD else "low_score" for p in raw]
    kept = [p for p, rule in zip(raw, removed, strict=True) if rule is None]
    options = {"tasks": tasks, "ranking": RANKING, "removed": removed}
    entries = gallery.collect(images, raw, kept, settings=SETTINGS, **options)
    scores = [entry["joint_f1"] for entry in entries]
    assert scores[-1] is None and scores[:-1] == sorted(scores[:-1])
    assert sum(len(entry["raw"]) for entry in entries) == len(raw)
    assert {item["removed"] for entry in entries for item in entry["raw"]} == {None, "low_score"}
    assert {len(item["labels"]) for entry in entries for item in entry["truth"] + entry["raw"]} == {count}
    assert all(item["path"].startswith("M") for entry in entries for item in entry["truth"] + entry["filtered"])
    quiet = SETTINGS.model_copy(update={"min_score": 0.5, "pictures": 3})
    fewer = gallery.collect(images, raw, kept, settings=quiet, **options)
    assert len(fewer) == 3 and all(item["score"] >= 0.5 for entry in fewer for item in entry["raw"])


def test_a_third_each_of_the_worst_the_middle_and_the_best():
    scores = {9: 100, 8: 100, 7: 50, 6: 50, 5: 50, 4: 0, 3: 100, 2: 20, 1: 60, 10: None}
    assert gallery.choose(scores, 3) == [4, 7, 9]
    assert gallery.choose(scores, 6) == [4, 2, 6, 7, 8, 9]
    assert gallery.choose(scores, 1) == [4]
    assert gallery.choose(scores, 2) == [4, 7]
    assert gallery.choose(scores, 10) == [4, 2, 5, 6, 7, 1, 3, 8, 9, 10], "all, the undefined one last"
    assert gallery.choose({}, 4) == []
    for count in range(1, 12):
        assert len({*gallery.choose(scores, count)}) == min(count, 9 if count < 10 else 10)


def test_a_suspect_is_cut_out_with_room_around_it():
    tasks = make_tasks(1)
    instance = box_instance((2, 2, 20, 10), {"shape": 0})
    image = Image(1, "1.jpg", SIZE, SIZE, (instance,))
    error = {"image_id": 1, "instance": 0, "prediction": 0, "task": "shape", "kind": "label"}
    (place, other) = suspects.collect(
        [error, error | {"prediction": None}, error], [image], [predict(instance, tasks, shift=10)], count=2
    )
    x, y, width, height = place["window"]
    assert (x, y) == (0, 0) and width >= 32 and height >= 12 and x + width <= SIZE
    assert place["truth"] and place["found"] and not other["found"]
    assert max(place["width"], place["height"]) == suspects.SIZE
    assert suspects.cut(np.zeros((SIZE, SIZE, 3), np.uint8), place["window"]).shape[:2] == (height, width)
