"""Collapsed, renamed and noisy classes are reported; a correct model gives no finding."""

from dataclasses import replace

import numpy as np
import pytest

from mtseg.diagnosis import classes
from tests.diagnosis.answers import healthy, relabelled, split
from tests.scenes import make_tasks

COUNTS = pytest.mark.parametrize("count", [1, 3, 4])


@COUNTS
def test_a_correct_model_gives_no_finding(count):
    tasks = make_tasks(count)
    whole, other = (split(*healthy(tasks, seed=seed), tasks) for seed in (0, 1))
    findings, numbers = classes.collapses(whole)
    assert not findings and set(numbers) == {task.name for task in tasks}
    assert not classes.permutations(whole, other)
    assert not classes.noise(whole, other)


@COUNTS
def test_a_task_that_says_background_of_what_is_there(count):
    tasks = make_tasks(count)
    images, predictions = healthy(tasks)
    last = tasks[-1]
    silent = [relabelled(p, last.name, (*p.logits[last.name][:-1], 9.0)) for p in predictions]
    ((finding,), _) = classes.collapses(split(images, silent, tasks))
    assert (finding.cause, finding.where) == ("collapse_to_background", f"task '{last.name}'")
    unmatched = (*tasks[:-1], last.model_copy(update={"match_weight": 0.0}))
    ((finding,), _) = classes.collapses(split(images, silent, unmatched))
    assert finding.cause == ("task_untrained_in_matching" if count > 1 else "collapse_to_background")


def test_one_class_for_all():
    tasks = make_tasks(3)
    images, predictions = healthy(tasks)
    same = [relabelled(p, "fill", (0.0, 5.0 + i % 7 / 10, 0.0, 0.0)) for i, p in enumerate(predictions)]
    ((finding,), _) = classes.collapses(split(images, same, tasks))
    assert finding.cause == "collapse_to_class" and "dotted" in finding.evidence


@pytest.mark.parametrize("rare", [0.6, 0.05])
def test_a_class_that_most_objects_have(rare):
    """A correct model predicts it for most objects as well: it has collapsed only if it also predicts it for the
    others. rare: share of these with a correct label."""
    tasks = make_tasks(3)
    images, predictions = healthy(tasks, images=120)
    rng = np.random.default_rng(0)
    common, given = [], []
    for image in images:
        true = [1 if rng.random() < 0.85 else 0 for _ in image.instances]
        instances = [replace(i, labels=i.labels | {"fill": c}) for i, c in zip(image.instances, true, strict=True)]
        common.append(replace(image, instances=tuple(instances)))
        here = [p for p in predictions if p.image_id == image.id]
        for number, p in enumerate(here):
            answer = true[number] if number < len(true) and (true[number] or rng.random() < rare) else 1
            noise = rng.normal(0, 0.3, 4)
            given.append(relabelled(p, "fill", tuple(6.0 * (np.arange(4) == answer) + noise)))
    findings, numbers = classes.collapses(split(common, given, tasks))
    assert numbers["fill"]["true_top_share"] > 0.8
    assert [finding.cause for finding in findings] == ["collapse_to_class"] * (rare < 0.5)


@pytest.mark.parametrize(("order", "cause"), [((1, 2, 0), "labels_off_by_one"), ((1, 0, 2), "labels_permuted")])
def test_classes_under_other_names(order, cause):
    tasks = make_tasks(3)
    images, predictions = healthy(tasks)
    renamed = [
        relabelled(p, "fill", (*(p.logits["fill"][order.index(c)] for c in range(3)), p.logits["fill"][3]))
        for p in predictions
    ]
    sound, wrong = split(images, predictions, tasks), split(images, renamed, tasks)
    (finding,) = classes.permutations(wrong)
    assert finding.cause == cause and "another order" in finding.change
    (finding,) = classes.permutations(wrong, sound)
    assert "annotations of val" in finding.change


def test_classes_under_other_names_of_a_model_that_is_right_for_half_of_the_objects():
    tasks, rng = make_tasks(3), np.random.default_rng(0)
    images, predictions = healthy(tasks, images=120)

    def wrong(order, share):
        """Labels in another order, and this share at random."""
        return [
            relabelled(p, "fill", (*5.0 * np.eye(3)[rng.integers(3) if rng.random() < share else order[c]], -5.0))
            for p in predictions
            for c in [p.labels["fill"]]
        ]

    (finding,) = classes.permutations(split(images, wrong((1, 2, 0), 0.75), tasks))
    assert finding.cause == "labels_off_by_one"
    assert not classes.permutations(split(images, wrong((1, 2, 0), 1.0), tasks)), "any order is better by chance"
    worst = [replace(p, labels=p.labels | {"fill": int(np.argmin(p.logits["fill"][:3]))}) for p in predictions]
    assert not classes.permutations(split(images, worst, tasks)), "not the labels that the model prefers"


def test_labels_that_contradict_a_sure_model():
    tasks = make_tasks(3)
    images, predictions = healthy(tasks, images=120)
    rng, noisy = np.random.default_rng(0), []
    for image in images:
        instances = [
            replace(i, labels=i.labels | {"fill": (i.labels["fill"] + 1) % 3}) if rng.random() < 0.2 else i
            for i in image.instances
        ]
        noisy.append(replace(image, instances=tuple(instances)))
    sound, wrong = split(images, predictions, tasks), split(noisy, predictions, tasks)
    for val in (sound, wrong):
        (finding,) = classes.noise(wrong, val)
        assert (finding.cause, finding.where) == ("label_noise", "task 'fill'")
    assert not classes.noise(sound, sound)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_labels_of_val_alone_that_contradict_the_model(share):
    tasks = make_tasks(3)
    images, predictions = healthy(tasks, images=120)
    rng, noisy = np.random.default_rng(0), []
    for image in images:
        instances = [
            replace(i, labels=i.labels | {"fill": int(i.labels["fill"] + 1 + rng.integers(2)) % 3})
            if rng.random() < share
            else i
            for i in image.instances
        ]
        noisy.append(replace(image, instances=tuple(instances)))
    findings = classes.noise(split(images, predictions, tasks), split(noisy, predictions, tasks))
    assert [(f.cause, f.where) for f in findings] == [("label_noise", "task 'fill'")] * (share > 0.2)
    assert all("val's labels" in f.change for f in findings)


def test_a_model_that_knows_train_by_heart_errs_in_val():
    """If its probability is lower there and its second choice is right, that is no label noise."""
    tasks = make_tasks(3)
    images, predictions = healthy(tasks, images=120)
    rng, val = np.random.default_rng(0), []
    for p in predictions:
        logits = np.array(p.logits["fill"])
        if rng.random() < 0.3 and logits[:3].max() > 3:
            best, other = int(logits[:3].argmax()), int((logits[:3].argmax() + 1) % 3)
            logits[other], logits[best] = logits[best], logits[best] - abs(rng.normal(0, 1))
        val.append(relabelled(p, "fill", tuple(logits)))
    assert not classes.noise(split(images, predictions, tasks), split(images, val, tasks))


def test_images_of_val_that_do_not_show_a_task_have_no_wrong_labels():
    """For example, grey images do not show colour: it is guessed there although it was learnt."""
    tasks = make_tasks(3)
    images, predictions = healthy(tasks, images=120)
    rng = np.random.default_rng(0)
    guessed = [relabelled(p, "fill", (*(2 * rng.random(3)), p.logits["fill"][-1])) for p in predictions]
    assert not classes.noise(split(images, predictions, tasks), split(images, guessed, tasks))


@pytest.mark.parametrize(("hint", "cause"), [(0.0, "label_noise"), (0.2, "too_few_steps")])
@pytest.mark.parametrize("names", [(2,), (0, 1, 2)])
def test_a_task_that_nothing_was_learnt_of_has_no_wrong_labels(names, hint, cause):
    """Unless the other tasks were learnt well: then its labels are random, or, if its logits separate the classes
    already, training was too short."""
    tasks = make_tasks(3)
    images, predictions = healthy(tasks, images=120)
    rng = np.random.default_rng(0)
    for task in (tasks[i] for i in names):
        K, common = task.num_classes, 3 * np.eye(task.num_classes)[0]  # the highest of nearly all
        predictions = [
            relabelled(p, task.name, (*(2 * rng.random(K) + common + hint * np.array(sound[:K])), *sound[K:]))
            for p in predictions
            for sound in [p.logits[task.name]]
        ]
    blind = split(images, predictions, tasks)
    findings = classes.noise(blind, blind)
    assert [(f.cause, f.where) for f in findings] == [(cause, "task 'fill'")] * (len(names) == 1)


def test_one_class_that_is_mislabelled_in_one_split():
    """Predictions of another class show wrong labels only if they are as certain as the right ones."""
    tasks = make_tasks(3)
    images, predictions = healthy(tasks, images=120)
    rng, noisy = np.random.default_rng(0), []
    for image in images:
        instances = [
            replace(i, labels=i.labels | {"fill": 1}) if i.labels["fill"] == 2 and rng.random() < 0.5 else i
            for i in image.instances
        ]
        noisy.append(replace(image, instances=tuple(instances)))
    sound, wrong = split(images, predictions, tasks), split(noisy, predictions, tasks)
    (finding,) = classes.mislabelled(sound, wrong)
    assert (finding.cause, finding.where) == ("label_noise", "task 'fill'") and "in val surely" in finding.evidence
    (finding,) = classes.mislabelled(wrong, sound)
    assert "in train surely" in finding.evidence
    confused = [
        relabelled(p, "fill", (0.0, 1.0, 1.5, 0.0)) if p.labels["fill"] == 1 and rng.random() < 0.4 else p
        for p in predictions
    ]
    assert not classes.mislabelled(sound, split(images, confused, tasks))
    assert not classes.mislabelled(sound, sound)


def test_more_objects_of_a_class_look_like_another_than_an_unsure_model_expects():
    tasks, rng = make_tasks(3), np.random.default_rng(0)
    images, predictions = healthy(tasks, images=120)

    def unsure(wrong):
        """wrong: share of the predictions that name the next class."""
        return [
            relabelled(p, "fill", (*(2.5 * np.eye(3)[(p.labels["fill"] + (rng.random() < wrong)) % 3]), -5.0))
            if p.logits["fill"][-1] < 3 else p
            for p in predictions
        ]  # fmt: skip

    relabelled_images = [
        replace(image, instances=tuple(
            replace(i, labels=i.labels | {"fill": 1}) if i.labels["fill"] == 2 and rng.random() < 0.3 else i
            for i in image.instances))
        for image in images
    ]  # fmt: skip
    sound, wrong = split(images, unsure(0), tasks), split(relabelled_images, unsure(0), tasks)
    (finding,) = classes.unexpected(sound, wrong)
    assert (finding.cause, finding.where) == ("label_noise", "task 'fill'")
    assert "annotated as dotted in val look like others" in finding.evidence
    (finding,) = classes.unexpected(wrong, sound)
    assert "annotated as dotted in train look like others" in finding.evidence
    assert not classes.unexpected(sound, sound) and not classes.unexpected(wrong, wrong), "train has them as well"
    erring = split(images, unsure(0.25), tasks)
    assert not classes.unexpected(sound, erring), "the model is too sure of all classes"


@pytest.mark.parametrize("both", [True, False])
def test_two_classes_that_are_confused_more_often_than_an_unsure_model_expects(both):
    """Too few for either class, whose objects it takes for any other. both: exchanged, or one named as the other."""
    tasks, rng = make_tasks(3), np.random.default_rng(0)
    images, predictions = healthy(tasks, images=60)
    unsure = [
        relabelled(p, "fill", (*(2.0 * np.eye(3)[(p.labels["fill"] + (rng.random() < 0.1)) % 3]), -5.0))
        if p.logits["fill"][-1] < 3 else p
        for p in predictions
    ]  # fmt: skip
    other = {1: 2, 2: 1} if both else {2: 1}
    mixed = [
        replace(image, instances=tuple(
            replace(i, labels=i.labels | {"fill": other.get(i.labels["fill"], i.labels["fill"])})
            if rng.random() < 0.3 else i
            for i in image.instances))
        for image in images
    ]  # fmt: skip
    sound, wrong = split(images, unsure, tasks), split(mixed, unsure, tasks)
    (finding,) = classes.unexpected(sound, wrong)
    assert "the other of the two" in finding.evidence if both else "look like striped" in finding.evidence
    assert not classes.unexpected(sound, sound)


def test_classes_that_are_alike_or_rare_are_no_wrong_labels():
    """A model that is too sure, and confuses two classes where it is less so; three errors in a rare class."""
    tasks, rng = make_tasks(3), np.random.default_rng(0)
    images, predictions = healthy(tasks, images=60)

    def confused(row):
        label = row.labels["fill"]
        wrong = label > 0 and rng.random() < 0.25
        own = (1 + rng.random()) * np.eye(3)[3 - label] if wrong else (5 + rng.random()) * np.eye(3)[label]
        return relabelled(row, "fill", (*own, -5.0))

    sure, alike = ([relabelled(p, "fill", (*9 * np.eye(3)[p.labels["fill"]], -5.0)) for p in predictions],
                   [confused(p) for p in predictions])  # fmt: skip
    train, val = (split(images, answers, tasks) for answers in (sure, alike))
    assert not [one for one in classes.unexpected(train, val) if classes.OTHERS not in one.evidence]
    kept = {image.id: image for image in images[:6]}
    few = [
        replace(image, instances=tuple(i for i in image.instances if i.labels["fill"] != 1 or image.id in kept))
        for image in images
    ]  # fmt: skip
    rare = [p for p in sure if p.labels["fill"] == 1 and p.image_id in kept and p.logits["shape"][-1] < 3][:3]
    erring = [relabelled(p, "fill", (9.0, 0.0, 0.0, -5.0)) if p in rare else p for p in sure]
    assert len(rare) == 3 and not classes.unexpected(train, split(few, erring, tasks))


def test_a_default_that_was_left_in_both_splits():
    tasks, rng = make_tasks(3), np.random.default_rng(0)
    images, predictions = healthy(tasks, images=60)
    given = [
        replace(image, instances=tuple(
            replace(i, labels=i.labels | {"fill": 0}) if rng.random() < 0.3 else i for i in image.instances))
        for image in images
    ]  # fmt: skip
    both = split(given, predictions, tasks)
    (finding,) = classes.defaulted(both, both)
    assert (finding.cause, finding.where) == ("label_noise", "task 'fill'") and "plain" in finding.evidence
    frequent = [
        replace(image, instances=tuple(i for i in image.instances if not i.labels["fill"] or rng.random() < 0.4))
        for image in images
    ]  # fmt: skip
    towards, away = (
        [relabelled(p, "fill", (*5.0 * np.eye(3)[label], -5.0))
         if (p.labels["fill"] > 0) == other and rng.random() < 0.3 else p for p in predictions]
        for other, label in ((True, 0), (False, 1))
    )  # fmt: skip
    for answers, expected in ((towards, 0), (away, 1)):
        found = classes.defaulted(*[split(frequent, answers, tasks)] * 2)
        assert len(found) == expected, "a model prefers a frequent class"
    weighed = tuple(task.model_copy(update={"class_weights": dict.fromkeys(task.classes, 1.0)}) for task in tasks)
    assert not classes.defaulted(*[split(given, predictions, weighed)] * 2)


def exchanged(image):
    """The objects of an image with the labels of the next one."""
    own = image.instances
    labels = [one.labels for one in (*own[1:], *own[:1])]
    return replace(image, instances=tuple(replace(one, labels=other) for one, other in zip(own, labels, strict=True)))


def other_fill(image):
    return replace(
        image,
        instances=tuple(replace(i, labels=i.labels | {"fill": (i.labels["fill"] + 1) % 3}) for i in image.instances),
    )


@pytest.mark.parametrize(
    ("find", "change", "cause"),
    [(classes.exchanged, exchanged, "labels_of_other_query"), (classes.contradicted, other_fill, "label_noise")],
)
def test_a_part_of_the_images_whose_labels_are_wrong(find, change, cause):
    tasks = make_tasks(3)
    images, predictions = healthy(tasks, images=60)
    sound = split(images, predictions, tasks)
    faulty = [change(image) if number < 20 else image for number, image in enumerate(images)]
    wrong = split(faulty, predictions, tasks)
    for train, val, where in ((sound, wrong, "val"), (wrong, sound, "train")):
        (finding,) = find(train, val)
        assert (finding.cause, finding.where) == (cause, where)
        assert sound.images.file_name[1] in finding.evidence
    assert not find(sound, sound) and not find(wrong, wrong)


@pytest.mark.parametrize(("find", "change"), [(classes.exchanged, exchanged), (classes.contradicted, other_fill)])
def test_a_few_images_of_a_small_split_do_not_tell_how_often_the_model_errs(find, change):
    tasks = make_tasks(3)
    images, predictions = healthy(tasks, images=340)
    faulty = [change(image) if number % 8 == 5 else image for number, image in enumerate(images)]
    few = [change(image) if number % 20 == 5 else image for number, image in enumerate(images)]
    train = split(faulty[:240], [row for row in predictions if row.image_id <= 240], tasks)
    val = split(few[240:], [row for row in predictions if row.image_id > 240], tasks)
    assert not find(train, val)
    assert find(train, split(images, predictions, tasks)), "of a large split they do"


def test_single_objects_whose_labels_are_surely_wrong():
    """One object in most images, whose others are right."""
    tasks = make_tasks(3)
    images, predictions = healthy(tasks, images=60)

    def first_wrong(image):
        return replace(image, instances=other_fill(image).instances[:1] + image.instances[1:])

    faulty = [first_wrong(image) if number % 4 else image for number, image in enumerate(images)]
    sound, wrong = (split(own, predictions, tasks) for own in (images, faulty))
    for train, val, where in ((sound, wrong, "val"), (wrong, sound, "train")):
        (finding,) = classes.contradicted(train, val)
        assert finding.cause == "label_noise" and f"of the labels in {where}" in finding.evidence
        assert ".jpg" in finding.evidence


def test_errors_of_the_model_itself_are_no_wrong_labels():
    """It errs in a fifth of val's objects, and is less sure there than where it is right."""
    tasks, rng = make_tasks(3), np.random.default_rng(0)
    images, predictions = healthy(tasks, images=60)
    erring = [
        relabelled(p, "fill", (0.0, 1.0, 1.6, 0.0)) if p.labels["fill"] == 1 and rng.random() < 0.5 else p
        for p in predictions
    ]
    for find in (classes.contradicted, classes.exchanged):
        assert not find(split(images, predictions, tasks), split(images, erring, tasks))


def test_labels_are_not_wrong_in_images_of_which_the_model_is_unsure():
    """Val shows things in another way: the model errs there, and is less certain everywhere."""
    tasks, rng = make_tasks(3), np.random.default_rng(0)
    images, predictions = healthy(tasks, images=120)
    labels = [
        replace(image, instances=tuple(
            replace(i, labels=i.labels | {"fill": (i.labels["fill"] + 1) % 3}) if rng.random() < 0.35 else i
            for i in image.instances
        )) for image in images
    ]  # fmt: skip
    doubtful = [replace(p, logits=p.logits | {"fill": tuple(0.6 * v for v in p.logits["fill"])}) for p in predictions]
    train, wrong = split(images, predictions, tasks), split(labels, predictions, tasks)
    assert classes.noise(train, wrong) and classes.as_certain(train, wrong, tasks[2])
    unsure = split(labels, doubtful, tasks)
    assert not classes.as_certain(train, unsure, tasks[2])
    assert not [
        *classes.noise(train, unsure),
        *classes.mislabelled(train, unsure),
        *classes.contradicted(train, unsure),
    ]
