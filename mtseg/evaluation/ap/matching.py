"""COCO's greedy matching of predictions to instances, of all images, categories and IoU thresholds at once.

The rules are those of `COCOeval.evaluateImg` of pycocotools, against which tests hold the numbers.
N predictions, G instances, E pairs, T IoU thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mtseg.core.tables import UNLABELLED

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's
HIT = 0.5  # mask IoU from which an object is found
NEAR = 0.1  # and from which it is the object meant, but badly placed (TIDE)


@dataclass(frozen=True)
class Candidates:
    """What may be matched. image: int [N], of the predictions. area: [N]. true_image: int [G]. true_area: [G]. crowd:
    bool [G]. Pairs: prediction, instance: int [E]; iou [E]; inside [E], intersection over the prediction's area, by
    which COCO measures crowds."""

    image: np.ndarray
    area: np.ndarray
    true_image: np.ndarray
    true_area: np.ndarray
    crowd: np.ndarray
    prediction: np.ndarray
    instance: np.ndarray
    iou: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True)
class Matches:
    """true: int [G], category or UNLABELLED. found: int [N], category. scored: int, the predictions that count, by
    category, best first. starts: int [categories + 1], where in `scored` each category starts; past the last come those
    of none. place: int [N], how many of the same image and category are better. objects: bool [G], instances that
    count: labelled, no crowds, of the right size. hit: int [T, N], the instance or -1. ignored: bool [T, N], neither
    right nor wrong: no hit, but on a crowd, on an unlabelled object, or of another size."""

    true: np.ndarray
    found: np.ndarray
    categories: int
    scored: np.ndarray
    starts: np.ndarray
    place: np.ndarray
    objects: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray

    def of(self, category: int) -> np.ndarray:
        """The predictions of one category, best first."""
        return self.scored[self.starts[category] : self.starts[category + 1]]


def match(
    given: Candidates,
    true: np.ndarray,
    found: np.ndarray,
    rank: np.ndarray,
    *,
    categories: int,
    most: int,
    kept: np.ndarray | None = None,
    thresholds: np.ndarray = THRESHOLDS,
    sizes: tuple[float, float] | None = None,
) -> Matches:
    """Match predictions to instances of their category, best first, each to the best that is free.

    true: int [G], category or UNLABELLED, which is neither hit nor miss in any category. found: int [N]; a number past
    the last category is of none. rank: int [N], 0 the best. most: predictions that count in an image and category.
    kept: bool [N], those that take part; default all. sizes: least and greatest area of what counts.
    """
    order = np.lexsort((rank, found))
    order = order if kept is None else order[kept[order]]
    place = np.zeros(len(found), dtype=int)
    place[order] = _places(given.image[order], found[order])
    scored = order[place[order] < most]
    reusable = given.crowd | (true == UNLABELLED)
    objects, outside = ~reusable, np.zeros(len(found), dtype=bool)
    if sizes:
        objects &= (given.true_area >= sizes[0]) & (given.true_area <= sizes[1])
        outside = (given.area < sizes[0]) | (given.area > sizes[1])

    takes_part = np.zeros(len(found), dtype=bool)
    takes_part[scored] = True
    value = np.where(reusable[given.instance], given.inside, given.iou)
    wanted = true[given.instance]
    usable = takes_part[given.prediction] & (value >= thresholds[0])
    usable &= (wanted == UNLABELLED) | (wanted == found[given.prediction])
    row, column, value = given.prediction[usable], given.instance[usable], value[usable]
    turn = _turns(given.image, found, scored, row)
    # COCO prefers what counts to what is ignored, then the greater IoU, and of equal ones takes the last
    order = np.lexsort((column, value, objects[column], row, turn[row]))
    hit = _greedy(row[order], column[order], value[order], turn, reusable, (len(thresholds), len(found)), thresholds)
    ignored = np.where(hit < 0, outside, ~objects[hit] if len(true) else False)
    hit[ignored] = -1
    starts = np.searchsorted(found[scored], np.arange(categories + 1))
    return Matches(true, found, categories, scored, starts, place, objects, hit, ignored)


def _places(images: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """For predictions listed best first, how many of the same image and category come before each: int [n]."""
    order = np.lexsort((np.arange(len(images)), categories, images))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(images[order]) != 0) | (np.diff(categories[order]) != 0)
    index = np.arange(len(order))
    places = np.empty(len(order), dtype=int)
    places[order] = index - np.maximum.accumulate(np.where(new, index, 0))
    return places


def _turns(images: np.ndarray, found: np.ndarray, scored: np.ndarray, choosers: np.ndarray) -> np.ndarray:
    """int [N]: when each prediction that has a choice chooses, in its image and category."""
    chooses = np.zeros(len(found), dtype=bool)
    chooses[choosers] = True
    ordered = scored[chooses[scored]]
    turns = np.zeros(len(found), dtype=int)
    turns[ordered] = _places(images[ordered], found[ordered])
    return turns


def _greedy(row, column, value, turn, reusable, shape, thresholds) -> np.ndarray:
    """int [T, N]. The n-th of all images and categories choose at once, since they do not compete; of its pairs each
    takes the last that is free. row, column, value: of the pairs, by turn and prediction, the best last."""
    hit = np.full(shape, -1, dtype=np.int32)
    taken = np.zeros((len(thresholds), len(reusable)), dtype=bool)
    for low, high in pairwise(np.flatnonzero(np.diff(turn[row], prepend=-1, append=-1))):
        own, wanted = row[low:high], column[low:high]
        starts = np.flatnonzero(np.diff(own, prepend=-1))
        free = (value[low:high] >= thresholds[:, None]) & ~taken[:, wanted]
        best = np.maximum.reduceat(np.where(free, np.arange(high - low), -1), starts, axis=1)
        threshold, chooser = np.nonzero(best >= 0)
        chosen = wanted[best[threshold, chooser]]
        hit[threshold, own[starts[chooser]]] = chosen
        taken[threshold, chosen] = ~reusable[chosen]
    return hit
