"""TIDE's kinds of errors and their costs: by hand, and as hotcoco finds them."""

from dataclasses import replace

import numpy as np
import pytest

from mtseg.core.tables import Image
from mtseg.evaluation.average_precision import Scorer, labels_found, labels_true
from mtseg.evaluation.breakdown import KINDS, errors
from mtseg.evaluation.overlaps import Overlaps, match
from mtseg.evaluation.predictions import scores
from tests.scenes import SIZE, box_instance, make_tasks, predict, scene

TASK = make_tasks(1)[0]
BOX, OTHER, FAR = (2, 2, 20, 20), (34, 2, 20, 20), (34, 40, 20, 20)


def broken_down(truth, found, task=TASK):
    images = [Image(1, "a.jpg", SIZE, SIZE, tuple(truth))]
    found = [replace(p, query=query, mask_quality=0.99 - 0.01 * query) for query, p in enumerate(found)]
    return run(images, found, task)


def run(images, found, task=TASK):
    overlaps, values = Overlaps.of(images, found), scores(found, (task,))["main_quality"]
    true, labels = labels_true(images, task), labels_found(found, task)
    matches = match(overlaps, true, labels, values, categories=task.num_classes, most=100)
    return errors(overlaps, matches, values)


def instance(box, label=0, crowd=False):
    return box_instance(box, {"shape": label}, crowd)


def found_as(box, label=0, shift=0):
    return predict(instance(box, label), (TASK,), shift=shift)


def counted(result):
    return {kind: count for kind, count in result["counts"].items() if count}


def costly(result):
    return {kind: cost for kind, cost in result["cost"].items() if cost}


def test_no_error_costs_nothing():
    result = broken_down([instance(BOX), instance(OTHER, 1)], [found_as(BOX), found_as(OTHER, 1)])
    assert result == {"ap50": 100.0, "cost": dict.fromkeys(KINDS, 0.0), "counts": dict.fromkeys(KINDS, 0)}


def test_class():
    """Circle found as square before the square: squares have AP 1/2, circles 0; put right, both have 1."""
    result = broken_down([instance(BOX), instance(OTHER, 1)], [found_as(BOX, 1), found_as(OTHER, 1)])
    assert result["ap50"] == 25 and counted(result) == {"class": 1}
    assert costly(result) == {"class": 75.0}


def test_localisation():
    """Moved by 8 of 20 pixels: IoU 12 / 28."""
    result = broken_down([instance(BOX)], [found_as(BOX, shift=8)])
    assert result["ap50"] == 0 and counted(result) == {"localisation": 1} and costly(result) == {"localisation": 100.0}


def test_both():
    """Wrong in both, ranked before the right one: taking it out doubles the precision."""
    result = broken_down(
        [instance(BOX), instance(FAR, 1)], [found_as(BOX, 1, shift=8), found_as(BOX), found_as(FAR, 1)]
    )
    assert counted(result) == {"both": 1} and result["ap50"] == 75 and costly(result) == {"both": 25.0}


def test_duplicate_and_background():
    twice = broken_down([instance(BOX), instance(OTHER)], [found_as(BOX), found_as(BOX, shift=1), found_as(OTHER)])
    assert counted(twice) == {"duplicate": 1}
    expected = (51 + 50 * 2 / 3) / 101  # precision 1 up to recall 1/2, 2/3 beyond
    assert twice["ap50"] == pytest.approx(100 * expected, abs=1e-3)
    assert costly(twice) == {"duplicate": pytest.approx(100 * (1 - expected), abs=1e-3)}
    nowhere = broken_down([instance(BOX)], [found_as(FAR), found_as(BOX)])
    assert counted(nowhere) == {"background": 1} and costly(nowhere) == {"background": 50.0}


def test_missed():
    half = broken_down([instance(BOX), instance(OTHER)], [found_as(BOX)])
    assert counted(half) == {"missed": 1} and half["ap50"] == pytest.approx(100 * 51 / 101, abs=1e-3)
    assert costly(half) == {"missed": pytest.approx(100 * 50 / 101, abs=1e-3)}
    whole_class = broken_down([instance(BOX), instance(OTHER, 1)], [found_as(BOX)])
    assert whole_class["ap50"] == 50 and costly(whole_class) == {"missed": 50.0}, (
        "a class nothing is left of is left out"
    )
    assert costly(broken_down([instance(BOX)], [])) == {"missed": 100.0}


def test_an_object_that_an_error_is_of_is_not_missed_and_is_put_right_once():
    result = broken_down([instance(BOX)], [found_as(BOX, shift=8), found_as(BOX, shift=9), found_as(BOX, 1)])
    assert counted(result) == {"localisation": 2, "class": 1}
    assert costly(result) == {"localisation": 100.0, "class": pytest.approx(100 / 3, abs=1e-3)}


@pytest.mark.parametrize("found", [[found_as(BOX, shift=8), found_as(BOX)], [found_as(BOX, shift=8)] * 2])
def test_no_object_is_found_twice_by_putting_right(found):
    """Of two objects one is badly found, twice, or well besides: put right it is found once, the other stays missed."""
    result = broken_down([instance(BOX), instance(FAR)], found)
    assert result["ap50"] + result["cost"]["localisation"] == pytest.approx(100 * 51 / 101, abs=2e-3)


def test_crowds_and_unlabelled_objects_are_no_errors():
    crowd, on_it = instance((30, 2, 30, 60), crowd=True), [found_as((32, 4 + 12 * n, 10, 10)) for n in range(4)]
    assert counted(broken_down([instance(BOX), crowd], [*on_it, found_as(BOX)])) == {}
    colour = make_tasks(2)[1]
    unlabelled = box_instance(OTHER, {"shape": 0, "colour": None})
    truth = [box_instance(BOX, {"shape": 0, "colour": 1}), unlabelled]
    images = [Image(1, "a.jpg", SIZE, SIZE, tuple(truth))]
    on_it = [predict(unlabelled, make_tasks(2), query=n, colour=n % 2) for n in range(3)]
    for found in (on_it, [*on_it, predict(truth[0], make_tasks(2), query=5)]):
        overlaps, true, labels = Overlaps.of(images, found), labels_true(images, colour), labels_found(found, colour)
        matches = match(overlaps, true, labels, np.ones(len(found)), categories=2, most=100)
        assert counted(errors(overlaps, matches, np.ones(len(found)))) == ({} if len(found) == 4 else {"missed": 1})


def test_no_ground_truth_is_undefined():
    result = broken_down([], [found_as(BOX)])
    assert result["ap50"] is None and result["cost"] == {} and counted(result) == {"background": 1}


@pytest.mark.parametrize("seed", range(6))
def test_hotcoco_finds_the_same(seed):
    """Without crowds, which hotcoco takes for objects that a prediction half on them is a bad localisation of."""
    images = scene((TASK,), pictures=10)
    rng = np.random.default_rng(seed)
    found = []
    for image in images:
        for query, truth in enumerate(image.instances * 2):
            wrong = {"shape": int(rng.integers(3))} if rng.random() < 0.3 else {}
            options = {"shift": int(rng.integers(-12, 13)), "quality": rng.random()}
            exactly_half = (
                3 * abs(options["shift"]) == truth.bbox[2]
            )  # localisation there, duplicate here, as in the paper
            if rng.random() < 0.8 and not exactly_half:
                found.append(predict(truth, (TASK,), image_id=image.id, query=query, **options, **wrong))
    values = scores(found, (TASK,))["main_quality"]
    labels = labels_true(images, TASK), labels_found(found, TASK)
    evaluation = Scorer(images, found).run(*labels, values, categories=3, max_dets=(100,))
    theirs, ours = evaluation.tide_errors(), run(images, found)
    names = dict(zip(KINDS, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), strict=True))
    assert ours["counts"] == {ours_name: theirs["counts"][name] for ours_name, name in names.items()}
    assert ours["ap50"] == pytest.approx(100 * theirs["ap_base"], abs=1e-3)
    for kind in ("both", "duplicate", "background", "missed"):
        assert ours["cost"][kind] == pytest.approx(100 * theirs["delta_ap"][names[kind]], abs=1e-3)
    for kind in ("class", "localisation"):  # an object with an error of each kind: the better one alone holds it there
        assert ours["cost"][kind] >= 100 * theirs["delta_ap"][names[kind]] - 1e-3
    assert min(ours["counts"].values()) > 0
