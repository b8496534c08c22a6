"""Diagnose queries and detections: duplicates, too few or unused queries, missing annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from mtseg.checks.findings import Finding
from mtseg.checks.strays import a_part, described, more
from mtseg.core.params import Filter
from mtseg.diagnosis.ranking import joint_ap
from mtseg.diagnosis.split import Split
from mtseg.evaluation import f1, thresholds
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT
from mtseg.evaluation.bootstrap import Interval, auc, of_replicates, proportion, ratio, resamples
from mtseg.evaluation.filter import apply, reaches

DUPLICATES = 0.8  # per matched object: reported if the 99 % interval is above; a short training leaves 0.4 to 0.7
CROWDED = 0.5  # objects over queries, above which DETR starts to miss objects (its section 4.3)
APART = 0.1  # mask IoU below which a prediction belongs to none of the objects
SEPARATE = 0.8  # AUC of the score for hits; below, predictions apart from all objects have about the same scores
FEW, RISE = 30, 2.0  # detections per image, and joint AP by which the second half of these raises it
NEUTRAL = {  # rules of the filter -> values with which it removes nothing, or what is usual
    "drop_background": (False,), "largest_component": (False,), "min_area": (0,), "nms_iou": (0.5,), "nms": ("none",),
    "most": (None,),
}  # fmt: skip
IMAGES = 1000  # on which the filter is tried, at most
LOST = 0.05  # joint F1 that a rule must cost, and surely some
FEWEST, KEPT, TIMES = 20, 0.25, 0.5  # predictions; share that the filter should keep; of the tuned joint F1
MOST_KEPT, NOTED = 0.9, 0.1  # given limits that keep less are mentioned if tuned ones surely add so much joint F1
MARGIN = 0.03  # share of the confident predictions, by which val must surely have more without an object than train
FEWEST_EMPTY, SURELY_SHOWN = 5, 0.3  # images without objects; share with sure predictions, if train has no such images
SURE, LESS_SURE = 0.25, 0.1  # quantiles of the hits' scores, from which a prediction is sure
AS_SURE, MORE_MISSED = (
    0.7,
    0.1,
)  # AUC of these scores in train against val, and further misses, of a model that is as sure
BY_CHANCE = 0.03  # share of the images in which a model surely finds something where nothing is, at most
OF_A_CLASS = 0.2  # the same, of the confident predictions of one class
TWICE = 0.9  # share of an image's predictions that have a copy if it was predicted twice
CLEAR = 0.75  # AUC of the masks' quality for hits, below which that of other predictions is about the same
LEFT_OUT, MISSED = 0.1, 0.3  # share of the surest predictions without any object; of train's objects that are missed
LEVEL = 0.001  # significance level of the test whether crowded images miss more objects


def twice(split: Split) -> list[Finding]:
    """An error if predictions have the query and labels of another one: their images were predicted twice if nearly all
    predictions of most have a copy, or else the query is wrong."""
    own, count = split.predictions, len(split.images)
    repeated = pd.DataFrame(np.column_stack([split.image, own.query, *own.labels.values()])).duplicated(keep=False)
    images, copies = np.unique(split.image[repeated], return_counts=True)
    if not len(images):
        return []
    share = copies / np.bincount(split.image)[images]
    cause, change = "duplicates", "predict each image once: run `dvc repro predict`"
    what = "are predicted twice: predictions have the same query and labels"
    if np.median(share) < TWICE:
        cause = "labels_of_other_query"
        change = "index masks, scores and the labels of all tasks by one index (Mask2Former.detect)"
        what = "have predictions of the same query and labels, which a query has once: it is not theirs"
    files = split.images.file_name[images].tolist()
    return [Finding(cause, "error", f"{described(files, count, 'val')} {what}", change, files=files)]


def check(
    split: Split, *, num_queries: int, detections: int, max_dets: Sequence[int]
) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and numbers: duplicates (further confident predictions per matched object), missed (share of the
    objects without a match), active_queries (share of the queries with a match in any image), most_objects (in an
    image). num_queries, detections, max_dets: of model and test in params.yaml."""
    objects, matched, repeated = split.objects, split.per_image(split.matches.prediction), duplicates(split)
    most = int(objects.max(initial=0))
    active = len(np.unique(split.predictions.query[split.matches.prediction])) / num_queries
    numbers = {
        "duplicates": repeated.value if repeated else None,
        "missed": split.missed,
        "active_queries": active,
        "most_objects": most,
    }
    findings = []
    if repeated and repeated.low > DUPLICATES:
        evidence = f"each matched object has {repeated.text()} further confident predictions"
        change = "check the matching (one query an object) and loss.no_object; until then, filter.nms_iou removes them"
        findings.append(Finding("duplicates", "warning", evidence, change))
    limits = {"test.detections": detections, "the largest of test.max_dets": max(max_dets)}
    if low := {name: limit for name, limit in limits.items() if limit < most}:
        evidence = f"{(objects > min(low.values())).sum()} val images have more objects (up to {most}) than the limit: "
        evidence += " and ".join(f"{name} is {limit}" for name, limit in low.items())
        change = f"raise {' and '.join(low)} to {most} or more"
        findings.append(Finding("detections_too_few", "warning", evidence, change))
    elif detections < FEW and len(split.matches):
        findings += _rising(split, detections)
    crowded = objects > CROWDED * num_queries
    table = [[(objects - matched)[part].sum(), matched[part].sum()] for part in (crowded, ~crowded)]
    if crowded.any() and (~crowded & (objects > 0)).any():
        missed = [lost / max(lost + kept, 1) for lost, kept in table]
        level = fisher_exact(table, alternative="greater").pvalue
        numbers |= {"missed_crowded": missed[0], "missed_else": missed[1]}
        if level < LEVEL and missed[0] > 2 * missed[1] and missed[0] > 0.5:
            evidence = f"{missed[0]:.0%} of the objects are missed in images with over {CROWDED * num_queries:.0f}, "
            evidence += f"{missed[1]:.0%} in the others (p = {level:.1g})"
            change = f"raise model.num_queries ({num_queries}) and train again"
            findings.append(Finding("queries_saturated", "warning", evidence, change))
    if 0 < active < 0.5:  # 0: nothing is detected at all, for other reasons
        evidence = f"only {active:.0%} of the {num_queries} queries detect an object in any val image"
        change = f"model.num_queries can be lowered to save time: images have up to {most} objects"
        findings.append(Finding("queries_empty", "note", evidence, change))
    return findings, numbers


def _rising(split: Split, limit: int) -> list[Finding]:
    """A warning if AP still rises much with the number of predictions per image at the limit."""
    evaluation, half = split.evaluation, max(1, limit // 2)
    order = np.lexsort((evaluation.rank, split.image))
    place = np.empty(len(order), dtype=int)
    place[order] = np.arange(len(order)) - np.searchsorted(split.image[order], split.image[order])
    fewer, now = (joint_ap(evaluation, kept=place < count) for count in (half, limit))
    if now - fewer < RISE:
        return []
    evidence = f"joint AP is {fewer:.1f} with {half} predictions per image and {now:.1f} with {limit}, the limit"
    return [Finding("detections_too_few", "warning", evidence, "raise test.detections, to 100 as COCO does")]


def filtered(split: Split, settings: Filter) -> list[Finding]:
    """A warning for the rule of the filter without which joint F1 surely rises most, if by much. Thresholds that were
    given are a choice between precision and recall: only very strict ones count, and strict ones are noted."""
    if len(split.images) > IMAGES:
        images = split.images[np.linspace(0, len(split.images) - 1, IMAGES).astype(int)]
        own = split.predictions[np.isin(split.predictions.image_id, images.id)]
        split = Split(Evaluation(images, own, tasks=split.tasks, ranking=split.evaluation.ranking))
    if not len(split.matches):
        return []
    tuned = settings.thresholds == "auto"
    if tuned:
        settings = settings.model_copy(update=thresholds.pick(split.evaluation, settings))
    now = _f1_counts(split, settings)
    gains = {}
    for key, values in NEUTRAL.items():
        for value in values:
            if getattr(settings, key) != value and not (key == "nms_iou" and settings.nms == "none"):
                gains[key, value] = _gain(now, _f1_counts(split, settings.model_copy(update={key: value})))
    (key, value), gain = max(gains.items(), key=lambda item: item[1].value, default=(("", None), None))
    if gain is not None and gain.low > 0 and gain.value > LOST:
        before, own = f1.summary(now).get("joint_f1", 0.0), getattr(settings, key)
        evidence = (
            f"joint F1 is {before:.1f} with filter.{key} {json.dumps(own)}, and {gain.text(1, 100)} points more with "
        )
        change = f"set filter.{key} to {json.dumps(value)}, or to what the objects of val need"
        return [Finding("filter_too_strict", "warning", f"{evidence}{json.dumps(value)}", change)]
    return [] if tuned else _thresholds(split, settings, now)


def _thresholds(split: Split, settings: Filter, now: np.ndarray) -> list[Finding]:
    """A warning if the limits together remove nearly all confident matches, and tuned thresholds do much better; a note
    if they remove some and these surely add much. now: `_f1_counts` of these settings."""
    rows = np.intersect1d(split.matches.prediction, split.confident())
    if len(rows) < FEWEST:
        return []
    matched = split.predictions[rows]
    kept = reaches(matched, settings) & (matched.area >= settings.min_area)
    if kept.mean() > MOST_KEPT:
        return []
    loose = settings.model_copy(update={"min_area": 0, "most": None})
    loose = loose.model_copy(update=thresholds.pick(split.evaluation, loose))
    tuned = _f1_counts(split, loose)
    own, best = (f1.summary(counts).get("joint_f1", 0.0) for counts in (now, tuned))
    ruins, gain = kept.mean() <= KEPT and own <= TIMES * best, _gain(now, tuned)
    if not ruins and (gain.value < NOTED or gain.low <= 0):
        return []
    keys = ("min_score", "min_logit", "min_area", "most")
    given, picked = (", ".join(f"{key} {json.dumps(getattr(one, key))}" for key in keys) for one in (settings, loose))
    evidence = (
        f"the filter removes {1 - kept.mean():.0%} of the confident predictions that match an object: joint F1 is "
        f"{own:.1f} with {given}, and {best:.1f} with tuned thresholds ({picked})"
    )
    change = "lower filter.min_score and the other limits, or set filter.thresholds: auto"
    return [Finding("filter_too_strict", "warning" if ruins else "note", evidence, change)]


def _f1_counts(split: Split, settings: Filter) -> np.ndarray:
    """Of `f1.counts` [I, 4] after the filter."""
    *_, last = apply(split.evaluation, settings).steps.values()
    return f1.counts(last.evaluation, last.as_mask())


def _gain(now: np.ndarray, then: np.ndarray) -> Interval:
    """Gain in joint F1 (0 to 1), on the same bootstrap samples of the images. now, then: of `_f1_counts`."""
    weights = np.vstack([np.ones(len(now)), resamples(len(now))])
    before, after = (np.nan_to_num(f1.shares(weights @ counts)["joint_f1"]) for counts in (now, then))
    return of_replicates(after[0] - before[0], (after - before)[1:])


def duplicates(split: Split) -> Interval | None:
    """Confident predictions without a match that overlap an object with IoU >= 0.5, per matched object."""
    rows = split.confident()
    matched = np.isin(rows, split.matches.prediction)
    further = rows[~matched & (split.best_iou[rows] >= HIT)]
    return ratio(split.per_image(further), split.per_image(rows[matched]))


def unannotated(train: Split, val: Split) -> list[Finding]:
    """A warning if more confident predictions are false in one split than in the other: objects are not annotated
    there, or those of one class, or of whole images. Since a model is worse on val anyway, false predictions of val
    count only if they overlap no annotation, and only if their scores are about those of the hits."""
    in_train, in_val = (_false(split, val.threshold) for split in (train, val))
    if in_train and in_val and in_train.low >= in_val.high + 0.05:
        return [_missing("train", in_train, in_val)]
    in_train, in_val = (_false(split, train.threshold, APART) for split in (train, val))
    if in_train and in_val and in_val.low >= in_train.high + MARGIN:
        separation = _separation(val, val.confident(train.threshold))
        if separation and separation.high < SEPARATE:
            return [_missing("val", in_val, in_train)]
    in_train, in_val = (_empty(split) for split in (train, val))
    if len(in_val) >= FEWEST_EMPTY:
        shown, known = proportion(in_val), len(in_train) >= FEWEST_EMPTY
        table = [[own.sum(), (~own).sum()] for own in (in_val, in_train)]
        level = fisher_exact(table, alternative="greater").pvalue
        if level < LEVEL if known else shown.low > SURELY_SHOWN:
            evidence = f"the model surely finds objects in {shown.text(0, 100)} % of the val images without annotations"
            return [
                Finding("annotations_missing", "warning", evidence, "annotate these images, or leave them out", "val")
            ]
    main = train.tasks[0]
    for label, name in enumerate(main.classes):
        in_train, in_val = (_apart(split, train.threshold, main.name, label) for split in (train, val))
        rows = val.confident(train.threshold)
        separation = _separation(val, rows[val.predictions.labels[main.name][rows] == label])
        sure = separation is None or separation.value < SEPARATE  # None: hardly any of the class is annotated
        if in_val.low > in_train.high + OF_A_CLASS and sure:
            return [_missing("val", in_val, in_train, f" of {name}")]
    return _some_unannotated(train, val) or _in_both(train, val)


def _in_both(train: Split, val: Split) -> list[Finding]:
    """A warning if many predictions of both splits, as sure as most hits and with masks as clear, lie where nothing is
    annotated, also in the images to which the model was fitted: objects are left out everywhere. What a model takes
    for objects has less clear masks."""
    shares = [_false(split, _least(split, SURE), APART) for split in (train, val)]
    if train.missed > MISSED or not all(share and share.low > LEFT_OUT for share in shares):
        return []
    if not all(_as_clear(split, split.confident(_least(split, SURE))) for split in (train, val)):
        return []
    evidence = f"{shares[0].text(0, 100)} % of the surest predictions in train images and {shares[1].text(0, 100)} % "
    evidence += "in val lie where nothing is annotated"
    change = "look at them: if they show objects, annotate these in both splits, as others are learnt as background"
    return [Finding("annotations_missing", "warning", evidence, change)]


def _as_clear(split: Split, rows: np.ndarray) -> bool:
    """Whether the masks of predictions (rows) that belong to no object are about as clear as those of hits."""
    matched = np.isin(rows, split.matches.prediction)
    compared = matched | (split.best_iou[rows] < APART)
    lead = auc(split.predictions.mask_quality[rows][compared], matched[compared])
    return lead is not None and lead.value < CLEAR


def _some_unannotated(train: Split, val: Split) -> list[Finding]:
    """A warning for a part of the images of one split, in which the model surely finds an object where none is
    annotated, or one of a class. A model that finds the objects of val about as surely as those of train makes as few
    false predictions on both: then train shows the chance, otherwise it is at least `BY_CHANCE`."""
    splits, main = {"train": train, "val": val}, train.tasks[0]
    alike = _as_sure(train, val)
    for name, other in (("val", "train"), ("train", "val")):
        here, there = splits[name], splits[other]
        # the quantiles do not count as tests of their own: whatever exceeds one nearly always exceeds the other
        kinds = [None, *range(main.num_classes)] if alike else [None]
        for kind, quantile in product(kinds, (LESS_SURE, SURE) if alike else (SURE,)):
            least = _least(here, quantile)
            own, its = (_surely_apart(split, least, main.name, kind) for split in (here, there))
            count, known = len(here.images), len(there.images)
            if alike:
                surely = more(len(own), count, len(its), known, level=LEVEL / len(kinds))
            else:
                surely = a_part(len(own), count, max((len(its) + 1) / (known + 1), BY_CHANCE))
            if surely:
                what = "objects" if kind is None else f"objects of {main.classes[kind]}"
                files = here.images.file_name[own].tolist()
                part = described(files, count, name)
                evidence = f"the model surely finds {what} without an annotation in {part}, and in {len(its)} of "
                change = "annotate them, or leave the images out"
                evidence = f"{evidence}{known} in {other}"
                return [Finding("annotations_missing", "warning", evidence, change, name, files)]
    return []


def _as_sure(train: Split, val: Split) -> bool:
    """Whether the model finds the objects of val about as surely as those of train."""
    hits = [split.score[split.matches.prediction] for split in (train, val)]
    if min(map(len, hits)) < FEWEST or val.missed > train.missed + MORE_MISSED:
        return False
    lead = auc(np.concatenate(hits), np.arange(sum(map(len, hits))) < len(hits[0]))
    return lead is None or lead.value < AS_SURE


def _least(split: Split, quantile: float) -> float:
    """The quantile of the scores of the hits."""
    return float(np.quantile(split.score[split.matches.prediction], quantile)) if len(split.matches) else np.inf


def _surely_apart(split: Split, least: float, task: str, label: int | None) -> np.ndarray:
    """int: rows of the images with a prediction that belongs to no object, with a score from `least` on. label: of the
    task; None for any."""
    rows = split.confident(least)
    rows = rows[(split.best_iou[rows] < APART) & ~np.isin(rows, split.matches.prediction)]
    return np.unique(split.image[rows[label is None or split.predictions.labels[task][rows] == label]])


def _empty(split: Split) -> np.ndarray:
    """bool: of each image without objects, whether it has a prediction with a score above the `SURE` quantile of the
    hits."""
    return np.isin(np.flatnonzero(split.objects == 0), split.image[split.confident(_least(split, SURE))])


def _separation(split: Split, rows: np.ndarray) -> Interval | None:
    """AUC of the scores of predictions (rows) for hits against those that belong to no object."""
    matched = np.isin(rows, split.matches.prediction)
    compared = matched | (split.best_iou[rows] < APART)
    return auc(split.score[rows][compared], matched[compared])


def _apart(split: Split, threshold: float, task: str, label: int) -> Interval:
    """Share of the confident predictions of a class that belong to no object."""
    rows = split.confident(threshold)
    rows = rows[split.predictions.labels[task][rows] == label]
    return proportion(~np.isin(rows, split.matches.prediction) & (split.best_iou[rows] < APART))


def _false(split: Split, threshold: float, overlap: float = 1.0) -> Interval | None:
    """Share of the predictions with scores from `threshold` that match no object and overlap each with IoU below
    `overlap`."""
    rows = split.confident(threshold)
    false = rows[~np.isin(rows, split.matches.prediction) & (split.best_iou[rows] < overlap)]
    return ratio(split.per_image(false), split.per_image(rows))


def _missing(split: str, here: Interval, there: Interval, of: str = "") -> Finding:
    other = "val" if split == "train" else "train"
    evidence = f"{here.text(0, 100)} % of the confident predictions{of} in {split} images match no annotation, "
    evidence += f"{there.text(0, 100)} % in {other}"
    change = f"annotate the missing objects of {split}"
    return Finding("annotations_missing", "warning", evidence, change)
