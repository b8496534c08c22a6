"""Put known faults into the masks of the objects, or of the predictions, and see whether both fit better then.

Boxes do not show that a mask has lost a part, contains its mirror image as well, or that its pixels were written by
rows and read by columns. Each fault is tried on every object of a sample of images. It explains the split if the mean
mask IoU surely rises; it explains a part of the images if surely more of them fit it than fit another fault.

I images of the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from mtseg.checks.strays import a_part
from mtseg.diagnosis.split import Split, by_image
from mtseg.evaluation.bootstrap import Interval, auc, mean, ratio

PIXELS = 200_000_000  # of the objects' images, at most
IMAGES = 3000  # at most, about
CUTS = (0.2, 1 / 3, 0.5)  # lost shares of a mask
GOOD, MARGIN = 0.5, 0.15  # mean mask IoU of an image with the faulty masks, at least; its rise, at least
AXES = (1, 0)  # of a mask: mirrored left to right, top to bottom
EMPTY, COVERED = 0.02, 0.2  # shares of a mask: nothing is left of it; much is
MOSTLY = 0.5  # share of a mask that lies within another one
TOUCHING = 0.1  # IoU from which something is predicted for an object
LEVEL = 0.005  # chance of a false alarm


class Kind(NamedTuple):
    """change: of a mask, uint8 [height, width]. alike: faults with the same name explain the same images. annotated:
    annotations have the fault, and predictions with it fit them."""

    cause: str
    text: str
    alike: str
    change: Callable[[np.ndarray], np.ndarray]
    annotated: bool = False


class Fits(NamedTuple):
    """images: int [I], their rows. Of M objects: rows: int [M], among all that are no crowds; place: int [M], of its
    image in `images`; iou: [M], the best mask IoU with a prediction; faulty: [kinds, M], the same with each fault.

    And for `AXES`: covered: [2, M], the share of a mask that its mirror image covers; part_iou: [2, M], the best IoU of
    that part."""

    images: np.ndarray
    rows: np.ndarray
    place: np.ndarray
    iou: np.ndarray
    faulty: np.ndarray
    covered: np.ndarray
    part_iou: np.ndarray

    def sums(self, values: np.ndarray | None = None) -> np.ndarray:
        """[I]: the sum over the objects of each image of values [M], by default their number."""
        return np.bincount(self.place, values, minlength=len(self.images))


def _without(mask: np.ndarray, side: int, share: float) -> np.ndarray:
    """A mask without a share of its rows or columns. side: 0 top, 1 bottom, 2 left, 3 right."""
    places = np.flatnonzero(mask.any(1 - side // 2))
    if not len(places):
        return mask
    count, mask = round(share * len(places)), mask.copy()
    cut = slice(0, places[0] + count) if side % 2 == 0 else slice(places[-1] + 1 - count, None)
    mask[(cut, slice(None)) if side < 2 else (slice(None), cut)] = 0
    return mask


SIDES = ("upper", "lower", "left", "right")
KINDS = (
    *(Kind("masks_scaled", f"{name} lack about the {side} {share:.0%} of their objects", f"{name} {side}",
           lambda mask, number=number, share=share: _without(mask, number, share), annotated)
      for name, annotated in (("masks", False), ("outlines", True))
      for number, side in enumerate(SIDES) for share in CUTS),
    *(Kind("masks_mirrored", f"masks contain their own mirror image as well, {text}", text,
           lambda mask, axes=axes: mask | np.flip(mask, axes))
      for text, axes in (("left to right", 1), ("top to bottom", 0), ("turned by 180 degrees", (0, 1)))),
    Kind("masks_transposed", "masks were written by rows and read by columns", "read",
         lambda mask: mask.reshape(-1).reshape(mask.shape, order="F")),
    Kind("masks_transposed", "masks were written by columns and read by rows", "read",
         lambda mask: mask.reshape(-1, order="F").reshape(mask.shape)),
)  # fmt: skip


@lru_cache(maxsize=2)  # val and train: both the diagnosis of all masks and that of some images need it
def fits(split: Split) -> Fits:
    """Of the best predictions, at most one for each object, on images that are evenly spread."""
    count, instances = len(split.images), split.images.instances
    objects = np.flatnonzero(~instances.crowd & (instances.area > 0))
    of_objects = by_image(instances.image[objects], count)
    of_predictions = by_image(split.image[split.best], count, -split.score[split.best])
    images = np.flatnonzero([len(own) > 0 for own in of_objects])
    pixels = int((split.images.height * split.images.width)[instances.image[objects]].sum())
    images = images[:: max(pixels // PIXELS, len(images) // IMAGES) + 1]
    ranks = np.cumsum(~instances.crowd) - 1
    numbers = [np.zeros((7 + len(KINDS), 0))]
    for place, image in enumerate(images.tolist()):
        own = objects[of_objects[image]]
        found = split.predictions[split.best[of_predictions[image][: len(own)]]].rles()
        most = max(1, PIXELS // int(split.images.height[image] * split.images.width[image]))
        own = own[:: len(own) // most + 1] if len(own) > most else own  # of large images, masks fill the memory
        true = instances[own].rles()
        masks = [coco_mask.decode(rle) for rle in true]
        parts = [[mask & np.flip(mask, axis) for mask in masks] for axis in AXES]
        covered = [[part.sum() / mask.sum() for part, mask in zip(some, masks, strict=True)] for some in parts]
        ious = [_best(found, true), *(_best(found, _encoded(some)) for some in parts)]
        faulty = [
            _best(_encoded(kind.change(coco_mask.decode(rle)) for rle in found), true) if kind.annotated
            else _best(found, _encoded(map(kind.change, masks)))
            for kind in KINDS
        ]  # fmt: skip
        numbers.append(np.array([ranks[own], np.full(len(own), place), *ious, *covered, *faulty]))
    rows, places, iou, *rest = np.concatenate(numbers, axis=1)
    part_iou, covered, faulty = (np.array(part) for part in (rest[:2], rest[2:4], rest[4:]))
    return Fits(images, rows.astype(int), places.astype(int), iou, faulty, covered, part_iou)


def _faulty(found: list[dict], true: list[dict], masks: list[np.ndarray]) -> list[np.ndarray]:
    """For each of `KINDS` the best IoU of each object. A prediction that covers several objects is not one of which the
    outline lacks a part, nor is an object that several predictions cover one of which they do."""
    if not found:
        return [np.zeros(len(true))] * len(KINDS)
    covered = coco_mask.iou(true, found, [1] * len(found))  # share of each object that a prediction covers
    inside = coco_mask.iou(found, true, [1] * len(true))  # share of each prediction that lies within an object
    single, whole = (covered >= MOSTLY).sum(0) < 2, (inside >= MOSTLY).sum(0) < 2
    cut: list[list[dict]] = [[] for _ in KINDS]
    for rle in (rle for rle, one in zip(found, single, strict=True) if one):
        mask = coco_mask.decode(rle)  # one at a time: of large images, all fill the memory
        for own, kind in zip(cut, KINDS, strict=True):
            own += _encoded([kind.change(mask)]) if kind.annotated else []
    before = _best(found, true)
    return [
        _best(own, true) if kind.annotated
        else np.where(whole | (kind.cause != "masks_scaled"), _best(found, _encoded(map(kind.change, masks))), before)
        for own, kind in zip(cut, KINDS, strict=True)
    ]  # fmt: skip


def _encoded(masks: Iterable[np.ndarray]) -> list[dict]:
    return [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]


def _best(found: list[dict], true: list[dict]) -> np.ndarray:
    """Best IoU of each object with a prediction."""
    return coco_mask.iou(found, true, [0] * len(true)).max(0) if found else np.zeros(len(true))


def of_split(sample: Fits) -> tuple[Kind, Interval, float] | None:
    """The fault that raises the mean IoU of the objects most, by how much, and the mean IoU that it has then."""
    if not len(sample.place):
        return None
    best = int(sample.faulty.sum(1).argmax())
    gain = ratio(sample.sums(sample.faulty[best] - sample.iou), sample.sums())
    return KINDS[best], gain, float(sample.faulty[best].mean())


def of_mean(sample: Fits) -> tuple[str, Interval, float] | None:
    """As `of_split`, with the text alone, for the mean with a mirrored image: it leaves the part of a mask that its
    mirror image covers, and loses objects without such a part. A poor model loses objects as well: so those of which
    more is covered are surely found more often, their parts fit better than they, and the other axis explains less."""
    lost = sample.iou < TOUCHING
    fit = np.where(sample.covered < EMPTY, lost, sample.part_iou)
    best = int(fit.sum(1).argmax())
    more = auc(sample.covered[best], ~lost)
    seen = ~lost & (sample.covered[best] >= COVERED)
    if more is None or more.low <= 0.5 or sample.part_iou[best, seen].sum() <= sample.iou[seen].sum():
        return None
    count = len(sample.images)
    gains = [mean(fit[best] - other, sample.place, count) for other in (fit[1 - best], sample.iou)]
    text = f"masks are left where their mirror image, {('left to right', 'top to bottom')[best]}, covers them"
    return text, min(gains, key=lambda one: one.low), float(fit[best].mean())


def of_part(sample: Fits) -> tuple[str, str, np.ndarray, float] | None:
    """(cause, text, rows of the images, sum of their mean IoU with the fault) of the fault that explains most images,
    and surely more than others do."""
    counts = np.maximum(sample.sums(), 1)
    before, after = (
        np.array([sample.sums(row) for row in part]) / counts for part in (sample.iou[None], sample.faulty)
    )
    explains = (after >= GOOD) & (after >= before + MARGIN)
    explains &= ~np.array([[kind.annotated] for kind in KINDS])  # a second, mirrored mask looks like such outlines
    number = int((after * explains).sum(1).argmax())
    own = explains[number]
    if not a_part(own.sum(), len(own), _by_chance(explains, number), level=LEVEL / len(KINDS)):
        return None
    return KINDS[number].cause, KINDS[number].text, sample.images[own], float(after[number, own].sum())


def of_objects(sample: Fits) -> tuple[str, str, np.ndarray] | None:
    """(cause, text, rows of the objects) of the fault that explains most objects, in surely more images than others
    do."""
    explains = (sample.faulty >= GOOD) & (sample.faulty >= sample.iou + MARGIN)
    images = np.array([sample.sums(row) > 0 for row in explains])
    for number in np.argsort(-explains.sum(1), kind="stable").tolist():
        count = int(images[number].sum())
        if a_part(count, len(sample.images), _by_chance(images, number), level=LEVEL / len(KINDS)):
            return KINDS[number].cause, KINDS[number].text, sample.rows[explains[number]]
    return None


def _by_chance(explains: np.ndarray, number: int) -> float:
    """Share of the images that another fault explains, at most. explains: bool [kinds, I]."""
    others = [row.sum() for row, kind in zip(explains, KINDS, strict=True) if kind.alike != KINDS[number].alike]
    return float(max(others) + 1) / (explains.shape[1] + 1)
