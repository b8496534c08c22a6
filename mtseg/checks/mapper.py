"""Pass a synthetic pattern through the mapper: image, masks and labels must be transformed together.

The pattern is a grey background with one patch per instance in its own colour; half of the masks are polygons, half
RLEs. The position of a patch in the mapped image is found by its colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from mtseg.checks.findings import Finding, exception_text
from mtseg.core.params import Input, Task
from mtseg.core.tables import Image, Instance
from mtseg.data import loader

COLOURS = ((230, 40, 60), (30, 200, 50), (150, 30, 210), (220, 210, 30))  # all differ after any swap of channels
CORNERS = ((0.08, 0.10), (0.55, 0.08), (0.30, 0.45), (0.62, 0.60))  # x, y; no flip maps one to another
GROUND = 90
SIDES = (128, 256)  # pixels, smallest and largest input size for the pattern
TRIALS = 12  # random draws of scale, position and flip
OVERLAP = 0.8  # smallest IoU of a patch and its mask; an error of one pixel at 12 x 12 pixels gives 0.85
SMALLEST = 144  # pixels; smaller masks are not compared
SHIFT = 1.0  # largest distance of the centres of a patch and its mask in pixels
TONE = 12  # largest colour change by resizing in grey levels
FIX = "fix mtseg/data/loader.py"
COLOUR_FIX = f"{FIX} or images.py: RGB, 0..255 (the network itself scales and normalises)"


@dataclass(frozen=True)
class Reading:
    """The contents of an example. patches: bool [S, S] of each colour; masks: [N, S, S]; for each mask the patch with
    the highest IoU, and that IoU."""

    patches: list[np.ndarray]
    masks: np.ndarray
    patch: list[int]
    iou: list[float]


def check(tasks: Sequence[Task], *, input: Input) -> list[Finding]:
    """Errors of the mapper in training and prediction, each reported once."""
    side = min(max(input.size, SIDES[0]), SIDES[1])
    input = input.model_copy(update={"size": side, "workers": 0})
    with TemporaryDirectory() as folder:
        record = pattern(Path(folder), tasks, side=side)
        try:
            mapper = loader.Mapper(tasks, input, root=Path(folder), training=True)
            examples = [mapper(record, seed) for seed in range(TRIALS)]
            predicted = loader.Mapper(tasks, input, root=Path(folder), training=False)(record)
        except (TypeError, ValueError, RuntimeError, IndexError, AssertionError) as error:
            return [
                Finding("mapper_displaces", "error", f"it fails on a synthetic image: {exception_text(error)}", FIX)
            ]
    shapes = {tuple(example["image"].shape) for example in (*examples, predicted)}
    if shapes != {(3, side, side)}:
        evidence = f"it returns images of shape {sorted(shapes)}, expected (3, {side}, {side}): check crop and padding"
        return [Finding("mapper_displaces", "error", evidence, FIX)]
    for use, mapped in (("training", examples), ("prediction", [predicted])):
        if (change := float(np.nanmedian([tone(pixels_of(example)) for example in mapped]))) > TONE:
            evidence = f"the colours of a synthetic image change by {change:.0f} grey levels for {use}"
            return [Finding("mapper_channels", "error", evidence, COLOUR_FIX)]  # patches are found by colour
    readings = [read(example) for example in examples]
    findings = list(displaced(readings)) or list(relabelled(readings, examples, tasks, record))
    return [*findings, *misplaced(predicted, record), *padded(examples, predicted)]


def pattern(folder: Path, tasks: Sequence[Task], *, side: int, number: int = 0) -> Image:
    """Write the image into the folder and return its record. Instances have different labels as far as there are enough
    classes. Images with other numbers have smaller patches and other labels."""
    height, width = side, side * 5 // 4
    pixels = np.full((height, width, 3), GROUND, np.uint8)
    patch = side // 4 - 2 * number
    instances = []
    for i, (colour, (x, y)) in enumerate(zip(COLOURS, CORNERS, strict=True)):
        left, top = round(x * width), round(y * height)
        right, bottom = left + patch + 3 * i, top + patch
        pixels[top:bottom, left:right] = colour
        segmentation = [[float(value) for value in (left, top, right, top, right, bottom, left, bottom)]]
        if i % 2:
            mask = np.zeros((height, width), np.uint8, order="F")
            mask[top:bottom, left:right] = 1
            segmentation = {"size": [height, width], "counts": coco_mask.encode(mask)["counts"].decode()}
        labels = {task.name: (i + number) % len(task.classes) for task in tasks}
        box = (float(left), float(top), float(right - left), float(bottom - top))
        instances.append(Instance(segmentation, box, box[2] * box[3], labels, id=i))
    PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    return Image(number, f"{number}.png", height, width, tuple(instances))


def displaced(readings: Sequence[Reading]) -> Iterator[Finding]:
    """Every mask must be on a patch, and every patch must have a mask."""
    overlaps, shifts, total, lost, small = [], [], 0, 0, 0
    for one in readings:
        visible = [patch for patch in one.patches if patch.sum() >= SMALLEST]
        total += len(visible)
        lost += sum(not (one.masks & patch).any() for patch in visible)
        for mask, patch, iou in zip(one.masks, one.patch, one.iou, strict=True):
            if mask.sum() < SMALLEST:
                small += 1
                continue
            overlaps.append(iou)
            if one.patches[patch].any():
                shifts.append(centre(mask) - centre(one.patches[patch]))
    if not overlaps:
        if not small:  # otherwise input.min_scale and max_scale make the pattern too small
            evidence = f"no mask of {len(COLOURS)} instances of a synthetic image is left in {len(readings)} draws"
            yield Finding("mapper_displaces", "error", evidence, f"{FIX}, or see input.min_scale")
        return
    far = [shift for shift in shifts if np.abs(shift).max() > SHIFT]
    low = [overlap for overlap in overlaps if overlap < OVERLAP]
    if max(len(low), len(far)) > len(overlaps) / 10:
        x, y = np.median(far, axis=0) if far else (0.0, 0.0)
        evidence = (
            f"{len(low)} of {len(overlaps)} masks of a synthetic image do not fit their patch (IoU below {OVERLAP:g}, "
            f"median {np.median(overlaps):.2f}); the median shift is ({x:+.1f}, {y:+.1f}) pixels"
        )
        yield Finding("mapper_displaces", "error", evidence, f"{FIX}: image and masks must have the same transform")
    elif lost:
        evidence = f"{lost} of {total} visible instances of a synthetic image have lost their mask"
        yield Finding("mapper_displaces", "error", evidence, f"{FIX}: only empty masks may be dropped")


def relabelled(
    readings: Sequence[Reading], examples: Sequence[loader.Example], tasks: Sequence[Task], record: Image
) -> Iterator[Finding]:
    """Every instance must keep its labels; in a flipped image they must be mirrored."""
    wrong, count = dict.fromkeys((task.name for task in tasks), 0), 0
    for one, example in zip(readings, examples, strict=True):
        x = {i: centre(patch)[0] for i, patch in enumerate(one.patches) if patch.sum() >= SMALLEST / 4}
        right = next((x[i] for i in (1, 3) if i in x), None)  # a patch that is to the right of patch 0 unless flipped
        if 0 not in x or right is None:
            continue
        for patch, labels in zip(one.patch, example["instances"].gt_labels.tolist(), strict=True):
            count += 1
            for task, label in zip(tasks, labels, strict=True):
                original = record.instances[patch].labels[task.name]
                wrong[task.name] += label != (task.flipped()[original] if x[0] > right else original)
    for name in (name for name in wrong if wrong[name]):
        evidence = f"{wrong[name]} of {count} instances of a synthetic image have a wrong label"
        yield Finding("mapper_labels", "error", evidence, FIX, f"task '{name}'")


def misplaced(example: loader.Example, record: Image) -> Iterator[Finding]:
    """In prediction, the image must fill the top left corner of size `image_size`."""
    height, width = example["image_size"]
    scale = np.array([width / record.width, height / record.height])
    shifts = []
    for instance, patch in zip(record.instances, read(example).patches, strict=True):
        if patch.any():
            x, y, w, h = instance.bbox
            shifts.append(centre(patch) + 0.5 - scale * (x + w / 2, y + h / 2))
    x, y = np.median(shifts, axis=0) if shifts else (np.inf, np.inf)
    if max(abs(x), abs(y)) > SHIFT:
        evidence = f"in prediction, a synthetic image is ({x:+.1f}, {y:+.1f}) pixels from the position by image_size"
        yield Finding("mapper_displaces", "error", evidence, FIX)


def padded(examples: Sequence[loader.Example], predicted: loader.Example) -> Iterator[Finding]:
    """Padding must have the same value in training and prediction. The image is wider than high, so that the last row
    is padding unless it was enlarged."""
    rows = [pixels_of(example)[-1] for example in examples]
    trained = [row[0] for row in rows if not np.ptp(row, axis=0).any() and np.abs(row[0] - GROUND).max() > TONE]
    own = np.median(pixels_of(predicted)[-1], axis=0)
    if trained and np.abs(np.median(trained, axis=0) - own).max() > TONE:
        evidence = (
            f"images are padded with {np.median(trained):.0f} in training and with {np.median(own):.0f} in prediction"
        )
        yield Finding("mapper_channels", "error", evidence, f"{FIX} or images.py: pad with the same value")


def read(example: loader.Example) -> Reading:
    """Read the patches of an example: the pixels that are closer to a patch's colour than to the background."""
    pixels, ground = pixels_of(example), np.full(3, GROUND)
    patches = []
    for colour in np.array(COLOURS):
        along = (pixels - ground) @ (colour - ground) / ((colour - ground) ** 2).sum()
        across = np.linalg.norm(pixels - ground - along[..., None] * (colour - ground), axis=-1)
        patches.append((along > 0.5) & (across < 60))
    masks = example["instances"].gt_masks.tensor.numpy() if "instances" in example else np.zeros((0, 1, 1), bool)
    ious = [[(mask & patch).sum() / max((mask | patch).sum(), 1) for patch in patches] for mask in masks]
    return Reading(patches, masks, [int(np.argmax(row)) for row in ious], [max(row) for row in ious])


def pixels_of(example: loader.Example) -> np.ndarray:
    """int [S, S, 3]."""
    return example["image"].permute(1, 2, 0).numpy().astype(int)


def tone(pixels: np.ndarray) -> float:
    """Distance of the patches' pixels to the nearest colour of the pattern, in grey levels."""
    coloured = pixels[np.minimum(np.abs(pixels - GROUND).max(-1), np.abs(pixels - loader.PAD).max(-1)) > 50]
    distance = np.abs(coloured[:, None] - np.array(COLOURS)).max(-1).min(-1)
    # most pixels of a small patch are on its edge, where it blends into the background
    return float(np.quantile(distance, 0.25)) if len(distance) else float("nan")


def centre(mask: np.ndarray) -> np.ndarray:
    """The centre (x, y) of a mask."""
    return np.argwhere(mask).mean(0)[::-1]
