"""Diagnose where AP is lost, whether another ranking gives a higher AP, and whether probabilities are calibrated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from mtseg.checks.findings import Finding
from mtseg.core import masks
from mtseg.core.params import Task
from mtseg.core.tables import UNLABELLED, Pairs, Predictions
from mtseg.diagnosis.classes import learnt
from mtseg.diagnosis.split import Split
from mtseg.evaluation.ap import pairs
from mtseg.evaluation.ap.average_precision import percent
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT
from mtseg.evaluation.ap.rankings import RANKINGS
from mtseg.evaluation.bootstrap import Interval, auc, of_replicates, resamples

GAIN = 0.01  # gain in average precision at IoU 0.5 by another ranking, above which it is reported (99 % interval)
TEMPERATURES = np.geomspace(1 / 32, 32, 41)
OFF = 3.0  # factor by which logits may be too large or too small
UNRELATED = 0.3  # rank correlation of mask quality and IoU below which they are unrelated; correct models: 0.7 to 0.9
CONSTANT, FEWEST = 1e-4, 20  # spread of scores or mask qualities below which they are constant; of so many
SURE = 0.999  # mask quality above which masks have no probabilities
ROUNDED, FEW = 1e-3, 0.01  # difference of probabilities by rounding; share of the predictions that may have more
SAMPLE = 10_000  # predictions whose probabilities are compared
UNSURE, SUREST = 0.1, 0.95  # by which this quantile of the mask quality is below the share of pixels that are right
NATS = 0.1  # smallest gain in mean log-likelihood by the best temperature


def joint_ap(evaluation: Evaluation, labels: dict[str, np.ndarray] | None = None, **options) -> float:
    """Joint AP in percent. labels: other predicted labels of some tasks. options: of `Evaluation.match`."""
    return percent(np.nan_to_num(evaluation.ap(evaluation.joint_with(labels or {}, **options))))


def losses(split: Split) -> dict[str, float]:
    """AP: joint AP in percent. The others: joint AP with one kind of error corrected: labels (of matches), ranking
    (false predictions ranked last), masks (of matches), all_found (objects without a match added as predictions).
    Empty if joint AP is undefined."""
    evaluation, matches, instances = split.evaluation, split.matches, split.images.instances
    if not len(split.predictions) or not evaluation.joint.objects.any():
        return {}
    overlap = np.zeros(len(split.predictions))
    overlap[matches.prediction] = matches.iou
    for task in split.tasks:
        own = split.labelled(task)
        overlap[own.prediction[own.label != own.true]] = 0
    numbers = {"AP": joint_ap(evaluation), "labels": with_labels(split, split.tasks)}

    perfect = _with_masks(split, matches.prediction, matches.instance)
    moved = pairs.of_masks(split.images, perfect)
    moved = moved.replace(prediction=matches.prediction[moved.prediction])
    kept = evaluation.pairs[~np.isin(evaluation.pairs.prediction, matches.prediction)]
    area = split.predictions.area.copy()
    area[matches.prediction] = perfect.area
    given = evaluation.candidates_of(Pairs.concatenate([kept, moved]), area)
    numbers["masks"] = joint_ap(evaluation, candidates=given)

    best_first = overlap - 1e-6 * evaluation.rank / len(overlap)
    numbers["ranking"] = joint_ap(evaluation, rank=evaluation.rank_by(best_first))

    missed = np.setdiff1d(np.flatnonzero(~instances.crowd), matches.instance)
    own = instances[missed]
    true = {f"labels.{task.name}": np.maximum(own.labels[task.name], 0) for task in split.tasks}
    added = _with_masks(split, np.zeros(len(missed), dtype=int), missed)
    added = added.replace(image_id=split.images.id[own.image], query=-1 - missed, **true)
    further = pairs.of_masks(split.images, added)
    further = further.replace(prediction=further.prediction + len(overlap))
    whole = evaluation.replace(
        predictions=Predictions.concatenate([split.predictions, added]),
        pairs=Pairs.concatenate([evaluation.pairs, further]),
    )
    scores = np.append(evaluation.scores, np.full(len(missed), evaluation.scores.max()))
    numbers["all_found"] = joint_ap(whole, rank=whole.rank_by(scores))
    return numbers


def with_labels(split: Split, tasks: Sequence[Task]) -> float:
    """Joint AP in percent if the matches had the right labels of these tasks."""
    labels = {}
    for task in tasks:
        own = split.labelled(task)
        labels[task.name] = split.predictions.labels[task.name].copy()
        labels[task.name][own.prediction] = own.true
    return joint_ap(split.evaluation, labels)


def _with_masks(split: Split, rows: np.ndarray, objects: np.ndarray) -> Predictions:
    """The predictions `rows` [n] with the masks of the instances `objects` [n]."""
    own = split.images.instances[objects]
    columns = {"rle": own.rle, "height": own.height, "width": own.width, "box": own.box}
    return split.predictions[rows].replace(**columns, area=masks.areas(own.rles()))


def constant(split: Split) -> list[Finding]:
    """An error if all predictions have the same score: their order is that of the file."""
    scores = split.evaluation.scores[split.best]
    if len(scores) < FEWEST or np.ptp(scores) >= CONSTANT:
        return []
    evidence = f"the score of all predictions is {scores[0]:.3g}: nothing ranks them"
    change = "keep the scores and probabilities of the network: they must not be rounded or set where predictions are "
    return [Finding("ranking", "error", evidence, f"{change}written or converted")]


def inconsistent(split: Split, *, combined: bool) -> Iterator[Finding]:
    """An error for a task if the probabilities that rank the predictions are not among those of their classes, on a
    sample. combined: one softmax serves all tasks; then those of further tasks are conditional, and are left out."""
    count = len(split.predictions)
    sample = split.predictions[np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(int))]
    for task in split.tasks[:1] if combined else split.tasks:
        own = sample.probability[task.name]
        off = np.abs(sample.probabilities[task.name] - own[:, None]).min(1) > ROUNDED
        if off.sum() > FEW * len(own):
            evidence = f"{off.mean():.0%} of the predictions are ranked by a probability that no class of theirs has, "
            evidence += f"such as {own[off][0]:.3g}"
            change = "keep the scores and probabilities of the network where predictions are written or converted"
            yield Finding("ranking", "error", evidence, change, f"task '{task.name}'")


def rankings(split: Split) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and numbers: joint AP in percent of every ranking; auc of the score in use for hits; quality, the rank
    correlation of mask quality and IoU."""
    evaluation, ranking = split.evaluation, split.evaluation.ranking
    if not len(split.matches):
        return [], {}
    numbers = {name: joint_ap(evaluation, rank=evaluation.rank_by(evaluation.scores_by(name))) for name in RANKINGS}
    sharp = auc(evaluation.scores[split.best], np.isin(split.best, split.matches.prediction))
    numbers["auc"] = sharp.value if sharp else None
    if sharp and sharp.high < 0.5:
        evidence = f"the higher the score, the more often a prediction is false (AUC {sharp.text()})"
        change = "the score is inverted: check mtseg/evaluation/ap/rankings.py and the logits' signs"
        return [Finding("ranking", "error", evidence, change)], numbers
    spread = float(np.ptp(split.predictions.mask_quality[split.best]))
    if spread < CONSTANT and len(split.best) >= FEWEST:  # the filter uses it in any ranking
        value = float(split.predictions.mask_quality[split.best[0]])
        evidence = f"the mask quality of all predictions is {value:.3g}"
        change = "it must be the mean probability inside the mask: check mask_quality (Mask2Former.detect)"
        if value > SURE:  # no network is
            evidence += ": masks were cut at 0 before they were enlarged and measured, or it is not measured"
            return [Finding("postprocessing_wrong", "error", evidence, change)], numbers
        return [Finding("ranking", "error", evidence, change)], numbers
    numbers["quality"] = quality = _quality(split)
    if ranking.endswith("_quality") and quality is not None and quality + 0.1 < UNRELATED:
        evidence = f"the mask quality is unrelated to the masks: its rank correlation with their IoU is {quality:.2f}"
        change = f"check mask_quality (Mask2Former.detect), or set test.ranking: {ranking.removesuffix('_quality')}"
        return [Finding("ranking", "warning", evidence, change)], numbers
    gains = _gains(split)
    best = max(gains, key=lambda name: gains[name].value)
    if gains[best].low <= GAIN:
        return [], numbers
    muted = len(split.trained) < len(split.tasks)  # then the probabilities of a task are known to be random
    evidence = f"by {best} precision is {gains[best].text(1, 100)} points higher than by {ranking} at IoU 0.5; "
    evidence += f"joint AP would be {numbers[best]:.1f} instead of {numbers[ranking]:.1f}"
    return [Finding("ranking", "note" if muted else "warning", evidence, f"set test.ranking: {best}")], numbers


def _quality(split: Split) -> float | None:
    """Rank correlation of mask quality and the best IoU with an object, over the queries of images with objects. None
    with fewer than 100 queries."""
    rows = split.best[split.objects[split.image[split.best]] > 0]
    if len(rows) < 100:
        return None
    return float(spearmanr(split.predictions.mask_quality[rows], split.best_iou[rows]).statistic)


def _gains(split: Split) -> dict[str, Interval]:
    """Gain in AP of each other ranking over the one in use: AP at IoU 0.5 with all labels correct, pooled over the
    combinations of labels. (COCO's mean over combinations depends on a few rare ones.)"""
    evaluation, candidates = split.evaluation, split.evaluation.candidates
    right = ~candidates.crowd[candidates.instance]
    for task in split.tasks:
        true = split.images.instances.labels[task.name][candidates.instance]
        right &= (true == UNLABELLED) | (true == split.predictions.labels[task.name][candidates.prediction])
    columns = {name: getattr(candidates, name)[right] for name in ("prediction", "instance", "iou", "inside")}
    candidates = replace(candidates, **columns)
    one_class = [np.zeros(len(table), dtype=int) for table in (candidates.crowd, split.image)]
    options = {"categories": 1, "max_dets": len(split.image), "thresholds": np.array([HIT]), "candidates": candidates}
    count = len(split.images)
    weights = np.vstack([np.ones(count), resamples(count)])
    precision = {}
    for name in RANKINGS:
        rank = evaluation.rank_by(evaluation.scores_by(name))
        matches = evaluation.match(*one_class, rank=rank, **options)
        precision[name] = np.nan_to_num(evaluation.average_precision(matches, weights)[:, 0, 0])
    gains = {}
    for name in [name for name in precision if name != evaluation.ranking]:
        gain = precision[name] - precision[evaluation.ranking]
        gains[name] = of_replicates(gain[0], gain[1:])
    return gains


def calibration(split: Split) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and for each task the temperature by which its logits should be divided (Guo et al., ICML 2017)."""
    findings, numbers = [*_mask_quality(split)], {}
    for task in split.trained:
        own = split.labelled(task)
        if len(own) < 20 or task.num_classes < 2:
            continue
        logits = split.predictions.logits[task.name][own.prediction][:, : task.num_classes]
        logits = logits - logits[np.arange(len(own)), own.true][:, None]
        loss = np.stack([np.logaddexp.reduce(logits / t, axis=1) for t in TEMPERATURES])
        best = int(loss.mean(1).argmin())
        temperature = numbers[task.name] = float(TEMPERATURES[best])
        bound = int(np.abs(np.log(TEMPERATURES / np.clip(temperature, 1 / OFF, OFF))).argmin())
        now = int(np.abs(np.log(TEMPERATURES)).argmin())
        if not learnt(split, task, by=0):  # a head that has learnt nothing cannot be calibrated
            continue
        if best == bound or split.mean(loss[bound] - loss[best], own).low <= 0:
            continue
        if split.mean(loss[now] - loss[best], own).low > NATS:
            probability = split.predictions.probabilities[task.name][own.prediction].max(1).mean()
            evidence = f"{(own.label == own.true).mean():.0%} of the labels of matched objects are correct, their mean "
            evidence += (
                f"probability is {probability:.0%}: the logits are {max(temperature, 1 / temperature):.0f} times too "
            )
            evidence += "large" if temperature > 1 else "small"
            change = "check the task's head; its probabilities are not usable as thresholds of filter"
            findings.append(Finding("miscalibrated", "warning", evidence, change, f"task '{task.name}'"))
    return findings, numbers


def _mask_quality(split: Split) -> Iterator[Finding]:
    """The mean probability inside a mask is about the share of its pixels that are in the object, or more, as trained
    masks are rather too sure. Those of a short training are unsure, but not all of them."""
    matches = split.matches
    if len(matches) < FEWEST:
        return
    area, true = split.predictions.area[matches.prediction], split.images.instances.area[matches.instance]
    inside = matches.iou / (1 + matches.iou) * (1 + true / area)
    quality = split.predictions.mask_quality[matches.prediction]
    surest, share = float(np.quantile(quality, SUREST)), split.mean(inside, matches)
    if surest < share.low - UNSURE:
        evidence = (
            f"the mask quality of {SUREST:.0%} of the matches is {surest:.2f} or less, but {share.text(0, 100)} % "
        )
        evidence += "of their pixels are in the object"
        change = "it must be the mean probability inside the mask: check mask_quality (Mask2Former.detect)"
        yield Finding("miscalibrated", "warning", evidence, change)
