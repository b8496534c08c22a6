"""Where AP is lost, whether another ranking (F13) gives more, and whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from mtseg.checks.findings import Finding
from mtseg.core.params import Ranking, Task
from mtseg.core.tables import Image, Prediction
from mtseg.data.coco import rle
from mtseg.diagnosis.case import Case
from mtseg.diagnosis.classes import auc, learnt
from mtseg.diagnosis.intervals import DRAWS, LEVEL, Interval, mean
from mtseg.evaluation import curves
from mtseg.evaluation import predictions as scored
from mtseg.evaluation.average_precision import EVERY, Scorer, joint, summary
from mtseg.evaluation.matching import match

GAIN = 0.01  # of the average precision, with confidence, that another ranking must bring
TEMPERATURES = np.geomspace(1 / 32, 32, 41)
OFF = 3.0  # times too sure or too unsure that need no remark
UNTIED = 0.3  # rank correlation of mask quality with IoU, where sound models have 0.7 to 0.9
PARTS = 20  # that the draws are taken in
NATS = 0.1  # of the mean log-likelihood that the right temperature must bring


def joint_ap(images: Sequence[Image], predictions: Sequence[Prediction], tasks: Sequence[Task], **given) -> float:
    """Joint AP in percent. given: scores, max_dets, and true or found in place of the labels' own."""
    true, found, names = joint(images, predictions, tasks)
    scorer = given.pop("scorer", None) or Scorer(images, predictions)
    run = scorer.run(
        true, given.get("found", found), given["scores"], categories=len(names), max_dets=given["max_dets"], sizes=False
    )
    return summary(run).get("AP", 0.0)


def losses(case: Case, *, ranking: Ranking, max_dets: Sequence[int]) -> dict[str, float]:
    """Joint AP, and what it would be if one thing were perfect: labels (of the objects found), ranking (false
    predictions below all others), masks (of the objects found), all_found (the objects that no mask fits)."""
    images, tasks, pairs = case.images, case.tasks, case.pairs
    predictions = case.predictions
    if not predictions or not len(case.true_picture):
        return {}
    scores = scored.scores(predictions, tasks)[ranking]
    numbers = {"AP": joint_ap(images, predictions, tasks, scores=scores, max_dets=max_dets)}
    truth = dict(zip(pairs.found.tolist(), pairs.true.tolist(), strict=True))

    def ap(changed: list[Prediction], scores: np.ndarray = scores) -> float:
        return joint_ap(images, changed, tasks, scores=scores, max_dets=max_dets)

    def relabelled(p: Prediction, g: int) -> Prediction:
        labels = {t.name: int(case.true_labels[t.name][g]) for t in tasks}
        return replace(p, labels={name: p.labels[name] if label == EVERY else label for name, label in labels.items()})

    def remasked(p: Prediction, g: int) -> Prediction:
        instance, image = case.instances[g], images[case.true_picture[g]]
        mask = rle(instance.segmentation, image.height, image.width)
        return replace(p, segmentation=mask, bbox=instance.bbox, area=instance.area)

    for name, change in (("labels", relabelled), ("masks", remasked)):
        numbers[name] = ap([change(p, truth[i]) if i in truth else p for i, p in enumerate(predictions)])
    best = np.zeros(len(predictions))
    best[pairs.found] = pairs.overlap
    wrong = np.zeros(len(pairs), dtype=bool)
    for task in tasks:
        true = case.true_labels[task.name][pairs.true]
        wrong |= (true != EVERY) & (true != case.labels[task.name][pairs.found])
    best[pairs.found[wrong]] = 0
    numbers["ranking"] = ap(predictions, best + 1e-6 * _ranks(scores))
    missed = np.setdiff1d(np.arange(len(case.true_picture)), pairs.true)
    numbers["all_found"] = ap(
        [*predictions, *(_perfect(case, g) for g in missed)], np.append(scores, np.full(len(missed), scores.max()))
    )
    return numbers


def _ranks(scores: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(scores, kind="stable"), kind="stable") / max(len(scores), 1)


def _perfect(case: Case, g: int) -> Prediction:
    instance, image = case.instances[g], case.images[case.true_picture[g]]
    return Prediction(
        image_id=image.id, query=-1 - g, bbox=instance.bbox, area=instance.area,
        segmentation=rle(instance.segmentation, image.height, image.width), mask_quality=1.0,
        labels={task.name: max(int(case.true_labels[task.name][g]), 0) for task in case.tasks}, logits={},
    )  # fmt: skip


def rankings(case: Case, *, ranking: Ranking, max_dets: Sequence[int]) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and joint AP by every ranking, and auc: of the score in use telling hits from misses."""
    if not case.predictions or not len(case.pairs):
        return [], {}
    all_scores = scored.scores(case.predictions, case.tasks)
    scorer = Scorer(case.images, case.predictions)
    numbers = {
        name: joint_ap(case.images, case.predictions, case.tasks, scores=s, max_dets=max_dets, scorer=scorer)
        for name, s in all_scores.items()
    }
    hit = np.zeros(len(case.predictions), dtype=bool)
    hit[case.pairs.found] = True
    sharp = auc(all_scores[ranking][case.lead], hit[case.lead])
    numbers["auc"] = sharp.value if sharp else None
    if sharp and sharp.high < 0.5:
        return [
            Finding(
                "ranking", "error", f"the higher the score, the more often a prediction is false (AUC {sharp.text()})",
                "the score is inverted: look at mtseg/scoring/predictions.scores and the logits' signs",
            )
        ], numbers  # fmt: skip
    numbers["quality"] = quality = _quality(case)
    if ranking.endswith("_quality") and quality is not None and quality + 0.1 < UNTIED:
        return [
            Finding(
                "ranking", "warning",
                f"the mask quality says nothing of the masks: its rank correlation with their IoU is {quality:.2f}",
                f"look at mask_quality (Mask2Former.detect), or set test.ranking: {ranking.removesuffix('_quality')}",
            )
        ], numbers  # fmt: skip
    gains = _gains(case, all_scores, ranking)
    best = max(gains, key=lambda name: gains[name].value)
    if gains[best].low <= GAIN:
        return [], numbers
    muted = len(case.trained) < len(case.tasks)  # its probabilities are noise, and that is known
    return [
        Finding(
            "ranking", "note" if muted else "warning",
            f"by {best} precision is {gains[best].text(1, 100)} points higher than by {ranking}, "
            f"at IoU 0.5 over all recalls; joint AP is {numbers[best]:.1f}, not {numbers[ranking]:.1f}",
            f"set test.ranking: {best}",
        )
    ], numbers  # fmt: skip


def _quality(case: Case) -> float | None:
    """Rank correlation of mask quality and the best IoU with an object, over all queries of pictures with objects; None
    of fewer than 100."""
    rows = np.concatenate([rows for rows, _, overlap in case.overlaps if overlap.size] or [np.zeros(0, dtype=int)])
    if len(rows) < 100:
        return None
    best = np.concatenate([overlap.max(1) for _, _, overlap in case.overlaps if overlap.size])
    return float(spearmanr(case.quality[rows], best).statistic)


def _gains(case: Case, all_scores: dict[str, np.ndarray], ranking: Ranking) -> dict[str, Interval]:
    """What each other ranking gains over the one in use: of the average precision at IoU 0.5 of predictions with all
    labels right, pooled over the combinations of labels. COCO's mean over combinations hangs on a few rare ones."""
    count = len(case.images)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    draws = np.vstack([np.ones(count, dtype=int), draws])
    objects = np.maximum(draws @ np.bincount(case.true_picture, minlength=count), 1)
    precision = {name: _precision_sums(case, scores, draws) / objects for name, scores in all_scores.items()}
    gains = {}
    for name in [name for name in all_scores if name != ranking]:
        gain = precision[name] - precision[ranking]
        low, high = np.quantile(gain[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        gains[name] = Interval(float(gain[0]), float(low), float(high))
    return gains


def _precision_sums(case: Case, scores: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """[D]: the precision at each hit, summed, of each draw [D, P] of the pictures."""
    order = np.argsort(-scores, kind="stable")
    hits, picture = np.flatnonzero(_hits(case, scores)[order]), case.picture[order]
    counted = np.arange(hits.max(initial=-1) + 1)  # what lies behind the last hit does not matter
    ranked = curves.grouping(np.searchsorted(hits, counted), picture[counted], len(hits), draws.shape[1])
    found = []
    for part in np.array_split(draws.T, PARTS, axis=1):  # all at once take gigabytes
        right = part[picture[hits]]
        found.append((right * right.cumsum(0) / np.maximum((ranked @ part).cumsum(0), 1)).sum(0))
    return np.concatenate(found)


def _hits(case: Case, scores: np.ndarray) -> np.ndarray:
    """bool [N]: which predictions find an object with all labels right, best first, each object once."""
    true = np.column_stack([case.true_labels[task.name] for task in case.tasks])
    found = np.column_stack([case.labels[task.name] for task in case.tasks])
    hits = np.zeros(len(scores), dtype=bool)
    for rows, (lead, objects, overlap) in zip(case.by_picture(case.picture, scores), case.overlaps, strict=True):
        if overlap.size:
            place = {query: row for row, query in enumerate(case.query[lead])}
            masks = overlap[[place[query] for query in case.query[rows]]]
            wanted, said = true[objects][None], found[rows][:, None]
            hits[rows] = match(masks, ((wanted == EVERY) | (wanted == said)).all(2)) >= 0
    return hits


def calibration(case: Case) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and for each task the temperature: what its logits should be divided by (Guo et al., ICML 2017)."""
    findings, numbers = [], {}
    for task in case.trained:
        pairs = case.labelled(task)
        if len(pairs) < 20 or task.num_classes < 2:
            continue
        logits = case.logits[task.name][pairs.found][:, : task.num_classes]
        true = case.true_labels[task.name][pairs.true]
        logits = logits - logits[np.arange(len(true)), true][:, None]
        loss = np.stack([np.logaddexp.reduce(logits / t, axis=1) for t in TEMPERATURES])
        best = int(loss.mean(1).argmin())
        numbers[task.name] = float(TEMPERATURES[best])
        bound = int(np.abs(np.log(TEMPERATURES / np.clip(TEMPERATURES[best], 1 / OFF, OFF))).argmin())
        now = int(np.abs(np.log(TEMPERATURES)).argmin())
        if not learnt(case, task, by=0):  # a head that guesses has no right temperature
            continue
        if best == bound or mean(loss[bound] - loss[best], pairs.picture, len(case.images)).low <= 0:
            continue
        gain = mean(loss[now] - loss[best], pairs.picture, len(case.images))
        if gain.low > NATS:
            sure = case.probability(task)[pairs.found].max(1).mean()
            right = (case.labels[task.name][pairs.found] == true).mean()
            findings.append(
                Finding(
                    "miscalibrated", "warning",
                    f"labels of the objects found are {right:.0%} right and {sure:.0%} sure; the logits are "
                    f"{max(TEMPERATURES[best], 1 / TEMPERATURES[best]):.0f} times too "
                    f"{'large' if TEMPERATURES[best] > 1 else 'small'}",
                    "look at the head's logits; thresholds of filter mean little until then", f"task '{task.name}'",
                )
            )  # fmt: skip
    return findings, numbers
