"""Which prediction is which ground truth, for all predictions at once and at every IoU threshold of COCO.

The masks are compared once; every task, the labels jointly and masks whatever their class are then matched by numpy
alone, by COCO's rules (`COCOeval.evaluateImg` of pycocotools). hotcoco gives the same matches, but as Python objects,
which takes longer than the matching; and its bootstrap leaves out pictures where ours weights them.

N: predictions, in the order given. G: ground truths, pictures by id, instances in order. S: pictures by id.
E: pairs that overlap. T: IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pycocotools import mask as coco_mask

from mtseg.core.tables import Image, Prediction
from mtseg.data.coco import areas, rle
from mtseg.evaluation.average_precision import EVERY, ordered
from mtseg.evaluation.matching import HIT, NEAR

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's


@dataclass(frozen=True)
class Overlaps:
    """Pairs of a prediction and a ground truth: IoU >= 0.1, or half of the prediction inside the ground truth."""

    pictures: int  # S
    found_picture: np.ndarray  # int [N], position of the picture
    true_picture: np.ndarray  # int [G]
    crowd: np.ndarray  # bool [G]
    found: np.ndarray  # int [E], which prediction
    true: np.ndarray  # int [E], which ground truth
    iou: np.ndarray  # [E]
    inside: np.ndarray  # [E], intersection over the prediction's area, by which COCO measures crowds

    @classmethod
    def of(cls, images: Sequence[Image], predictions: Sequence[Prediction]) -> Overlaps:
        """Every prediction's picture must be among the images."""
        images = ordered(images)
        place = {image.id: index for index, image in enumerate(images)}
        found_picture = np.array([place[p.image_id] for p in predictions], dtype=int)
        by_picture = np.argsort(found_picture, kind="stable")
        ends = np.searchsorted(found_picture[by_picture], np.arange(len(images) + 1))
        counts = [len(image.instances) for image in images]
        starts = np.cumsum([0, *counts])
        parts = [
            _overlapping(image, [predictions[row] for row in rows], rows, start)
            for image, start, low, high in zip(images, starts[:-1], ends[:-1], ends[1:], strict=True)
            if len(rows := by_picture[low:high]) and image.instances
        ]
        nothing = (np.zeros(0, dtype=int),) * 2 + (np.zeros(0),) * 2
        return cls(
            len(images),
            found_picture,
            np.repeat(np.arange(len(images)), counts),
            np.array([instance.crowd for image in images for instance in image.instances], dtype=bool),
            *(np.concatenate(part) for part in zip(nothing, *parts, strict=True)),
        )


def _overlapping(image: Image, predictions: Sequence[Prediction], rows: np.ndarray, start: int) -> tuple:
    found = [p.segmentation for p in predictions]
    true = [rle(instance.segmentation, image.height, image.width) for instance in image.instances]
    iou = np.asarray(coco_mask.iou(found, true, [False] * len(true)))
    row, column = np.nonzero(iou)
    iou = iou[row, column]
    area, true_area = areas(found), areas(true)
    # whole pixels, got back from the IoU, so that the share is COCO's to the last bit
    inside = np.rint(iou * (area[row] + true_area[column]) / (1 + iou)) / area[row]
    kept = (iou >= NEAR) | (inside >= HIT)
    return rows[row[kept]], start + column[kept], iou[kept], inside[kept]


@dataclass(frozen=True)
class Matches:
    """What COCO's greedy matching makes of categories and scores."""

    true: np.ndarray  # int [G], category or EVERY
    found: np.ndarray  # int [N], category
    categories: int
    scored: np.ndarray  # int, the predictions that count, by category, best score first
    starts: np.ndarray  # int [categories + 1], where in `scored` each category starts; past the last come those of none
    objects: np.ndarray  # bool [G], ground truths that count: labelled, no crowds
    hit: np.ndarray  # int [T, N], the ground truth or -1
    ignored: np.ndarray  # bool [T, N]: no hit, but inside a crowd or on an object without a label

    def of(self, category: int) -> np.ndarray:
        """The predictions of one category, best score first."""
        return self.scored[self.starts[category] : self.starts[category + 1]]


def match(
    overlaps: Overlaps,
    true: np.ndarray,
    found: np.ndarray,
    scores: np.ndarray,
    *,
    categories: int,
    most: int,
    kept: np.ndarray | None = None,
    thresholds: np.ndarray = THRESHOLDS,
) -> Matches:
    """Match predictions to ground truths of their category, best score first, each to the best that is free.

    true: int [G], category or EVERY, neither hit nor miss in any category. found: int [N]; a number past the last
    category is of none. scores [N]; of equal ones the first given ranks first. most: predictions that count in a
    picture and category. kept: bool [N], those that take part, default all.
    """
    kept = np.ones(len(found), dtype=bool) if kept is None else kept
    order = np.lexsort((overlaps.found_picture, -scores, found))
    order = order[kept[order]]
    scored = order[_rank(overlaps.found_picture[order], found[order]) < most]
    objects = ~overlaps.crowd & (true != EVERY)

    takes_part = np.zeros(len(found), dtype=bool)
    takes_part[scored] = True
    pairs = np.flatnonzero(takes_part[overlaps.found])
    wanted, own = true[overlaps.true[pairs]], found[overlaps.found[pairs]]
    counts = objects[overlaps.true[pairs]]
    absorbs = pairs[~counts & ((wanted == EVERY) | (wanted == own))]
    absorbed = np.zeros(len(found))
    np.maximum.at(absorbed, overlaps.found[absorbs], overlaps.inside[absorbs])

    candidates = pairs[counts & (wanted == own) & (overlaps.iou[pairs] >= thresholds[0])]
    hit = _greedy(overlaps, candidates, scored, found, thresholds, len(true))
    ignored = (hit < 0) & (absorbed >= thresholds[:, None])
    starts = np.searchsorted(found[scored], np.arange(categories + 1))
    return Matches(true, found, categories, scored, starts, objects, hit, ignored)


def _rank(pictures: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """For things listed best first, how many of the same picture and category come before each: int [n]."""
    order = np.lexsort((np.arange(len(pictures)), categories, pictures))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(pictures[order]) != 0) | (np.diff(categories[order]) != 0)
    place = np.arange(len(order))
    rank = np.empty(len(order), dtype=int)
    rank[order] = place - np.maximum.accumulate(np.where(new, place, 0))
    return rank


def _greedy(overlaps, candidates, scored, found, thresholds, truths) -> np.ndarray:
    """The n-th best candidates of all pictures and categories choose at once, since they do not compete."""
    hit = np.full((len(thresholds), len(found)), -1, dtype=np.int32)
    taken = np.zeros((len(thresholds), truths), dtype=bool)
    chooses = np.zeros(len(found), dtype=bool)
    chooses[overlaps.found[candidates]] = True
    choosers = scored[chooses[scored]]
    turn = np.zeros(len(found), dtype=int)
    turn[choosers] = _rank(overlaps.found_picture[choosers], found[choosers])
    row, column, iou = overlaps.found[candidates], overlaps.true[candidates], overlaps.iou[candidates]
    order = np.lexsort((column, iou, row, turn[row]))  # of equal IoUs COCO takes the last
    row, column, iou = row[order], column[order], iou[order]
    for low, high in pairwise(np.flatnonzero(np.diff(turn[row], prepend=-1, append=-1))):
        own, wanted = row[low:high], column[low:high]
        starts = np.flatnonzero(np.diff(own, prepend=-1))
        free = (iou[low:high] >= thresholds[:, None]) & ~taken[:, wanted]
        best = np.maximum.reduceat(np.where(free, np.arange(high - low), -1), starts, axis=1)
        threshold, chooser = np.nonzero(best >= 0)
        chosen = wanted[best[threshold, chooser]]
        hit[threshold, own[starts[chooser]]] = chosen
        taken[threshold, chosen] = True
    return hit
