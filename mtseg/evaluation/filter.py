"""The post-filter (F14): rules that turn the model's top-k, with its contradictions and duplicates, into one answer.

A rule takes what was found and returns what it keeps. Their order: first what judges a prediction by itself, so that
none goes because of another that goes anyway (a mask whose label is background must not suppress its sound twin). Masks
are cleaned before they are measured and compared, and only where labels and scores have passed, since that is slow. At
the end what sets predictions against each other: duplicates, and of what is left the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask
from scipy.ndimage import label
from scipy.sparse import coo_array, csr_array

from mtseg.core.params import Filter, Ranking, Task
from mtseg.core.tables import Image, Prediction
from mtseg.data.coco import mask
from mtseg.evaluation.bootstrap import draws, interval
from mtseg.evaluation.f1 import Tally, summary
from mtseg.evaluation.found import Found, gather
from mtseg.evaluation.matching import pictures


def background(found: Found, settings: Filter) -> Found:
    """Drop what a further task calls background: the greatest of its logits is the no-object slot's."""
    return found[~found.background] if settings.drop_background else found


def low_score(found: Found, settings: Filter) -> Found:
    """Keep label probability x mask quality >= min_score, of the main task or of each that is named."""
    main, *_ = found.score
    return found[_reach(found.score, settings.min_score, [main])]


def low_logit(found: Found, settings: Filter) -> Found:
    """Keep what has labels with logits >= min_logit, of every further task or of each that is named."""
    _, *further = found.logit
    return found[_reach(found.logit, settings.min_logit, further)]


def largest_component(found: Found, settings: Filter) -> Found:
    """Of each mask keep the largest part whose pixels touch, by side or corner; its box and area follow. Drops none."""
    if not settings.largest_component:
        return found
    predictions, known = found.predictions.copy(), {}
    for row, prediction in enumerate(predictions):
        key = prediction.image_id, prediction.segmentation["counts"]
        if key not in known:
            known[key] = _largest_component(prediction.segmentation)
        if known[key]:
            predictions[row] = replace(prediction, **known[key])
    return replace(found, predictions=predictions, overlap=None)


def small(found: Found, settings: Filter) -> Found:
    """Keep masks of min_area pixels or more."""
    return found[np.array([p.area >= settings.min_area for p in found.predictions], dtype=bool)]


def duplicate(found: Found, settings: Filter) -> Found:
    """Mask NMS: of two masks that overlap by more than nms_iou the one with the better ranking score stays.

    agnostic: whatever their classes, and so one class a mask; class: of the same main class; matrix: of the same main
    class too, by Matrix NMS (SOLOv2, arXiv 2003.10152, its linear decay), which lets a mask go less easily when
    what overlaps it is overlapped itself. SOLOv2 multiplies scores by that decay; here it is held against 1 - nms_iou.
    """
    if settings.nms == "none" or not len(found):
        return found
    found = found.compared()
    pairs = found.overlap.tocoo()
    if settings.nms != "agnostic":
        same = found.main[pairs.row] == found.main[pairs.col]
        pairs = coo_array((pairs.data[same], (pairs.row[same], pairs.col[same])), shape=pairs.shape)
    return found[(_matrix if settings.nms == "matrix" else _greedy)(pairs, settings.nms_iou)]


def surplus(found: Found, settings: Filter) -> Found:
    """Keep the best `most` of each picture."""
    if settings.most is None:
        return found
    first = np.searchsorted(found.picture, found.picture)  # row of each picture's best
    return found[np.arange(len(found)) - first < settings.most]


RULES = (background, low_score, low_logit, largest_component, small, duplicate, surplus)


@dataclass(frozen=True)
class Sieved:
    """steps: what was there at first, `raw`, and what each rule left, by the rule's name."""

    steps: dict[str, Found]

    @property
    def kept(self) -> list[Prediction]:
        """What is left at the end, in the order given."""
        *_, last = self.steps.values()
        return last.predictions[np.argsort(last.index)].tolist()

    @property
    def removed(self) -> pd.DataFrame:
        """A row for each prediction given: prediction, its place from 0, and rule, the one that removed it or None."""
        rules = np.full(len(self.steps["raw"]), None, dtype=object)
        for (_, before), (rule, after) in pairwise(self.steps.items()):
            rules[np.setdiff1d(before.index, after.index)] = rule
        return pd.DataFrame({"prediction": np.arange(len(rules)), "rule": pd.Series(rules, dtype=object)})


def sieve(predictions: Sequence[Prediction], *, tasks: Sequence[Task], settings: Filter, ranking: Ranking) -> Sieved:
    """Every rule in turn."""
    steps = {"raw": gather(predictions, tasks=tasks, ranking=ranking)}
    for rule in RULES:
        *_, last = steps.values()
        steps[rule.__name__] = rule(last, settings)
    return Sieved(steps)


def table(sieved: Sieved, images: Sequence[Image], *, tasks: Sequence[Task], ranking: Ranking) -> pd.DataFrame:
    """A row a step, `raw` first: stage, removed (by it), precision, recall, f1, joint_f1 (after it), low, high.

    low and high: the ends of joint F1's 95 % interval, of the same draws of pictures as in `intervals`; NaN: undefined,
    or below 5 pictures. Masks are compared with the ground truth once, and once more where a rule has changed them.
    Raises UserError on a prediction whose picture does not exist.
    """
    rows, before, tally = [], len(sieved.steps["raw"]), None
    drawn = draws(len(images), before)
    for stage, found in sieved.steps.items():
        if tally is None or (kept := tally.rows(found.predictions)) is None:
            tally, kept = Tally(pictures(images, found.predictions, tasks=tasks, ranking=ranking), tasks), None
        counts = tally.counts(kept)
        low, high = _interval(drawn @ counts)
        rows.append({"stage": stage, "removed": before - len(found), **summary(counts), "low": low, "high": high})
        before = len(found)
    return pd.DataFrame(rows, columns=["stage", "removed", "precision", "recall", "f1", "joint_f1", "low", "high"])


def sum_up(steps: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Of `table`: the scores of the first row, raw, and of the last, filtered, and what each rule removed."""
    scores = steps[["precision", "recall", "f1", "joint_f1"]]
    ends = {"raw": scores.iloc[0].dropna().to_dict(), "filtered": scores.iloc[-1].dropna().to_dict()}
    return ends | {"removed": dict(zip(steps["stage"][1:], steps["removed"][1:].tolist(), strict=True))}


def _interval(counts: np.ndarray) -> tuple[float, float]:
    """Of joint F1 in percent. counts: [1 + draws, 4], as `Tally.counts` has them, the first of the data as they are."""
    found, true, _, right = counts.T
    f1 = np.divide(2 * right, found + true, out=np.full(len(counts), np.nan), where=found + true > 0)
    return (np.nan, np.nan) if np.isnan(f1[0]) else interval(f1)[1:]


def _reach(values: Mapping[str, np.ndarray], least: float | Mapping[str, float], tasks: Sequence[str]) -> np.ndarray:
    """bool [N]: whether all values reach `least`, a number for these tasks or {task: number}."""
    least = least if isinstance(least, Mapping) else dict.fromkeys(tasks, least)
    reached = np.ones(len(next(iter(values.values()))), dtype=bool)
    for task, number in least.items():
        reached &= values[task] >= number
    return reached


def _largest_component(rle: dict) -> dict:
    """segmentation, bbox and area of the largest part; nothing when there is no other."""
    whole = mask(rle, *rle["size"])
    x, y, width, height = map(int, coco_mask.toBbox(rle))
    part = np.s_[y : y + height, x : x + width]  # a picture is mostly background
    parts, count = label(whole[part], structure=np.ones((3, 3)))
    if count < 2:
        return {}
    largest = np.bincount(parts.ravel())[1:].argmax() + 1  # of equal ones the first by rows
    whole[part] = parts == largest
    packed = coco_mask.encode(np.asfortranarray(whole, dtype=np.uint8))
    return {
        "segmentation": {"size": list(rle["size"]), "counts": packed["counts"].decode()},
        "bbox": tuple(coco_mask.toBbox(packed).tolist()),
        "area": float(coco_mask.area(packed)),
    }


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
