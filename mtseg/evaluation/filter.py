"""Post-processing: rules that remove background, low scores, small masks and duplicates from the predictions.

A rule takes the predictions that are left and returns those it keeps. Rules that judge each prediction alone come
first, so that a prediction which is dropped anyway suppresses no other. Masks are cleaned before they are measured and
compared, and only after the rules on labels and scores, since cleaning is slow. Rules that compare predictions come
last: duplicates, then the best `most`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array

from mtseg.core import masks
from mtseg.core.params import Filter
from mtseg.core.strips import Strips
from mtseg.core.tables import Pairs, Predictions
from mtseg.evaluation import f1
from mtseg.evaluation.ap import pairs as overlapping
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.bootstrap import draws, interval


@dataclass(frozen=True)
class Kept:
    """The predictions that are left. rows: int [n], sorted by image, then best first. overlap: sparse [n, n], mask IoU
    of each prediction with the better ones of its image; None until `with_overlap` is called."""

    evaluation: Evaluation
    rows: np.ndarray
    overlap: csr_array | None = None

    @classmethod
    def all(cls, evaluation: Evaluation) -> Kept:
        return cls(evaluation, np.lexsort((evaluation.rank, evaluation.image)).astype(np.int32))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, kept: np.ndarray) -> Kept:
        """The predictions `kept`: bool [n], or int in ascending order."""
        overlap = None if self.overlap is None else self.overlap[kept][:, kept]
        return replace(self, rows=self.rows[kept], overlap=overlap)

    @property
    def predictions(self) -> Predictions:
        return self.evaluation.predictions[self.rows]

    @property
    def image(self) -> np.ndarray:
        return self.evaluation.image[self.rows]

    def with_overlap(self) -> Kept:
        """The same predictions with `overlap`. Masks that several predictions share are compared once."""
        if self.overlap is not None or not len(self):
            return self
        found = [(np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0))]
        every, areas = self.predictions.rles(), self.predictions.area
        ends = [*np.flatnonzero(np.diff(self.image, prepend=-1)).tolist(), len(self)]
        for low, high in pairwise(ends):
            if high - low > 1:
                row, column, iou = _overlaps(every[low:high], areas[low:high])
                found.append((low + row, low + column, iou))
        row, column, iou = map(np.concatenate, zip(*found, strict=True))
        return replace(self, overlap=csr_array((iou, (row, column)), shape=(len(self),) * 2))

    def as_mask(self) -> np.ndarray:
        """bool [N]: which of all predictions are left."""
        mask = np.zeros(len(self.evaluation.predictions), dtype=bool)
        mask[self.rows] = True
        return mask


def background(kept: Kept, settings: Filter) -> Kept:
    """Drop predictions whose most probable output of a further task is the no-object slot."""
    if not settings.drop_background:
        return kept
    predictions = kept.evaluation.predictions
    dropped = np.zeros(len(predictions), dtype=bool)
    for task in kept.evaluation.tasks[1:]:
        for rows, probabilities in predictions.parts(f"probabilities.{task.name}"):
            dropped[rows] |= probabilities.argmax(axis=1) >= task.num_classes
    return kept[~dropped[kept.rows]]


def low_score(kept: Kept, settings: Filter) -> Kept:
    """Keep predictions with label probability x mask quality >= min_score, a number for the main task or one for each
    task named."""
    values = label_scores(kept.predictions)
    main, *_ = values
    return kept[_reach(values, settings.min_score, [main])]


def low_logit(kept: Kept, settings: Filter) -> Kept:
    """Keep predictions with label logits >= min_logit, a number for all further tasks or one for each task named."""
    values = kept.predictions.logit
    _, *further = values
    return kept[_reach(values, settings.min_logit, further)]


def largest_component(kept: Kept, settings: Filter) -> Kept:
    """Reduce each mask to its largest component (8-connected), and box and area accordingly. Drops no prediction."""
    if not settings.largest_component:
        return kept
    evaluation, known, changed = kept.evaluation, {}, {}
    for row, mask in zip(kept.rows.tolist(), kept.predictions.rles(), strict=True):
        key = evaluation.image[row], mask["counts"]
        if key not in known:
            known[key] = _largest_component(mask)
        if known[key]:
            changed[row] = known[key]
    if not changed:
        return kept
    rows = np.array(sorted(changed))
    rle, box, area = zip(*(changed[row] for row in rows.tolist()), strict=True)
    columns = {"rle": np.array(rle, dtype=object), "box": np.array(box), "area": np.array(area)}
    return Kept(_with_masks(evaluation, evaluation.predictions.patched(rows, **columns), rows), kept.rows)


def small(kept: Kept, settings: Filter) -> Kept:
    """Keep masks of min_area pixels or more."""
    return kept[kept.predictions.area >= settings.min_area]


def duplicate(kept: Kept, settings: Filter) -> Kept:
    """Mask NMS: of two masks with IoU > nms_iou, keep the one with the higher ranking score.

    | nms      | masks compared                                                                             |
    |----------|--------------------------------------------------------------------------------------------|
    | agnostic | of all classes                                                                             |
    | class    | of the same main class                                                                     |
    | matrix   | of the same main class, by Matrix NMS (SOLOv2, arXiv 2003.10152) with linear decay: a mask |
    |          | is kept if its decay is at least 1 - nms_iou (SOLOv2 multiplies scores by the decay)       |
    """
    if settings.nms == "none" or not len(kept):
        return kept
    kept = kept.with_overlap()
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
    first = np.searchsorted(kept.image, kept.image)  # index of each image's best prediction
    return kept[np.arange(len(kept)) - first < settings.most]


RULES = (background, low_score, low_logit, largest_component, small, duplicate, surplus)
KEYS = "drop_background min_score min_logit largest_component min_area nms most".split()  # of their settings


@dataclass(frozen=True)
class Filtered:
    """steps: {name: predictions}, first `raw`, then those left after each rule, by the rule's name."""

    steps: dict[str, Kept]

    @property
    def predictions(self) -> tuple[Predictions, Pairs]:
        """The filtered predictions in their original order, and their overlaps with the ground truth."""
        *_, last = self.steps.values()
        kept = last.as_mask()
        pairs = last.evaluation.pairs[kept[last.evaluation.pairs.prediction]]
        return last.evaluation.predictions[kept], pairs.replace(prediction=(np.cumsum(kept) - 1)[pairs.prediction])

    @property
    def removed(self) -> pd.DataFrame:
        """One row for each raw prediction: prediction (its row), and rule (that removed it, or None)."""
        rules = np.full(len(self.steps["raw"]), None, dtype=object)
        for (_, before), (rule, after) in pairwise(self.steps.items()):
            rules[np.setdiff1d(before.rows, after.rows)] = rule
        return pd.DataFrame({"prediction": np.arange(len(rules)), "rule": pd.Series(rules, dtype=object)})

    @property
    def counts(self) -> dict[str, int]:
        """{key of `filter` in params.yaml: number of predictions that its rule removed}, without those of 0."""
        left = pairwise(map(len, self.steps.values()))
        return {key: before - after for key, (before, after) in zip(KEYS, left, strict=True) if before > after}


def apply(evaluation: Evaluation, settings: Filter) -> Filtered:
    """Apply all rules in order."""
    steps = {"raw": Kept.all(evaluation)}
    for rule in RULES:
        *_, last = steps.values()
        steps[rule.__name__] = rule(last, settings)
    return Filtered(steps)


def table(filtered: Filtered) -> pd.DataFrame:
    """One row for each step, `raw` first: stage, removed (predictions), then precision, recall, f1, joint_f1 of those
    left, in percent, and low, high: the 95 % interval of joint F1, on the same bootstrap samples as in `intervals`.

    NaN: undefined; low and high also below 5 images.
    """
    rows, before = [], len(filtered.steps["raw"])
    weights = draws(len(filtered.steps["raw"].evaluation.images), before)
    for stage, kept in filtered.steps.items():
        counts = f1.counts(kept.evaluation, kept.as_mask())
        low, high = _interval(weights @ counts)
        rows.append({"stage": stage, "removed": before - len(kept), **f1.summary(counts), "low": low, "high": high})
        before = len(kept)
    return pd.DataFrame(rows, columns=["stage", "removed", "precision", "recall", "f1", "joint_f1", "low", "high"])


def sum_up(steps: pd.DataFrame) -> dict[str, dict[str, float]]:
    """{"raw", "filtered": scores of the first and last row of `table`; "removed": {rule: number of predictions}}."""
    scores = steps[["precision", "recall", "f1", "joint_f1"]]
    ends = {"raw": scores.iloc[0].dropna().to_dict(), "filtered": scores.iloc[-1].dropna().to_dict()}
    return ends | {"removed": dict(zip(steps["stage"][1:], steps["removed"][1:].tolist(), strict=True))}


def label_scores(predictions: Predictions) -> dict[str, np.ndarray]:
    """{task: [N]}: probability of the predicted label x mask quality."""
    return {task: own * predictions.mask_quality for task, own in predictions.probability.items()}


def reaches(predictions: Predictions, settings: Filter) -> np.ndarray:
    """bool [N]: whether a prediction reaches the thresholds min_score and min_logit."""
    scores, logits = label_scores(predictions), predictions.logit
    main, *further = scores
    return _reach(scores, settings.min_score, [main]) & _reach(logits, settings.min_logit, further)


def _interval(counts: np.ndarray) -> tuple[float, float]:
    """95 % interval of joint F1 in percent. counts: [1 + B, 4], as of `f1.counts`, the original sample first."""
    joint_f1 = f1.shares(counts)["joint_f1"]
    return (np.nan, np.nan) if np.isnan(joint_f1[0]) else interval(joint_f1)[1:]


def _reach(values: Mapping[str, np.ndarray], least: float | Mapping[str, float], tasks: Sequence[str]) -> np.ndarray:
    """bool [N]: whether values reach `least`, a number for all of `tasks` or {task: number}."""
    least = least if isinstance(least, Mapping) else dict.fromkeys(tasks, least)
    reached = np.ones(len(next(iter(values.values()))), dtype=bool)
    for task, number in least.items():
        reached &= values[task] >= number
    return reached


def _largest_component(rle: dict) -> tuple[str, list[float], float] | None:
    """RLE, box and area of the largest component; None if there is only one."""
    strips = Strips.of(rle)
    part = strips.parts()
    if not part.any():
        return None
    size = np.bincount(part, weights=strips.bottom - strips.top)
    by_rows = np.lexsort((strips.column, strips.top))
    largest = part[by_rows[size[part[by_rows]].argmax()]]  # of equal ones the topmost
    kept = strips[part == largest]
    return kept.rle()["counts"], list(kept.box), float(kept.area)


def _with_masks(evaluation: Evaluation, predictions: Predictions, changed: np.ndarray) -> Evaluation:
    """An evaluation of `predictions`, whose masks in rows `changed` are new: only their overlaps are computed again."""
    unchanged = evaluation.pairs[~np.isin(evaluation.pairs.prediction, changed)]
    anew = overlapping.of_masks(evaluation.images, predictions[changed])
    anew = anew.replace(prediction=changed[anew.prediction])
    pairs = Pairs.of({name: np.concatenate([unchanged.column(name), anew.column(name)]) for name in anew.names})
    pairs = pairs[np.lexsort((pairs.instance, pairs.prediction))]
    return evaluation.replace(predictions=predictions, pairs=pairs)


def _overlaps(rles: Sequence[dict], areas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every two of the masks that share a pixel: int rows [P] and [P], the first the greater one, and IoU [P]."""
    index = {counts: i for i, counts in enumerate(dict.fromkeys(rle["counts"] for rle in rles))}
    which = np.array([index[rle["counts"]] for rle in rles])
    members, size = np.argsort(which, kind="stable"), np.bincount(which)
    start = np.cumsum(size) - size
    one, other, iou = masks.overlaps([{"size": rles[0]["size"], "counts": counts} for counts in index])
    same = np.unique(which[areas > 0])  # an empty mask overlaps nothing, not even itself
    one, other = np.concatenate([one, other, same]), np.concatenate([other, one, same])
    count = size[one] * size[other]  # pairs of the predictions that have these two masks
    pair = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
    row = members[start[one][pair] + number // size[other][pair]]
    column = members[start[other][pair] + number % size[other][pair]]
    iou, better = np.concatenate([iou, iou, np.ones(len(same))])[pair], column < row
    return row[better], column[better], iou[better]


def _greedy(pairs: coo_array, max_iou: float) -> np.ndarray:
    """bool [N]: whether no better mask that is kept has IoU > `max_iou`. pairs: IoU at (worse, better)."""
    close = csr_array(pairs > max_iou)
    kept = np.ones(pairs.shape[0], dtype=bool)
    for row in np.flatnonzero(np.diff(close.indptr)):
        kept[row] = not kept[close.indices[close.indptr[row] : close.indptr[row + 1]]].any()
    return kept


def _matrix(pairs: coo_array, max_iou: float) -> np.ndarray:
    """bool [N]: whether the decay is at least 1 - `max_iou`. pairs: IoU at (worse, better)."""
    hidden, decay = np.zeros(pairs.shape[0]), np.ones(pairs.shape[0])
    np.maximum.at(hidden, pairs.row, pairs.data)
    # a mask with IoU 1 with a better one suppresses only its copies, which the better one suppresses too
    visible = np.maximum(1 - hidden[pairs.col], np.finfo(float).tiny)
    np.minimum.at(decay, pairs.row, (1 - pairs.data) / visible)
    return decay >= 1 - max_iou
