"""Do the predicted masks lie where the objects are (F4), are they of their size, and of their picture?

Every explanation is a change of the predicted boxes: shifted, scaled, mirrored, taken from another picture. One is
believed when undoing it brings the boxes onto the objects, on pictures on which it was not fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

from mtseg.checks.findings import Finding
from mtseg.diagnosis.case import Case
from mtseg.diagnosis.intervals import Interval, mean, ratio

GAIN = 0.02  # of the mean box IoU, with confidence, that undoing a fault must bring
FIT = 0.4  # mean box IoU that undoing it must reach: what does not lead to the objects explains nothing
ROUGH = 0.3  # the same of a fault that is an error: what was moved out of the picture does not come back
ALIKE = 1.5  # times as large, at most, that an object and its prediction are while a shift is looked for
NEAR = 0.1  # of the objects' size: offsets that are one and the same
LARGE = 1.25  # times as long and wide, surely above which (or below its inverse) masks are of another size
SAMPLE = 500  # predictions whose boxes are held against their masks
FRAMED = 1000  # pictures, about, that tell a frame's scale
REACH = 16  # pictures away, at most, that the masks' own picture is looked for
SCALES = np.geomspace(0.4, 2.5, 33)


@dataclass(frozen=True)
class Explanation:
    """When the fault is undone: fit, the mean box IoU of the objects with the best prediction, and its gain."""

    cause: str
    words: str
    gain: Interval
    fit: float
    change: str


def check(case: Case) -> tuple[list[Finding], dict[str, float]]:
    """Findings, and numbers: dx, dy (mean offset of the masks found, pixels), scale (their size over the object's)."""
    numbers = offsets(case)
    best = max(_explanations(case), key=lambda explanation: explanation.gain.value, default=None)
    severity = "error" if best and best.gain.low > 5 * GAIN else "warning"
    if best is None or best.gain.low < GAIN or best.fit < (ROUGH if severity == "error" else FIT):
        return _sized(case), numbers
    evidence = f"{best.words}; undone, the mean box IoU rises by {best.gain.text()} to {best.fit:.2f}"
    return [Finding(best.cause, severity, evidence, best.change)], numbers


def boxes(case: Case) -> list[Finding]:
    """Whether predictions have the boxes of their masks, on a sample. AP is of masks: no score would tell."""
    rows = np.unique(np.linspace(0, len(case.predictions) - 1, min(len(case.predictions), SAMPLE)).astype(int))
    if not len(rows):
        return []
    wanted = np.array([coco_mask.toBbox(case.predictions[i].segmentation) for i in rows])
    other = np.abs(case.boxes[rows] - wanted).max(1) > 1.5
    if other.mean() < 0.01:
        return []
    one = int(other.argmax())
    shown = ["/".join(f"{value:.0f}" for value in values) for values in (case.boxes[rows][one], wanted[one])]
    return [
        Finding(
            "boxes_not_of_masks", "error", f"{other.mean():.0%} of the boxes are not those of their masks: "
            f"{shown[0]} for {shown[1]}", "boxes are x, y, width, height of the mask: look at predict.encode",
        )
    ]  # fmt: skip


def offsets(case: Case) -> dict[str, float | None]:
    """Of the objects found: mean offset of the box's centre in pixels, and mean size ratio (root of the areas')."""
    pairs = case.pairs
    if not len(pairs):
        return {"dx": None, "dy": None, "scale": None}
    found, true = case.boxes[pairs.found], case.true_boxes[pairs.true]
    moved = found[:, :2] + found[:, 2:] / 2 - true[:, :2] - true[:, 2:] / 2
    grown = _ratio(found, true)
    spread = [mean(values, pairs.picture, len(case.images)) for values in (moved[:, 0], moved[:, 1])]
    return {
        "dx": spread[0].value,
        "dx_low": spread[0].low,
        "dx_high": spread[0].high,
        "dy": spread[1].value,
        "dy_low": spread[1].low,
        "dy_high": spread[1].high,
        "scale": float(np.median(grown)),
    }


def _sized(case: Case) -> list[Finding]:
    """Masks of the objects found that are of another size, though undoing it about the centre does not mend them."""
    pairs = case.pairs
    if len(pairs) < 20:
        return []
    grown = np.log(np.maximum(_ratio(case.boxes[pairs.found], case.true_boxes[pairs.true]), 1e-3))
    size = mean(grown, pairs.picture, len(case.images))
    size = Interval(*(float(np.exp(value)) for value in (size.value, size.low, size.high)))
    if size.low <= LARGE and size.high >= 1 / LARGE:
        return []
    return [
        Finding(
            "masks_scaled", "warning", f"masks of the objects found are {size.text()} times as long and wide as these",
            "look at how masks are drawn, resized and cut at 0 (coco.mask, Mapper, detect)",
        )
    ]  # fmt: skip


def _ratio(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Root of the areas' ratio of boxes [M, 4]."""
    return np.sqrt(found[:, 2:].prod(1) / np.maximum(true[:, 2:].prod(1), 1))


def _explanations(case: Case) -> Iterator[Explanation]:
    view = _View(case)
    if not view.usable:
        return
    before = view.fit(lambda boxes, p: boxes)
    mapper = "look at the transforms of picture and masks (Mapper) and at how masks return to the picture (detect)"

    shifts = [_shift(view, half) for half in (0, 1)]
    if all(shift is not None for shift in shifts):
        after = view.fit(lambda boxes, p: boxes - np.append(shifts[1 - p % 2], [0, 0]))
        dx, dy = np.mean(shifts, axis=0)
        yield Explanation(
            "masks_displaced", f"masks lie {abs(dx):.1f} px to the {'right' if dx > 0 else 'left'} and "
            f"{abs(dy):.1f} px {'below' if dy > 0 else 'above'} their objects", *view.gain(before, after), mapper,
        )  # fmt: skip
    grown = [_growth(view, half) for half in (0, 1)]
    after = view.fit(lambda boxes, p: _about_centre(boxes, grown[1 - p % 2]))
    yield Explanation(
        "masks_scaled", f"masks are {np.mean(grown):.2f} times as long and wide as their objects",
        *view.gain(before, after), "look at how masks are drawn, resized and cut at 0 (coco.mask, Mapper, detect)",
    )  # fmt: skip
    margins = [_margin(view, half) for half in (0, 1)]
    after = view.fit(lambda boxes, p: _without(boxes, margins[1 - p % 2]))
    margin = np.mean(margins)
    yield Explanation(
        "masks_scaled", f"masks reach {abs(margin):.1f} px {'beyond' if margin > 0 else 'less far than'} their objects "
        "all round", *view.gain(before, after), "look at how masks are drawn, resized and cut at 0",
    )  # fmt: skip
    frames = [_frame(view, half) for half in (0, 1)]
    after = view.fit(lambda boxes, p: boxes / np.tile(frames[1 - p % 2], 2))
    sx, sy = np.mean(frames, axis=0)
    yield Explanation(
        "masks_displaced", f"masks lie as in a picture {sx:.2f} times as wide and {sy:.2f} times as high",
        *view.gain(before, after), "resize and padding of picture and masks differ: " + mapper,
    )  # fmt: skip
    for cause, words, move in (*_paddings(case), *_turns(case)):
        yield Explanation(cause, words, *view.gain(before, view.fit(move)), mapper)
    best = max(_neighbours(view), key=lambda pair: pair[1].mean(), default=None)
    if best is not None:
        yield Explanation(
            "masks_of_other_image", f"masks fit the picture {abs(best[0])} {'on' if best[0] > 0 else 'back'} better",
            *view.gain(before, best[1]), "look at the pairing of pictures with annotations or predictions by image_id",
        )  # fmt: skip


class _View:
    """Boxes of the objects, and of as many predictions, the best, picture by picture."""

    def __init__(self, case: Case):
        count = len(case.images)
        self.found = [case.boxes[rows[: len(objects)]] for rows, objects, _ in case.overlaps]
        self.true = [case.true_boxes[case.true_picture == p] for p in range(count)]
        self.sizes = case.sizes
        self.objects = np.array([len(boxes) for boxes in self.true])
        self.usable = sum(len(f) > 0 and len(t) > 0 for f, t in zip(self.found, self.true, strict=True)) >= 8

    def fit(self, move: Callable[[np.ndarray, int], np.ndarray], step: int = 0) -> np.ndarray:
        """For each picture, the sum over its objects of the best box IoU, after `move(boxes, picture)`."""
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

    def half(self, half: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(picture, predicted boxes, objects' boxes) of the even or the odd pictures."""
        for p in range(half, len(self.true), 2):
            if len(self.true[p]) and len(self.found[p]):
                yield p, self.found[p], self.true[p]


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[A, 4] and [B, 4], boxes (x, y, width, height) -> [A, B]"""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum((one[:, :2] + one[:, 2:])[:, None], (other[:, :2] + other[:, 2:])[None])
    both = np.clip(high - low, 0, None).prod(2)
    return both / np.maximum(one[:, 2:].prod(1)[:, None] + other[:, 2:].prod(1)[None] - both, 1e-9)


def _shift(view: _View, half: int) -> np.ndarray | None:
    """The offset (x, y) in pixels that most pairs of an object and a prediction of its size have in common."""
    offsets, sizes = [], []
    for _, found, true in view.half(half):
        ratio = found[:, None, 2:] / np.maximum(true[None, :, 2:], 1)
        alike = ((ratio < ALIKE) & (ratio > 1 / ALIKE)).all(2)
        centres = (found[:, :2] + found[:, 2:] / 2)[:, None] - (true[:, :2] + true[:, 2:] / 2)[None]
        offsets.append(centres[alike])
        sizes.append(true[:, 2:].mean(1))
    offsets = np.concatenate(offsets) if offsets else np.zeros((0, 2))
    if len(offsets) < 20:
        return None
    tree, radius = cKDTree(offsets), max(1.0, NEAR * float(np.median(np.concatenate(sizes))))
    densest = tree.query_ball_point(offsets, radius, return_length=True).argmax()
    return np.median(offsets[tree.query_ball_point(offsets[densest], radius)], axis=0)


def _growth(view: _View, half: int) -> float:
    """Size of predictions over that of the objects they overlap best."""
    ratios = []
    for _, found, true in view.half(half):
        overlap = box_iou(found, true)
        best = overlap.argmax(0)
        touched = overlap.max(0) > 0.1
        ratios.append(_ratio(found[best], true)[touched])
    ratios = np.concatenate(ratios) if ratios else np.zeros(0)
    return float(np.exp(np.median(np.log(np.maximum(ratios, 1e-3))))) if len(ratios) else 1.0


def _margin(view: _View, half: int) -> float:
    """Pixels by which predictions are larger on each side than the objects that they overlap best."""
    margins = []
    for _, found, true in view.half(half):
        overlap = box_iou(found, true)
        touched = overlap.max(0) > 0.1
        margins.append(((found[overlap.argmax(0), 2:] - true[:, 2:]) / 2)[touched].ravel())
    margins = np.concatenate(margins) if margins else np.zeros(0)
    return float(np.median(margins)) if len(margins) else 0.0


def _without(boxes: np.ndarray, margin: float) -> np.ndarray:
    size = np.maximum(boxes[:, 2:] - 2 * margin, 1)
    return np.concatenate([boxes[:, :2] + (boxes[:, 2:] - size) / 2, size], axis=1)


def _about_centre(boxes: np.ndarray, scale: float) -> np.ndarray:
    size = boxes[:, 2:] / scale
    return np.concatenate([boxes[:, :2] + (boxes[:, 2:] - size) / 2, size], axis=1)


def _frame(view: _View, half: int) -> np.ndarray:
    """Scale (x, y) about the picture's corner that, undone, fits best; one axis alone or both alike."""
    candidates = [(s, s) for s in SCALES] + [(s, 1.0) for s in SCALES] + [(1.0, s) for s in SCALES]
    pictures = [*view.half(half)]
    pictures = pictures[:: len(pictures) // FRAMED + 1]
    fits = [sum(box_iou(f / np.tile(c, 2), t).max(0).sum() for _, f, t in pictures) for c in candidates]
    return np.array(candidates[int(np.argmax(fits))])


def _paddings(case: Case) -> Iterator[tuple[str, str, Callable[[np.ndarray, int], np.ndarray]]]:
    """A picture fills its square up to the padding, a share of 1 along the longer side and of less along the other."""
    filled = np.tile(case.sizes / case.sizes.max(1, keepdims=True), 2)
    words = "masks lie as if the padding of the square had been taken for picture"
    yield "masks_displaced", words, lambda boxes, p: boxes / filled[p]
    words = "masks lie as if the picture had been squashed to the square and padding cut off"
    yield "masks_displaced", words, lambda boxes, p: boxes * filled[p]


def _turns(case: Case) -> Iterator[tuple[str, str, Callable[[np.ndarray, int], np.ndarray]]]:
    def mirrored(axes: tuple[int, ...]) -> Callable[[np.ndarray, int], np.ndarray]:
        def move(boxes: np.ndarray, p: int) -> np.ndarray:
            turned = boxes.copy()
            for axis in axes:
                turned[:, axis] = case.sizes[p, axis] - boxes[:, axis] - boxes[:, axis + 2]
            return turned

        return move

    yield "masks_mirrored", "masks are mirrored left to right", mirrored((0,))
    yield "masks_mirrored", "masks stand on their head", mirrored((1,))
    yield "masks_mirrored", "masks are turned by half a turn", mirrored((0, 1))
    transposed = "rows and columns of the masks are swapped"
    yield (
        "masks_transposed",
        transposed,
        lambda boxes, p: boxes[:, [1, 0, 3, 2]] * np.tile(case.sizes[p] / case.sizes[p, ::-1], 2),
    )


def _neighbours(view: _View) -> Iterator[tuple[int, np.ndarray]]:
    for step in range(1, min(REACH, len(view.true) // 2)):
        for signed in (step, -step):
            yield signed, view.fit(lambda boxes, p: boxes, signed)
