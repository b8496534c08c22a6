"""The entries of the gallery, the selection of images, and the cut-outs of suspected label errors."""

from pathlib import Path

import numpy as np
import pytest

from mtseg.core.tables import Image
from mtseg.report import gallery, suspects
from tests.reports import KEPT, SETTINGS, evaluated, make_images, predicted
from tests.scenes import SIZE, box_instance, images_of, make_tasks, predict, table

KINDS = ("right", "class", "duplicate", "localisation", "background", "crowd", "missed")


def test_the_page_has_a_word_and_a_colour_for_every_kind():
    templates = Path(gallery.__file__).parent / "templates"
    for kind in KINDS:
        assert f" {kind}: " in (templates / "script.js").read_text()
        assert f".{kind} {{ --c: " in (templates / "style.css").read_text()


@pytest.mark.parametrize("count", [1, 3, 4])
def test_an_entry_has_all_that_is_drawn(tmp_path, count):
    tasks = make_tasks(count)
    images = make_images(tmp_path, tasks)
    rows = predicted(images, tasks)
    removed = [None if row.mask_quality >= KEPT else "low_score" for row in rows]
    raw = evaluated(images, rows, tasks)
    kept = evaluated(images, [row for row, rule in zip(rows, removed, strict=True) if rule is None], tasks)
    entries = gallery.collect(raw, kept, settings=SETTINGS, removed=removed)
    scores = [entry["joint_f1"] for entry in entries]
    assert scores[-1] is None and scores[:-1] == sorted(scores[:-1])
    assert sum(len(entry["raw"]) for entry in entries) == len(rows)
    for entry in entries:
        assert all((item["score"] < KEPT) == (item["removed"] == "low_score") for item in entry["raw"])
        assert [item for item in entry["raw"] if not item["removed"]] == [
            item | {"removed": None} for item in entry["filtered"]
        ], "what was kept keeps its verdict: it is better than what was removed"
        for item in entry["filtered"]:
            true = [] if item["truth"] is None else entry["truth"][item["truth"]]["labels"]
            wrong = [task for task, label in enumerate(true) if label != item["labels"][task]]
            assert item["wrong"] == wrong and (item["kind"] == "class") == bool(wrong)
            assert (item["truth"] is not None) == (item["kind"] in ("right", "class"))
        assert all(item["path"].startswith("M") for item in entry["truth"] + entry["filtered"])
        assert {len(item["labels"]) for item in entry["truth"] + entry["raw"]} <= {count}
    strict = SETTINGS.model_copy(update={"min_score": 0.5, "pictures": 3})
    fewer = gallery.collect(raw, kept, settings=strict, removed=removed)
    assert len(fewer) == 3 and all(item["score"] >= 0.5 for entry in fewer for item in entry["raw"])


def test_raw_predictions_are_judged_by_the_score_that_the_slider_moves():
    """Ranked by the product of all probabilities, the second would be first and the first a duplicate."""
    tasks = make_tasks(2)
    instance = box_instance((2, 2, 20, 20), {"shape": 0, "colour": 0})
    unsure = predict(instance, tasks, quality=0.9, query=1)
    unsure.logits["colour"] = (1.0, 0.9, 0.0)
    images = images_of([Image(1, "1.jpg", SIZE, SIZE, (instance,))], tasks)
    raw = evaluated(images, [unsure, predict(instance, tasks, quality=0.8, query=2)], tasks)
    assert raw.rank.tolist() == [1, 0]
    (entry,) = gallery.collect(raw, raw, settings=SETTINGS, removed=[None, None])
    assert [item["kind"] for item in entry["raw"]] == ["right", "duplicate"]
    assert [item["score"] for item in entry["raw"]] == raw.predictions.score.round(3).tolist()


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


@pytest.mark.parametrize("prediction", [0, None])
def test_a_suspect_is_cut_out_with_room_around_it(prediction):
    tasks = make_tasks(1)
    instance = box_instance((2, 2, 20, 10), {"shape": 0})
    images = images_of([Image(1, "0.jpg", SIZE, SIZE, (instance,)), Image(5, "1.jpg", SIZE, SIZE, (instance,))], tasks)
    raw = table([predict(instance, tasks, image_id=5, shift=10)], tasks)
    error = {"image_id": 5, "instance": 0, "prediction": prediction, "task": "shape", "kind": "label"}
    (place,) = suspects.collect([error, error], images, raw, count=1)
    x, y, width, height = place["window"]
    assert (x, y) == (0, 0) and width >= (32 if prediction == 0 else 22) and height >= 12 and x + width <= SIZE
    assert place["name"] == "1.jpg" and place["truth"] and bool(place["found"]) == (prediction == 0)
    assert max(place["width"], place["height"]) == suspects.SIZE
    assert suspects.cut(np.zeros((SIZE, SIZE, 3), np.uint8), place["window"]).shape[:2] == (height, width)
