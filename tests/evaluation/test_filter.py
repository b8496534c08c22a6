"""Rules of the filter, alone and in order: predictions kept, the rules that removed the others, and the scores."""

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy.ndimage import label

from mtseg.core.tables import Predictions
from mtseg.evaluation import f1
from mtseg.evaluation.ap import pairs
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.filter import (
    RULES,
    Kept,
    _largest_component,
    _overlaps,
    apply,
    background,
    duplicate,
    largest_component,
    low_logit,
    low_score,
    reaches,
    small,
    sum_up,
    surplus,
    table,
)
from tests.scenes import (
    FILTER,
    box_instance,
    box_rle,
    evaluation,
    make_tasks,
    noisy,
    predict,
    scene,
)

TASKS = pytest.mark.parametrize("count", [1, 3, 4])


def case(count, background=True):
    tasks = make_tasks(count, background)
    return tasks, box_instance((2, 2, 20, 20), {task.name: 0 for task in tasks})


def all_of(rows, tasks, ranking="product_quality"):
    return evaluation(scene(tasks), [replace(row, image_id=row.image_id + 1) for row in rows], tasks, ranking=ranking)


def kept(rule, rows, tasks, ranking="product_quality", **settings):
    """Indices of the rows that a rule keeps."""
    left = rule(Kept.all(all_of(rows, tasks, ranking)), FILTER.model_copy(update=settings))
    return sorted(left.rows.tolist())


def weaken(row, task, logit):
    return replace(row, logits=row.logits | {task.name: (float(logit),) + (0.0,) * (task.num_outputs - 1)})


def merged(*rles):
    packed = coco_mask.merge(list(rles))
    return {**packed, "counts": packed["counts"].decode()}


@TASKS
def test_what_a_further_task_calls_background_is_dropped(count):
    tasks, instance = case(count)
    good = predict(instance, tasks)
    for task in tasks[1:]:
        logits = (*good.logits[task.name][:-1], 7.0)  # no-object above the chosen label's 6
        nothing = replace(good, logits=good.logits | {task.name: logits})
        assert kept(background, [good, nothing], tasks) == [0]
        assert kept(background, [good, nothing], tasks, drop_background=False) == [0, 1]
    main = replace(good, logits=good.logits | {"shape": (6.0, 0.0, 0.0, 7.0)})
    assert kept(background, [main], tasks) == [0], "the main class's no-object counts in the score"


@TASKS
def test_without_a_background_slot_the_last_class_is_no_background(count):
    tasks, _ = case(count, background=False)
    last = box_instance((2, 2, 20, 20), {task.name: task.num_classes - 1 for task in tasks})
    assert kept(background, [predict(last, tasks)], tasks) == [0]


@TASKS
def test_the_score_is_probability_times_mask_quality_of_the_main_task_or_of_those_named(count):
    tasks, instance = case(count)
    both = predict(instance, tasks, quality=0.099), predict(instance, tasks, quality=0.11)
    assert kept(low_score, both, tasks) == [1] and kept(low_score, both, tasks, min_score={}) == [0, 1]
    for task in tasks:
        unsure = [weaken(predict(instance, tasks, quality=1.0), task, 0)]  # all outputs equal: 1 / outputs
        assert kept(low_score, unsure, tasks, min_score={task.name: 0.99 / task.num_outputs}) == [0]
        assert kept(low_score, unsure, tasks, min_score={task.name: 1.01 / task.num_outputs}) == []
        others = {other.name: 0.9 for other in tasks if other is not task}
        assert kept(low_score, unsure, tasks, min_score=others) == [0]
        assert kept(low_score, unsure, tasks, min_score=0.9) == ([] if task is tasks[0] else [0])


@TASKS
def test_every_further_label_needs_its_logit_or_those_named(count):
    tasks, instance = case(count)
    for task in tasks:
        both = predict(instance, tasks), weaken(predict(instance, tasks), task, 1.9)
        assert kept(low_logit, both, tasks) == ([0, 1] if task is tasks[0] else [0])
        assert kept(low_logit, both, tasks, min_logit={task.name: 2.0}) == [0]
        assert kept(low_logit, both, tasks, min_logit={o.name: 2.0 for o in tasks if o is not task}) == [0, 1]
    assert kept(low_logit, [predict(instance, tasks, strength=2.0)], tasks) == [0], "the threshold itself passes"


def test_a_prediction_must_reach_the_scores_and_the_logits():
    tasks, instance = case(3)
    good = predict(instance, tasks)
    rows = [
        good,
        replace(good, mask_quality=0.1),
        weaken(good, tasks[1], 0.5),
        weaken(replace(good, mask_quality=0.1), tasks[2], 0.5),
    ]
    settings = FILTER.model_copy(update={"min_score": 0.5, "min_logit": 1.0})
    predictions = all_of(rows, tasks).predictions
    assert reaches(predictions, settings).tolist() == [True, False, False, False]
    assert kept(low_score, rows, tasks, min_score=0.5) == [0, 2] and kept(low_logit, rows, tasks, min_logit=1.0) == [
        0,
        1,
    ]


def test_the_largest_component_keeps_one_part_and_its_box_and_area_follow():
    tasks, instance = case(2)
    whole = merged(instance.segmentation, box_rle(22, 22, 1, 1))  # touches by a corner
    stray = replace(predict(instance, tasks), segmentation=merged(whole, box_rle(60, 60, 2, 2)), area=405.0)
    empty = replace(predict(instance, tasks, query=2), segmentation=box_rle(0, 0, 0, 0), area=0.0)
    rows = all_of([stray, replace(stray, query=1), empty], tasks)
    left = largest_component(Kept.all(rows), FILTER.model_copy(update={"largest_component": True}))
    found = left.evaluation.predictions
    assert len(left) == 3 and found.rle.tolist() == [whole["counts"], whole["counts"], empty.segmentation["counts"]]
    assert found.box[:2].tolist() == [[2.0, 2.0, 21.0, 21.0]] * 2 and found.area.tolist() == [401.0, 401.0, 0.0]
    for name in set(found.names) - {"rle", "box", "area"}:
        assert np.array_equal(found.column(name), rows.predictions.column(name))
    assert largest_component(Kept.all(rows), FILTER).evaluation is rows


def test_masks_below_the_least_area_go():
    tasks, instance = case(1)
    rows = predict(box_instance((2, 2, 19, 21), instance.labels), tasks), predict(instance, tasks)
    assert kept(small, rows, tasks, min_area=400) == [1] and kept(small, rows, tasks) == [0, 1]


@TASKS
def test_of_two_predictions_on_one_mask_the_better_ranked_stays(count):
    tasks, instance = case(count)
    worse = predict(instance, tasks, query=0, quality=0.5, shape=1)  # another class, ignored by NMS
    better = predict(instance, tasks, query=1, quality=0.9, shift=3)  # IoU 17 / 23
    apart = predict(instance, tasks, query=2, quality=0.4, shift=10)  # IoU with the better one 13 / 27
    found = [worse, better, apart]
    assert kept(duplicate, found, tasks) == [1, 2]
    for settings in ({"nms_iou": 0.8}, {"nms": "none"}, {"nms": "class"}, {"nms": "matrix"}):
        assert kept(duplicate, found, tasks, **settings) == [0, 1, 2]
    same = replace(worse, labels=better.labels)
    half = box_instance((2, 2, 30, 20), instance.labels)
    touching = [predict(half, tasks), predict(half, tasks, query=1, shift=10)]
    assert kept(duplicate, touching, tasks) == [0, 1], "IoU 0.5 is not above nms_iou"
    assert kept(duplicate, [replace(worse, query=1), better], tasks) == [1], "one query under two classes is one object"
    for nms in ("agnostic", "class", "matrix"):
        assert kept(duplicate, [same, better, apart], tasks, nms=nms) == [1, 2]
        assert kept(duplicate, [replace(better, image_id=2), same], tasks, nms=nms) == [0, 1], "in another image"
        assert kept(duplicate, [], tasks, nms=nms) == []


def test_matrix_nms_spares_what_overlaps_one_that_is_overlapped_itself():
    tasks, instance = case(1)

    def row(*shifts):
        return [predict(instance, tasks, query=q, quality=0.9 - 0.1 * q, shift=s) for q, s in enumerate(shifts)]

    # IoU 12/28, 14/26, and of first and third 6/34: decay of the third min(1 - 6/34, (1 - 14/26) / (1 - 12/28)) = 0.81
    loose, close = row(0, 8, 14), row(0, 4, 8)
    assert kept(duplicate, loose, tasks) == [0, 1]
    assert kept(duplicate, loose, tasks, nms="matrix") == [0, 1, 2]
    assert kept(duplicate, loose, tasks, nms="matrix", nms_iou=0.2) == [0, 2], "decays 1, 0.57, 0.81"
    assert kept(duplicate, loose, tasks, nms="matrix", nms_iou=0.1) == [0]
    for nms in ("agnostic", "class", "matrix"):  # IoU 16/24 of neighbours: the second goes, and removes nothing more
        assert kept(duplicate, close, tasks, nms=nms) == [0, 2]
    assert kept(duplicate, row(0, 0, 4, 4), tasks, nms="matrix") == [0], "equal masks hide each other"


def test_nms_follows_the_ranking_and_of_equal_ones_the_lower_query_stays():
    tasks, instance = case(2)
    bold, sound = predict(instance, tasks, query=0, quality=0.9), predict(instance, tasks, query=1, quality=0.8)
    bold = replace(bold, logits=bold.logits | {"colour": (2.5, 2.0, 2.0)})
    assert kept(duplicate, [sound, bold], tasks, ranking="main_quality") == [1]
    assert kept(duplicate, [sound, bold], tasks, ranking="product_quality") == [0]
    assert kept(duplicate, [replace(sound, query=query) for query in (3, 1, 2)], tasks) == [1]


@TASKS
def test_at_most_so_many_of_an_image_stay_the_best_ranked(count):
    tasks, instance = case(count)
    rows = [predict(instance, tasks, query=q, quality=0.5 + 0.1 * (q % 3), image_id=1 + q // 3) for q in range(6)]
    assert kept(surplus, rows, tasks, most=2) == [1, 2, 4, 5]
    assert kept(surplus, rows, tasks, most=9) == kept(surplus, rows, tasks) == list(range(6))
    assert kept(surplus, [], tasks, most=1) == []


@TASKS
def test_the_rules_in_turn_name_what_they_removed_and_keep_the_order_given(count):
    tasks, instance = case(count)
    good = predict(instance, tasks, image_id=2)
    tiny = predict(box_instance((40, 40, 3, 3), instance.labels), tasks, image_id=2)
    rest = predict(box_instance((30, 30, 9, 9), instance.labels), tasks, image_id=2, quality=0.6)
    twin, faint = replace(good, query=2, mask_quality=0.8), replace(good, query=1, mask_quality=0.05)
    rows = all_of([tiny, twin, good, rest, faint, replace(good, image_id=1)], tasks)
    filtered = apply(rows, FILTER.model_copy(update={"min_area": 10, "most": 1}))
    left, _ = filtered.predictions
    assert (left.image_id.tolist(), left.query.tolist()) == ([3, 2], [0, 0])
    assert filtered.removed["rule"].tolist() == ["small", "duplicate", None, "surplus", "low_score", None]
    assert filtered.removed["prediction"].tolist() == list(range(6))
    assert list(filtered.steps) == ["raw", *(rule.__name__ for rule in RULES)]


@TASKS
def test_what_goes_anyway_removes_nothing_and_masks_are_clean_before_they_are_compared(count):
    tasks, instance = case(count)
    good = predict(instance, tasks, query=1, quality=0.5)

    def rules(rows, **settings):
        return apply(all_of(rows, tasks), FILTER.model_copy(update=settings)).removed["rule"].tolist()

    for task in tasks[1:]:
        hollow = replace(good, query=0, mask_quality=0.9)
        hollow = replace(hollow, logits=hollow.logits | {task.name: (*good.logits[task.name][:-1], 7.0)})
        assert rules([hollow, good]) == ["background", None]
    # IoU with the good one 400 / 860, when clean 400 / 440
    spot = merged(box_rle(2, 2, 20, 22), box_rle(30, 2, 20, 21))
    spotted = replace(good, query=0, mask_quality=0.9, segmentation=spot, area=860.0)
    assert rules([spotted, good]) == [None, None]
    assert rules([spotted, good], largest_component=True) == [None, "duplicate"]
    assert rules([spotted], largest_component=True, min_area=441) == ["small"], "440 of its 860"


def speckled(images, tasks):
    """Noisy predictions, each with a pixel apart from its mask, and faint ones."""
    rows = noisy(images, tasks, copies=4)
    rows = [replace(r, segmentation=merged(r.segmentation, box_rle(30, 0, 1, 1)), area=r.area + 1) for r in rows]
    return [*rows, *(replace(row, query=row.query + 50, mask_quality=0.05) for row in rows)]


@TASKS
@pytest.mark.parametrize("cleaned", [False, True])
def test_each_row_of_the_table_scores_what_was_left(count, cleaned):
    tasks = make_tasks(count)
    images = scene(tasks, count=12, partial=True, crowds=True)
    own = evaluation(images, speckled(images, tasks), tasks, ranking="main_quality")
    filtered = apply(own, FILTER.model_copy(update={"largest_component": cleaned, "most": 3}))
    steps = table(filtered).set_index("stage", drop=False)
    for stage, after in filtered.steps.items():
        alone = evaluation(images, after.predictions, tasks, ranking="main_quality")
        assert steps.loc[stage, ["precision", "recall", "f1", "joint_f1"]].to_dict() == f1.summary(f1.counts(alone))
        assert 0 <= steps.low[stage] <= steps.joint_f1[stage] <= steps.high[stage] <= 100
    left, _ = filtered.predictions
    assert steps.removed["low_score"] >= len(own.predictions) // 2
    assert steps.removed.sum() == len(own.predictions) - len(left)
    metrics = sum_up(steps)
    assert metrics["raw"]["precision"] < metrics["filtered"]["precision"]
    assert metrics["removed"] == {rule.__name__: steps.removed[rule.__name__] for rule in RULES}


@pytest.mark.parametrize("cleaned", [False, True])
def test_pairs_of_what_is_left_are_those_computed_anew(cleaned, tmp_path):
    tasks = make_tasks(3)
    images = scene(tasks, count=12, partial=True, crowds=True)
    own = evaluation(images, speckled(images, tasks), tasks)
    filtered = apply(own, FILTER.model_copy(update={"largest_component": cleaned, "nms_iou": 0.9}))
    left, stored = filtered.predictions
    anew = pairs.of_masks(images, left)
    assert len(own.predictions) > len(left) > 20 and len(anew) > 20
    assert (left.rle.tolist() != own.predictions[filtered.steps["surplus"].as_mask()].rle.tolist()) == cleaned
    for name in anew.names:
        assert np.array_equal(stored.column(name), anew.column(name)), name
    left.write(tmp_path / "val.parquet", tasks)
    read = Predictions.read(tmp_path / "val.parquet", tasks)
    again = Evaluation(images, read, stored, tasks=tasks, ranking=own.ranking)
    assert f1.summary(f1.counts(again)) == sum_up(table(filtered))["filtered"]


def test_what_is_undefined_is_no_number():
    tasks = make_tasks(2)
    steps = table(apply(evaluation(scene(tasks)[:1], [], tasks, ranking="sum"), FILTER))
    assert steps[["precision", "f1", "low", "high"]].isna().all(axis=None)
    assert sum_up(steps) == {"raw": {}, "filtered": {}, "removed": {rule.__name__: 0 for rule in RULES}}


def test_overlaps_are_those_of_every_two_masks_though_some_are_equal():
    boxes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 0, 8, 8), (20, 20, 4, 4), (4, 0, 8, 8), (0, 0, 8, 8), (20, 20, 4, 4)]
    rles = [box_rle(*box) for box in boxes]
    found = zip(*_overlaps(rles, np.array([64, 64, 64, 16, 64, 64, 16])), strict=True)
    iou = coco_mask.iou(rles, rles, [0] * len(rles))
    expected = [(i, j, pytest.approx(iou[i, j])) for i in range(len(rles)) for j in range(i) if iou[i, j]]
    assert sorted(tuple(x.item() for x in row) for row in found) == expected


def test_the_largest_component_is_that_of_the_pixels():
    rng = np.random.default_rng(0)
    for _ in range(200):
        pixels = rng.random(rng.integers(1, 25, 2)) < rng.choice([0.1, 0.3, 0.5, 0.8])
        packed = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
        found = _largest_component({"size": [*pixels.shape], "counts": packed["counts"].decode()})
        parts, count = label(pixels, structure=np.ones((3, 3)))
        if count < 2:
            assert found is None
        else:
            largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
            packed = coco_mask.encode(np.asfortranarray(largest, dtype=np.uint8))
            assert found == (packed["counts"].decode(), coco_mask.toBbox(packed).tolist(), float(largest.sum()))
