"""Find a part of the images whose masks or annotations are turned, mirrored, scaled, shifted, or of another image.

Each change is undone for each image alone. An image counts for a change if its masks fit badly as they are and well
after undoing it. How likely that is by chance is measured in two ways, of which the larger counts: how often the
predictions of other images fit the objects as well after undoing the change, in place and labels; and how often other
changes of the same kind seem to explain other images, since masks that are only inexact fit better after some change.
The binomial distribution gives the chance of as many images. A change is reported if this is small, with the share of
the images and their names. If there is none, faults that boxes do not show are tried (`simulated`).

I images, T tasks; boxes are (x, y, width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from mtseg.checks.findings import Finding
from mtseg.checks.strays import named
from mtseg.core.tables import UNLABELLED
from mtseg.diagnosis import simulated
from mtseg.diagnosis.masks import BestBoxes, Undo, centres, mirrored, scaled, transposed, turned
from mtseg.diagnosis.split import Split, by_image
from mtseg.evaluation.ap.pairs import box_overlaps
from mtseg.evaluation.bootstrap import Interval, proportion

GOOD, MARGIN = 0.5, 0.2  # mean box IoU of an image's objects after undoing a change, at least; its rise, at least
FEWEST, SHARE = 2, 0.05  # images that are reported at least; share of the images, which their interval must reach
LEVEL = 0.005  # chance of a false alarm
CHANCE = 3000  # images with the predictions of others, at most, from which chance is measured
DRAWS = 16  # others for each image, at least
LEAST_SPREAD = 0.05  # standard deviation of such fits, at least
OTHERS = 8  # images whose predictions are compared with further objects, to measure chance
REACH = 3  # images: largest distance of an exchange
STEPS = 8  # images: distances that are compared with these
MOST = 1500  # images that fit badly, or have missed objects: at most as many are examined
SCALES = np.array([0.5, 0.6, 0.7, 0.8, 1.25, 1.5, 2.0])  # of outlines about the corner, and the middle, of the image
FAR = 0.08  # of the objects' side: smaller offsets are not reported
DIRECTIONS = 8  # of offsets that are compared
TURNS = [
    np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
]
APART = 4.0  # standard deviations of the offsets of most images, from which an offset is another one
TOUCHING = 0.1  # box IoU from which a prediction belongs to an object
BELONGS = 0.6  # box IoU of further objects with the predictions of their own image, at least
ALIKE, FAR_OFF, CLOSE = (
    1.25,
    0.35,
    1.5,
)  # largest ratio of sides of the same object; of its side: how far it may lie off
NEAR = 0.3  # of the offset: offsets closer than this are the same


class Change(NamedTuple):
    """cause: empty if it is only compared. steps: the predictions are those of an image that many rows further on,
    whichever of them fits best."""

    cause: str
    text: str
    undo: Undo
    steps: Sequence[int] = (0,)


class Offset(NamedTuple):
    """A common offset [2] of the masks of some images, in pixels; their rows; and the number of images with an offset
    as large in each of `TURNS`."""

    centre: np.ndarray
    own: np.ndarray
    counts: list[int]


class Found(NamedTuple):
    """A fault of some images. rows: of the images; fit: sum of their mean IoU after undoing it."""

    cause: str
    text: str
    rows: np.ndarray
    fit: float


class Sample(BestBoxes):
    """The confident predictions of each image, and the labels of its objects [B, T] and predictions [A, T]."""

    def __init__(self, split: Split):
        super().__init__(split)
        confident, count = split.confident(), len(split.images)
        rows = [confident[own] for own in by_image(split.image[confident], count)]
        self.predicted = [split.predictions.box[own] for own in rows]
        labels = np.column_stack([split.predictions.labels[task.name] for task in split.trained])
        self.predicted_labels = [labels[own] for own in rows]
        kept = np.flatnonzero(~split.images.instances.crowd)
        labels = np.column_stack([split.images.instances.labels[task.name] for task in split.trained])
        self.labels = [labels[kept[own]] for own in by_image(split.images.instances.image[kept], count)]

    def fit(self, image: int, others: Sequence[int], undo: Undo) -> tuple[float, float]:
        """Mean over the objects of an image of the best box IoU with the predictions of one of `others`, in their own
        pixels or scaled to the image's size; and the same of the IoU times 0.5, or up to 1 if labels agree."""
        objects, labels, best = self.objects[image], self.labels[image], (0.0, 0.0)
        for other in others:
            predicted = self.predicted[other]
            if not len(predicted) or not len(objects):
                continue
            known = labels != UNLABELLED
            agree = (self.predicted_labels[other][:, None] == labels) & known
            agree = (1 + agree.sum(2) / np.maximum(known.sum(1), 1)) / 2
            scale = np.tile(self.sizes[image] / self.sizes[other], 2)
            for own in (predicted, predicted * scale) if (scale != 1).any() else (predicted,):
                iou = box_overlaps(undo(own, image), objects)[0]
                best = max(best, (float(iou.max(0).mean()), float((iou * agree).max(0).mean())))
        return best


def check(split: Split, name: str, *, least: float = 0.0) -> list[Finding]:
    """A warning for the change that explains most images, if any does. name: of the split. least: share of the images
    with objects that it must explain."""
    sample, known = Sample(split), []
    if found := find(sample):
        known.append(found)
    if simple := simulated.of_part(simulated.fits(split)):
        known.append(Found(*simple))
    if not known:
        return []
    cause, text, rows, _ = max(known, key=lambda one: one.fit)
    count = int((sample.counts > 0).sum())
    if len(rows) < least * count:
        return []
    share = _share(len(rows), count)
    files = split.images.file_name[rows].tolist()
    evidence = f"{len(rows)} of {count} {name} images with objects ({len(rows) / count:.0%}, {share.low:.0%} to "
    evidence += f"{share.high:.0%}): {text}: {named(files)}"
    change = "compare the annotations of these images with the images; an EXIF orientation is a usual reason"
    if cause != "images_turned":
        change = "compare the annotations of these images with the images"
    return [Finding(cause, "warning", evidence, change, name, files)]


def find(sample: Sample) -> Found | None:
    """The change of the boxes that explains some images, if any does."""
    images = np.flatnonzero(sample.counts > 0)
    if len(images) < 8:
        return None
    seen = images[[len(sample.predicted[image]) > 0 for image in images]]
    offset = _offset(sample, seen)
    return (
        _fitting(sample, images, offset)
        or _displaced(sample, offset, len(seen))
        or _further(sample, seen)
        or _scattered(sample, seen)
    )


def _share(found: int, images: int) -> Interval:
    return proportion(np.arange(images) < found)


def _enough(found: int, images: int) -> bool:
    """Whether so many images may be `SHARE` of all or more: not every image with a fault is found."""
    return found >= FEWEST and _share(found, images).high >= SHARE


def changes(sizes: np.ndarray) -> Iterator[Change]:
    for text, axes in (("left to right", (0,)), ("top to bottom", (1,))):
        yield Change("masks_mirrored", f"masks are mirrored {text}", mirrored(sizes, *axes))
    yield Change("images_turned", "masks are turned by 180 degrees", mirrored(sizes, 0, 1))
    for stretched in (True, False):
        for quarter in (1, 3):
            undo = turned(sizes, quarter, stretched=stretched)
            yield Change("images_turned", f"masks are turned by {90 * quarter} degrees", undo)
        text = "rows and columns of the masks are swapped"
        yield Change("masks_transposed", text, transposed(sizes, stretched=stretched))
    for scale in SCALES:
        text = f"masks lie as in an image {scale:.3g} times as large"
        yield Change("masks_displaced", text, lambda boxes, image, scale=scale: boxes / scale)
    for scale in SCALES:
        text = f"masks lie as in an image {scale:.3g} times as large in the middle of their own"
        yield Change("masks_displaced", text, scaled(sizes, scale))
    for step in range(1, STEPS + 1):
        for steps, where in (((-step,), f"{step} before"), ((step,), f"{step} further on"),
                             ((-step, step), f"{step} before or {step} further on")):  # fmt: skip
            yield Change("masks_of_other_image" * (step <= REACH), f"masks fit the image {where}", as_is, steps)


def _shifts(offset: Offset | None) -> Iterator[Change]:
    """A shift by the offset; and in other directions, which are only compared and have no cause."""
    for number, turn in enumerate(TURNS if offset else ()):
        shift = np.append(turn @ offset.centre, [0, 0])
        yield Change("" if number else "masks_displaced", _lie(offset), lambda boxes, image, shift=shift: boxes - shift)


def as_is(boxes: np.ndarray, image: int) -> np.ndarray:
    return boxes


def _fitting(sample: Sample, images: np.ndarray, offset: Offset | None) -> Found | None:
    """The change that is least likely to explain as many images by chance."""
    count = len(sample.objects)
    before = np.array([sample.fit(image, [image], as_is)[0] for image in images])
    bad = before < 1 - MARGIN
    kept = np.unique(np.linspace(0, bad.sum() - 1, min(bad.sum(), MOST)).astype(int)) if bad.any() else []
    bad, before = images[bad][kept], before[bad][kept]
    if len(bad) < FEWEST:
        return None
    tried = [*changes(sample.sizes), *_shifts(offset)]
    fits = np.array(
        [
            [sample.fit(image, [(image + step) % count for step in change.steps], change.undo) for image in bad]
            for change in tried
        ]
    )  # [changes, bad, 2]
    explains = (fits[..., 0] >= GOOD) & (fits[..., 0] >= before + MARGIN)
    found, tested = [], [i for i, change in enumerate(tried) if change.cause]
    for row in tested:
        change, own = tried[row], explains[row]
        if not _enough(int(own.sum()), len(images)):
            continue
        alike = [i for i, other in enumerate(tried) if i != row and (other.steps == (0,)) == (change.steps == (0,))]
        inexact = explains[alike][:, ~own]
        inexact = inexact.sum() / max(inexact.size, 1)
        if binom.sf(own.sum() - 1, len(bad), inexact) * len(tested) >= LEVEL:
            continue
        likely = np.maximum(_by_chance(sample, images, bad[own], fits[row, own, 1], change), inexact)
        likely = np.sort(likely)
        places = np.arange(FEWEST, len(likely) + 1)
        chance = binom.sf(places - 1, len(bad), likely[FEWEST - 1 :]).min() * len(tested)
        if chance < LEVEL:
            found.append((chance, -fits[row, own, 1].sum(), change, bad[own], fits[row, own, 0].sum()))
    if not found:
        return None
    *_, change, own, fit = min(found, key=lambda one: one[:2])
    return Found(change.cause, change.text, own, float(fit))


def _by_chance(sample: Sample, images: np.ndarray, own: np.ndarray, fits: np.ndarray, change: Change) -> np.ndarray:
    """[own]: how likely the predictions of another image fit as well after undoing a change, compared with how well
    they usually fit the objects of the same image."""
    rng, draws = np.random.default_rng(0), min(len(images) - 1, max(DRAWS, CHANCE // len(images)))
    rows = np.unique(np.concatenate([own, rng.permutation(images)[: CHANCE // draws]]))
    drawn = [
        [
            sample.fit(image, rng.choice(images[images != image], len(change.steps), replace=False), change.undo)[1]
            for _ in range(draws)
        ]
        for image in rows
    ]
    drawn = np.array(drawn)
    centre, spread = drawn.mean(1, keepdims=True), np.maximum(drawn.std(1, keepdims=True), LEAST_SPREAD)
    place = np.searchsorted(rows, own)
    by_chance, here = np.sort(((drawn - centre) / spread).ravel()), (fits - centre[place, 0]) / spread[place, 0]
    return (len(by_chance) - np.searchsorted(by_chance, here) + 1) / (len(by_chance) + 1)


def _further(best: BestBoxes, images: np.ndarray) -> Found | None:
    """Images with further objects, where nothing is predicted, which surely are those of an image nearby."""
    count, rng, missed = len(best.objects), np.random.default_rng(0), []
    for image in images.tolist():
        apart = box_overlaps(best.predicted[image], best.objects[image])[0].max(0) < TOUCHING
        if apart.any():
            missed.append((image, best.objects[image][apart]))
    missed = missed[:: len(missed) // MOST + 1]
    if not missed:
        return None
    rows = np.array([image for image, _ in missed])
    drawn = [_belong(best, own, int(rng.choice(images))) for _, own in missed for _ in range(OTHERS)]
    chance = (sum(drawn) + 1) / (len(drawn) + 1)
    for step in (sign * size for size in range(1, REACH + 1) for sign in (-1, 1)):
        own = rows[[_belong(best, objects, (image + step) % count) for image, objects in missed]]
        surely = binom.sf(len(own) - 1, len(missed), chance) * 2 * REACH < LEVEL
        if surely and _enough(len(own), len(images)):
            where = f"{abs(step)} {'before' if step < 0 else 'further on'}"
            text = f"further objects, where the model finds nothing, are those of the image {where}"
            return Found("masks_of_other_image", text, own, float(len(own)))
    return None


def _scattered(sample: Sample, images: np.ndarray) -> Found | None:
    """Images in which objects have a prediction of their size and labels beside them, in any direction: of those whose
    objects fit badly, more than have one of another image."""
    rng = np.random.default_rng(0)
    own = {image: far for image in images.tolist() if (far := _beside(sample, image, image)) is not None}
    drawn = [_beside(sample, image, int(rng.choice(images))) for image in own for _ in range(DRAWS)]
    drawn = [far for far in drawn if far is not None]
    rows = [image for image, far in own.items() if far]
    chance = (np.count_nonzero(drawn) + 1) / (len(drawn) + 1)
    if not _enough(len(rows), len(images)) or binom.sf(len(rows) - 1, len(own), chance) >= LEVEL:
        return None
    far = np.median([own[image] for image in rows])
    text = f"objects lie about {far:.1f} px from where the model finds such ones, in any direction"
    return Found("masks_displaced", text, np.array(rows), float(len(rows)))


def _beside(sample: Sample, image: int, other: int) -> float | None:
    """How far the objects of an image lie from predictions of another one that have their size and labels; 0 if fewer
    than half have one; None if half or more fit where they are, or nothing is predicted."""
    objects, predicted = sample.objects[image], sample.predicted[other]
    if not len(predicted):
        return None
    fit = box_overlaps(predicted, objects)[0] >= BELONGS
    if 2 * fit.any(0).sum() >= len(objects):
        return None
    side = np.sqrt(objects[:, 2:].prod(1))
    apart = np.linalg.norm(centres(predicted)[:, None] - centres(objects), axis=2)
    ratio = predicted[:, None, 2:] / objects[:, 2:]
    same = (sample.predicted_labels[other][:, None] == sample.labels[image]).all(2)
    alike = same & (np.maximum(ratio, 1 / ratio).max(2) < ALIKE) & (apart > FAR_OFF * side) & (apart < CLOSE * side)
    alike &= ~fit.any(1)[:, None] & ~fit.any(0)
    found = alike.any(0)
    return (
        float(np.median(apart.min(0, where=alike, initial=np.inf)[found])) if 2 * found.sum() >= len(objects) else 0.0
    )


def _belong(best: BestBoxes, objects: np.ndarray, other: int) -> bool:
    """Whether most of these objects fit predictions of another image."""
    predicted = best.predicted[other]
    return bool(len(predicted)) and bool(np.median(box_overlaps(predicted, objects)[0].max(0)) >= BELONGS)


def _offset(best: BestBoxes, images: np.ndarray) -> Offset | None:
    """The most common offset of masks, if it is further than those of most images."""
    rows, offsets = [], []
    for image in images:
        iou = box_overlaps(best.predicted[image], best.objects[image])[0]
        touched = iou.max(0) > TOUCHING
        if touched.any():
            boxes = best.predicted[image][iou.argmax(0)[touched]], best.objects[image][touched]
            rows.append(image)
            offsets.append(np.median(np.subtract(*map(centres, boxes)), axis=0))
    if not rows:
        return None
    rows, offsets = np.array(rows), np.array(offsets)
    offsets -= np.median(offsets, axis=0)
    spread = max(1.4826 * float(np.median(np.abs(offsets))), 0.1)
    side = float(np.median(np.concatenate([best.objects[image][:, 2:].ravel() for image in rows])))
    least = max(APART * spread, FAR * side, 1.5)
    far = np.flatnonzero(np.linalg.norm(offsets, axis=1) > least)
    if not _enough(len(far), len(images)):
        return None

    def near(point: np.ndarray) -> np.ndarray:
        return np.linalg.norm(offsets - point, axis=1) < max(NEAR * np.linalg.norm(point), 2 * spread)

    centre = offsets[max(far[:MOST], key=lambda row: near(offsets[row]).sum())]
    centre = np.median(offsets[near(centre)], axis=0)
    if np.linalg.norm(centre) < least:
        return None
    return Offset(centre, rows[near(centre)], [int(near(turn @ centre).sum()) for turn in TURNS])


def _displaced(sample: Sample, offset: Offset | None, images: int) -> Found | None:
    """A part of the images whose masks lie at a common offset: more than lie as far in other directions."""
    if offset is None:
        return None
    own, opposite = offset.counts[0], offset.counts[DIRECTIONS // 2]
    chance = binom.sf(own - 1, sum(offset.counts), 1 / DIRECTIONS) * DIRECTIONS
    if own < 3 * opposite + 3 or not _enough(own, images) or chance > LEVEL:
        return None
    (_, _, undo, _), *_ = _shifts(offset)
    fit = sum(sample.fit(image, [image], undo)[0] for image in offset.own)
    return Found("masks_displaced", _lie(offset), offset.own, fit)


def _lie(offset: Offset) -> str:
    x, y = offset.centre
    return f"masks lie ({x:+.1f}, {y:+.1f}) px from their objects, further than in the other images"
