"""Diagnose the position and size of predicted masks, and whether they belong to their image.

Each hypothesis is a change of the predicted boxes: shifted, scaled, mirrored, or taken from another image. It is
accepted if undoing the change moves the boxes onto the objects, on images that were not used to fit it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

from mtseg.checks.findings import Finding
from mtseg.diagnosis.split import Split, by_image
from mtseg.evaluation.bootstrap import Interval, ratio

GAIN = 0.02  # of the mean box IoU, with confidence, that undoing a fault must bring
FIT = 0.4  # mean box IoU that undoing it must reach: what does not lead to the objects explains nothing
ROUGH = 0.3  # the same of a fault that is an error: what was moved out of the image does not come back
ALIKE = 1.5  # times as large, at most, that an object and its prediction are while a shift is looked for
NEAR = 0.1  # of the objects' size: offsets that are one and the same
LARGE = 1.25  # times as long and wide, surely above which (or below its inverse) masks are of another size
SAMPLE = 500  # predictions whose boxes are compared with their masks
FRAMED = 1000  # images, about, from which a frame's scale is fitted
REACH = 16  # images away, at most, that the masks' own image is looked for
SCALES = np.geomspace(0.4, 2.5, 33)

Move = Callable[[np.ndarray, int], np.ndarray]  # boxes [A, 4] and the image's row -> boxes [A, 4]

MAPPER = "check how image and masks are transformed (Mapper) and how masks are brought to the image's size (detect)"
SIZE = "check how masks are drawn, resized and cut at 0 (core/masks.py, Mapper, detect)"


@dataclass(frozen=True)
class Explanation:
    """When the fault is undone: fit, the mean box IoU of the objects with the best prediction, and its gain."""

    cause: str
    words: str
    change: str
    gain: Interval
    fit: float


def check(split: Split) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and numbers: dx, dy (mean offset of the masks found, pixels), scale (their size over the object's)."""
    numbers = offsets(split)
    best = max(_explanations(split), key=lambda explanation: explanation.gain.value, default=None)
    severity = "error" if best and best.gain.low > 5 * GAIN else "warning"
    if best is None or best.gain.low < GAIN or best.fit < (ROUGH if severity == "error" else FIT):
        return _sized(split), numbers
    evidence = f"{best.words}; correcting this raises the mean box IoU by {best.gain.text()} to {best.fit:.2f}"
    return [Finding(best.cause, severity, evidence, best.change)], numbers


def boxes(split: Split) -> list[Finding]:
    """Whether predictions have the boxes of their masks, on a sample. AP is of masks and would not show it."""
    count = len(split.predictions)
    sample = split.predictions[np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(int))]
    if not len(sample):
        return []
    wanted = np.array([coco_mask.toBbox(rle) for rle in sample.rles()])
    other = np.abs(sample.box - wanted).max(1) > 1.5
    if other.mean() < 0.01:
        return []
    one = int(other.argmax())
    shown = ["/".join(f"{value:.0f}" for value in values) for values in (sample.box[one], wanted[one])]
    evidence = f"{other.mean():.0%} of the boxes do not fit their masks, such as {shown[0]} for {shown[1]}"
    change = "boxes must be x, y, width, height of the mask: check how mtseg/inference encodes predictions"
    return [Finding("boxes_not_of_masks", "error", evidence, change)]


def offsets(split: Split) -> dict[str, float | None]:
    """Of the objects found: mean offset of the box's centre in pixels, and median size ratio (root of the areas')."""
    if not len(split.matches):
        return {"dx": None, "dy": None, "scale": None}
    found, true = _matched(split)
    moved, numbers = _centres(found) - _centres(true), {}
    for axis, name in enumerate(("dx", "dy")):
        spread = split.mean(moved[:, axis], split.matches)
        numbers |= {name: spread.value, f"{name}_low": spread.low, f"{name}_high": spread.high}
    return numbers | {"scale": float(np.median(_ratio(found, true)))}


def _matched(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the predictions and of the objects that match: [M, 4] and [M, 4]."""
    return split.predictions.box[split.matches.prediction], split.images.instances.box[split.matches.instance]


def _sized(split: Split) -> list[Finding]:
    """Masks of the objects found that are of another size, though undoing it about the centre does not correct them."""
    if len(split.matches) < 20:
        return []
    size = split.mean(np.log(np.maximum(_ratio(*_matched(split)), 1e-3)), split.matches)
    size = Interval(*(float(np.exp(value)) for value in (size.value, size.low, size.high)))
    if size.low <= LARGE and size.high >= 1 / LARGE:
        return []
    evidence = f"masks of matched objects are {size.text()} times as long and wide as the objects"
    return [Finding("masks_scaled", "warning", evidence, SIZE)]


def _centres(boxes: np.ndarray) -> np.ndarray:
    return boxes[..., :2] + boxes[..., 2:] / 2


def _ratio(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Root of the areas' ratio of boxes [M, 4]."""
    return np.sqrt(found[:, 2:].prod(1) / np.maximum(true[:, 2:].prod(1), 1))


def _explanations(split: Split) -> Iterator[Explanation]:
    view = _View(split)
    if not view.usable:
        return
    before = view.fit(lambda boxes, p: boxes)

    def explain(cause: str, words: str, move: Move, change: str = MAPPER) -> Explanation:
        return Explanation(cause, words, change, *view.gain(before, view.fit(move)))

    shifts = [_shift(view, half) for half in (0, 1)]
    if all(shift is not None for shift in shifts):
        dx, dy = np.mean(shifts, axis=0)
        words = f"masks lie {abs(dx):.1f} px to the {'right' if dx > 0 else 'left'} of and "
        words += f"{abs(dy):.1f} px {'below' if dy > 0 else 'above'} their objects"
        yield explain("masks_displaced", words, lambda boxes, p: boxes - np.append(shifts[1 - p % 2], [0, 0]))
    grown = [_growth(view, half) for half in (0, 1)]
    words = f"masks are {np.mean(grown):.2f} times as long and wide as their objects"
    yield explain("masks_scaled", words, lambda boxes, p: _resized(boxes, boxes[:, 2:] / grown[1 - p % 2]), SIZE)
    margins = [_margin(view, half) for half in (0, 1)]
    margin = np.mean(margins)
    words = f"masks reach {abs(margin):.1f} px {'beyond' if margin > 0 else 'less far than'} their objects on each side"
    yield explain(
        "masks_scaled", words, lambda boxes, p: _resized(boxes, np.maximum(boxes[:, 2:] - 2 * margins[1 - p % 2], 1)),
        SIZE,
    )  # fmt: skip
    frames = [_frame(view, half) for half in (0, 1)]
    sx, sy = np.mean(frames, axis=0)
    words = f"masks lie as in an image {sx:.2f} times as wide and {sy:.2f} times as high"
    change = f"resize and padding of image and masks differ: {MAPPER}"
    yield explain("masks_displaced", words, lambda boxes, p: boxes / np.tile(frames[1 - p % 2], 2), change)
    for cause, words, move in (*_paddings(view.sizes), *_turns(view.sizes)):
        yield explain(cause, words, move)
    best = max(_neighbours(view), key=lambda pair: pair[1].mean(), default=None)
    if best is not None:
        words = f"masks fit the image {abs(best[0])} {'further on' if best[0] > 0 else 'before'} better than their own"
        change = "check how images are paired with annotations or predictions by image_id"
        yield Explanation("masks_of_other_image", words, change, *view.gain(before, best[1]))


class _View:
    """Boxes of the objects, and of as many predictions, the best, image by image."""

    def __init__(self, split: Split):
        count, instances = len(split.images), split.images.instances
        objects = np.flatnonzero(~instances.crowd)
        true = by_image(instances.image[objects], count)
        found = by_image(split.image[split.best], count, -split.score[split.best])
        self.true = [instances.box[objects[own]] for own in true]
        self.found = [split.predictions.box[split.best[own[: len(t)]]] for own, t in zip(found, true, strict=True)]
        self.sizes = np.column_stack([split.images.width, split.images.height]).astype(np.float64)
        self.objects = split.objects
        self.usable = sum(len(f) > 0 and len(t) > 0 for f, t in zip(self.found, self.true, strict=True)) >= 8

    def fit(self, move: Move, step: int = 0) -> np.ndarray:
        """For each image, the sum over its objects of the best box IoU, after `move(boxes, image)`."""
        sums = np.zeros(len(self.true))
        for p, true in enumerate(self.true):
            other = (p + step) % len(self.true)
            found = self.found[other] * np.tile(self.sizes[p] / self.sizes[other], 2) if step else self.found[p]
            if len(true) and len(found):
                sums[p] = box_iou(move(found, p), true).max(0).sum()
        return sums

    def gain(self, before: np.ndarray, after: np.ndarray) -> tuple[Interval, float]:
        """Of the mean IoU of the objects; and that mean, after."""
        return ratio(after - before, self.objects), float(after.sum() / self.objects.sum())

    def half(self, half: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(predicted boxes, objects' boxes) of the even or the odd images that have both."""
        for found, true in zip(self.found[half::2], self.true[half::2], strict=True):
            if len(found) and len(true):
                yield found, true

    def touched(self, half: int) -> tuple[np.ndarray, np.ndarray]:
        """Objects' boxes that a prediction overlaps, and the box that does so best: predictions first, [A, 4] each."""
        found, true = [np.zeros((0, 4))], [np.zeros((0, 4))]
        for own, objects in self.half(half):
            overlap = box_iou(own, objects)
            reached = overlap.max(0) > 0.1
            found.append(own[overlap.argmax(0)][reached])
            true.append(objects[reached])
        return np.concatenate(found), np.concatenate(true)


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[A, 4] and [B, 4], boxes (x, y, width, height) -> [A, B]"""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum((one[:, :2] + one[:, 2:])[:, None], (other[:, :2] + other[:, 2:])[None])
    both = np.clip(high - low, 0, None).prod(2)
    return both / np.maximum(one[:, 2:].prod(1)[:, None] + other[:, 2:].prod(1)[None] - both, 1e-9)


def _shift(view: _View, half: int) -> np.ndarray | None:
    """The offset (x, y) in pixels that most pairs of an object and a prediction of its size have in common."""
    offsets, sizes = [np.zeros((0, 2))], []
    for found, true in view.half(half):
        ratio = found[:, None, 2:] / np.maximum(true[None, :, 2:], 1)
        alike = ((ratio < ALIKE) & (ratio > 1 / ALIKE)).all(2)
        offsets.append((_centres(found)[:, None] - _centres(true)[None])[alike])
        sizes.append(true[:, 2:].mean(1))
    offsets = np.concatenate(offsets)
    if len(offsets) < 20:
        return None
    tree, radius = cKDTree(offsets), max(1.0, NEAR * float(np.median(np.concatenate(sizes))))
    densest = tree.query_ball_point(offsets, radius, return_length=True).argmax()
    return np.median(offsets[tree.query_ball_point(offsets[densest], radius)], axis=0)


def _growth(view: _View, half: int) -> float:
    """Size of predictions over that of the objects they overlap best."""
    ratios = _ratio(*view.touched(half))
    return float(np.exp(np.median(np.log(np.maximum(ratios, 1e-3))))) if len(ratios) else 1.0


def _margin(view: _View, half: int) -> float:
    """Pixels by which predictions are larger on each side than the objects that they overlap best."""
    found, true = view.touched(half)
    return float(np.median((found - true)[:, 2:] / 2)) if len(found) else 0.0


def _resized(boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """About their centres, to sizes [A, 2]."""
    return np.concatenate([boxes[:, :2] + (boxes[:, 2:] - size) / 2, size], axis=1)


def _frame(view: _View, half: int) -> np.ndarray:
    """Scale (x, y) about the image's corner that, undone, fits best; one axis alone or both alike."""
    candidates = [(s, s) for s in SCALES] + [(s, 1.0) for s in SCALES] + [(1.0, s) for s in SCALES]
    images = [*view.half(half)]
    images = images[:: len(images) // FRAMED + 1]
    fits = [sum(box_iou(f / np.tile(c, 2), t).max(0).sum() for f, t in images) for c in candidates]
    return np.array(candidates[int(np.argmax(fits))])


def _paddings(sizes: np.ndarray) -> Iterator[tuple[str, str, Move]]:
    """An image fills its square up to the padding, a share of 1 along the longer side and of less along the other."""
    filled = np.tile(sizes / sizes.max(1, keepdims=True), 2)
    words = "the padding was treated as part of the image"
    yield "masks_displaced", words, lambda boxes, p: boxes / filled[p]
    words = "the image was stretched to the square before the padding was cut off"
    yield "masks_displaced", words, lambda boxes, p: boxes * filled[p]


def _turns(sizes: np.ndarray) -> Iterator[tuple[str, str, Move]]:
    def mirrored(*axes: int) -> Move:
        def move(boxes: np.ndarray, p: int) -> np.ndarray:
            turned = boxes.copy()
            for axis in axes:
                turned[:, axis] = sizes[p, axis] - boxes[:, axis] - boxes[:, axis + 2]
            return turned

        return move

    def transposed(boxes: np.ndarray, p: int) -> np.ndarray:
        return boxes[:, [1, 0, 3, 2]] * np.tile(sizes[p] / sizes[p, ::-1], 2)

    yield "masks_mirrored", "masks are mirrored left to right", mirrored(0)
    yield "masks_mirrored", "masks are mirrored top to bottom", mirrored(1)
    yield "masks_mirrored", "masks are turned by half a turn", mirrored(0, 1)
    yield "masks_transposed", "rows and columns of the masks are swapped", transposed


def _neighbours(view: _View) -> Iterator[tuple[int, np.ndarray]]:
    for step in range(1, min(REACH, len(view.true) // 2)):
        for signed in (step, -step):
            yield signed, view.fit(lambda boxes, p: boxes, signed)
