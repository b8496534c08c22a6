"""Pass a synthetic pattern through the mapper: image, masks and labels must be transformed together.

The pattern is a grey background with one patch per instance in its own colour: a rectangle without its upper right
quarter, so that neither its box nor a mirrored mask fits it. Half of the masks are polygons, half RLEs. In every second
draw one patch is small, as a rule that leaves out small masks must leave out their labels as well. The position
of a patch in the mapped image is found by its colour, its sides, to a fraction of a pixel, by the mixture of colours
along them. A side of a mask must be where rounding to whole pixels puts that of the patch: a shift of 0.1 pixels moves
a tenth of the sides by one pixel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from mtseg.checks.findings import Finding, exception_text
from mtseg.core.errors import out_of_memory
from mtseg.core.params import Input, Task
from mtseg.core.tables import UNLABELLED, Image, Instance
from mtseg.data import loader

COLOURS = ((230, 40, 60), (30, 200, 50), (150, 30, 210), (220, 210, 30))  # all differ after any swap of channels
CORNERS = ((0.08, 0.10), (0.55, 0.08), (0.30, 0.45), (0.62, 0.60))  # x, y; no flip maps one to another
GROUND = 90
SMALL = (8, 12, 16, 24)  # sides of the image over those of the small patches
SIDES = (128, 256)  # pixels, smallest and largest input size for the pattern
DRAWS = 48  # random draws of pattern, scale, position and flip
OVERLAP = 0.8  # smallest IoU of a patch and its mask; an error of one pixel at 12 x 12 pixels gives 0.85
SMALLEST = 144  # pixels; smaller masks are not compared
OFF = 0.05  # mean distance of the sides of masks and patches in pixels; below 0.03 without a fault
FEWEST_OFF = 4  # pixels by which the sides of masks are off altogether, at least
BLUR = 3  # pixels to either side of an edge over which resizing may spread it
TONE = 12  # largest colour change by resizing in grey levels
HEIGHT = re.compile("top|bottom|upper|lower|above|below", re.IGNORECASE)  # in names of classes
FIX = "fix mtseg/data/loader.py"
COLOUR_FIX = f"{FIX} or images.py: RGB, 0..255 (the network itself scales and normalises)"


@dataclass(frozen=True)
class Reading:
    """The contents of an example. patches: bool [S, S] of each colour; masks: [N, S, S]; for each mask the patch with
    the highest IoU, and that IoU; offsets: [N, 2, 2], the `sides` of the mask less those of the patch, rounded."""

    patches: list[np.ndarray]
    masks: np.ndarray
    patch: list[int]
    iou: list[float]
    offsets: np.ndarray


def check(tasks: Sequence[Task], *, input: Input) -> list[Finding]:
    """Errors of the mapper in training and prediction, each reported once."""
    side = min(max(input.size, SIDES[0]), SIDES[1])
    input = input.model_copy(update={"size": side, "workers": 0})
    with TemporaryDirectory() as folder:
        # each twice, as in two epochs
        records = [pattern(Path(folder), tasks, side=side, number=number) for number in range(DRAWS // 2)] * 2
        try:
            mapper = loader.Mapper(tasks, input, root=Path(folder), training=True)
            examples = [mapper(record, seed) for seed, record in enumerate(records)]
            predicted = loader.Mapper(tasks, input, root=Path(folder), training=False)(records[0])
        except (TypeError, ValueError, RuntimeError, IndexError, AssertionError) as error:
            if out_of_memory(error):
                raise
            return [
                Finding("mapper_displaces", "error", f"it fails on a synthetic image: {exception_text(error)}", FIX)
            ]
    shapes = {tuple(example["image"].shape) for example in (*examples, predicted)}
    if shapes != {(3, side, side)}:
        evidence = f"it returns images of shape {sorted(shapes)}, expected (3, {side}, {side}): check crop and padding"
        return [Finding("mapper_displaces", "error", evidence, FIX)]
    for use, mapped in (("training", examples), ("prediction", [predicted])):
        if all(np.ptp(pixels_of(example), axis=-1).max() < TONE for example in mapped):
            return [Finding("mapper_channels", "error", f"a coloured synthetic image is grey for {use}", COLOUR_FIX)]
        # a fault may change a part of the images; resizing changes those that become very small
        if (change := float(np.nanquantile([tone(pixels_of(example)) for example in mapped], 0.75))) > TONE:
            evidence = f"the colours of a synthetic image change by {change:.0f} grey levels for {use}"
            return [Finding("mapper_channels", "error", evidence, COLOUR_FIX)]  # patches are found by colour
    readings = [read(example) for example in examples]
    findings = list(displaced(readings)) or list(relabelled(readings, examples, tasks, records))
    findings = findings or list(upside_down(readings, tasks))
    return [*findings, *misplaced(predicted, records[0]), *padded(examples, predicted)]


def pattern(folder: Path, tasks: Sequence[Task], *, side: int, number: int = 0) -> Image:
    """Write the image into the folder and return its record. Instances have different labels as far as there are enough
    classes, or two and two the same; of each further task one has none. Images with other numbers have other places and
    sizes of the patches, and other labels."""
    height, width = side - 1 | 1, side * 4 // 3 | 1  # odd: resized, no side of a patch is in the middle of a pixel
    pixels = np.full((height, width, 3), GROUND, np.uint8)
    same = 1 + number % 2  # patches of a class
    moves = np.random.default_rng(number).integers(0, side // 16, (len(COLOURS), 4))
    instances = []
    for i, (colour, (x, y), move) in enumerate(zip(COLOURS, CORNERS, moves.tolist(), strict=True)):
        left, top = round(x * width) + move[0], round(y * height) + move[1]
        right, bottom = left + side // 4 - move[2] + 3 * i, top + side // 4 - move[3]
        if number % 2 and i == number // 2 % len(COLOURS):
            size = side // SMALL[number // 2 // len(COLOURS) % len(SMALL)]
            right, bottom = left + size, top + size
        x, y = (left + right) // 2, (top + bottom) // 2
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[top:bottom, left:right] = 1
        mask[top:y, x:right] = 0
        pixels[mask > 0] = colour
        segmentation = [[*map(float, (left, top, x, top, x, y, right, y, right, bottom, left, bottom))]]
        if i % 2:
            segmentation = {"size": [height, width], "counts": coco_mask.encode(mask)["counts"].decode()}
        labels = {
            task.name: None if n and (i + number - n) % len(COLOURS) == 0 else (i // same + number) % len(task.classes)
            for n, task in enumerate(tasks)
        }
        box = (float(left), float(top), float(right - left), float(bottom - top))
        instances.append(Instance(segmentation, box, float(mask.sum()), labels, id=i))
    PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    return Image(number, f"{number}.png", height, width, tuple(instances))


def displaced(readings: Sequence[Reading]) -> Iterator[Finding]:
    """Every mask must be on a patch, and every patch must have a mask."""
    overlaps, total, lost, small = [], 0, 0, 0
    offsets = {"polygons": [], "RLEs": []}
    for one in readings:
        visible = [patch for patch in one.patches if patch.sum() >= SMALLEST]
        total += len(visible)
        lost += sum(not (one.masks & patch).any() for patch in visible)
        for mask, patch, offset, iou in zip(one.masks, one.patch, one.offsets, one.iou, strict=True):
            if mask.sum() < SMALLEST:
                small += 1
                continue
            overlaps.append(iou)
            offsets["RLEs" if patch % 2 else "polygons"].append(offset)
    if not overlaps:
        if not small:  # otherwise input.min_scale and max_scale make the pattern too small
            evidence = f"no mask of {len(COLOURS)} instances of a synthetic image is left in {len(readings)} draws"
            yield Finding("mapper_displaces", "error", evidence, f"{FIX}, or see input.min_scale")
        return
    low = [overlap for overlap in overlaps if overlap < OVERLAP]
    moved = {kind: np.ma.masked_invalid(np.reshape(own, (-1, 2, 2))) for kind, own in offsets.items()}
    off = {kind: np.abs(own).mean((0, 2)).filled(0) for kind, own in moved.items()}  # in x and y
    # of the few sides that a much enlarged image shows, rounding may move one
    surely = [off[kind].max() > OFF and np.abs(own).sum((0, 2)).max() >= FEWEST_OFF for kind, own in moved.items()]
    worst = max(off, key=lambda kind: off[kind].max())
    if len(low) > len(overlaps) / 10 or any(surely):
        (dx, dy), (x, y) = off[worst], moved[worst].mean((0, 2)).filled(0)
        evidence = (
            f"{len(low)} of {len(overlaps)} masks of a synthetic image do not fit their patch (IoU below {OVERLAP:g}, "
            f"median {np.median(overlaps):.2f}); the sides of those of {worst} are {dx:.2f} pixels off in x and "
            f"{dy:.2f} in y, the mean shift is ({x:+.2f}, {y:+.2f})"
        )
        yield Finding("mapper_displaces", "error", evidence, f"{FIX}: image and masks must have the same transform")
    elif lost:
        evidence = f"{lost} of {total} visible instances of a synthetic image have lost their mask"
        yield Finding("mapper_displaces", "error", evidence, f"{FIX}: only empty masks may be dropped")


def relabelled(
    readings: Sequence[Reading], examples: Sequence[loader.Example], tasks: Sequence[Task], records: Sequence[Image]
) -> Iterator[Finding]:
    """Every instance must keep its labels, or have none; in a flipped image they must be mirrored."""
    wrong, count = dict.fromkeys((task.name for task in tasks), 0), 0
    for one, example, record in zip(readings, examples, records, strict=True):
        x = {i: centre(patch)[0] for i, patch in enumerate(one.patches) if patch.sum() >= SMALLEST / 4}
        right = next((x[i] for i in (1, 3) if i in x), None)  # a patch that is to the right of patch 0 unless flipped
        if 0 not in x or right is None:
            continue
        for patch, iou, labels in zip(one.patch, one.iou, example["instances"].gt_labels.tolist(), strict=True):
            if not iou:  # the patch is too small to be seen
                continue
            count += 1
            for task, label in zip(tasks, labels, strict=True):
                original = record.instances[patch].labels[task.name]
                mirrored = original is not None and x[0] > right
                expected = task.flipped()[original] if mirrored else original
                wrong[task.name] += label != (UNLABELLED if expected is None else expected)
    for name in (name for name in wrong if wrong[name]):
        evidence = f"{wrong[name]} of {count} instances of a synthetic image have a wrong label"
        yield Finding("mapper_labels", "error", evidence, FIX, f"task '{name}'")


def upside_down(readings: Sequence[Reading], tasks: Sequence[Task]) -> Iterator[Finding]:
    """Images are mirrored from left to right alone: classes that mean above and below have no pairs."""
    y = [[centre(patch)[1] for patch in one.patches if patch.sum() >= SMALLEST] for one in readings]
    count = sum(len(own) == len(COLOURS) and min(own[:2]) > max(own[2:]) for own in y)
    for task in tasks if count else ():
        if names := [name for name in task.classes if HEIGHT.search(name)]:
            evidence = f"training turns images upside down ({count} of {len(readings)} synthetic ones), and not the "
            evidence += f"labels ({', '.join(names[:3])})"
            change = f"{FIX}: mirror from left to right alone"
            yield Finding("flip_without_pairs", "warning", evidence, change, f"task '{task.name}'")


def misplaced(example: loader.Example, record: Image) -> Iterator[Finding]:
    """In prediction, the image must fill the top left corner of size `image_size`."""
    height, width = example["image_size"]
    scale = np.array([width / record.width, height / record.height])
    shifts = []
    for instance, cover in zip(record.instances, covers(pixels_of(example)), strict=True):
        x, y, w, h = instance.bbox
        shifts.append(sides(cover) - scale[:, None] * ((x, x + w), (y, y + h)))
    x, y = np.ma.masked_invalid(shifts).mean((0, 2)).filled(np.inf)
    if max(abs(x), abs(y)) > OFF:
        evidence = f"in prediction, a synthetic image is ({x:+.2f}, {y:+.2f}) pixels from the position by image_size"
        yield Finding("mapper_displaces", "error", evidence, FIX)


def padded(examples: Sequence[loader.Example], predicted: loader.Example) -> Iterator[Finding]:
    """Padding must have the same value in training and prediction. The image is wider than high, so that the last row
    is padding unless it was enlarged: then it shows the background or a patch."""
    rows = [pixels_of(example)[-1] for example in examples]
    of_image = np.array([(GROUND,) * 3, *COLOURS])
    trained = [row[0] for row in rows if not np.ptp(row, axis=0).any()]
    trained = [value for value in trained if np.abs(of_image - value).max(1).min() > TONE]
    own = np.median(pixels_of(predicted)[-1], axis=0)
    if trained and np.abs(np.median(trained, axis=0) - own).max() > TONE:
        evidence = (
            f"images are padded with {np.median(trained):.0f} in training and with {np.median(own):.0f} in prediction"
        )
        yield Finding("mapper_channels", "error", evidence, f"{FIX} or images.py: pad with the same value")


def read(example: loader.Example) -> Reading:
    covered = covers(pixels_of(example))
    patches = [cover > 0.5 for cover in covered]
    masks = example["instances"].gt_masks.tensor.numpy() if "instances" in example else np.zeros((0, 1, 1), bool)
    ious = [[(mask & patch).sum() / max((mask | patch).sum(), 1) for patch in patches] for mask in masks]
    own = [int(np.argmax(row)) for row in ious]
    offsets = [sides(mask) - sides(covered[patch]).round() for mask, patch in zip(masks, own, strict=True)]
    return Reading(patches, masks, own, [max(row) for row in ious], np.reshape(offsets, (-1, 2, 2)))


def covers(pixels: np.ndarray) -> np.ndarray:
    """[S, S] for each colour: the share of a pixel that its patch covers, by the mixture with the background."""
    from_ground, colours = (pixels - GROUND).astype(np.float32), np.array(COLOURS, np.float32) - GROUND
    length = (colours**2).sum(1)
    along = from_ground @ colours.T / length
    across = (from_ground**2).sum(-1, keepdims=True) - along**2 * length  # squared
    return np.where(across < 60**2, along.clip(0, 1), 0).transpose(2, 0, 1)


def sides(cover: np.ndarray) -> np.ndarray:
    """[2, 2]: x of the left and right side of a patch, y of top and bottom, on lines through the quarter opposite to
    the missing one; NaN if the patch is at the border. cover: [S, S], the share of each pixel that it covers."""
    found, places = np.full((2, 2), np.nan), np.argwhere(cover > 0.5)[:, ::-1]
    if not len(places) or places.min() < BLUR or (places.max(0) + BLUR >= cover.shape[::-1]).any():
        return found
    middle = (places.min(0) + places.max(0)) / 2
    x, y = (middle + 3 * (places.mean(0) - middle)).astype(int).clip(0, np.array(cover.shape[::-1]) - 1)
    for axis, line in enumerate((cover[y], cover[:, x])):
        inside = np.flatnonzero(line > 0.5)
        if len(inside):
            first, last = inside[0], inside[-1] + 1
            found[axis, 0] = first + BLUR - line[first - BLUR : first + BLUR].sum()
            found[axis, 1] = last - BLUR + line[last - BLUR : last + BLUR].sum()
    return found


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
