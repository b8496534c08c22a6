"""TIDE's kinds of errors and their costs, compared with hand-computed values and hotcoco; kinds of predictions."""

from dataclasses import replace

import numpy as np
import pytest
from hotcoco import COCO, COCOeval

from mtseg.evaluation import f1
from mtseg.evaluation.errors import KINDS, errors, verdicts
from tests.evaluation.oracle import annotation, dataset
from tests.scenes import box_instance, evaluation, make_tasks, noisy, one_image, predict, scene, table

TASK = make_tasks(1)[0]
BOX, OTHER, FAR = (2, 2, 20, 20), (34, 2, 20, 20), (34, 40, 20, 20)


def instance(box, label=0, crowd=False):
    return box_instance(box, {"shape": label}, crowd)


def found_as(box, label=0, shift=0):
    return predict(instance(box, label), (TASK,), shift=shift)


def ranked(rows):
    """Predictions with a query each, in descending order of score."""
    return [replace(row, query=query, mask_quality=0.99 - 0.01 * query) for query, row in enumerate(rows)]


def broken_down(truth, rows, tasks=(TASK,), task=TASK):
    own = evaluation(one_image(*truth), ranked(rows), tasks, ranking="main_quality")
    return errors(own, own.matches[task.name])


def counted(result):
    return {kind: count for kind, count in result["counts"].items() if count}


def costly(result):
    return {kind: cost for kind, cost in result["cost"].items() if cost}


def test_missed():
    half = broken_down([instance(BOX), instance(OTHER)], [found_as(BOX)])
    assert counted(half) == {"missed": 1} and half["ap50"] == pytest.approx(100 * 51 / 101, abs=1e-3)
    assert costly(half) == {"missed": pytest.approx(100 * 50 / 101, abs=1e-3)}
    whole_class = broken_down([instance(BOX), instance(OTHER, 1)], [found_as(BOX)])
    assert whole_class["ap50"] == 50 and costly(whole_class) == {"missed": 50.0}, "a class without objects is left out"
    assert costly(broken_down([instance(BOX)], [])) == {"missed": 100.0}


def test_an_object_that_an_error_is_of_is_not_missed_and_is_put_right_once():
    result = broken_down([instance(BOX)], [found_as(BOX, shift=8), found_as(BOX, shift=9), found_as(BOX, 1)])
    assert counted(result) == {"localisation": 2, "class": 1}
    assert costly(result) == {"localisation": 100.0, "class": pytest.approx(100 / 3, abs=1e-3)}


@pytest.mark.parametrize("rows", [[found_as(BOX, shift=8), found_as(BOX)], [found_as(BOX, shift=8)] * 2])
def test_no_object_is_found_twice_by_putting_right(rows):
    """Of two objects, one has two localisation errors, or one and a match: corrected it has one match, and the other
    object stays missed."""
    result = broken_down([instance(BOX), instance(FAR)], rows)
    assert result["ap50"] + result["cost"]["localisation"] == pytest.approx(100 * 51 / 101, abs=2e-3)


def test_crowds_and_unlabelled_objects_are_no_errors():
    crowd, on_it = instance((30, 2, 30, 60), crowd=True), [found_as((32, 4 + 12 * n, 10, 10)) for n in range(4)]
    assert counted(broken_down([instance(BOX), crowd], [*on_it, found_as(BOX)])) == {}
    tasks = make_tasks(2)
    unlabelled = box_instance(OTHER, {"shape": 0, "colour": None})
    truth = [box_instance(BOX, {"shape": 0, "colour": 1}), unlabelled]
    on_it = [predict(unlabelled, tasks, colour=n % 2) for n in range(3)]
    for rows, expected in ((on_it, {"missed": 1}), ([*on_it, predict(truth[0], tasks)], {})):
        assert counted(broken_down(truth, rows, tasks, tasks[1])) == expected


def test_no_ground_truth_is_undefined():
    result = broken_down([], [found_as(BOX)])
    assert result["ap50"] is None and result["cost"] == {} and counted(result) == {"background": 1}


@pytest.mark.parametrize("seed", range(6))
def test_hotcoco_finds_the_same(seed):
    """Without crowds: hotcoco counts predictions that partly overlap a crowd as localisation errors."""
    images = scene((TASK,), count=10)
    rng = np.random.default_rng(seed)
    rows = []
    for image in images:
        for query, truth in enumerate(image.instances * 2):
            wrong = {"shape": int(rng.integers(3))} if rng.random() < 0.3 else {}
            shift, quality = int(rng.integers(-12, 13)), rng.random()
            exactly_half = 3 * abs(shift) == truth.bbox[2]  # localisation there, duplicate here, as in the paper
            if rng.random() < 0.8 and not exactly_half:
                options = {"image_id": image.id, "query": query, "shift": shift, "quality": quality}
                rows.append(predict(truth, (TASK,), **options, **wrong))
    own = evaluation(images, rows, (TASK,), ranking="main_quality")
    theirs, ours = by_hotcoco(own), errors(own, own.matches["shape"])
    names = dict(zip(KINDS, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), strict=True))
    assert ours["counts"] == {ours_name: theirs["counts"][name] for ours_name, name in names.items()}
    assert ours["ap50"] == pytest.approx(100 * theirs["ap_base"], abs=1e-3)
    for kind in ("both", "duplicate", "background", "missed"):
        assert ours["cost"][kind] == pytest.approx(100 * theirs["delta_ap"][names[kind]], abs=1e-3)
    for kind in ("class", "localisation"):  # an object with errors of both kinds: in hotcoco only the better one counts
        assert ours["cost"][kind] >= 100 * theirs["delta_ap"][names[kind]] - 1e-3
    assert min(ours["counts"].values()) > 0


def by_hotcoco(own):
    table, number = own.predictions, 0
    annotations = [annotation(image, i, i.labels["shape"] + 1) for image in own.images for i in image.instances]
    for number, row in enumerate(annotations, 1):
        row["id"] = number
    columns = zip(table.image_id.tolist(), table.labels["shape"].tolist(), own.scores, table.rles(), strict=True)
    found = [
        {"image_id": image, "category_id": label + 1, "score": float(score), "segmentation": mask}
        for image, label, score, mask in columns
    ]
    truth = COCO(dataset(own.images, annotations, 3))
    evaluation = COCOeval(truth, truth.load_res(found), "segm")
    evaluation.evaluate()
    return evaluation.tide_errors()


def test_each_verdict_by_hand():
    tasks = make_tasks(2)
    truth = [box_instance(box, {"shape": n, "colour": 0}) for n, box in enumerate((BOX, OTHER, FAR))]
    crowd = box_instance((2, 34, 30, 30), {"shape": 0, "colour": 0}, crowd=True)
    rows = {
        "right": predict(truth[0], tasks),
        "class": predict(truth[1], tasks, colour=1),
        "duplicate": predict(truth[1], tasks, shift=1),
        "localisation": predict(truth[2], tasks, shift=8),
        "crowd": predict(box_instance((4, 40, 9, 9), {"shape": 0, "colour": 0}), tasks),
        "background": predict(truth[2], tasks, shift=8, shape=1),
    }
    kinds, instances, wrong = verdicts(evaluation(one_image(*truth, crowd), ranked(rows.values()), tasks))
    assert kinds.tolist() == list(rows) and instances.tolist() == [0, 1, -1, -1, -1, -1]
    assert np.argwhere(wrong).tolist() == [[1, 1]]
    other = verdicts(evaluation(one_image(*truth), [predict(truth[0], tasks, shape=1)], tasks))
    assert other[0].tolist() == ["class"] and other[1].tolist() == [0] and other[2].tolist() == [[True, False]]


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_right_where_f1_counts_all_labels_right_and_hold_without_worse_predictions(count, seed):
    tasks = make_tasks(count)
    images = scene(tasks, count=8, partial=True, crowds=True)
    own = evaluation(images, table(noisy(images, tasks, seed=seed, copies=4), tasks), tasks)
    kinds, instances, wrong = verdicts(own)
    hits = f1.main_matches(own).first_hit
    assert (np.bincount(own.image[kinds == "right"], minlength=len(images)) == f1.counts(own)[:, 3]).all()
    assert (instances[hits >= 0] == hits[hits >= 0]).all() and (wrong.any(axis=1) == (kinds == "class")).all()
    assert ((instances >= 0) == np.isin(kinds, ("right", "class"))).all()
    assert {"right", "class", "duplicate", "localisation", "background", "crowd"} == set(kinds)
    better = own.rank < len(kinds) // 2
    again, *_ = verdicts(evaluation(images, own.predictions[better], tasks))
    assert again.tolist() == kinds[better].tolist()
