"""A known pattern sent through the real mapper: picture, masks and labels must move together (F4).

The pattern: grey ground, one patch of its own colour for each instance, some given as polygons and some as RLE. Where
the patch lies in the mapped picture is read off its colour, so that the mapper's own word is not taken for anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
import torch
from pycocotools import mask as coco_mask

from mtseg.checks.findings import Finding
from mtseg.core.params import Input, Task
from mtseg.core.tables import Image, Instance
from mtseg.data import loader

COLOURS = ((230, 40, 60), (30, 200, 50), (150, 30, 210), (220, 210, 30))  # other colours with any channels swapped
GROUND = 90
SIDES = (128, 256)  # pixels, least and most of the square that the pattern is sent through
TRIALS = 12  # draws of scale, place and flip
OVERLAP = 0.8  # IoU of a patch and its mask; an edge pixel leaves 0.85 of a patch of 12 x 12 pixels
SMALLEST = 144  # pixels of a mask, below which its place says little
SHIFT = 1.0  # pixels that the centres may lie apart
TONE = 12  # grey levels that a patch's middle may change by in resizing


def check(tasks: Sequence[Task], *, input: Input) -> list[Finding]:
    """Findings of the mapper as training and as prediction use it; each fault is told once, with its worst case."""
    input = input.model_copy(update={"size": min(max(input.size, SIDES[0]), SIDES[1]), "workers": 0})
    with TemporaryDirectory() as folder:
        record = pattern(Path(folder), tasks, side=input.size)
        try:
            mapper = loader.Mapper(tasks, input, root=Path(folder), training=True)
            trials = [(seed, mapper(record, seed)) for seed in range(TRIALS)]
            predicted = loader.Mapper(tasks, input, root=Path(folder), training=False)(record)
        except (ValueError, RuntimeError, IndexError, AssertionError) as error:  # shapes that do not fit
            evidence = f"it fails on a known picture: {str(error).splitlines()[0]}"
            return [Finding("mapper_displaces", "error", evidence, "mend mtseg/data/loader.py")]
    side = input.size
    shapes = {tuple(example["image"].shape) for _, example in [*trials, (0, predicted)]}
    if shapes != {(3, side, side)}:
        evidence = (
            f"pictures of shape {sorted(shapes)} come out of it, not (3, {side}, {side}): crop or padding is gone"
        )
        return [Finding("mapper_displaces", "error", evidence, "mend mtseg/data/loader.py")]
    if found := list(scaled({"training": [example for _, example in trials], "prediction": [predicted]})):
        return found  # where colours are others, nothing can be read off them
    found = list(moved(trials)) or list(swapped(trials, tasks, record))  # whose label is it, of a mask that is nowhere?
    if any(finding.cause == "mapper_channels" for finding in found):
        return found
    return [*found, *unpadded(predicted, record)]


def pattern(folder: Path, tasks: Sequence[Task], *, side: int) -> Image:
    """The picture, written into the folder, and its record: patches at places that no flip maps onto each other, each
    with a label of its own of every task, as far as the classes reach."""
    height, width = side, side * 5 // 4
    pixels = np.full((height, width, 3), GROUND, np.uint8)
    patch = side // 4
    corners = ((0.08, 0.10), (0.55, 0.08), (0.30, 0.45), (0.62, 0.60))
    found = []
    for i, (colour, (x, y)) in enumerate(zip(COLOURS, corners, strict=True)):
        left, top = round(x * width), round(y * height)
        right, bottom = left + patch + 3 * i, top + patch
        pixels[top:bottom, left:right] = colour
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[top:bottom, left:right] = 1
        rle = coco_mask.encode(mask)
        polygon = [[left, top, right, top, right, bottom, left, bottom]]
        packed = {"size": [height, width], "counts": rle["counts"].decode()}
        labels = {task.name: i % len(task.classes) for task in tasks}
        box = (float(left), float(top), float(right - left), float(bottom - top))
        found.append(Instance(packed if i % 2 else [list(map(float, polygon[0]))], box, box[2] * box[3], labels, id=i))
    PIL.Image.fromarray(pixels).save(folder / "pattern.png")
    return Image(0, "pattern.png", height, width, tuple(found))


def scaled(examples: dict[str, Sequence[loader.Example]]) -> Iterator[Finding]:
    """Values are 0..255, the pattern's own between its darkest and its brightest; examples: by what they are for."""
    for use, given in examples.items():
        values = torch.cat([example["image"].flatten().float() for example in given])
        values = values[(values - loader.PAD).abs() > 0.5]
        low, high = (float(values.min()), float(values.max())) if len(values) else (GROUND, GROUND)
        if low < -1 or high > 256 or high < GROUND - TONE:
            colours = [value for colour in COLOURS for value in colour]
            evidence = f"a known picture with values from {min(colours)} to {max(colours)} comes out for {use} with "
            change = "mend mtseg/data/loader.py or pictures.py: RGB, 0..255; the network itself scales and normalises"
            yield Finding("mapper_channels", "error", f"{evidence}{low:.3g} to {high:.3g}", change)
            return


def moved(trials: Sequence[tuple[int, loader.Example]]) -> Iterator[Finding]:
    """Every mask lies on the patch of its colour, every patch has one; another colour shows channels changed."""
    overlaps, shifts, tones, count, small, visible, lost = [], [], [], 0, 0, 0, 0
    for _, example in trials:
        pixels, masks = as_arrays(example)
        tones.append(tone(pixels))
        patches = [patch(pixels, colour) for colour in COLOURS]
        shown = [one for one in patches if one.sum() >= SMALLEST]
        visible += len(shown)
        lost += sum(not (masks & one).any() for one in shown)
        for mask in masks:
            if mask.sum() < SMALLEST:
                small += 1
                continue
            count += 1
            ious = [(mask & other).sum() / max((mask | other).sum(), 1) for other in patches]
            best = patches[int(np.argmax(ious))]
            overlaps.append(max(ious))
            if best.any():
                shifts.append(centre(mask) - centre(best))
    if (change := float(np.nanmedian(tones))) > TONE:
        evidence = f"the colours of a known picture are {change:.0f} grey levels from what they were"
        yield Finding("mapper_channels", "error", evidence, "mend mtseg/data/loader.py or pictures.py: RGB, 0..255")
        return
    if not count and small:  # input.min_scale and max_scale leave too little of it to tell
        return
    if not count:
        evidence = f"of {len(COLOURS)} instances in a known picture no mask is left in {len(trials)} draws"
        yield Finding("mapper_displaces", "error", evidence, "mend mtseg/data/loader.py, or see input.min_scale")
        return
    far = np.array([shift for shift in shifts if np.abs(shift).max() > SHIFT]).reshape(-1, 2)
    low = [overlap for overlap in overlaps if overlap < OVERLAP]
    if len(low) > count / 10 or len(far) > count / 10:
        x, y = np.median(far, axis=0) if len(far) else (0.0, 0.0)
        evidence = (
            f"{len(low)} of {count} masks of a known picture do not lie on their patch (IoU below {OVERLAP:g}, "
            f"median {np.median(overlaps):.2f}); where shifted, by ({x:+.1f}, {y:+.1f}) pixels in the median"
        )
        yield Finding("mapper_displaces", "error", evidence, "mend mtseg/data/loader.py: one transform moves both")
    elif lost:
        evidence = f"{lost} of {visible} instances that a known picture shows come out without a mask"
        yield Finding("mapper_displaces", "error", evidence, "mend mtseg/data/loader.py: only empty masks may go")


def swapped(
    trials: Sequence[tuple[int, loader.Example]], tasks: Sequence[Task], record: Image
) -> Iterator[Finding]:  # fmt: skip
    """Every instance carries its own labels, mirrored where the picture is."""
    wrong = {task.name: 0 for task in tasks}
    count = 0
    for _, example in trials:
        pixels, masks = as_arrays(example)
        patches = [patch(pixels, colour) for colour in COLOURS]
        seen = {i: centre(one)[0] for i, one in enumerate(patches) if one.sum() >= SMALLEST / 4}
        if not {0, 1} <= seen.keys() and not {0, 3} <= seen.keys():
            continue
        flipped = seen[0] > seen[1 if 1 in seen else 3]
        given = example["instances"].gt_labels.tolist()
        for mask, labels in zip(masks, given, strict=True):
            own = int(np.argmax([(mask & one).sum() / max((mask | one).sum(), 1) for one in patches]))
            count += 1
            for i, task in enumerate(tasks):
                label = record.instances[own].labels[task.name]
                mirror = {a: b for pair in task.flip_pairs for a, b in (pair, pair[::-1])}
                name = task.classes[label]
                wanted = task.classes.index(mirror.get(name, name)) if flipped else label
                wrong[task.name] += labels[i] != wanted
    for task in tasks:
        if wrong[task.name]:
            evidence = f"{wrong[task.name]} of {count} instances of a known picture come out with another label"
            yield Finding("mapper_labels", "error", evidence, "mend mtseg/data/loader.py", f"task '{task.name}'")


def unpadded(example: loader.Example, record: Image) -> Iterator[Finding]:
    """At prediction the picture fills the corner that `image_size` says, at the scale that it says."""
    height, width = example["image_size"]
    if (example["height"], example["width"]) != (record.height, record.width):
        evidence = f"it says the picture is {example['width']} x {example['height']}: {record.width} x {record.height}"
        yield Finding("mapper_displaces", "error", evidence, "mend mtseg/data/loader.py")
        return
    pixels, _ = as_arrays(example)
    shifts = []
    for instance, colour in zip(record.instances, COLOURS, strict=True):
        found = patch(pixels, colour)
        if found.any():
            x, y, w, h = instance.bbox
            wanted = np.array([(x + w / 2) * width / record.width, (y + h / 2) * height / record.height])
            shifts.append(centre(found) + 0.5 - wanted)
    if not shifts or np.abs(np.median(shifts, axis=0)).max() > SHIFT:
        x, y = np.median(shifts, axis=0) if shifts else (np.nan, np.nan)
        evidence = f"for prediction a known picture lies ({x:+.1f}, {y:+.1f}) pixels from where image_size puts it"
        yield Finding("mapper_displaces", "error", evidence, "mend mtseg/data/loader.py")


def as_arrays(example: loader.Example) -> tuple[np.ndarray, np.ndarray]:
    """int [S, S, 3] and bool [N, S, S]."""
    pixels = example["image"].permute(1, 2, 0).numpy().astype(int)
    return pixels, example["instances"].gt_masks.tensor.numpy() if "instances" in example else np.zeros((0, 1, 1), bool)


def patch(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where the colour is nearer than the ground: to half of the way, as the edge of a resized patch runs."""
    wanted, ground = np.array(colour), np.full(3, GROUND)
    along = (pixels - ground) @ (wanted - ground) / ((wanted - ground) ** 2).sum()
    across = np.linalg.norm(pixels - ground - along[..., None] * (wanted - ground), axis=-1)
    return (along > 0.5) & (across < 60)


def tone(pixels: np.ndarray) -> float:
    """How far what is neither ground nor padding is from the nearest colour of the pattern, in grey levels."""
    coloured = pixels[np.minimum(np.abs(pixels - GROUND).max(-1), np.abs(pixels - loader.PAD).max(-1)) > 50]
    distance = np.abs(coloured[:, None] - np.array(COLOURS)).max(-1).min(-1)
    # of a small patch most pixels lie on its edge, where it blends into the ground
    return float(np.quantile(distance, 0.25)) if len(distance) else float("nan")


def centre(mask: np.ndarray) -> np.ndarray:
    """(x, y) of its pixels' mean."""
    return np.argwhere(mask).mean(0)[::-1]
