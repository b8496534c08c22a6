"""Each rule of the filter alone and in turn (F14), and the precision, recall and F1 that show what they do."""

from dataclasses import replace

import pytest

from mtseg.records import Image
from mtseg.scoring.f1 import compare, count
from mtseg.scoring.filter import RULES, background, duplicate, low_logit, low_score, sieve
from mtseg.scoring.matching import pictures
from mtseg.sections import Filter
from tests.scenes import SIZE, box_instance, make_tasks, predict, predict_all, scene

TASKS = pytest.mark.parametrize("count_", [1, 3, 4])
SETTINGS = Filter(drop_background=True, min_score=0.1, min_logit=2.0, nms_iou=0.5)


def case(count_, background=True):
    tasks = make_tasks(count_, background)
    instance = box_instance((2, 2, 20, 20), {task.name: 0 for task in tasks})
    return tasks, instance, {"tasks": tasks, "settings": SETTINGS, "ranking": "product_quality"}


@TASKS
def test_f14_what_a_further_task_calls_background_is_dropped(count_):
    tasks, instance, options = case(count_)
    good = predict(instance, tasks)
    for task in tasks[1:]:
        logits = good.logits[task.name][:-1] + (7.0,)  # no-object above the chosen label's 6
        assert background([good, replace(good, logits=good.logits | {task.name: logits})], **options) == [good]
    kept = SETTINGS.model_copy(update={"drop_background": False})
    assert background([good], **options | {"settings": kept}) == [good]
    main = replace(good, logits=good.logits | {"shape": (6.0, 0.0, 0.0, 7.0)})
    assert background([main], **options) == [main], "the main class's no-object has spoken through the score"


@TASKS
def test_f14_without_a_background_slot_the_last_class_is_no_background(count_):
    tasks, _, options = case(count_, background=False)
    last = box_instance((2, 2, 20, 20), {task.name: task.num_classes - 1 for task in tasks})
    assert background([predict(last, tasks)], **options) == [predict(last, tasks)]


@TASKS
def test_f14_the_main_score_is_probability_times_mask_quality(count_):
    tasks, instance, options = case(count_)
    low, high = predict(instance, tasks, quality=0.099), predict(instance, tasks, quality=0.11)
    assert low_score([low, high], **options) == [high]


@TASKS
def test_f14_every_further_label_needs_its_logit(count_):
    tasks, instance, options = case(count_)
    good = predict(instance, tasks)
    for task in tasks:
        weak = replace(good, logits=good.logits | {task.name: (1.9,) + (0.0,) * (task.num_outputs - 1)})
        assert low_logit([good, weak], **options) == ([good, weak] if task is tasks[0] else [good])
    assert low_logit([predict(instance, tasks, strength=2.0)], **options), "the threshold itself passes"


@TASKS
def test_f14_of_two_predictions_on_one_mask_the_better_ranked_stays(count_):
    tasks, instance, options = case(count_)
    worse = predict(instance, tasks, query=0, quality=0.5, shape=1)  # another class: NMS does not care
    better = predict(instance, tasks, query=1, quality=0.9, shift=3)  # IoU 17 / 23
    apart = predict(instance, tasks, query=2, quality=0.4, shift=10)  # IoU with the better one 13 / 27
    assert duplicate([worse, better, apart], **options) == [better, apart]
    loose = SETTINGS.model_copy(update={"nms_iou": 0.8})
    assert duplicate([worse, better], **options | {"settings": loose}) == [worse, better]
    assert duplicate([], **options) == []


def test_f14_nms_follows_the_ranking():
    tasks, instance, options = case(2)
    bold, sound = predict(instance, tasks, query=0, quality=0.9), predict(instance, tasks, query=1, quality=0.8)
    bold = replace(bold, logits=bold.logits | {"colour": (2.5, 2.0, 2.0)})
    assert duplicate([sound, bold], **options | {"ranking": "main_quality"}) == [bold]
    assert duplicate([sound, bold], **options | {"ranking": "product_quality"}) == [sound]


@TASKS
def test_f14_the_sieve_counts_what_each_rule_removes_and_keeps_pictures_apart(count_):
    tasks, instance, options = case(count_)
    good = predict(instance, tasks, image_id=2)
    elsewhere = replace(good, image_id=1)
    faint = replace(good, query=1, mask_quality=0.05)
    twin = replace(good, query=2, mask_quality=0.8)
    kept, removed = sieve([good, faint, twin, elsewhere], **options)
    assert kept == [elsewhere, good]
    assert removed == {"background": 0, "low_score": 1, "low_logit": 0, "duplicate": 1}
    assert list(removed) == [rule.__name__ for rule in RULES]
    assert sieve([], **options) == ([], dict.fromkeys(removed, 0))


@TASKS
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("crowds", [False, True])
def test_ground_truth_scores_100_and_contradictions_lower_precision_alone(count_, partial, crowds):
    tasks = make_tasks(count_)
    images = scene(tasks, partial=partial, crowds=crowds)
    truth = predict_all(images, tasks)
    doubled = truth + [replace(p, query=p.query + 50, mask_quality=0.5) for p in truth]
    metrics = compare(images, doubled, truth, tasks=tasks, ranking="product_quality")
    assert set(metrics["filtered"].values()) == {100.0}
    assert metrics["raw"] == {"precision": 50.0, "recall": 100.0, "f1": 66.667, "joint_f1": 66.667}
    assert compare(images, truth, [], tasks=tasks, ranking="main_quality")["filtered"] == {
        "recall": 0.0,
        "f1": 0.0,
        "joint_f1": 0.0,
    }


def counts(image, predictions, tasks):
    (picture,) = pictures([image], predictions, tasks=tasks, ranking="main_quality")
    return count(picture, tasks).tolist()


@TASKS
def test_a_hit_needs_the_main_class_and_a_joint_hit_every_label(count_):
    tasks, instance, _ = case(count_)
    image = Image(1, "a.jpg", SIZE, SIZE, (instance,))
    assert counts(image, [predict(instance, tasks)], tasks) == [1, 1, 1, 1]
    for task in tasks:
        wrong = predict(instance, tasks, **{task.name: 1})
        assert counts(image, [wrong], tasks) == ([1, 1, 0, 0] if task is tasks[0] else [1, 1, 1, 0])
    assert counts(image, [predict(instance, tasks, shift=8)], tasks) == [1, 1, 0, 0]
    unlabelled = replace(instance, labels={task.name: None for task in tasks} | {"shape": 0})
    assert counts(replace(image, instances=(unlabelled,)), [predict(instance, tasks)], tasks) == [1, 1, 1, 1]
    assert counts(replace(image, instances=()), [], tasks) == [0, 0, 0, 0]


@TASKS
def test_crowds_are_not_instances_and_what_lies_in_them_is_not_counted(count_):
    tasks, instance, _ = case(count_)
    crowd = box_instance((30, 2, 30, 60), instance.labels, crowd=True)
    image = Image(1, "a.jpg", SIZE, SIZE, (instance, crowd))
    inside = [predict(box_instance((32, 4 + 12 * q, 10, 10), instance.labels), tasks, query=q) for q in range(4)]
    whole = predict(crowd, tasks, query=8)
    assert counts(image, [*inside, whole, predict(instance, tasks, query=9)], tasks) == [1, 1, 1, 1]
    other = [predict(box_instance((32, 4, 10, 10), instance.labels), tasks, shape=1)]
    assert counts(image, other, tasks) == [1, 1, 0, 0]
