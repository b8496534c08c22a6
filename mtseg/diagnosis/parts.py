"""Find a part of the images whose masks or annotations are turned, mirrored, scaled, shifted, or of another image.

Each change is undone for each image alone. An image counts for a change if its masks fit badly as they are and well
after undoing it. How well they fit by chance is measured with the predictions of other images. Only changes after which
the images surely fit better than by chance are reported, with their share and the images.

I images; boxes are (x, y, width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from mtseg.checks.findings import Finding
from mtseg.diagnosis.masks import BestBoxes, Undo, mirrored, scaled, transposed, turned
from mtseg.diagnosis.split import Split, by_image
from mtseg.evaluation.ap.pairs import box_overlaps
from mtseg.evaluation.bootstrap import Interval, proportion

BAD, GOOD = 0.4, 0.6  # mean box IoU of an image's objects: at most as it is, and at least after undoing a change
SURE = 4.0  # standard errors by which undoing a change must fit better than with the predictions of other images
LEAST_SPREAD = 0.1  # standard deviation of such fits by chance, at least
FEWEST, SHARE = 3, 0.05  # images that are reported at least; share of the images, which their interval must reach
LEVEL = 0.005  # chance of a false alarm from offsets
OTHERS = 8  # images whose predictions an image is compared with, to measure chance
REACH = 3  # images: largest distance of an exchange
MOST = 1500  # images that fit badly, or have missed objects: at most as many are examined
NAMED = 5  # file names in a finding
SCALES = np.array([0.5, 0.6, 0.7, 0.8, 1.25, 1.5, 2.0])  # of outlines about the corner, and the middle, of the image
FAR = 0.08  # of the objects' side: smaller offsets are not reported
DIRECTIONS = 8  # of offsets that are compared
APART = 4.0  # standard deviations of the offsets of most images, from which an offset is another one
TOUCHING = 0.1  # box IoU from which a prediction belongs to an object
NEAR = 0.3  # of the offset: offsets closer than this are the same


class Change(NamedTuple):
    """steps: the predictions are those of an image that many rows further on, whichever of them fits best."""

    cause: str
    text: str
    undo: Undo
    steps: Sequence[int] = (0,)


def check(split: Split, name: str) -> list[Finding]:
    """A warning for the change that explains most images, if any does. name: of the split."""
    best = BestBoxes(split)
    confident = split.confident()
    best.predicted = [
        split.predictions.box[confident[own]] for own in by_image(split.image[confident], len(split.images))
    ]
    images = np.flatnonzero((best.counts > 0) & np.array([len(boxes) > 0 for boxes in best.predicted]))
    if len(images) < 8:
        return []
    found = _fitting(best, images) or _offset(best, images) or _further(best, images)
    if found is None:
        return []
    cause, text, rows = found
    share = _share(len(rows), len(images))
    names = ", ".join(split.images.file_name[rows[:NAMED]].tolist()) + " ..." * (len(rows) > NAMED)
    evidence = f"{len(rows)} of {len(images)} {name} images ({len(rows) / len(images):.0%}, {share.low:.0%} to "
    evidence += f"{share.high:.0%}): {text}: {names}"
    change = "compare the annotations of these images with the images; an EXIF orientation is a usual reason"
    if cause != "images_turned":
        change = "compare the annotations of these images with the images"
    return [Finding(cause, "warning", evidence, change, name)]


def _share(found: int, images: int) -> Interval:
    return proportion(np.arange(images) < found)


def _enough(found: int, images: int) -> bool:
    """Whether so many images may be `SHARE` of all or more: not every image with a fault is found."""
    return found >= FEWEST and _share(found, images).high >= SHARE


def _changes(sizes: np.ndarray) -> Iterator[Change]:
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
    for step in range(1, REACH + 1):
        text = f"masks fit the image {step} before or {step} further on"
        yield Change("masks_of_other_image", text, lambda boxes, image: boxes, (step, -step))


def _fitting(best: BestBoxes, images: np.ndarray) -> tuple[str, str, np.ndarray] | None:
    """(cause, text, rows of the images) of the change that surely explains most of the images that fit badly."""
    count, as_is = len(best.objects), Change("", "", lambda boxes, image: boxes)
    bad = images[[_fit(best, image, [image], as_is) <= BAD for image in images]]
    bad = bad[np.unique(np.linspace(0, len(bad) - 1, min(len(bad), MOST)).astype(int))] if len(bad) else bad
    if not len(bad):
        return None
    rng, explained = np.random.default_rng(0), []
    for change in _changes(best.sizes):
        fits = np.array([_fit(best, image, [(image + step) % count for step in change.steps], change) for image in bad])
        own = bad[fits >= GOOD]
        if not _enough(len(own), len(images)):
            continue
        drawn = [[rng.choice(images[images != image], len(change.steps)) for _ in range(OTHERS)] for image in bad]
        by_chance = np.array(
            [[_fit(best, image, one, change) for one in others] for image, others in zip(bad, drawn, strict=True)]
        )
        spread = max(float(by_chance.std()), LEAST_SPREAD) * np.sqrt(len(bad) * (1 + 1 / OTHERS))
        surely = (fits.sum() - by_chance.mean(1).sum()) / spread
        if surely > SURE:
            explained.append((surely, change, own))
    if not explained:
        return None
    _, change, own = max(explained, key=lambda one: one[0])
    return change.cause, change.text, own


def _further(best: BestBoxes, images: np.ndarray) -> tuple[str, str, np.ndarray] | None:
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
            return "masks_of_other_image", text, own
    return None


def _belong(best: BestBoxes, objects: np.ndarray, other: int) -> bool:
    """Whether most of these objects fit predictions of another image."""
    predicted = best.predicted[other]
    return bool(len(predicted)) and bool(np.median(box_overlaps(predicted, objects)[0].max(0)) >= GOOD)


def _fit(best: BestBoxes, image: int, others: Sequence[int], change: Change) -> float:
    """Mean over the objects of an image of the best box IoU with the predictions of one of `others`, in their own
    pixels or scaled to the image's size."""
    objects, fits = best.objects[image], [0.0]
    for other in others:
        predicted = best.predicted[other]
        scale = np.tile(best.sizes[image] / best.sizes[other], 2)
        for own in (predicted, predicted * scale) if (scale != 1).any() else (predicted,):
            if len(objects) and len(own):
                fits.append(float(box_overlaps(change.undo(own, image), objects)[0].max(0).mean()))
    return max(fits)


def _offset(best: BestBoxes, images: np.ndarray) -> tuple[str, str, np.ndarray] | None:
    """A part of the images whose masks lie at a common offset: more than lie as far in other directions."""
    rows, offsets = [], []
    for image in images:
        iou = box_overlaps(best.predicted[image], best.objects[image])[0]
        touched = iou.max(0) > TOUCHING
        if touched.any():
            boxes = best.predicted[image][iou.argmax(0)[touched]], best.objects[image][touched]
            rows.append(image)
            offsets.append(np.median(np.subtract(*(box[:, :2] + box[:, 2:] / 2 for box in boxes)), axis=0))
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
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    counts = [int(near(np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ centre).sum()) for a in angles]
    own, opposite = near(centre), counts[DIRECTIONS // 2]
    chance = binom.sf(counts[0] - 1, sum(counts), 1 / DIRECTIONS) * DIRECTIONS
    if counts[0] < 3 * opposite + 3 or not _enough(counts[0], len(images)) or chance > LEVEL:
        return None
    text = f"masks lie ({centre[0]:+.1f}, {centre[1]:+.1f}) px from their objects, further than in the other images"
    return "masks_displaced", text, rows[own]
