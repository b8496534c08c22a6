"""How objects are annotated: each difference between splits has its cause; equal splits give no finding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from mtseg.checks import alignment, images, style
from mtseg.core import masks
from tests import tiny
from tests.scenes import SIZE, box_instance, images_of, make_tasks, scene

TASKS = make_tasks(3)
INPUT = tiny.params().input
POINTS = np.array([[0, 0.5], [0.5, 1], [1, 0.5], [0.5, 0]])  # a rhombus fills half of its box


def drawn(count, change=lambda instances, number: instances, box=False):
    """Images of rhombi, or of boxes, after `change` of the instances of each."""
    own = []
    for number, image in enumerate(scene(TASKS, count=count)):
        instances = image.instances if box else tuple(map(rhombus, image.instances))
        own.append(replace(image, instances=tuple(change(instances, number))))
    return images_of(own, TASKS)


def rhombus(instance, at=None):
    x, y, w, h = at or instance.bbox
    return outlined(instance, [(np.array([x, y]) + POINTS * (w, h)).ravel().tolist()])


def outlined(instance, polygons):
    rle = masks.rle(polygons, SIZE, SIZE)
    points = np.concatenate([np.reshape(one, (-1, 2)) for one in polygons])
    box = (*points.min(0).tolist(), *np.ptp(points, axis=0).tolist())
    return replace(instance, segmentation=polygons, bbox=box, area=float(masks.areas([rle])[0]), rle=rle["counts"])


def halves(instances, number):
    for instance in instances:
        x, y, w, h = instance.bbox
        for left in (x, x + w / 2):
            yield outlined(instance, [[left, y, left + w / 2, y + 2, left + w / 2, y + h, left, y + h - 3]])


def merged(instances, number):
    first = next(iter(instances), None)
    return [] if first is None else [outlined(first, [part for one in instances for part in one.segmentation])]


def specks(instances):
    """Beside each object one of 2 pixels."""
    return [*instances, *(rhombus(one, (*one.bbox[:2], 2, 2)) for one in instances)]


def smooth(instance):
    """The same outline, with a point in the middle of each side."""
    points = np.reshape(instance.segmentation[0], (-1, 2))
    middle = (points + np.roll(points, -1, axis=0)) / 2
    return outlined(instance, [np.stack([points, middle], axis=1).ravel().tolist()])


def found(train, val):
    still = INPUT.model_copy(update={"flip": 0.0})  # the place of an object in a scene decides its labels
    return {(one.cause, one.where) for one in style.check(train, {"val": val}, tasks=TASKS, input=still)}


@pytest.mark.parametrize("box", [False, True])
def test_equal_splits_give_no_finding(box):
    assert not found(drawn(60, box=box), drawn(25, box=box))


def in_steps(instances, number):
    """Each outline as of a mask of blocks, in the form of an L."""
    for one in instances:
        x, y, w, h = one.bbox
        points = [x, y, x + w, y, x + w, y + h / 2, x + w / 2, y + h / 2, x + w / 2, y + h, x, y + h]
        yield outlined(one, [points])


def closed_boxes(instances, number):
    for one in instances:
        x, y, w, h = one.bbox
        yield outlined(one, [[x, y, x + w, y, x + w, y + h, x, y + h, x, y]])


def test_outlines_with_steps_in_one_split():
    assert found(drawn(60), drawn(60, in_steps)) == {("outlines_differ", "val")}
    assert found(drawn(60, in_steps), drawn(60)) == {("outlines_differ", "train")}
    assert not found(drawn(60, in_steps), drawn(60, in_steps))
    assert found(drawn(60), drawn(60, closed_boxes)) == {("boxes_for_outlines", "val")}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (halves, "objects_split"),
        (merged, "objects_merged"),
        (lambda instances, number: instances[:1], "annotations_missing"),
        (lambda instances, number: instances if number % 2 else (), "annotations_missing"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_is_annotated_in_another_way_is_named(change, cause, split):
    train, val = (drawn(60, change if split == name else lambda own, _: own) for name in ("train", "val"))
    assert found(train, val) == {(cause, split)}


@pytest.mark.parametrize(
    ("images", "named"), [((400, 60), {"train"}), ((60, 20), set()), ((60, 300), {"train"}), ((60, 5), set())]
)
def test_a_fifth_of_train_without_annotations_is_named_where_chance_is_no_explanation(images, named):
    train, val = drawn(images[0], lambda own, number: own if number % 5 else ()), drawn(images[1])
    assert {where for cause, where in found(train, val) if cause == "annotations_missing"} == named


def test_the_test_split_is_compared_as_well():
    scored = {"val": drawn(60), "test": drawn(60, halves)}
    found = style.check(drawn(60), scored, tasks=TASKS, input=INPUT.model_copy(update={"flip": 0.0}))
    assert [(one.cause, one.where) for one in found] == [("objects_split", "test")]


@pytest.mark.parametrize(("kept", "named"), [(0.5, True), (0.85, False)])
def test_fewer_objects_per_image_of_train_are_found(kept, named):
    rng = np.random.default_rng(0)

    def some(instances, number):
        return [one for one in instances if rng.random() < kept]

    assert (("annotations_missing", "train") in found(drawn(200, some), drawn(60))) == named


def test_many_more_objects_in_a_part_of_val_do_not_mean_that_train_lacks_some():
    def crowded(instances, number):
        if number % 3:
            return instances
        return [
            rhombus(one, (x, y, 12, 12)) for one in instances[:1] for x in range(0, 60, 20) for y in range(0, 60, 20)
        ]

    assert not {cause for cause, _ in found(drawn(200), drawn(60, crowded))} & {"annotations_missing"}


def test_objects_of_another_size_in_a_part_of_val_are_found():
    some = drawn(60, lambda instances, number: instances if number % 4 else specks(instances))
    assert found(drawn(60), some) == {("splits_differ", "val")}
    assert not found(some, drawn(60)), "train has them"


def test_outlines_whose_points_are_out_of_order_are_found():
    def by_x(instances, number):
        for one in instances:
            points = sorted(np.reshape(one.segmentation[0], (-1, 2)).tolist())
            yield outlined(one, [sum(points, [])]) if number % 4 == 0 else one

    assert found(drawn(60), drawn(60, by_x)) == {("outlines_differ", "val")}
    assert found(drawn(60, by_x), drawn(60)) == {("outlines_differ", "train")}


def test_a_loop_in_an_outline_of_many_points_is_not_out_of_order():
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    order = np.arange(40)
    order[[10, 11]] = order[[11, 10]]
    assert not style.crosses_itself(circle[order].ravel())
    assert style.crosses_itself(circle[np.argsort(circle[:, 0])].ravel())
    assert style.crosses_itself([0, 0, 9, 9, 9, 0, 0, 9]) and not style.crosses_itself([0, 0, 9, 0, 9, 9, 0, 9])


def test_objects_inside_another_one_in_a_part_of_a_split_are_found():
    def with_insides(instances, number):
        for one in instances:
            x, y, w, h = one.bbox
            yield from [one, rhombus(one, (x + 0.2 * w, y + 0.2 * h, 0.6 * w, 0.6 * h))][: 1 + (number % 4 == 0)]

    assert found(drawn(60), drawn(60, with_insides)) == {("annotated_twice", "val")}
    assert found(drawn(60, with_insides), drawn(60)) == {("annotated_twice", "train")}
    assert not found(drawn(60, with_insides), drawn(60, with_insides)), "such objects of all splits"


def test_objects_merged_in_a_part_of_val_are_found():
    def some(instances, number):
        return merged(instances, number) if number % 5 == 0 else instances

    assert found(drawn(60), drawn(60, some)) == {("objects_merged", "val")}
    assert not found(drawn(60, some), drawn(60, some))


def test_objects_that_all_have_the_labels_of_the_first_are_found():
    def kept(instances, number):
        return [replace(one, labels=instances[0].labels) for one in instances]

    assert found(drawn(60), drawn(60, kept)) == {("label_noise", "val")}
    assert found(drawn(60, kept), drawn(60)) == {("label_noise", "train")}
    assert not found(drawn(60, kept), drawn(60, kept))
    some = drawn(60, lambda own, number: own if number % 5 else kept(own, number))
    assert found(drawn(60), some) == {("label_noise", "val")}
    assert not found(some, some)


def test_a_default_label_in_a_part_of_the_images_is_no_other_mix_of_classes():
    rng, (task, *_) = np.random.default_rng(0), TASKS

    def labelled(default, first=1 / task.num_classes):
        """The share `default` of the images has the first class alone; `first`: its share in the others."""

        def change(instances, number):
            classes = rng.choice(
                task.num_classes, len(instances), p=[first, *[(1 - first) / (task.num_classes - 1)] * 2]
            )
            classes *= rng.random() >= default
            pairs = zip(instances, classes.tolist(), strict=True)
            return [replace(one, labels=one.labels | {task.name: label}) for one, label in pairs]

        return drawn(100, change)

    assert found(labelled(0.4), labelled(0.0)) == {("label_noise", f"task '{task.name}'")}
    assert not found(labelled(0.0, 0.8), labelled(0.0)), "the class is more frequent in all images"
    assert not found(labelled(0.4), labelled(0.4))


def test_images_of_one_class_each_or_without_labels_have_no_default_label():
    rng, (task, *_) = np.random.default_rng(0), TASKS

    def labelled(label, unlabelled=0.0):
        def change(instances, number):
            own = label()
            return [
                replace(one, labels=one.labels | {task.name: None if rng.random() < unlabelled else own})
                for one in instances
            ]

        return style.Style(drawn(100, change))

    half, nearly_all = labelled(lambda: int(rng.random() < 0.5)), labelled(lambda: int(rng.random() < 0.1))
    assert not style.uniform(half, nearly_all, "val", [task]), "a class of the image, as the weather"
    single = task.model_copy(update={"classes": task.classes[:1]})
    assert not style.uniform(labelled(lambda: 0, 0.4), labelled(lambda: 0), "val", [single])
    several = style.Style(drawn(100, lambda instances, number: instances))
    assert not style.uniform(several, labelled(lambda: 0), "val", [task]), "no part of the images, but all"


def test_outlines_of_few_points_are_found_in_the_split_that_has_them():
    def smoothed(instances, number):
        return map(smooth, instances)

    assert found(drawn(60, smoothed), drawn(60)) == {("outlines_differ", "val")}
    assert found(drawn(60), drawn(60, smoothed)) == {("outlines_differ", "train")}
    assert not found(drawn(60, smoothed), drawn(60, smoothed))


def pinched(instance):
    """The same outline, with a point near the centre in the middle of each side."""
    points = np.reshape(instance.segmentation[0], (-1, 2))
    middle = 0.8 * (points + np.roll(points, -1, axis=0)) / 2 + 0.2 * points.mean(0)
    return outlined(instance, [np.stack([points, middle], axis=1).ravel().tolist()])


@pytest.mark.parametrize("split", ["train", "val"])
def test_ragged_outlines_are_found_in_the_split_that_has_them(split):
    def even(instances, number):
        return map(smooth, instances)

    def ragged(instances, number):
        return [(pinched if one.labels["shape"] else smooth)(one) for one in instances]

    kinds = {"train": drawn(60, even), "val": drawn(30, even)}
    kinds[split] = drawn(len(kinds[split]), ragged)
    assert found(kinds["train"], kinds["val"]) == {("outlines_differ", split)}


def test_ragged_outlines_in_a_few_images_are_no_difference_of_the_splits():
    def crowd(instances, number):
        one = instances[0] if instances else None
        return [pinched(one)] * 10 if one and number in (1, 2) else []

    def even(instances, number):
        return map(smooth, instances)

    val = drawn(30, crowd)
    assert len(val.instances) == 20
    assert not list(style.ragged(style.Style(drawn(60, even)), style.Style(val), "val", TASKS[0]))


def test_renamed_classes_are_no_ragged_outlines():
    def some(label):
        return lambda instances, number: [
            pinched(one) if one.labels["shape"] == label else smooth(one) for one in instances
        ]

    assert not found(drawn(60, some(0)), drawn(30, some(1)))


@pytest.mark.parametrize("share", [0.15, 0.3, 1.0])
def test_boxes_drawn_for_outlines_are_found(share):
    def some(instances, number):
        return [
            box_instance(tuple(map(int, one.bbox)), one.labels) if number < share * 60 else one for one in instances
        ]

    assert found(drawn(60, some), drawn(60)) == {("boxes_for_outlines", "train")}


def test_objects_of_another_size_are_found():
    def small(instances, number):
        return [rhombus(one, (one.bbox[0], one.bbox[1], one.bbox[2] / 2, one.bbox[3] / 2)) for one in instances]

    assert found(drawn(60), drawn(60, small)) == {("splits_differ", "val")}


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (("striped", "stripped"), True), (("yellow", "yelow"), True), (("Front Door", "front_door"), True),
        (("wheel", "wheels"), True), (("bumper", "bupmer"), True), (("house", "mouse"), False),
        (("left", "right"), False), (("tooth_11", "tooth_12"), False), (("tooth_1", "tooth_11"), False),
        (("red", "green"), False), (("bus", "buses"), False),
    ],
)  # fmt: skip
def test_names_that_are_nearly_the_same(names, same):
    task = TASKS[1].model_copy(update={"classes": names})
    assert [one.cause for one in style.alike(drawn(5), task)] == ["classes_alike"] * same


def test_objects_that_two_people_annotated_in_a_part_of_a_split_are_found():
    def drawn_twice(instances, number):
        for one in instances:
            x, y, w, h = one.bbox
            yield from [one, rhombus(one, (x + 1, y - 0.5, w, h + 1))][: 1 + (number % 4 == 0)]

    assert found(drawn(60), drawn(60, drawn_twice)) == {("annotated_twice", "val")}
    assert found(drawn(60, drawn_twice), drawn(60)) == {("annotated_twice", "train")}


def sided(wide=1):
    """Objects of two classes, each in its half of the image. wide: how much wider those of one are."""
    rng = np.random.default_rng(0)

    def change(instances, number):
        for one in instances:
            side, label = rng.uniform(6, 12), int(rng.integers(2))
            box = (rng.uniform(1, 16) + 32 * label, rng.uniform(1, 48), side * wide**label, side)
            yield replace(rhombus(one, box), labels=one.labels | {"colour": label})

    return drawn(60, change)


def by_side(images, task=TASKS[1], sample=(), **changes):
    return list(style.by_side(images, task, INPUT.model_copy(update=changes), sample))


def test_classes_that_a_flip_contradicts_are_known_by_the_side():
    task, images = TASKS[1], sided()
    (finding,) = by_side(images)
    assert finding.cause == "flip_without_pairs" and f"[{', '.join(task.classes[:2])}]" in finding.change
    assert not by_side(images, flip=0.0)
    assert not by_side(images, task.model_copy(update={"flip_pairs": (task.classes[:2],)}))
    assert not by_side(sided(2)), "things of another form, as of a fixed camera"
    assert not by_side(drawn(60))


@pytest.mark.parametrize(
    ("looks", "named"),
    [
        (lambda rng, label, x: rng.uniform(60, 230, 3), True),  # all of one kind, of any colour
        (lambda rng, label, x: rng.uniform(90, 180) + x * np.ones(3), True),  # in light from the right
        (lambda rng, label, x: (60 + 130 * label) * rng.uniform(0.9, 1.1, 3), False),
        (lambda rng, label, x: np.roll([190, 150, 90], label) * rng.uniform(0.8, 1.1), False),
        (lambda rng, label, x: 120 + rng.normal(0, 5 + 25 * label, (SIZE, SIZE, 1)), False),
    ],
    ids=["alike", "light from a side", "brightness", "colour", "texture"],
)
def test_things_that_look_different_in_lanes_of_their_own_are_no_sides(looks, named, tmp_path):
    images, rng = sided(), np.random.default_rng(0)
    for image in images:
        pixels = np.full((SIZE, SIZE, 3), 30.0)
        for one in image.instances:
            inside = masks.mask(one.segmentation, SIZE, SIZE) > 0
            colour = np.broadcast_to(looks(rng, one.labels["colour"], one.bbox[0]), pixels.shape)
            pixels[inside] = colour[inside]
        PIL.Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(tmp_path / image.file_name)
    assert len(by_side(images, sample=alignment.sample(images, root=tmp_path))) == named


def test_a_class_has_one_counterpart_on_the_other_side_and_is_in_several_images():
    rng, task = np.random.default_rng(0), TASKS[1].model_copy(update={"classes": tuple("abcdef")})

    def sided(images):
        def change(instances, number):
            for one in instances * 5 if number < images else ():
                side, label = rng.uniform(6, 12), int(rng.integers(6))
                box = (rng.uniform(1, 16) + 32 * (label > 2), rng.uniform(1, 48), side, side)
                yield replace(rhombus(one, box), labels=one.labels | {"colour": label})

        return drawn(60, change)

    changes = [finding.change for finding in by_side(sided(60), task)]
    named = [name for name in task.classes if any(f"[{name}," in one or f", {name}]" in one for one in changes)]
    assert len(changes) == 3 and len(named) == 6, changes
    assert not by_side(sided(15), task), "of few images, as herds"


def test_classes_that_mean_a_size_contradict_the_jitter():
    rng = np.random.default_rng(0)

    def sized(natural, wide=1):
        """The label follows the size, or the size of each class varies about its own mean. wide: of larger objects."""

        def change(instances, number):
            for one in instances:
                label = int(rng.integers(2))
                side = float(np.clip((10, 24)[label] * np.exp(rng.normal(0, 0.25)), 4, 60))
                if not natural:
                    side = float(rng.uniform(6, 28))
                    label = int(side > 15)
                box = (1, 1, side * wide**label, side / wide**label)
                yield replace(rhombus(one, box), labels=one.labels | {"colour": label})

        return change

    task, jittered = TASKS[1], INPUT.model_copy(update={"min_scale": 0.6, "max_scale": 1.6})
    assert [one.cause for one in style.by_size(drawn(60, sized(False)), task, jittered)] == ["jitter_changes_label"]
    calm = INPUT.model_copy(update={"min_scale": 0.99, "max_scale": 1.01})
    assert not list(style.by_size(drawn(60, sized(False)), task, calm))
    assert not list(style.by_size(drawn(60, sized(True)), task, jittered)), "classes of things that differ in size"
    assert not list(style.by_size(drawn(60, sized(False, 1.4)), task, jittered)), "the larger ones are wide"


def test_sharpness_noise_and_jpeg_quality_are_compared():
    rng = np.random.default_rng(0)
    train = {"sharpness": rng.normal(0.7, 0.1, 80), "noise": rng.normal(2, 0.5, 80), "JPEG quality": np.full(80, 92.0)}
    assert not list(images.textured(train, {name: values[::2] for name, values in train.items()}, "val"))
    for name, values in (("sharpness", 0.2), ("noise", 9.0), ("JPEG quality", 30.0)):
        (finding,) = images.textured(train, train | {name: np.full(30, values)}, "val")
        assert finding.cause == "splits_differ" and name in finding.evidence and finding.where == "val"


def test_looser_outlines_are_found():
    def outlines(offset):
        profile = np.exp(-(((alignment.OFFSETS - offset) / 0.1) ** 2))
        rng = np.random.default_rng(0)
        return [
            alignment.Outlines(
                np.zeros((2, 2)),
                np.zeros((1, 2)),
                np.zeros((1, 3)),
                [],
                profile + rng.normal(0, 0.1, 17),
                "a",
                np.zeros(1, dtype=int),
                np.zeros(0),
            )
            for _ in range(40)
        ]

    (finding,) = alignment.tightness(outlines(0.0), outlines(-0.2), "val")
    assert finding.cause == "outlines_differ" and "looser" in finding.evidence
    assert not alignment.tightness(outlines(0.0), outlines(0.04), "val")


def test_objects_are_compared_in_parts_of_an_image(monkeypatch):
    rng = np.random.default_rng(0)
    image, box = np.repeat([0, 1], 40), rng.integers(0, 30, (80, 4)).astype(float) + (0, 0, 8, 8)
    whole = style._touching(image, box)
    twice = style.Style(drawn(4, lambda instances, number: [*instances, *instances][: 8 if number else 1]))
    rows = style._nested(twice, TASKS)
    monkeypatch.setattr(style, "AT_ONCE", 3)
    assert whole.any() and not whole.all() and (style._touching(image, box) == whole).all()
    assert len(rows) == 3 and (style._nested(twice, TASKS) == rows).all()
