"""COCO's greedy matching of predictions to instances, for all images, categories and IoU thresholds together.

The rules are those of `COCOeval.evaluateImg` of pycocotools, with which tests compare the numbers.
N predictions, G instances, E pairs, T IoU thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mtseg.core.tables import UNLABELLED

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's
HIT = 0.5  # minimum mask IoU of a match
NEAR = 0.1  # minimum mask IoU of a localisation error (TIDE)


@dataclass(frozen=True)
class Candidates:
    """The pairs that may be matched, with the images and areas of predictions and instances.

    Predictions: image int [N] (row of the image), area [N] in pixels. Instances: true_image int [G], true_area [G],
    crowd bool [G]. Pairs: prediction and instance int [E], iou [E], inside [E] (intersection over the prediction's
    area, which COCO uses for crowds). most: the largest number of predictions of an image. cuts: int, ascending, the
    0 to
    N; predictions between two of them share no image with others, so that they are matched apart.
    """

    image: np.ndarray
    area: np.ndarray
    true_image: np.ndarray
    true_area: np.ndarray
    crowd: np.ndarray
    prediction: np.ndarray
    instance: np.ndarray
    iou: np.ndarray
    inside: np.ndarray
    most: int
    cuts: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Predictions matched to instances of their category.

    true: int [G], category or UNLABELLED. predicted: int [N], category. categories: their number.
    scored: int, rows of the predictions that count, by category, best first. Those that lie outside the area limits and
    match nothing are left out.
    starts: int [categories + 1], where each category starts in `scored`; predictions of no category come last.
    objects: bool [G], instances that count: labelled, no crowd, within the area limits.
    rows: int [M], the predictions that match something at some threshold, ascending. Of these:
    hit: int [T, M], the matched instance or -1.
    ignored: bool [T, M], neither true nor false positive: without a hit, and on a crowd, on an unlabelled instance or
    outside the area limits.
    """

    true: np.ndarray
    predicted: np.ndarray
    categories: int
    scored: np.ndarray
    starts: np.ndarray
    objects: np.ndarray
    rows: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray

    @property
    def takes_part(self) -> np.ndarray:
        """bool [N]: the predictions of `scored`."""
        mask = np.zeros(len(self.predicted), dtype=bool)
        mask[self.scored] = True
        return mask

    @property
    def first_hit(self) -> np.ndarray:
        """int [N]: the instance that each prediction matches at the first threshold, or -1."""
        hit = np.full(len(self.predicted), -1, dtype=np.int32)
        hit[self.rows] = self.hit[0]
        return hit

    @property
    def first_ignored(self) -> np.ndarray:
        """bool [N]: those that the first threshold ignores."""
        ignored = np.zeros(len(self.predicted), dtype=bool)
        ignored[self.rows] = self.ignored[0]
        return ignored

    def of(self, category: int) -> np.ndarray:
        """The predictions of one category, best first."""
        return self.scored[self.starts[category] : self.starts[category + 1]]


def match(
    candidates: Candidates,
    true: np.ndarray,
    predicted: np.ndarray,
    rank: np.ndarray,
    *,
    categories: int,
    max_dets: int,
    kept: np.ndarray | None = None,
    thresholds: np.ndarray = THRESHOLDS,
    sizes: tuple[float, float] | None = None,
) -> Matches:
    """Match predictions to instances of their category, best prediction first, each to the free one of highest IoU.

    true: int [G], category or UNLABELLED; a prediction on an unlabelled instance is ignored. predicted: int [N]; a
    number >= `categories` is no category. rank: int [N], 0 the best. max_dets: predictions that count per image and
    category. kept: bool [N], predictions that take part, by default all. sizes: smallest and largest area, in pixels,
    of the instances that count.
    """
    order = inverse(rank)
    order = order if kept is None else order[kept[order]]
    scored = order[by(predicted[order])]
    del order  # here and below: of 10,000,000 predictions each is 40 MB or more
    if candidates.most > max_dets:
        scored = scored[positions(candidates.image[scored], predicted[scored]) < max_dets]
    reusable = candidates.crowd | (true == UNLABELLED)
    objects = ~reusable
    if sizes:
        objects &= (candidates.true_area >= sizes[0]) & (candidates.true_area <= sizes[1])

    takes_part = np.zeros(len(predicted), dtype=bool)
    takes_part[scored] = True
    wanted = true[candidates.instance]
    usable = takes_part[candidates.prediction]
    usable &= (wanted == UNLABELLED) | (wanted == predicted[candidates.prediction])
    row, column = candidates.prediction[usable], candidates.instance[usable]
    del takes_part, wanted
    value = np.where(reusable[column], candidates.inside[usable], candidates.iou[usable])
    near = value >= thresholds[0]
    row, column, value = row[near], column[near], value[near]
    del usable, near
    turn = _turns(candidates.image, predicted, scored, row)
    order = np.argsort(row, kind="stable")
    row, column, value = row[order], column[order], value[order]
    ends, parts = np.searchsorted(row, candidates.cuts), []
    for low, high in pairwise(ends):
        own = slice(low, high)
        parts.append(_greedy(row[own], column[own], value[own], turn, objects, reusable, thresholds))
    rows, hit, ignored = (np.concatenate(own, axis=-1) for own in zip(*parts, strict=True))
    del parts, turn, row, column, value
    if sizes:
        outside = (candidates.area < sizes[0]) | (candidates.area > sizes[1])
        ignored |= outside[rows] & (hit < 0)
        outside[rows] = False
        scored = scored[~outside[scored]]
    starts = category_starts(predicted[scored], categories)
    return Matches(true, predicted, categories, scored, starts, objects, rows, hit, ignored)


def cuts(images: np.ndarray, size: int) -> np.ndarray:
    """int, 0 to N: parts of at least `size` predictions, of which no two share an image. images: int [N]."""
    highest, least = np.maximum.accumulate(images), np.minimum.accumulate(images[::-1])[::-1]
    between = np.flatnonzero(highest[:-1] < least[1:]) + 1
    found = [0]
    while (place := np.searchsorted(between, found[-1] + size)) < len(between):
        found.append(between[place])
    return np.array([*found, len(images)])


def inverse(rank: np.ndarray) -> np.ndarray:
    """int [N]: the row of each rank, or the rank of each row. rank: a permutation of 0 to N - 1."""
    rows = np.empty(len(rank), dtype=np.int32)
    rows[rank] = np.arange(len(rank), dtype=np.int32)
    return rows


def by(keys: np.ndarray) -> np.ndarray:
    """int [N]: the order that sorts keys, int [N] from 0, and keeps that of equal ones. NumPy sorts 16 bits ten times
    faster than more, so these are sorted by 16 bits at a time, the lower ones first."""
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    if len(keys) and keys.max() >= 2**16:
        order = order[by((keys >> 16)[order])]
    return order


def category_starts(sorted_categories: np.ndarray, categories: int) -> np.ndarray:
    """int [categories + 1]: where each category starts."""
    return np.searchsorted(sorted_categories, np.arange(categories + 1).astype(sorted_categories.dtype))


def positions(images: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """int [n]: for predictions sorted by category, then best first, how many of the same image and category precede
    each."""
    order = by(images)
    images, categories = images[order], categories[order]
    same = images[1:] == images[:-1]
    same &= categories[1:] == categories[:-1]
    del images, categories
    place = np.arange(len(order), dtype=np.int32)
    first = place.copy()
    first[1:][same] = 0
    place -= np.maximum.accumulate(first, out=first)
    places = first  # its memory
    places[order] = place
    return places


def _turns(images: np.ndarray, predicted: np.ndarray, scored: np.ndarray, choosers: np.ndarray) -> np.ndarray:
    """int [N]: the round in which each prediction with candidates (rows `choosers`) is matched, which is its position
    among those of its image and category."""
    chooses = np.zeros(len(predicted), dtype=bool)
    chooses[choosers] = True
    ordered = scored[chooses[scored]]
    turns = np.zeros(len(predicted), dtype=np.int32)
    turns[ordered] = positions(images[ordered], predicted[ordered])
    return turns


def _greedy(row, column, value, turn, objects, reusable, thresholds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`rows`, `hit` and `ignored` of `Matches`. In round n the n-th prediction of every image and category is matched,
    all together, since they do not compete; each takes the best of its pairs whose instance is free. row, column,
    value: prediction, ascending, instance and IoU of the pairs."""
    new = np.diff(row, prepend=-1) > 0
    rows, number, first = row[new], np.cumsum(new) - 1, column.min(initial=len(objects))
    # COCO prefers instances that count to ignored ones, then the higher IoU, then the later instance
    order = np.lexsort((column, value, objects[column], row, turn[row]))
    row, column, value, number = row[order], column[order], value[order], number[order]
    hit = np.full((len(thresholds), len(rows)), -1, dtype=np.int32)
    ignored = np.zeros(hit.shape, dtype=bool)
    taken = np.zeros((len(thresholds), column.max(initial=first) + 1 - first), dtype=bool)
    for low, high in pairwise(np.flatnonzero(np.diff(turn[row], prepend=-1, append=-1))):
        own, wanted = row[low:high], column[low:high]
        starts = np.flatnonzero(np.diff(own, prepend=-1))
        free = (value[low:high] >= thresholds[:, None]) & ~taken[:, wanted - first]
        best = np.maximum.reduceat(np.where(free, np.arange(high - low), -1), starts, axis=1)
        threshold, chooser = np.nonzero(best >= 0)
        chosen, place = wanted[best[threshold, chooser]], number[low + starts[chooser]]
        hit[threshold, place] = np.where(objects[chosen], chosen, -1)
        ignored[threshold, place] = ~objects[chosen]
        taken[threshold, chosen - first] = ~reusable[chosen]
    some = (hit >= 0).any(axis=0) | ignored.any(axis=0)
    return rows[some], hit[:, some], ignored[:, some]
