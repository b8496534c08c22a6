"""Duplicates, queries and detections that are too few, rankings, calibration, and where AP is lost."""

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtseg.diagnosis import detections, ranking
from mtseg.diagnosis.split import Split
from tests import tiny
from tests.diagnosis.answers import QUERIES, combined, healthy, relabelled, split
from tests.scenes import SIZE, box_rle, logits_of, make_tasks

TASKS = make_tasks(3)
GIVEN = {"num_queries": QUERIES, "detections": 100, "max_dets": (1, 10, 100)}


def with_mask(row, mask):
    packed = coco_mask.encode(np.asfortranarray(mask))
    rle, box = {"size": [SIZE, SIZE], "counts": packed["counts"].decode()}, tuple(coco_mask.toBbox(packed))
    place = {"bbox": box} if hasattr(row, "bbox") else {"box": box}
    return replace(row, segmentation=rle, area=float(coco_mask.area(rle)), **place)


def wider(row):
    mask = coco_mask.decode(row.segmentation)
    return with_mask(row, np.max([np.roll(mask, by, axis=1) for by in range(0, 25, 4)], axis=0))


def behind(row):
    """Without a stripe in the middle of the object."""
    mask = coco_mask.decode(row.segmentation)
    rows = np.flatnonzero(mask.any(1))
    mask[rows[len(rows) // 2 - 1] : rows[len(rows) // 2] + 1] = 0
    return with_mask(row, mask)


def causes(findings):
    return [finding.cause for finding in findings]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_correct_model_gives_no_finding(count):
    whole = split(*healthy(make_tasks(count)), make_tasks(count))
    findings, numbers = detections.check(whole, **GIVEN)
    assert not findings and numbers["duplicates"] == 0 and numbers["most_objects"] == 4
    assert not ranking.rankings(whole)[0] and not ranking.calibration(whole)[0]


def test_objects_found_twice():
    images, predictions = healthy(TASKS)
    twice = predictions + [replace(p, query=p.query + QUERIES, mask_quality=p.mask_quality * 0.99) for p in predictions]
    assert causes(detections.check(split(images, twice, TASKS), **GIVEN)[0]) == ["duplicates"]


def test_images_predicted_twice():
    images, predictions = healthy(TASKS)
    other = [replace(p, labels=p.labels | {TASKS[2].name: 1 - p.labels[TASKS[2].name] % 2}) for p in predictions]
    assert not detections.twice(split(images, predictions + other, TASKS)), "a query may be predicted with other labels"
    again = predictions + [p for p in predictions if p.image_id == images[0].id]
    (found,) = detections.twice(split(images, again, TASKS))
    assert (found.cause, found.severity) == ("duplicates", "error") and images[0].file_name in found.evidence
    assert not detections.twice(split(images, [], TASKS))


def test_predictions_with_the_query_of_another_one():
    """As if the index of a pair of query and class was divided by one class too many. In an image of two predictions,
    both have a copy then."""
    images, predictions = healthy(TASKS)
    shifted = [replace(p, labels=predictions[n - n % 3].labels, query=p.query - p.query % 2)
               for n, p in enumerate(predictions)]  # fmt: skip
    of_other = [p for p in shifted if p.image_id != 5] + [replace(predictions[-1], image_id=5)] * 2
    (found,) = detections.twice(split(images, of_other, TASKS))
    assert (found.cause, found.severity) == ("labels_of_other_query", "error")


@pytest.mark.parametrize("name", ["image", "query"])
def test_a_task_may_have_the_name_of_a_column(name):
    task = TASKS[0].model_copy(update={"name": name})
    images, predictions = healthy(TASKS[:1])
    named = [replace(p, labels={name: 0}, logits={name: p.logits["shape"]}) for p in predictions]
    bare = [replace(image, instances=()) for image in images]
    assert not detections.twice(split(bare, named, (task,)))


def test_full_images_that_lose_objects():
    images, predictions = healthy(TASKS, scattered=True)
    full = [image for image in images if len(image.instances) == 3]
    lost = {(image.id, p.query) for image in full for p in predictions if p.image_id == image.id and p.query % 3}
    kept = [p for p in predictions if (p.image_id, p.query) not in lost]
    findings, numbers = detections.check(split(images, kept, TASKS), **GIVEN | {"num_queries": 5})
    assert causes(findings) == ["queries_saturated"] and numbers["missed_crowded"] > 0.5 > numbers["missed_else"]
    assert not detections.check(split(images, predictions, TASKS), **GIVEN | {"num_queries": 5})[0]


def test_where_nothing_is_found_no_query_is_called_empty():
    images, predictions = healthy(TASKS)
    some = [p for p in predictions if p.query == 0]
    assert causes(detections.check(split(images, some, TASKS), **GIVEN)[0]) == ["queries_empty"]
    assert not detections.check(split(images, [], TASKS), **GIVEN)[0]


def test_fewer_detections_than_objects():
    findings, _ = detections.check(split(*healthy(TASKS), TASKS), **GIVEN | {"max_dets": (1, 3)})
    assert causes(findings) == ["detections_too_few"] and "the largest of test.max_dets is 3" in findings[0].evidence


def test_objects_of_train_that_nobody_annotated():
    images, predictions = healthy(TASKS)
    half = [replace(image, instances=image.instances[::2]) for image in images]
    train, val = split(half, predictions, TASKS), split(images, predictions, TASKS)
    for name, one, other in (("train", train, val), ("val", val, train)):
        (finding,) = detections.unannotated(one, other)
        assert finding.cause == "annotations_missing" and f"objects of {name}" in finding.change
    assert not detections.unannotated(val, val)


def test_objects_that_nobody_annotated_in_both_splits():
    images, predictions = healthy(TASKS)
    last = [replace(image, instances=image.instances[-1:]) for image in images]
    both = split(last, predictions, TASKS)
    (finding,) = detections.unannotated(both, both)
    assert (finding.cause, finding.where) == ("annotations_missing", None)
    faint = [replace(p, mask_quality=0.92 * p.mask_quality) if (p.image_id + p.query) % 2 else p for p in predictions]
    kept = {(p.image_id, *np.round(p.box)) for p, own in zip(predictions, faint, strict=True) if p is own}

    def sure(image):
        near = [any(np.abs(np.subtract(box, one.bbox)).max() <= 1 for number, *box in kept if number == image.id)
                for one in image.instances]  # fmt: skip
        return tuple(one for one, own in zip(image.instances, near, strict=True) if own)

    unsure = split([replace(image, instances=sure(image)) for image in images], faint, TASKS)
    assert not detections.unannotated(unsure, unsure), "their masks are less clear: the model may see what is not there"


def test_a_class_of_val_that_nobody_annotated(monkeypatch):
    monkeypatch.setattr(detections, "MARGIN", 1.0)
    images, predictions = healthy(TASKS)
    none = [replace(image, instances=tuple(one for one in image.instances if one.labels["shape"])) for image in images]
    train, val = split(images, predictions, TASKS), split(none, predictions, TASKS)
    (finding,) = detections.unannotated(train, val)
    assert finding.cause == "annotations_missing" and f"of {TASKS[0].classes[0]} in val" in finding.evidence
    assert not detections.unannotated(train, train)


def test_images_of_val_that_nobody_annotated(monkeypatch):
    monkeypatch.setattr(detections, "MARGIN", 1.0)
    images, predictions = healthy(TASKS)
    some = [replace(image, instances=()) if number % 5 == 1 else image for number, image in enumerate(images)]
    train, val = split(images, predictions, TASKS), split(some, predictions, TASKS)
    (finding,) = detections.unannotated(train, val)
    assert finding.cause == "annotations_missing" and "val images without annotations" in finding.evidence
    assert not detections.unannotated(val, val), "train has them as well"


def test_a_part_of_the_images_that_is_not_annotated():
    images, predictions = healthy(TASKS, images=60)
    sound = split(images, predictions, TASKS)
    some = [replace(image, instances=image.instances[:1] * (number % 6 != 1)) if number % 3 == 1 else image
            for number, image in enumerate(images)]  # fmt: skip
    wrong = split(some, predictions, TASKS)
    for train, val, where in ((sound, wrong, "val"), (wrong, sound, "train")):
        (finding,) = detections._some_unannotated(train, val)
        assert finding.cause == "annotations_missing" and finding.where == where
        assert f"% of the {where} images" in finding.evidence and "0 of 60" in finding.evidence
    assert not detections._some_unannotated(sound, sound)


def test_objects_without_an_annotation_that_a_model_finds_as_surely_as_a_quarter_of_the_others():
    train = split(*healthy(TASKS, images=200, seed=1), TASKS)
    images, predictions = healthy(TASKS, images=60)
    lost = {image.id: image.instances[0].bbox for image in [image for image in images if image.instances][:7]}
    near = [p.image_id in lost and np.abs(np.subtract(p.box, lost[p.image_id])).max() <= 1 for p in predictions]
    faint = [replace(p, mask_quality=0.83) if own else p for p, own in zip(predictions, near, strict=True)]
    some = [replace(image, instances=image.instances[image.id in lost :]) for image in images]
    (finding,) = detections._some_unannotated(train, split(some, faint, TASKS))
    assert finding.cause == "annotations_missing" and "0 of 200 in train" in finding.evidence
    unsure = [
        replace(p, mask_quality=p.mask_quality * (0.9 if own else 0.7)) for p, own in zip(faint, near, strict=True)
    ]
    assert not detections._some_unannotated(train, split(some, unsure, TASKS)), "the model is worse on val"


@pytest.mark.parametrize(("beside", "sure", "share"), [(False, 6.0, 0.3), (True, 2.0, 0.3), (True, 2.0, 0.7)])
def test_false_predictions_in_val_that_are_the_models_own(beside, sure, share):
    """Masks beside their objects, or false predictions with lower scores, are errors of the model: it is worse on
    val."""
    images, predictions = healthy(TASKS)
    rng, val = np.random.default_rng(0), []
    for p in predictions:
        if rng.random() < share and p.logits["shape"][-1] < 3:
            x, y, width, height = map(int, p.box)
            place = ((x + 50) % 45, (y + 30) % 45) if beside else (x + width // 2, y)
            mask = box_rle(*place, width, height)
            p = replace(p, segmentation=mask, logits=p.logits | {"shape": logits_of(TASKS[0], p.labels["shape"], sure)})
        val.append(p)
    assert not detections.unannotated(split(images, predictions, TASKS), split(images, val, TASKS))


def test_a_ranking_that_loses_to_another():
    images, predictions = healthy(TASKS)
    rng = np.random.default_rng(0)
    others = rng.permutation(np.array(predictions, dtype=object))
    poor = [  # as sure as the others, of masks that lie elsewhere, which their quality says
        replace(p, query=p.query + 10, mask_quality=0.05, logits=q.logits, labels=q.labels)
        for p, q in zip(others, predictions, strict=True)
    ]
    findings, numbers = ranking.rankings(split(images, predictions + poor, TASKS, ranking="main"))
    assert causes(findings) == ["ranking"] and findings[0].change.endswith("_quality")
    assert numbers["product_quality"] > numbers["main"] + 1


def test_a_mask_quality_that_is_unrelated_to_the_mask():
    images, predictions = healthy(TASKS)
    rng = np.random.default_rng(0)
    blind = [replace(p, mask_quality=float(rng.random())) for p in predictions]
    findings, _ = ranking.rankings(split(images, blind, TASKS))
    assert causes(findings) == ["ranking"] and "mask quality" in findings[0].evidence
    constant = [replace(p, mask_quality=0.5) for p in predictions]
    for name in ("product_quality", "main"):  # the filter uses it in any ranking
        (found,), _ = ranking.rankings(split(images, constant, TASKS, ranking=name))
        assert found.severity == "error" and "the mask quality of all predictions is 0.5" in found.evidence


@pytest.mark.parametrize("by", [20.0, 0.05])
def test_logits_of_another_scale(by):
    images, predictions = healthy(TASKS, images=80)

    def scaled(number, prediction):  # one in ten is wrong, as in life
        values = prediction.logits["fill"]
        turned = (*values[1:3], values[0], values[3]) if number % 10 == 0 else values
        return relabelled(prediction, "fill", tuple(by * value for value in turned))

    hot = [scaled(number, p) for number, p in enumerate(predictions)]
    assert not ranking.calibration(split(images, predictions, TASKS))[0]
    findings, temperatures = ranking.calibration(split(images, hot, TASKS))
    assert [(f.cause, f.where) for f in findings] == [("miscalibrated", "task 'fill'")]
    assert temperatures["fill"] > 5 if by > 1 else temperatures["fill"] < 0.2


def test_a_mask_quality_that_is_lower_than_the_masks_are_good():
    images, predictions = healthy(TASKS)
    rng = np.random.default_rng(0)
    low = [replace(p, mask_quality=1 / (1 + np.exp(-p.mask_quality))) for p in predictions]  # a second sigmoid
    (finding,) = ranking.calibration(split(images, low, TASKS))[0]
    assert finding.cause == "miscalibrated" and finding.where is None
    unsure = [replace(p, mask_quality=float(rng.uniform(0.5, 0.9))) for p in predictions]
    assert not ranking.calibration(split(images, unsure, TASKS))[0]


def test_a_task_that_is_guessed_has_no_temperature():
    images, predictions = healthy(TASKS, images=80)
    rng = np.random.default_rng(0)
    guessed = [relabelled(p, "fill", (*(5 * np.eye(3)[rng.integers(3)]), p.logits["fill"][3])) for p in predictions]
    assert not ranking.calibration(split(images, guessed, TASKS))[0]


def test_where_ap_is_lost():
    images, predictions = healthy(TASKS)
    clean = ranking.losses(split(images, predictions, TASKS))
    found = [replace(p, labels=p.labels | {"fill": (p.labels["fill"] + 1) % 3}) for p in predictions]
    wrong = ranking.losses(split(images, found, TASKS))
    assert wrong["AP"] < 10 and wrong["labels"] == pytest.approx(clean["AP"], abs=2)
    assert clean["masks"] > 99 and clean["all_found"] >= clean["AP"]
    half = [p for p in predictions if p.image_id % 2]
    fewer = ranking.losses(split(images, half, TASKS))
    assert fewer["all_found"] > fewer["AP"] + 30
    assert ranking.losses(split(images, [], TASKS)) == {}


def test_a_filter_that_removes_what_is_right_is_reported():
    whole = split(*healthy(TASKS, images=30), TASKS)
    given = tiny.params().filter.model_copy(update={"min_logit": {}})
    assert not detections.filtered(whole, given.model_copy(update={"min_score": 0.2}))
    for strict in ({"min_score": 0.9999}, {"min_area": 1000}, {"most": 1}, {"most": 3}):
        (finding,) = detections.filtered(whole, given.model_copy(update={"min_score": 0.2} | strict))
        assert finding.cause == "filter_too_strict" and f"{next(iter(strict))} " in finding.evidence
    assert not detections.filtered(whole, given.model_copy(update={"min_score": 0.9999, "thresholds": "auto"}))


def test_thresholds_that_cost_much_of_f1_are_noted():
    """A third of the images have predictions of half the score."""
    images, predictions = healthy(TASKS, images=60)
    less_sure = [replace(p, mask_quality=p.mask_quality / 2) if not p.image_id % 3 else p for p in predictions]
    whole = split(images, less_sure, TASKS)
    given = tiny.params().filter.model_copy(update={"min_logit": {}, "min_score": 0.2})
    (finding,) = detections.filtered(whole, given.model_copy(update={"min_score": 0.6}))
    assert (finding.cause, finding.severity) == ("filter_too_strict", "note") and "min_score 0.6" in finding.evidence
    assert not detections.filtered(whole, given)


def test_thresholds_that_remove_too_little_are_not_called_strict():
    images, predictions = healthy(TASKS, images=30)
    stray = [
        replace(p, mask_quality=0.1, image_id=1 + (p.image_id + step) % 30) for p in predictions for step in (3, 7)
    ]
    given = tiny.params().filter.model_copy(update={"min_logit": {}, "min_score": {}, "nms": "none"})
    assert not detections.filtered(split(images, predictions + stray, TASKS), given)


@pytest.mark.parametrize(
    ("rule", "given"), [("min_area", 330), ("most", 2), ("nms_iou", 0.0), ("largest_component", True)]
)
def test_each_rule_of_the_filter_is_compared_with_its_absence(rule, given, monkeypatch):
    """It removes a part of the objects alone, or makes their masks too small."""
    monkeypatch.setattr(detections, "IMAGES", 25)
    images, predictions = healthy(TASKS, images=30)
    if rule == "nms_iou":  # neighbours touch
        images = [replace(image, instances=tuple(map(wider, image.instances))) for image in images]
        predictions = [wider(p) if p.mask_quality > 0.5 else p for p in predictions]
    if rule == "largest_component":  # an object behind a pole
        images = [replace(image, instances=tuple(map(behind, image.instances))) for image in images]
        predictions = [behind(p) for p in predictions]
    whole = split(images, predictions, TASKS)
    neutral = tiny.params().filter.model_copy(
        update={"min_logit": {}, "min_score": 0.2, "largest_component": False, "min_area": 0, "nms": "agnostic"}
    )
    assert not detections.filtered(whole, neutral)
    for thresholds in ("given", "auto"):
        strict = neutral.model_copy(update={rule: given, "thresholds": thresholds})
        (finding,) = detections.filtered(whole, strict)
        assert finding.cause == "filter_too_strict" and f"filter.{rule} " in finding.change


@pytest.mark.parametrize(("every", "surely"), [(5, True), (8, False)])
def test_a_rule_must_surely_cost_something_and_five_points_of_f1(every, surely):
    """All objects of every fifth image are small: 11.5 (1.8 to 27.7) points; of every eighth: 5.5 (0.0 to 15.4)."""
    images, predictions = healthy(TASKS, images=30)
    rows = [replace(p, area=50.0) if p.mask_quality > 0.5 and not p.image_id % every else p for p in predictions]
    given = tiny.params().filter.model_copy(update={"min_logit": {}, "min_score": 0.2, "min_area": 100})
    assert bool(detections.filtered(split(images, rows, TASKS), given)) == surely


def test_ap_that_rises_up_to_the_limit_of_detections_is_reported():
    images, predictions = healthy(TASKS)
    few = [p for p in predictions if p.query < 4]  # half of the queries
    assert causes(detections.check(split(images, few, TASKS), **GIVEN | {"detections": 4})[0]) == ["detections_too_few"]
    assert not detections.check(split(images, predictions, TASKS), **GIVEN | {"detections": 8})[0]


def test_a_constant_mask_quality_is_an_error():
    images, predictions = healthy(TASKS)
    same = split(images, [replace(p, mask_quality=0.9) for p in predictions], TASKS)
    (finding,) = ranking.rankings(same)[0]
    assert (finding.cause, finding.severity) == ("ranking", "error") and "0.9" in finding.evidence
    decided = split(images, [replace(p, mask_quality=1.0) for p in predictions], TASKS)
    assert causes(ranking.rankings(decided)[0]) == ["postprocessing_wrong"], "no network is as sure"


@pytest.mark.parametrize("name", ["shape", "colour"])
def test_probabilities_that_no_class_has(name):
    whole = split(*healthy(TASKS), TASKS)
    own = whole.predictions.probability[name]
    for fault in (1 - own, own**2, np.ones(len(own))):
        wrong = whole.predictions.replace(**{f"probability.{name}": fault})
        (finding,) = ranking.inconsistent(Split(whole.evaluation.replace(predictions=wrong)), combined=False)
        assert (finding.cause, finding.severity, finding.where) == ("ranking", "error", f"task '{name}'")


def test_probabilities_of_a_correct_model_are_those_of_its_classes():
    images, predictions = healthy(TASKS)
    permuted = [replace(p, labels=p.labels | {"fill": (p.labels["fill"] + 1) % 3}) for p in predictions]
    for rows in (predictions, permuted, []):
        assert not list(ranking.inconsistent(split(images, rows, TASKS), combined=False))
    tasks = make_tasks(3, background=False)
    images, predictions = healthy(tasks)
    rows = combined(predictions, tasks, [(0, 0, 0), (1, 1, 1), (2, 0, 2)])
    assert not list(ranking.inconsistent(split(images, rows, tasks), combined=True)), "conditional probabilities"


def test_equal_scores_rank_nothing():
    images, predictions = healthy(TASKS)
    assert not ranking.constant(split(images, predictions, TASKS))
    whole = split(images, predictions, TASKS)
    columns = ("score", "mask_quality", *(name for name in whole.predictions.names if name.startswith("probability.")))
    equal = whole.predictions.replace(**{name: np.ones(len(whole.predictions)) for name in columns})
    (finding,) = ranking.constant(Split(whole.evaluation.replace(predictions=equal)))
    assert finding.cause == "ranking" and finding.severity == "error"
