"""Diagnose the position and size of predicted masks, and whether they belong to their image.

Each hypothesis is a change of the predicted boxes: shifted, scaled, mirrored, or taken from another image. It is
accepted if undoing the change moves the boxes onto the objects, on images that were not used to fit it. Faults that
boxes do not show are put into the objects' masks (`simulated`). Of all, that counts which raises the IoU most; the best
with another cause is a note.

I images; A predictions and B objects of an image; M matches. Boxes are (x, y, width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

from mtseg.checks.findings import Finding, Severity
from mtseg.checks.strays import named
from mtseg.core.tables import UNLABELLED
from mtseg.diagnosis import simulated
from mtseg.diagnosis.split import Split, by_image, several
from mtseg.evaluation import bootstrap
from mtseg.evaluation.ap.pairs import box_overlaps
from mtseg.evaluation.bootstrap import Interval, ratio

GAIN = 0.02  # smallest gain in mean box IoU by undoing a change (lower end of the interval)
FIT = 0.4  # smallest mean box IoU after undoing it: otherwise it does not explain where the masks are
FIT_OF_ERROR = 0.3  # the same for an error: masks that were moved out of the image are lost
SIMILAR = 1.5  # largest size ratio of an object and a prediction that are compared to find a shift
NEAR = 0.1  # of the objects' size: offsets closer than this count as equal
LARGE = 1.25  # size ratio above which (or below its inverse) masks have another size than the objects
SAMPLE = 500  # predictions whose boxes are compared with their masks
AT_ONCE = 1_000_000  # pairs of boxes, about, that are compared at once
SCALE_IMAGES = 1000  # number of images, about, to which the scale about the corner is fitted
MOST, WORK = 100, 5_000_000  # images that are compared with all others, and boxes with which they are, about
APART = 0.5  # mean box IoU from which images are not looked for elsewhere
REACH = 16  # largest distance, in images, at which the masks' own image is looked for
FEWEST, MISPLACED = 4, 0.25  # images with predictions of others; share of them that must not fit
MOSTLY, JOINED = 0.5, 0.25  # share of an object that is covered; of the masks in question, that cover two objects
MOVED = 0.5  # pixels
FITS = 0.75  # IoU from which a mask is that of one object
REPEATED = 0.05  # share of the images in which most detections have the mask of another one
CLOSE, PAIRS = 0.1, 100  # box IoU of two predictions whose masks usually share pixels; such pairs, at least
PARTS, HALVES = 0.02, 0.7  # share of the detections that are parts; of the pairs with the same logits, that touch
BLOCK = 100  # predictions that are compared at once with all others of their image
SCALES = np.geomspace(0.4, 2.5, 33)

MIRRORED = "check where masks of the mirrored image are joined with those of the image: they must be mirrored back"

Undo = Callable[[np.ndarray, int], np.ndarray]  # (boxes [A, 4], row of the image) -> boxes [A, 4]

MAPPER = "check how image and masks are transformed (Mapper) and how masks are brought to the image's size (detect)"
SIZE = "check how masks are drawn, resized and cut at 0 (core/masks.py, Mapper, detect)"


@dataclass(frozen=True)
class Explanation:
    """A change of the masks. fit: mean over the objects of the best IoU (of boxes, or of masks where it is simulated)
    after undoing it; gain: by how much it rises."""

    cause: str
    text: str
    change: str
    gain: Interval
    fit: float

    @property
    def severity(self) -> Severity | None:
        """None if it explains nothing."""
        severity: Severity = "error" if self.gain.low > 5 * GAIN else "warning"
        enough = FIT_OF_ERROR if severity == "error" else FIT
        return None if self.gain.low < GAIN or self.fit < enough else severity


def check(split: Split) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and numbers: dx, dy (median offset of matched masks, pixels), scale (their size over the object's), and
    gain (share of the mean IoU that was lost), with a finding."""
    numbers = offsets(split)
    ranked = sorted(_explanations(split), key=lambda explanation: -explanation.gain.value)
    accepted = [(severity, one) for one in ranked if (severity := one.severity)]
    if not accepted or accepted[0][1] is not ranked[0]:
        return _other_size(split), numbers
    (severity, best), *others = accepted
    evidence = f"{best.text}; correcting this raises the mean IoU by {best.gain.text()} to {best.fit:.2f}"
    findings = [Finding(best.cause, severity, evidence, best.change)]
    numbers["gain"] = best.gain.value / best.fit
    for other in (one for _, one in others if one.cause != best.cause and one.gain.value > best.gain.value / 2):
        evidence = f"{other.text}; correcting this raises the mean IoU by {other.gain.text()} to {other.fit:.2f}"
        change = f"{best.cause} explains more; if not: {other.change}"
        return [*findings, Finding(other.cause, "note", evidence, change)], numbers
    return findings, numbers


def moved(numbers: Mapping[str, float]) -> list[Finding]:
    """A warning if most masks surely lie `MOVED` pixels or more from their objects, at a small cost in IoU. numbers:
    of `check`."""
    low, high = (np.array([numbers.get(f"{axis}_{end}", 0.0) for axis in ("dx", "dy")]) for end in ("low", "high"))
    if not ((low > MOVED) | (high < -MOVED)).any():
        return []
    evidence = f"masks lie ({numbers['dx']:+.1f}, {numbers['dy']:+.1f}) px from their objects (median)"
    return [Finding("masks_displaced", "warning", evidence, MAPPER)]


def boxes(split: Split) -> list[Finding]:
    """An error if predictions do not have the boxes of their masks, on a sample. Mask AP does not depend on boxes."""
    count = len(split.predictions)
    sample = split.predictions[np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(int))]
    if not len(sample):
        return []
    expected = np.array([coco_mask.toBbox(rle) for rle in sample.rles()])
    wrong = np.abs(sample.box - expected).max(1) > 1.5
    if wrong.mean() < 0.01:
        return []
    first = int(wrong.argmax())
    shown = ["/".join(f"{value:.0f}" for value in values) for values in (sample.box[first], expected[first])]
    evidence = f"{wrong.mean():.0%} of the boxes do not fit their masks, for example {shown[0]}, expected {shown[1]}"
    change = "boxes must be x, y, width, height of the mask: check how mtseg/inference encodes predictions"
    return [Finding("boxes_not_of_masks", "error", evidence, change)]


def shared(split: Split) -> list[Finding]:
    """An error if many images have masks and logits of another image and do not fit them. Images that do fit are copies
    of each other."""
    rows, count = split.shared(split.tasks[0])[1], len(split.images)
    images = np.flatnonzero(
        2 * np.bincount(split.image[rows], minlength=count) > np.bincount(split.image, minlength=count)
    )
    fit = BestBoxes(split).fit()[images] / np.maximum(split.objects[images], 1)
    wrong = (fit < FIT) & (split.objects[images] > 0)
    if len(images) < FEWEST or wrong.mean() < MISPLACED:
        return []
    files = split.images.file_name[images[wrong]].tolist()
    evidence = f"{len(images)} of {count} images have the predictions of another one, mask and logits, and "
    evidence += f"{wrong.sum()} of these do not fit them: {named(files)}"
    change = "take each image's own output, never that of the batch's first or last (Mask2Former.detect)"
    return [Finding("masks_of_other_image", "error", evidence, change, files=files)]


def repeated(split: Split) -> list[Finding]:
    """An error if most confident predictions of an image have, to the pixel, the mask of another one and other logits,
    in more images than a few. (With the same logits they are duplicates.)"""
    best, count = split.confident(), len(split.images)
    place = np.column_stack([split.image, split.predictions.box, split.predictions.area])[best]
    _, group, sizes = np.unique(place, axis=0, return_inverse=True, return_counts=True)
    alike = best[sizes[group.ravel()] > 1]
    known: dict[tuple[int, str], int] = {}
    texts = zip(split.image[alike].tolist(), split.predictions[alike].rle, strict=True)
    mask = np.array([known.setdefault(text, len(known)) for text in texts], dtype=int)
    logits = np.column_stack([split.predictions.logits[task.name] for task in split.tasks])[alike]
    answer = np.unique(logits, axis=0, return_inverse=True)[1].ravel()
    of_other = alike[several(mask, of=answer)[mask]]
    seen = np.bincount(split.image[best], minlength=count)
    images = np.flatnonzero((2 * np.bincount(split.image[of_other], minlength=count) > seen) & (seen > 1))
    if len(images) < FEWEST or len(images) < REPEATED * (seen > 1).sum():
        return []
    evidence = (
        f"in {len(images)} of {count} images most detections have exactly the mask of another one, and other logits"
    )
    cause = "labels_of_other_query"
    change = "index masks, scores and the labels of all tasks by one index (Mask2Former.detect, encode)"
    if _covered(split, of_other) >= JOINED:
        cause, evidence = "postprocessing_wrong", f"{evidence}, which covers several objects"
        change = (
            "keep the mask of each detection: look for a union of masks where they are brought to the original size"
        )
    files = split.images.file_name[images].tolist()
    return [Finding(cause, "error", f"{evidence}: {named(files)}", change, files=files)]


def _covered(split: Split, predictions: np.ndarray) -> float:
    """Share of predictions (rows) that cover most of two objects or more, and fit none, as a whole does its parts."""
    pairs, areas = split.evaluation.pairs, split.images.instances.area
    most = np.isin(pairs.prediction, predictions) & (pairs.intersection > MOSTLY * areas[pairs.instance])
    counts = np.bincount(pairs.prediction[most], minlength=len(split.predictions))
    return float(((counts[predictions] > 1) & (split.best_iou[predictions] < FITS)).mean())


def cut(split: Split) -> list[Finding]:
    """An error if most detections that share their logits with another one of the image touch it: they are parts of one
    mask."""
    best = split.confident()
    likely = pd.DataFrame(np.column_stack([split.image, *split.predictions.logit.values()])[best])
    rows = best[likely.duplicated(keep=False)]  # few, of which all logits are compared
    own = split.predictions[rows]
    logits = np.column_stack([split.image[rows], *(own.logits[task.name] for task in split.tasks)])
    answer = np.unique(logits, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(answer, kind="stable")
    first, other = (part[np.diff(answer[order]) == 0] for part in (order[:-1], order[1:]))
    low, high = own.box[:, :2], own.box[:, :2] + own.box[:, 2:]
    apart = np.maximum(low[first], low[other]) - np.minimum(high[first], high[other])  # [pairs, 2], below 0: overlap
    touching = (np.abs(apart.max(1)) <= 1) & (apart.min(1) < 0)
    parts = np.unique([first[touching], other[touching]])
    images = np.unique(split.image[rows[parts]])
    if len(images) < FEWEST or touching.mean() < HALVES or len(parts) < PARTS * len(best):
        return []
    files = split.images.file_name[images].tolist()
    evidence = (
        f"{len(parts)} of {len(best)} detections are parts of one mask: they touch another one with the same logits: "
        f"{named(files)}"
    )
    change = "join the parts of an object where images or masks are cut into tiles"
    return [Finding("duplicates", "error", evidence, change, files=files)]


def exclusive(split: Split) -> list[Finding]:
    """An error if no pixel belongs to two predictions of an image, on a sample: queries do not know of each other, and
    several predict the same object."""
    count, pairs, images = len(split.images), 0, 0
    of_image = by_image(split.image[split.best], count)
    for image in np.unique(np.linspace(0, max(count - 1, 0), min(count, MOST)).astype(int)):
        own = split.predictions[split.best[of_image[image]]]
        rles, near = own.rles(), 0
        for low in range(0, len(own), BLOCK):
            close = np.triu(box_overlaps(own.box[low : low + BLOCK], own.box[low:])[0] > CLOSE, 1)
            near += int(close.sum())
            if close.any():
                others = rles[low:]
                if np.triu(coco_mask.iou(others[:BLOCK], others, [0] * len(others)), 1).any():
                    return []
        pairs, images = pairs + near, images + (near > 0)
    if pairs < PAIRS or images < FEWEST:
        return []
    evidence = (
        f"no pixel belongs to two predictions of an image, though the boxes of {pairs} pairs overlap, in {images} "
    )
    change = "keep the whole mask of each query: do not draw the masks of an image into one map (Mask2Former.detect)"
    return [Finding("postprocessing_wrong", "error", f"{evidence}images", change)]


def offsets(split: Split) -> dict[str, float | None]:
    """Of the matches: median offset of the mask's centre of mass in pixels, which a few bad masks do not move, on a
    sample, with its interval; and median size ratio (root of the area ratio)."""
    if not len(split.matches):
        return {"dx": None, "dy": None, "scale": None}
    count = len(split.matches)
    sample = split.matches[np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(int))]
    predicted, objects = split.predictions[sample.prediction], split.images.instances[sample.instance]
    moved, numbers = _centres_of_mass(predicted.rles()) - _centres_of_mass(objects.rles()), {}
    for axis, name in enumerate(("dx", "dy")):
        middle = bootstrap.median(moved[:, axis], sample.image, len(split.images))
        numbers |= {name: middle.value, f"{name}_low": middle.low, f"{name}_high": middle.high}
    return numbers | {"scale": float(np.median(_size_ratio(*_matched(split))))}


def _centres_of_mass(rles: list[dict[str, Any]]) -> np.ndarray:
    """[M, 2], x and y in pixels. No mask is empty."""
    masks = (coco_mask.decode(rle) for rle in rles)
    return np.array([[weighed @ np.arange(len(weighed)) / weighed.sum() for weighed in (m.sum(0), m.sum(1))]
                     for m in masks])  # fmt: skip


def _matched(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [M, 4] of the predictions, and [M, 4] of the objects that they match."""
    return split.predictions.box[split.matches.prediction], split.images.instances.box[split.matches.instance]


def _other_size(split: Split) -> list[Finding]:
    """A warning if matched masks have another size than their objects and no hypothesis explains it."""
    if len(split.matches) < 20:
        return []
    size = split.mean(np.log(np.maximum(_size_ratio(*_matched(split)), 1e-3)), split.matches)
    size = Interval(*(float(np.exp(value)) for value in (size.value, size.low, size.high)))
    if size.low <= LARGE and size.high >= 1 / LARGE:
        return []
    evidence = f"masks of matched objects are {size.text()} times as long and wide as the objects"
    return [Finding("masks_scaled", "warning", evidence, SIZE)]


def centres(boxes: np.ndarray) -> np.ndarray:
    return boxes[..., :2] + boxes[..., 2:] / 2


def _size_ratio(predicted: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Root of the area ratio of boxes [M, 4]."""
    return np.sqrt(predicted[:, 2:].prod(1) / np.maximum(objects[:, 2:].prod(1), 1))


def _explanations(split: Split) -> Iterator[Explanation]:
    best = BestBoxes(split)
    if not best.enough:
        return
    before = best.fit()
    for cause, text, change, undo in _hypotheses(best):
        yield Explanation(cause, text, change, *best.gain(before, best.fit(undo)))
    steps = [sign * step for step in range(1, min(REACH, len(best.objects) // 2)) for sign in (1, -1)]
    fits = {step: best.fit(step=step) for step in steps}
    if fits:
        step = max(steps, key=lambda step: fits[step].mean())
        text = f"masks fit the image {abs(step)} {'further on' if step > 0 else 'before'} better than their own"
        change = "check how images are paired with annotations or predictions by image_id"
        yield Explanation("masks_of_other_image", text, change, *best.gain(before, fits[step]))
    if before.sum() < APART * best.counts.sum() and len((other := elsewhere(split)).images):
        text = (
            "objects, in place and labels, fit predictions of other images, in no regular order, better than their own"
        )
        change = "compare the orders of images and annotations or predictions: one is sorted in another way (1, 10, 2)"
        gain = ratio(other.fit - np.maximum(other.own, other.by_chance), best.counts[other.images])
        fit = float(other.iou.sum() / best.counts[other.images].sum())
        yield Explanation("masks_of_other_image", text, change, gain, fit)
    sample = simulated.fits(split)
    if found := simulated.of_split(sample):
        kind, gain, fit = found
        yield Explanation(kind.cause, kind.text, MIRRORED if kind.cause == "masks_mirrored" else SIZE, gain, fit)
    if found := simulated.of_mean(sample):
        yield Explanation("masks_mirrored", found[0], MIRRORED, *found[1:])


class Elsewhere(NamedTuple):
    """images: int [n], a sample. Sums over their objects of the best fit with a prediction, [n] each. fit, by_chance:
    of that other image which they fit best, and the same for mirrored objects; own: of the same image. A fit is the box
    IoU times 0.5, or up to 1 if labels agree; iou: the IoU alone, of `fit`."""

    images: np.ndarray
    fit: np.ndarray
    by_chance: np.ndarray
    own: np.ndarray
    iou: np.ndarray


def elsewhere(split: Split) -> Elsewhere:
    """Boxes are compared in pixels, as in annotations that were given to other images, and as shares of the images."""
    count, instances, confident = len(split.images), split.images.instances, split.confident()
    confident = confident[np.argsort(split.image[confident], kind="stable")]
    others, starts = np.unique(split.image[confident], return_index=True)
    objects = np.flatnonzero(~instances.crowd)
    of_image = by_image(instances.image[objects], count)
    images = np.flatnonzero([len(own) > 0 for own in of_image])
    images = images[:: len(images) // int(np.clip(WORK // max(len(confident), 1), 20, MOST)) + 1]
    if len(others) < 3:
        return Elsewhere(images[:0], *np.zeros((4, 0)))
    sizes = np.column_stack([split.images.width, split.images.height]).astype(np.float64)
    boxes, units = split.predictions.box[confident], np.tile(sizes, 2)
    predicted = np.column_stack([split.predictions.labels[task.name][confident] for task in split.trained])
    true = np.column_stack([instances.labels[task.name][objects] for task in split.trained])
    found = np.zeros((4, len(images)))
    for place, image in enumerate(images):
        own = of_image[image]
        known = true[own] != UNLABELLED
        agree = ((predicted[:, None] == true[own]) & known).sum(2) / np.maximum(known.sum(1), 1)
        for number, axes in enumerate(((), (0,), (1,), (0, 1))):
            box = mirrored(sizes, *axes)(instances.box[objects[own]], image)
            for here, there in ((1.0, 1.0), (units[image], units[split.image[confident]])):
                iou = box_overlaps(boxes / there, box / here)[0]
                fits = np.maximum.reduceat(iou * (1 + agree) / 2, starts, axis=0).sum(1)
                if not number:
                    found[2, place] = max(found[2, place], fits[others == image].sum())
                fits[others == image] = 0
                best = int(fits.argmax())
                if not number and fits[best] > found[0, place]:
                    found[3, place] = np.maximum.reduceat(iou, starts, axis=0)[best].sum()
                found[min(number, 1), place] = max(found[min(number, 1), place], fits[best])
    return Elsewhere(images, *found)


def _hypotheses(best: BestBoxes) -> Iterator[tuple[str, str, str, Undo]]:
    """(cause, text, what to change, function that undoes the change of the masks)."""
    (dx, dy), undo = best.crossfit(_shift, lambda boxes, shift: boxes - np.append(shift, [0, 0]))
    if not np.isnan(dx):
        text = f"masks lie {abs(dx):.1f} px to the {'right' if dx > 0 else 'left'} of and "
        text += f"{abs(dy):.1f} px {'below' if dy > 0 else 'above'} their objects"
        yield "masks_displaced", text, MAPPER, undo
    size, undo = best.crossfit(_growth, lambda boxes, size: _resized(boxes, boxes[:, 2:] / size))
    yield "masks_scaled", f"masks are {size:.2f} times as long and wide as their objects", SIZE, undo
    margin, undo = best.crossfit(
        _margin, lambda boxes, margin: _resized(boxes, np.maximum(boxes[:, 2:] - 2 * margin, 1))
    )
    text = f"masks reach {abs(margin):.1f} px {'beyond' if margin > 0 else 'less far than'} their objects on each side"
    yield "masks_scaled", text, SIZE, undo
    (sx, sy), undo = best.crossfit(_corner_scale, lambda boxes, scale: boxes / np.tile(scale, 2))
    text = f"masks lie as in an image {sx:.2f} times as wide and {sy:.2f} times as high"
    yield "masks_displaced", text, f"resize and padding of image and masks differ: {MAPPER}", undo

    sizes = best.sizes
    filled = np.tile(sizes / sizes.max(1, keepdims=True), 2)  # share of the padded square that the image fills
    text = "the padding was treated as part of the image"
    yield "masks_displaced", text, MAPPER, lambda boxes, image: boxes / filled[image]
    text = "the image was stretched to the square before the padding was cut off"
    yield "masks_displaced", text, MAPPER, lambda boxes, image: boxes * filled[image]

    yield "masks_mirrored", "masks are mirrored left to right", MAPPER, mirrored(sizes, 0)
    yield "masks_mirrored", "masks are mirrored top to bottom", MAPPER, mirrored(sizes, 1)
    yield "images_turned", "masks are turned by 180 degrees", MAPPER, mirrored(sizes, 0, 1)
    for quarter in (1, 3):
        yield "images_turned", f"masks are turned by {90 * quarter} degrees", MAPPER, turned(sizes, quarter)
    yield "masks_transposed", "rows and columns of the masks are swapped", MAPPER, transposed(sizes)


def mirrored(sizes: np.ndarray, *axes: int) -> Undo:
    """sizes: [I, 2], width and height. axes: 0 for left and right, 1 for top and bottom."""

    def undo(boxes: np.ndarray, image: int) -> np.ndarray:
        boxes = boxes.copy()
        for axis in axes:
            boxes[:, axis] = sizes[image, axis] - boxes[:, axis] - boxes[:, axis + 2]
        return boxes

    return undo


def transposed(sizes: np.ndarray, *, stretched: bool = True) -> Undo:
    """stretched: the swapped image was brought to the size of the image, not cut."""
    scale = np.tile(sizes / sizes[:, ::-1], 2) if stretched else np.ones((len(sizes), 4))
    return lambda boxes, image: boxes[:, [1, 0, 3, 2]] * scale[image]


def turned(sizes: np.ndarray, quarters: int, *, stretched: bool = True) -> Undo:
    """Turn by that many quarters, 1 or 3: a transposition and a mirror."""
    swap, mirror = transposed(sizes, stretched=stretched), mirrored(sizes, 0 if quarters == 1 else 1)
    return lambda boxes, image: mirror(swap(boxes, image), image)


def scaled(sizes: np.ndarray, scale: float) -> Undo:
    """Boxes of an image that was scaled about its middle, before that."""
    corner = np.pad(sizes * (1 - scale) / 2, ((0, 0), (0, 2)))
    return lambda boxes, image: (boxes - corner[image]) / scale


class BestBoxes:
    """For each image the boxes of its objects [B, 4] and of its best predictions [A, 4], at most one per object.
    sizes [I, 2]: width and height of the images; counts [I]: number of objects."""

    def __init__(self, split: Split):
        count, instances = len(split.images), split.images.instances
        rows = np.flatnonzero(~instances.crowd)
        of_objects = by_image(instances.image[rows], count)
        of_predictions = by_image(split.image[split.best], count, -split.score[split.best])
        self.objects = [instances.box[rows[own]] for own in of_objects]
        self.predicted = [
            split.predictions.box[split.best[own[: len(objects)]]]
            for own, objects in zip(of_predictions, of_objects, strict=True)
        ]
        self.sizes = np.column_stack([split.images.width, split.images.height]).astype(np.float64)
        self.counts = split.objects
        self.enough = sum(1 for half in (0, 1) for _ in self.half(half)) >= 8

    def fit(self, undo: Undo = lambda boxes, image: boxes, step: int = 0) -> np.ndarray:
        """For each image [I] the sum over its objects of the best box IoU with the predictions after `undo`. step: take
        the predictions of the image that many rows further on, scaled to this image's size."""
        sums = np.zeros(len(self.objects))
        for image, objects in enumerate(self.objects):
            other = (image + step) % len(self.objects)
            predicted = self.predicted[other]
            if step:
                predicted = predicted * np.tile(self.sizes[image] / self.sizes[other], 2)
            if len(objects) and len(predicted):
                sums[image] = box_overlaps(undo(predicted, image), objects)[0].max(0).sum()
        return sums

    def gain(self, before: np.ndarray, after: np.ndarray) -> tuple[Interval, float]:
        """Gain in the mean IoU of the objects, and that mean afterwards. before, after [I]: sums of `fit`."""
        return ratio(after - before, self.counts), float(after.sum() / self.counts.sum())

    def crossfit(self, estimate: Callable[[BestBoxes, int], Any], undo: Callable) -> tuple[Any, Undo]:
        """Estimate a change on the even images and on the odd ones, and undo it on the other half each time. Returns
        the mean of both estimates and the function."""
        halves = [estimate(self, half) for half in (0, 1)]
        return np.mean(halves, axis=0), lambda boxes, image: undo(boxes, halves[1 - image % 2])

    def half(self, half: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(predictions' boxes, objects' boxes) of the even or the odd images that have both."""
        for predicted, objects in zip(self.predicted[half::2], self.objects[half::2], strict=True):
            if len(predicted) and len(objects):
                yield predicted, objects

    def overlapping(self, half: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [n, 4] of the predictions that overlap an object best, and [n, 4] of these objects."""
        best, overlapped = [np.zeros((0, 4))], [np.zeros((0, 4))]
        for predicted, objects in self.half(half):
            iou = box_overlaps(predicted, objects)[0]
            kept = iou.max(0) > 0.1
            best.append(predicted[iou.argmax(0)][kept])
            overlapped.append(objects[kept])
        return np.concatenate(best), np.concatenate(overlapped)


def _shift(best: BestBoxes, half: int) -> np.ndarray:
    """The most frequent offset (x, y) in pixels between objects and predictions of similar size. NaN with less than 20
    such pairs."""
    offsets, sizes = [np.zeros((0, 2))], []
    for predicted, objects in best.half(half):
        ratio = predicted[:, None, 2:] / np.maximum(objects[None, :, 2:], 1)
        similar = ((ratio < SIMILAR) & (ratio > 1 / SIMILAR)).all(2)
        offsets.append((centres(predicted)[:, None] - centres(objects)[None])[similar])
        sizes.append(objects[:, 2:].mean(1))
    offsets = np.concatenate(offsets)
    if len(offsets) < 20:
        return np.full(2, np.nan)
    tree, radius = cKDTree(offsets), max(1.0, NEAR * float(np.median(np.concatenate(sizes))))
    densest = tree.query_ball_point(offsets, radius, return_length=True).argmax()
    return np.median(offsets[tree.query_ball_point(offsets[densest], radius)], axis=0)


def _growth(best: BestBoxes, half: int) -> float:
    """Median size of predictions relative to the objects that they overlap best."""
    ratios = _size_ratio(*best.overlapping(half))
    return float(np.exp(np.median(np.log(np.maximum(ratios, 1e-3))))) if len(ratios) else 1.0


def _margin(best: BestBoxes, half: int) -> float:
    """Median number of pixels by which predictions exceed the objects that they overlap best, on each side."""
    predicted, objects = best.overlapping(half)
    return float(np.median((predicted - objects)[:, 2:] / 2)) if len(predicted) else 0.0


def _resized(boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Boxes [A, 4] resized about their centres to sizes [A, 2]."""
    return np.concatenate([boxes[:, :2] + (boxes[:, 2:] - size) / 2, size], axis=1)


def _corner_scale(best: BestBoxes, half: int) -> np.ndarray:
    """Scale (x, y) about the image's top left corner that fits best when undone: of one axis, or the same of both."""
    candidates = [(s, s) for s in SCALES] + [(s, 1.0) for s in SCALES] + [(1.0, s) for s in SCALES]
    images = [*best.half(half)]
    images, fits = images[:: len(images) // SCALE_IMAGES + 1], np.zeros(len(candidates))
    for predicted, objects in images:
        for own in np.array_split(np.arange(len(fits)), len(fits) * len(predicted) * len(objects) // AT_ONCE + 1):
            moved = predicted / np.tile(np.array(candidates)[own], 2)[:, None]  # [scales, A, 4]
            iou = box_overlaps(moved.reshape(-1, 4), objects)[0].reshape(*moved.shape[:2], len(objects))
            fits[own] += iou.max(1).sum(1)
    return np.array(candidates[int(fits.argmax())])
