"""Each rule of the filter alone (F14), and all of them in turn: what is kept, who removed the rest, what that did."""

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.core.errors import UserError
from mtseg.evaluation.f1 import Tally, summary
from mtseg.evaluation.filter import (
    RULES,
    background,
    duplicate,
    largest_component,
    low_logit,
    low_score,
    sieve,
    small,
    sum_up,
    surplus,
    table,
)
from mtseg.evaluation.found import gather
from mtseg.evaluation.matching import pictures
from tests.scenes import SIEVE, SIZE, box_instance, box_rle, logits_of, make_tasks, predict, predict_all, scene

TASKS = pytest.mark.parametrize("count_", [1, 3, 4])


def case(count_, background=True):
    tasks = make_tasks(count_, background)
    return tasks, box_instance((2, 2, 20, 20), {task.name: 0 for task in tasks})


def kept(rule, predictions, tasks, ranking="product_quality", **settings):
    """What a rule keeps, in the order given."""
    found = rule(gather(predictions, tasks=tasks, ranking=ranking), SIEVE.model_copy(update=settings))
    return found.predictions[np.argsort(found.index)].tolist()


def weaken(prediction, task, logit):
    return replace(
        prediction, logits=prediction.logits | {task.name: (float(logit),) + (0.0,) * (task.num_outputs - 1)}
    )


@TASKS
def test_f14_what_a_further_task_calls_background_is_dropped(count_):
    tasks, instance = case(count_)
    good = predict(instance, tasks)
    for task in tasks[1:]:
        logits = (*good.logits[task.name][:-1], 7.0)  # no-object above the chosen label's 6
        nothing = replace(good, logits=good.logits | {task.name: logits})
        assert kept(background, [good, nothing], tasks) == [good]
        assert kept(background, [good, nothing], tasks, drop_background=False) == [good, nothing]
    main = replace(good, logits=good.logits | {"shape": (6.0, 0.0, 0.0, 7.0)})
    assert kept(background, [main], tasks) == [main], "the main class's no-object has spoken through the score"


@TASKS
def test_f14_without_a_background_slot_the_last_class_is_no_background(count_):
    tasks, _ = case(count_, background=False)
    last = box_instance((2, 2, 20, 20), {task.name: task.num_classes - 1 for task in tasks})
    assert kept(background, [predict(last, tasks)], tasks) == [predict(last, tasks)]


@TASKS
def test_f14_the_score_is_probability_times_mask_quality_of_the_main_task_or_of_those_named(count_):
    tasks, instance = case(count_)
    low, high = predict(instance, tasks, quality=0.099), predict(instance, tasks, quality=0.11)
    assert kept(low_score, [low, high], tasks) == [high]
    assert kept(low_score, [low, high], tasks, min_score={}) == [low, high]
    for task in tasks:
        unsure = weaken(predict(instance, tasks, quality=1.0), task, 0)  # every output alike: 1 / outputs
        assert kept(low_score, [unsure], tasks, min_score={task.name: 0.99 / task.num_outputs}) == [unsure]
        assert kept(low_score, [unsure], tasks, min_score={task.name: 1.01 / task.num_outputs}) == []
        others = {other.name: 0.9 for other in tasks if other is not task}
        assert kept(low_score, [unsure], tasks, min_score=others) == [unsure]
        assert kept(low_score, [unsure], tasks, min_score=0.9) == ([] if task is tasks[0] else [unsure])


@TASKS
def test_f14_every_further_label_needs_its_logit_or_those_named(count_):
    tasks, instance = case(count_)
    good = predict(instance, tasks)
    for task in tasks:
        weak = weaken(good, task, 1.9)
        assert kept(low_logit, [good, weak], tasks) == ([good, weak] if task is tasks[0] else [good])
        assert kept(low_logit, [good, weak], tasks, min_logit={task.name: 2.0}) == [good]
        assert kept(low_logit, [good, weak], tasks, min_logit={o.name: 2.0 for o in tasks if o is not task})[1:]
    assert kept(low_logit, [predict(instance, tasks, strength=2.0)], tasks), "the threshold itself passes"


@TASKS
def test_f14_the_largest_component_keeps_one_part_and_its_box_and_area_follow(count_):
    tasks, instance = case(count_)
    mask = coco_mask.decode(instance.segmentation)
    mask[22, 22] = 1  # touches by a corner
    whole = coco_mask.encode(mask)
    mask[60:62, 60:62] = 1
    packed = coco_mask.encode(mask)
    rle = {"size": [SIZE, SIZE], "counts": packed["counts"].decode()}
    stray = replace(predict(instance, tasks), segmentation=rle, bbox=(2.0, 2.0, 60.0, 60.0), area=405.0)
    empty = replace(predict(instance, tasks, query=2), segmentation=box_rle(0, 0, 0, 0), area=0.0)
    (cleaned, twin, void) = kept(
        largest_component, [stray, replace(stray, query=1), empty], tasks, largest_component=True
    )
    assert cleaned == replace(
        stray,
        segmentation={"size": [SIZE, SIZE], "counts": whole["counts"].decode()},
        bbox=(2.0, 2.0, 21.0, 21.0),
        area=401.0,
    )
    assert twin == replace(cleaned, query=1) and void == empty
    assert kept(largest_component, [stray], tasks) == [stray]


@TASKS
def test_f14_masks_below_the_least_area_go(count_):
    tasks, instance = case(count_)
    good, smaller = predict(instance, tasks), predict(box_instance((2, 2, 19, 21), instance.labels), tasks)
    assert kept(small, [smaller, good], tasks, min_area=400) == [good]
    assert kept(small, [smaller, good], tasks) == [smaller, good]


@TASKS
def test_f14_of_two_predictions_on_one_mask_the_better_ranked_stays(count_):
    tasks, instance = case(count_)
    worse = predict(instance, tasks, query=0, quality=0.5, shape=1)  # another class: NMS does not care
    better = predict(instance, tasks, query=1, quality=0.9, shift=3)  # IoU 17 / 23
    apart = predict(instance, tasks, query=2, quality=0.4, shift=10)  # IoU with the better one 13 / 27
    found = [worse, better, apart]
    assert kept(duplicate, found, tasks) == [better, apart]
    assert kept(duplicate, found, tasks, nms_iou=0.8) == kept(duplicate, found, tasks, nms="none") == found
    assert kept(duplicate, found, tasks, nms="class") == kept(duplicate, found, tasks, nms="matrix") == found
    same = replace(worse, labels=better.labels)
    assert kept(duplicate, [same, better], tasks, nms="none") == [same, better]
    half = box_instance((2, 2, 30, 20), instance.labels)
    touching = [predict(half, tasks), predict(half, tasks, query=1, shift=10)]
    assert kept(duplicate, touching, tasks) == touching, "IoU 0.5 is not above nms_iou"
    for nms in ("agnostic", "class", "matrix"):
        assert kept(duplicate, [same, better, apart], tasks, nms=nms) == [better, apart]
        assert kept(duplicate, [replace(better, image_id=2), same], tasks, nms=nms)[1:], "in another picture"
        assert kept(duplicate, [], tasks, nms=nms) == []


@TASKS
def test_f14_one_query_under_two_main_classes_is_one_object(count_):
    tasks, instance = case(count_)
    both = [predict(instance, tasks, quality=0.5, shape=1), predict(instance, tasks)]
    assert kept(duplicate, both, tasks) == both[1:]


def test_f14_matrix_nms_spares_what_overlaps_one_that_is_overlapped_itself():
    tasks, instance = case(1)

    def row(*shifts):
        return [predict(instance, tasks, query=q, quality=0.9 - 0.1 * q, shift=s) for q, s in enumerate(shifts)]

    # IoU 12/28, 14/26, and of first and third 6/34: decay of the third min(1 - 6/34, (1 - 14/26) / (1 - 12/28)) = 0.81
    first, second, third = loose = row(0, 8, 14)
    assert kept(duplicate, loose, tasks) == [first, second]
    assert kept(duplicate, loose, tasks, nms="matrix") == loose
    assert kept(duplicate, loose, tasks, nms="matrix", nms_iou=0.2) == [first, third], "decays 1, 0.57, 0.81"
    assert kept(duplicate, loose, tasks, nms="matrix", nms_iou=0.1) == [first]
    first, second, third = close = row(0, 4, 8)  # IoU 16/24 of neighbours: the second goes, and removes nothing more
    for nms in ("agnostic", "class", "matrix"):
        assert kept(duplicate, close, tasks, nms=nms) == [first, third]
    assert kept(duplicate, row(0, 0, 4, 4), tasks, nms="matrix") == row(0), "equal masks hide each other"


def test_f14_nms_follows_the_ranking_and_of_equal_ones_the_lower_query_stays():
    tasks, instance = case(2)
    bold, sound = predict(instance, tasks, query=0, quality=0.9), predict(instance, tasks, query=1, quality=0.8)
    bold = replace(bold, logits=bold.logits | {"colour": (2.5, 2.0, 2.0)})
    assert kept(duplicate, [sound, bold], tasks, ranking="main_quality") == [bold]
    assert kept(duplicate, [sound, bold], tasks, ranking="product_quality") == [sound]
    equal = [replace(sound, query=query) for query in (3, 1, 2)]
    assert kept(duplicate, equal, tasks) == equal[1:2]


@TASKS
def test_f14_at_most_so_many_of_a_picture_stay_the_best_ranked(count_):
    tasks, instance = case(count_)
    found = [predict(instance, tasks, query=q, quality=0.5 + 0.1 * (q % 3), image_id=1 + q // 3) for q in range(6)]
    assert kept(surplus, found, tasks, most=2) == [found[i] for i in (1, 2, 4, 5)]
    assert kept(surplus, found, tasks, most=9) == kept(surplus, found, tasks) == found
    assert kept(surplus, [], tasks, most=1) == []


@TASKS
def test_f14_the_sieve_says_who_removed_what_and_keeps_the_order_given(count_):
    tasks, instance = case(count_)
    good = predict(instance, tasks, image_id=2)
    faint = replace(good, query=1, mask_quality=0.05)
    twin = replace(good, query=2, mask_quality=0.8)
    tiny = predict(box_instance((40, 40, 3, 3), instance.labels), tasks, image_id=2)
    rest = predict(box_instance((30, 30, 9, 9), instance.labels), tasks, image_id=2, quality=0.6)
    given = [tiny, twin, good, rest, faint, replace(good, image_id=1)]
    sieved = sieve(
        given, tasks=tasks, settings=SIEVE.model_copy(update={"min_area": 10, "most": 1}), ranking="main_quality"
    )
    assert sieved.kept == [given[2], given[5]]
    assert sieved.removed["rule"].tolist() == ["small", "duplicate", None, "surplus", "low_score", None]
    assert sieved.removed["prediction"].tolist() == list(range(6))
    assert list(sieved.steps) == ["raw", *(rule.__name__ for rule in RULES)]


@TASKS
def test_f14_what_goes_anyway_removes_nothing_and_masks_are_clean_before_they_are_compared(count_):
    tasks, instance = case(count_)
    good = predict(instance, tasks, query=1, quality=0.5)
    options = {"tasks": tasks, "ranking": "main_quality", "settings": SIEVE}
    for task in tasks[1:]:
        hollow = replace(good, query=0, mask_quality=0.9)
        hollow = replace(hollow, logits=hollow.logits | {task.name: (*good.logits[task.name][:-1], 7.0)})
        assert sieve([hollow, good], **options).kept == [good]
    # IoU with the good one 400 / 860, when clean 400 / 440
    spot = coco_mask.merge([box_rle(2, 2, 20, 22), box_rle(30, 2, 20, 21)])
    spot = {**spot, "counts": spot["counts"].decode()}
    spotted = replace(good, query=0, mask_quality=0.9, segmentation=spot, area=860.0)
    assert len(sieve([spotted, good], **options).kept) == 2
    clean = SIEVE.model_copy(update={"largest_component": True})
    assert sieve([spotted, good], **options | {"settings": clean}).removed["rule"].tolist() == [None, "duplicate"]
    large = clean.model_copy(update={"min_area": 441})
    assert sieve([spotted], **options | {"settings": large}).removed["rule"].tolist() == ["small"], "440 of its 860"


@TASKS
@pytest.mark.parametrize("cleaned", [False, True])
def test_each_row_of_the_table_scores_what_was_left(count_, cleaned):
    tasks = make_tasks(count_)
    images = scene(tasks, pictures=12, partial=True, crowds=True)
    truth = predict_all(images, tasks)
    faint = [replace(p, query=p.query + 50, mask_quality=0.05) for p in truth]
    circle = {"shape": logits_of(tasks[0], 0)}
    stray = [coco_mask.merge([p.segmentation, box_rle(30, 0, 1, 1)]) for p in truth]
    last = tasks[-1]
    mistaken = {1: last.num_classes - 1, 2: 0}  # picture -> what all its objects are said to be
    truth = [
        replace(p, labels=p.labels | {last.name: label}, logits=p.logits | {last.name: logits_of(last, label)})
        for p in truth
        for label in [mistaken.get(p.image_id % 3, p.labels[last.name])]
    ]
    found = [
        *faint,
        *(
            replace(p, query=p.query + 90, mask_quality=0.5, labels=p.labels | {"shape": 0}, logits=p.logits | circle)
            for p in truth
        ),
        *(replace(p, segmentation={**m, "counts": m["counts"].decode()}) for p, m in zip(truth, stray, strict=True)),
    ]
    settings = SIEVE.model_copy(update={"largest_component": cleaned, "most": 3})
    options = {"tasks": tasks, "ranking": "main_quality"}
    sieved = sieve(found, settings=settings, **options)
    steps = table(sieved, images, **options).set_index("stage", drop=False)
    for stage, after in sieved.steps.items():
        alone = Tally(pictures(images, after.predictions, **options), tasks).counts()
        assert steps.loc[stage, ["precision", "recall", "f1", "joint_f1"]].to_dict() == summary(alone)
        assert 0 <= steps.low[stage] <= steps.joint_f1[stage] <= steps.high[stage] <= 100
    assert steps.removed["low_score"] == len(truth) and steps.removed.sum() == len(found) - len(sieved.kept)
    metrics = sum_up(steps)
    assert metrics["raw"]["precision"] < 50 < metrics["filtered"]["precision"]
    assert metrics["removed"] == {rule.__name__: steps.removed[rule.__name__] for rule in RULES}


def test_what_is_undefined_is_no_number():
    tasks = make_tasks(2)
    options = {"tasks": tasks, "ranking": "sum"}
    steps = table(sieve([], settings=SIEVE, **options), scene(tasks)[:1], **options)
    assert steps[["precision", "f1", "low", "high"]].isna().all(axis=None)
    assert sum_up(steps) == {"raw": {}, "filtered": {}, "removed": {rule.__name__: 0 for rule in RULES}}


def test_a_prediction_of_a_picture_that_is_not_there():
    tasks, instance = case(2)
    options = {"tasks": tasks, "ranking": "sum"}
    with pytest.raises(UserError, match="picture 77 of size"):
        table(sieve([predict(instance, tasks, image_id=77)], settings=SIEVE, **options), scene(tasks), **options)
