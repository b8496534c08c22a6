"""Checks of labels and params: each error is reported, and correct data give no finding."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from mtseg.checks import labels, settings
from mtseg.core import masks
from mtseg.core.tables import UNLABELLED, Image
from tests import tiny
from tests.scenes import SIZE, box_instance, images_of, make_tasks, scene

INPUT = tiny.params(input={"flip": 0.5}).input


def healthy(count):
    tasks = tuple(
        task.model_copy(update={"flip_pairs": (("left", "right"),)}) if "left" in task.classes else task
        for task in make_tasks(count)
    )
    return tasks, scene(tasks, count=30), scene(tasks, count=labels.SMALL)


@pytest.mark.parametrize(("count", "severity"), [(1, "warning"), (labels.FEW, "note"), (labels.SMALL - 1, "note")])
def test_a_split_too_small_to_score_is_reported_unless_it_is_empty(count, severity):
    tasks, train, val = healthy(1)
    assert check(train, val[-count:], tasks) == {("split_small", severity)}
    (found,) = labels.check(train, {"val": val, "test": val[-count:]}, tasks=tasks, input=INPUT)
    assert found.where == "test" and found.evidence.startswith(f"{count} image{'s' if count > 1 else ''} with ")
    assert check(train, val[:0], tasks) == {("split_empty", "error")}


def test_a_split_of_crowds_alone_is_an_error_that_says_so():
    tasks, train, val = healthy(1)
    val.instances = val.instances.replace(crowd=np.ones(len(val.instances), dtype=bool))
    (found,) = labels.check(train, {"val": val}, tasks=tasks, input=INPUT)
    assert (found.cause, found.severity) == ("split_empty", "error") and "iscrowd 1" in found.evidence


def relabelled(images, task, change):
    """The images with `change(label)` in place of each of the task's labels."""
    instances = images.instances
    column = np.array([change(label) for label in instances.labels[task.name].tolist()])
    copy = images[:]
    copy.instances = instances.replace(**{f"labels.{task.name}": column})
    return copy


def causes(found):
    return {(finding.cause, finding.severity) for finding in found}


def check(train, val, tasks):
    return causes(labels.check(train, {"val": val}, tasks=tasks, input=INPUT))


def params(train, tasks, **changes):
    given = tiny.params(**changes)
    found = settings.check(
        train, {"val": train}, tasks=tasks, model=given.model, input=given.input, solver=given.solver,
        loss=given.loss,
        detections=given.test.detections, max_dets=given.test.max_dets,
    )  # fmt: skip
    return causes(found)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_correct_labels_and_params_give_no_finding(count):
    tasks, train, val = healthy(count)
    assert not check(train, val, tasks)
    assert not params(train, tasks)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_label_out_of_range_is_found_with_its_image_and_annotation(count):
    tasks, train, val = healthy(count)
    bad = relabelled(train, tasks[-1], lambda label: len(tasks[-1].classes) if label == 1 else label)
    (found,) = (one for one in labels.check(bad, {"val": val}, tasks=tasks, input=INPUT) if one.severity == "error")
    assert found.cause == "label_range" and re.search(r"for example \d+\.jpg, annotation", found.evidence)
    assert tasks[-1].name in found.where


@pytest.mark.parametrize("count", [1, 3, 4])
def test_what_a_task_lacks_is_named(count):
    tasks, train, val = healthy(count)
    task = tasks[-1]
    assert check(relabelled(train, task, lambda label: UNLABELLED), val, tasks) >= {("task_unlabelled", "error")}
    assert check(relabelled(train, task, lambda label: 0), val, tasks) >= {("task_unlabelled", "warning")}
    shown = relabelled(train, task, lambda label: UNLABELLED if label == 1 else label)
    assert ("class_missing_in_train", "warning") in check(shown, val, tasks)
    assert ("class_too_rare", "warning") in check(train[:4], val[:4], tasks)
    assert ("task_unlabelled", "warning") in check(train, relabelled(val, task, lambda label: UNLABELLED), tasks)
    assert check(train, val[:0], tasks) == {("split_empty", "error")}


def test_names_that_differ_in_case_alone_are_no_pair_of_a_flip():
    task = make_tasks(1)[0].model_copy(update={"classes": ("Red", "red", "Left", "left")})
    assert not list(labels.unpaired(task, INPUT))


def test_another_mix_of_classes_is_noted_and_chance_is_not():
    tasks, rng = make_tasks(2), np.random.default_rng(0)
    task = tasks[1]

    def drawn(count, share, objects=2):
        labels = lambda: {"shape": 0, "colour": int(rng.random() < share)}  # noqa: E731
        boxes = [(2, 2, 20, 20), (34, 2, 20, 20)][:objects]
        return images_of(
            [
                Image(n, f"{n}.jpg", SIZE, SIZE, tuple(box_instance(box, labels()) for box in boxes))
                for n in range(count)
            ],
            tasks,
        )

    train = drawn(200, 0.5)
    assert not any(list(labels.mixed(train, drawn(40, 0.5), task, "val")) for _ in range(100))
    (found,) = labels.mixed(train, drawn(40, 0.95), task, "val")
    assert found.cause == "class_mix_differs" and found.severity == "note"
    assert not list(labels.mixed(train, drawn(10, 1.0), task, "val"))
    (found,) = labels.lost(train, drawn(40, 0.0), task, "val")
    assert found.cause == "class_mix_differs" and f"'{task.classes[1]}' (" in found.evidence
    (found,) = labels.lost(train, drawn(40, 0.0, objects=1), task, "val")
    assert found.cause == "annotations_missing"
    assert not list(labels.lost(train, drawn(4, 0.0), task, "val")), "it may be chance"
    assert not list(labels.lost(drawn(200, 0.02), drawn(40, 0.0), task, "val")), "it is rare"


@pytest.mark.parametrize("count", [1, 3, 4])
def test_what_train_lacks_is_named_in_the_test_split_too(count):
    tasks, train, val = healthy(count)
    task = tasks[-1]
    lacks = relabelled(train, task, lambda label: UNLABELLED if label == 1 else label)
    found = labels.check(lacks, {"val": val[:0], "test": val}, tasks=tasks, input=INPUT)
    evidence = next(one.evidence for one in found if one.cause == "class_missing_in_train")
    assert evidence.startswith("in test but not in train") and task.classes[1] in evidence
    assert {(one.cause, one.where) for one in found if one.severity == "error"} == {("split_empty", "val")}
    wrong = relabelled(val, task, lambda label: len(task.classes))
    found = labels.check(train, {"val": val, "test": wrong}, tasks=tasks, input=INPUT)
    assert ("label_range", "error") in causes(found)


def test_combinations_that_train_lacks_are_counted_for_each_split():
    tasks = make_tasks(2)
    boxes = [box_instance((4 * place, 4, 3, 3), dict.fromkeys(("shape", "colour"), place % 2)) for place in range(6)]
    other = box_instance((30, 30, 3, 3), {"shape": 0, "colour": 1})
    train, test = (
        images_of([Image(1, f"{name}.jpg", 64, 64, tuple(own))], tasks)
        for name, own in (("a", boxes), ("b", [*boxes[:3], other]))
    )
    (found,) = labels.unseen(train, test, tasks, "test")
    assert (found.cause, found.severity, found.where) == ("combination_missing_in_train", "note", "test")
    assert found.evidence.startswith("1 of 3 combinations") and "25.0%" in found.evidence
    assert not list(labels.unseen(test, train, tasks, "test"))
    flip = ((tasks[0].classes[0], tasks[0].classes[1]),)
    mirrored = (tasks[0].model_copy(update={"flip_pairs": flip}), tasks[1])
    assert not list(labels.unseen(train, test, mirrored, "test")), "training shows it as the mirror image of another"


def test_pairs_of_labels_that_train_surely_excludes_are_a_warning():
    tasks, rng = make_tasks(2), np.random.default_rng(0)

    def drawn(count, kept):
        labels = [tuple(int(rng.integers(task.num_classes)) for task in tasks) for _ in range(count)]
        own = [dict(zip((task.name for task in tasks), one, strict=True)) for one in labels if kept(*one)]
        boxes = tuple(box_instance((1, 1, 3, 3), one) for one in own)
        return images_of([Image(1, "a.jpg", 64, 64, boxes)], tasks)

    val = drawn(200, lambda shape, colour: True)
    (found,) = labels.unseen(drawn(600, lambda shape, colour: shape != 1 or colour == 0), val, tasks, "val")
    assert (found.cause, found.severity) == ("combination_missing_in_train", "warning")
    assert f"train has no '{tasks[0].classes[1]}' with " in found.evidence
    rare = labels.unseen(drawn(10, lambda shape, colour: True), val, tasks, "val")
    assert [one.severity for one in rare] == ["note"], "so few examples lack pairs by chance"


def test_a_flip_that_does_not_swap_the_sides_is_reported():
    task = make_tasks(4)[3]
    still = tiny.params(input={"flip": 0.0}).input
    (found,) = labels.unpaired(task, INPUT)
    assert found.cause == "flip_without_pairs" and "[left, right]" in found.evidence
    assert not list(labels.unpaired(task, still))
    assert not list(labels.unpaired(task.model_copy(update={"flip_pairs": (("left", "right"),)}), INPUT))


@pytest.mark.parametrize(
    ("classes", "pairs"),
    [
        (("door_L", "door_R", "wheel"), "[door_L, door_R]"),
        (("L", "R"), "[L, R]"),
        (("lhs", "rhs", "none"), "[lhs, rhs]"),
        (("Left lamp", "Right Lamp"), "[Left lamp, Right Lamp]"),
        (("mirror (l)", "mirror (r)"), "[mirror (l), mirror (r)]"),
        (("lamp", "ramp", "S", "M", "L", "tool", "toor", "L1", "R1"), None),
    ],
)
def test_sides_are_known_by_whole_words(classes, pairs):
    task = make_tasks(1)[0].model_copy(update={"classes": classes})
    found = list(labels.unpaired(task, INPUT))
    assert [pairs] * len(found) == [one.evidence.partition("does not list ")[2] for one in found]
    assert len(found) == bool(pairs)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_weight_that_drowns_the_masks_is_reported(count):
    tasks, train, _ = healthy(count)
    for weight, expected in ((1000.0, {("task_weight", "warning")}), (20.0, set())):
        assert params(train, (*tasks[:-1], tasks[-1].model_copy(update={"loss_weight": weight}))) == expected
        assert params(train, tasks, loss={"labels": weight}) == expected


def test_objects_annotated_twice_are_counted():
    tasks, train, val = healthy(3)
    doubled = images_of([replace(image, instances=image.instances * 2) for image in train], tasks)
    (found,) = labels.duplicates(doubled, "train")
    assert found.cause == "annotated_twice" and found.severity == "warning"
    assert found.evidence.startswith("116 of 232")
    assert not list(labels.duplicates(train, "train"))


def test_an_object_and_its_box_are_one_object_annotated_twice():
    tasks = make_tasks(1)
    outline = box_instance((8, 8, 16, 16), {tasks[0].name: 0})
    polygon = [[8, 8, 24, 8, 24, 24]]
    cut = replace(outline, segmentation=polygon, rle=masks.rle(polygon, SIZE, SIZE)["counts"], area=128.0)
    images = [replace(image, instances=(outline, cut)) for image in scene(tasks, count=4)]
    (found,) = labels.duplicates(images_of(images, tasks), "train")
    assert found.cause == "annotated_twice" and found.evidence.startswith("4 of 8 instances")
    other = replace(cut, labels={tasks[0].name: 1})
    images = [replace(image, instances=(outline, other)) for image in images]
    assert not list(labels.duplicates(images_of(images, tasks), "train")), "of another class"


@pytest.mark.parametrize("copies", [1, 5000])
def test_duplicates_in_an_image_of_many_objects_need_little_memory(copies):
    task = make_tasks(1)[0]
    objects = [box_instance((i % 60, i // 60 % 60, 3, 3), {task.name: 0}) for i in range(5000 // copies)] * copies
    crowded = images_of([Image(1, "1.jpg", 64, 64, tuple(objects))], (task,))
    tracemalloc.start()
    (found,) = labels.duplicates(crowded, "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.evidence.startswith("1400 of 5000" if copies == 1 else "4999 of 5000")
    assert peak < 20e6, "all pairs at once take 200 MB or more"


def test_lr_follows_the_batch_and_a_mismatch_is_reported():
    solver = {"reference_lr": 1e-4, "reference_batch": 16, "ims_per_batch": 2, "accumulate": 1}
    assert tiny.params(solver=solver).solver.lr == pytest.approx(1.25e-5)
    assert tiny.params(solver=solver | {"accumulate": 8}).solver.lr == pytest.approx(1e-4)
    assert not list(settings.lr(tiny.params(solver=solver).solver))
    (found,) = settings.lr(tiny.params(solver=solver | {"base_lr": 1e-4}).solver)
    assert found.cause == "lr_for_batch" and "8 times" in found.evidence and "1.25e-05" in found.evidence


def test_more_instances_than_queries_are_reported():
    tasks, train, _ = healthy(3)
    assert params(train, tasks, model={"num_queries": 3}) == {("queries_too_few", "warning")}
    (found,) = settings.queries({"train": train}, tiny.params(model={"num_queries": 3}).model)
    assert found.evidence.startswith("29 of 30 train images") and "25.0% of the instances" in found.evidence
    few = train[[0]]
    assert [
        one.where
        for one in settings.queries({"train": few, "test": train}, tiny.params(model={"num_queries": 3}).model)
    ][-1] == "test"
    assert [one.where for one in settings.kept({"val": few, "test": train}, 3, [100])][-1] == "test"


@pytest.mark.parametrize("limits", [{"detections": 3}, {"max_dets": [1, 3]}])
def test_more_instances_than_detections_are_reported(limits):
    tasks, train, _ = healthy(3)
    assert params(train, tasks, test=limits) == {("detections_too_few", "warning")}


def test_objects_of_few_pixels_at_the_input_size_are_reported():
    tasks, train, _ = healthy(1)
    box = train.instances.box
    for share, severity in ((0.5, "warning"), (0.01, "note")):
        thin = np.where(np.arange(len(box))[:, None] < np.ceil(share * len(box)), [0, 0, 3, 2], box)
        copy = train[:]
        copy.instances = train.instances.replace(box=thin.astype(float))
        side = int(max(train.height.max(), train.width.max()))
        (found,) = settings.small(copy, tiny.params(input={"size": 32 * -(-side // 32)}).input)
        assert (found.cause, found.severity) == ("objects_too_small", severity)


def test_a_task_that_the_matching_ignores_is_reported():
    tasks, train, _ = healthy(3)
    ignored = (*tasks[:2], tasks[2].model_copy(update={"match_weight": 0.0}))
    assert params(train, ignored) == {("task_untrained_in_matching", "warning")}
    assert params(train, tasks, loss={"labels": 0.0}) == {("task_untrained_in_matching", "warning")}


def test_a_muted_task_is_a_note_for_it_may_be_meant():
    tasks, train, _ = healthy(3)
    muted = {"loss_weight": 0.0, "match_weight": 0.0}
    assert params(train, (*tasks[:2], tasks[2].model_copy(update=muted))) == {("loss_muted", "note")}
    assert params(train, (tasks[0].model_copy(update=muted), *tasks[1:])) == {("loss_muted", "warning")}


@pytest.mark.parametrize(
    ("cause", "changes"),
    [
        ("random_frozen_norm", {"model": {"weights": None, "freeze_norm": True}}),
        ("weights_frozen", {"model": {"weights": None}, "solver": {"backbone_multiplier": 0.0}}),
        ("loss_muted", {"loss": {"mask": 0.0, "dice": 0.0}}),
        ("loss_muted", {"loss": {"dice": 0.0}}),
        ("loss_muted", {"loss": {"mask": 0.0}}),
        ("no_object_weight", {"loss": {"no_object": 0.0}}),
        ("no_object_weight", {"loss": {"no_object": 1.0}}),
        ("no_object_weight", {"loss": {"no_object": 10.0}}),
        ("warmup_too_long", {"solver": {"warmup": 60, "max_iter": 100}}),
        ("lr_too_high", {"solver": {"backbone_multiplier": 100.0}}),
        ("weight_decay", {"solver": {"weight_decay": 5.0}}),
        ("scale_mismatch", {"input": {"size": 128, "min_scale": 0.25, "max_scale": 0.3}}),
        ("scale_mismatch", {"input": {"min_scale": 2.0, "max_scale": 3.0}}),
    ],
)
def test_params_out_of_their_useful_range_are_reported(cause, changes):
    tasks, train, _ = healthy(3)
    assert params(train, tasks, **changes) == {(cause, "warning")}


def test_class_weights_are_held_against_the_frequencies():
    (task,), train, _ = healthy(1)
    first, *_ = task.classes
    for weight, expected in ((1000.0, {("class_weights", "warning")}), (3.0, set())):
        assert params(train, (task.model_copy(update={"class_weights": {first: weight}}),)) == expected


def test_a_class_of_weight_0_is_reported_by_name():
    (task, *rest), train, _ = healthy(3)
    given = task.model_copy(update={"class_weights": {task.classes[0]: 0.0}})
    assert params(train, (given, *rest)) == {("class_weights", "warning")}
    (found,) = settings.class_weights(train, (given,))
    assert f"'{task.classes[0]}' (" in found.evidence and task.name in found.where
