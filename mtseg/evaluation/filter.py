"""The post-filter: rules that turn the model's predictions, with their contradictions and duplicates, into one answer.

A rule takes what is left and returns what it keeps. Their order: first what judges a prediction by itself, so that none
is dropped because of another that is dropped anyway (a mask whose label is background must not suppress its sound
twin). Masks are cleaned before they are measured and compared, and only where labels and scores have passed, since that
is slow. At the end come the rules that weigh predictions against each other: duplicates, and of what is left the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask
from scipy.ndimage import label
from scipy.sparse import block_diag, coo_array, csr_array

from mtseg.core import masks
from mtseg.core.params import Filter
from mtseg.core.tables import Pairs, Predictions
from mtseg.evaluation import f1
from mtseg.evaluation.ap import pairs as overlapping
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.bootstrap import draws, interval


@dataclass(frozen=True)
class Kept:
    """Predictions that are left. rows: int [n], image by image, the best first. overlap: sparse [n, n], mask IoU of
    each with those before it in its image; None until `compared`."""

    evaluation: Evaluation
    rows: np.ndarray
    overlap: csr_array | None = None

    @classmethod
    def all(cls, evaluation: Evaluation) -> Kept:
        return cls(evaluation, np.lexsort((evaluation.rank, evaluation.image)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, kept: np.ndarray) -> Kept:
        """kept: bool [n], or int, ascending."""
        overlap = None if self.overlap is None else self.overlap[kept][:, kept]
        return replace(self, rows=self.rows[kept], overlap=overlap)

    @property
    def predictions(self) -> Predictions:
        return self.evaluation.predictions[self.rows]

    @property
    def image(self) -> np.ndarray:
        return self.evaluation.image[self.rows]

    def compared(self) -> Kept:
        """The same with `overlap`. A mask is compared once, however many predictions share it."""
        if self.overlap is not None or not len(self):
            return self
        blocks, every = [], self.predictions.rles()
        for own in np.split(np.arange(len(self)), np.flatnonzero(np.diff(self.image)) + 1):
            distinct = {every[row]["counts"]: every[row] for row in own}
            place = {counts: i for i, counts in enumerate(distinct)}
            which = [place[every[row]["counts"]] for row in own]
            iou = masks.iou(list(distinct.values()), list(distinct.values()))
            blocks.append(csr_array(np.tril(iou[np.ix_(which, which)], -1)))  # mostly zeros
        return replace(self, overlap=csr_array(block_diag(blocks, format="csr")))

    def as_mask(self) -> np.ndarray:
        """bool [N], of all predictions."""
        mask = np.zeros(len(self.evaluation.predictions), dtype=bool)
        mask[self.rows] = True
        return mask


def background(kept: Kept, settings: Filter) -> Kept:
    """Drop what a further task calls background: its likeliest output is the no-object slot."""
    if not settings.drop_background:
        return kept
    predictions, dropped = kept.predictions, np.zeros(len(kept), dtype=bool)
    for task in kept.evaluation.tasks[1:]:
        dropped |= predictions.probabilities[task.name].argmax(axis=1) >= task.num_classes
    return kept[~dropped]


def low_score(kept: Kept, settings: Filter) -> Kept:
    """Keep label probability x mask quality >= min_score, of the main task or of each that is named."""
    values = label_scores(kept.predictions)
    main, *_ = values
    return kept[_reach(values, settings.min_score, [main])]


def low_logit(kept: Kept, settings: Filter) -> Kept:
    """Keep what has labels with logits >= min_logit, of every further task or of each that is named."""
    values = kept.predictions.logit
    _, *further = values
    return kept[_reach(values, settings.min_logit, further)]


def largest_component(kept: Kept, settings: Filter) -> Kept:
    """Of each mask keep the largest part whose pixels touch, by side or corner; its box and area follow. Drops none."""
    if not settings.largest_component:
        return kept
    evaluation, predictions = kept.evaluation, kept.evaluation.predictions
    columns = {name: predictions.column(name).copy() for name in ("rle", "box", "area")}
    known, changed = {}, []
    for row, mask in zip(kept.rows.tolist(), kept.predictions.rles(), strict=True):
        key = evaluation.image[row], mask["counts"]
        if key not in known:
            known[key] = _largest_component(mask)
        if known[key]:
            columns["rle"][row], columns["box"][row], columns["area"][row] = known[key]
            changed.append(row)
    if not changed:
        return kept
    return Kept(_with_masks(evaluation, predictions.replace(**columns), np.array(changed)), kept.rows)


def small(kept: Kept, settings: Filter) -> Kept:
    """Keep masks of min_area pixels or more."""
    return kept[kept.predictions.area >= settings.min_area]


def duplicate(kept: Kept, settings: Filter) -> Kept:
    """Mask NMS: of two masks that overlap by more than nms_iou the one with the better ranking score stays.

    agnostic: of any classes, and so one class a mask; class: of the same main class; matrix: of the same main class
    too, by Matrix NMS (SOLOv2, arXiv 2003.10152, its linear decay), which lets a mask go less easily when what overlaps
    it is overlapped itself. SOLOv2 multiplies scores by that decay; here it is compared with 1 - nms_iou.
    """
    if settings.nms == "none" or not len(kept):
        return kept
    kept = kept.compared()
    pairs = kept.overlap.tocoo()
    if settings.nms != "agnostic":
        main = next(iter(kept.predictions.labels.values()))
        same = main[pairs.row] == main[pairs.col]
        pairs = coo_array((pairs.data[same], (pairs.row[same], pairs.col[same])), shape=pairs.shape)
    return kept[(_matrix if settings.nms == "matrix" else _greedy)(pairs, settings.nms_iou)]


def surplus(kept: Kept, settings: Filter) -> Kept:
    """Keep the best `most` of each image."""
    if settings.most is None:
        return kept
    first = np.searchsorted(kept.image, kept.image)  # row of each image's best
    return kept[np.arange(len(kept)) - first < settings.most]


RULES = (background, low_score, low_logit, largest_component, small, duplicate, surplus)


@dataclass(frozen=True)
class Filtered:
    """steps: what was there at first, `raw`, and what each rule left, by the rule's name."""

    steps: dict[str, Kept]

    @property
    def predictions(self) -> tuple[Predictions, Pairs]:
        """What is left at the end, in the order given, and its pairs with the ground truth."""
        *_, last = self.steps.values()
        kept = last.as_mask()
        pairs = last.evaluation.pairs[kept[last.evaluation.pairs.prediction]]
        return last.evaluation.predictions[kept], pairs.replace(prediction=(np.cumsum(kept) - 1)[pairs.prediction])

    @property
    def removed(self) -> pd.DataFrame:
        """A row for each prediction given: prediction, its place from 0, and rule, the one that removed it or None."""
        rules = np.full(len(self.steps["raw"]), None, dtype=object)
        for (_, before), (rule, after) in pairwise(self.steps.items()):
            rules[np.setdiff1d(before.rows, after.rows)] = rule
        return pd.DataFrame({"prediction": np.arange(len(rules)), "rule": pd.Series(rules, dtype=object)})


def apply(evaluation: Evaluation, settings: Filter) -> Filtered:
    """Every rule in turn."""
    steps = {"raw": Kept.all(evaluation)}
    for rule in RULES:
        *_, last = steps.values()
        steps[rule.__name__] = rule(last, settings)
    return Filtered(steps)


def table(filtered: Filtered) -> pd.DataFrame:
    """A row a step, `raw` first: stage, removed (by it), precision, recall, f1, joint_f1 (after it), low, high.

    low and high: the ends of joint F1's 95 % interval, of the same draws of images as in `intervals`; NaN: undefined,
    or below 5 images.
    """
    rows, before = [], len(filtered.steps["raw"])
    drawn = draws(len(filtered.steps["raw"].evaluation.images), before)
    for stage, kept in filtered.steps.items():
        counts = f1.counts(kept.evaluation, kept.as_mask())
        low, high = _interval(drawn @ counts)
        rows.append({"stage": stage, "removed": before - len(kept), **f1.summary(counts), "low": low, "high": high})
        before = len(kept)
    return pd.DataFrame(rows, columns=["stage", "removed", "precision", "recall", "f1", "joint_f1", "low", "high"])


def sum_up(steps: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Of `table`: the scores of the first row, raw, and of the last, filtered, and what each rule removed."""
    scores = steps[["precision", "recall", "f1", "joint_f1"]]
    ends = {"raw": scores.iloc[0].dropna().to_dict(), "filtered": scores.iloc[-1].dropna().to_dict()}
    return ends | {"removed": dict(zip(steps["stage"][1:], steps["removed"][1:].tolist(), strict=True))}


def label_scores(predictions: Predictions) -> dict[str, np.ndarray]:
    """Of each task, [N]: probability of the label x mask quality."""
    return {task: own * predictions.mask_quality for task, own in predictions.probability.items()}


def _interval(counts: np.ndarray) -> tuple[float, float]:
    """Of joint F1 in percent. counts: [1 + draws, 4], as `f1.counts` has them, the first of the data as they are."""
    joint_f1 = f1.shares(counts)["joint_f1"]
    return (np.nan, np.nan) if np.isnan(joint_f1[0]) else interval(joint_f1)[1:]


def _reach(values: Mapping[str, np.ndarray], least: float | Mapping[str, float], tasks: Sequence[str]) -> np.ndarray:
    """bool [N]: whether all values reach `least`, a number for these tasks or {task: number}."""
    least = least if isinstance(least, Mapping) else dict.fromkeys(tasks, least)
    reached = np.ones(len(next(iter(values.values()))), dtype=bool)
    for task, number in least.items():
        reached &= values[task] >= number
    return reached


def _largest_component(rle: dict) -> tuple[str, list[float], float] | None:
    """RLE, box and area of the largest part; None when there is no other."""
    whole = masks.mask(rle, *rle["size"])
    x, y, width, height = map(int, coco_mask.toBbox(rle))
    part = np.s_[y : y + height, x : x + width]  # an image is mostly background
    parts, count = label(whole[part], structure=np.ones((3, 3)))
    if count < 2:
        return None
    largest = np.bincount(parts.ravel())[1:].argmax() + 1  # of equal ones the first by rows
    whole[part] = parts == largest
    packed = coco_mask.encode(np.asfortranarray(whole, dtype=np.uint8))
    return packed["counts"].decode(), coco_mask.toBbox(packed).tolist(), float(coco_mask.area(packed))


def _with_masks(evaluation: Evaluation, predictions: Predictions, changed: np.ndarray) -> Evaluation:
    """The evaluation of predictions some of whose masks have changed; only these are compared anew."""
    unchanged = evaluation.pairs[~np.isin(evaluation.pairs.prediction, changed)]
    anew = overlapping.of_masks(evaluation.images, predictions[changed])
    anew = anew.replace(prediction=changed[anew.prediction])
    pairs = Pairs.of({name: np.concatenate([unchanged.column(name), anew.column(name)]) for name in anew.names})
    pairs = pairs[np.lexsort((pairs.instance, pairs.prediction))]
    return Evaluation(
        evaluation.images, predictions, pairs, tasks=evaluation.tasks, ranking=evaluation.ranking,
        max_dets=evaluation.max_dets,
    )  # fmt: skip


def _greedy(pairs: coo_array, most: float) -> np.ndarray:
    """bool [N]: no better one that stays overlaps it by more than `most`. pairs: IoU of (worse, better)."""
    close = csr_array(pairs > most)
    kept = np.ones(pairs.shape[0], dtype=bool)
    for row in np.flatnonzero(np.diff(close.indptr)):
        kept[row] = not kept[close.indices[close.indptr[row] : close.indptr[row + 1]]].any()
    return kept


def _matrix(pairs: coo_array, most: float) -> np.ndarray:
    """bool [N]: the decay is at least 1 - `most`. pairs: IoU of (worse, better)."""
    hidden, decay = np.zeros(pairs.shape[0]), np.ones(pairs.shape[0])
    np.maximum.at(hidden, pairs.row, pairs.data)
    # who is wholly hidden hides nobody but its own copies, which what hides it hides too
    visible = np.maximum(1 - hidden[pairs.col], np.finfo(float).tiny)
    np.minimum.at(decay, pairs.row, (1 - pairs.data) / visible)
    return decay >= 1 - most
