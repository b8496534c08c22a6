"""What the pictures themselves say: of val in train too, darker or of other colours than they should be.

A sample of each split is read, small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from scipy.stats import rankdata

from mtseg.checks import alignment as edges
from mtseg.checks.alignment import Outlines, small_picture
from mtseg.checks.findings import Finding
from mtseg.core.params import Task
from mtseg.core.tables import Image
from mtseg.data.duplicates import SIDE, groups

MOST = {"train": 4000, "val": 1000}  # pictures that are read of each split; of large ones,
PIXELS, FEWEST_READ = 600_000_000, 300  # as many as have so many pixels together, but no fewer
DARK = 16  # grey levels that the brightest spot of a fair picture exceeds
FEWEST = 5  # instances of a class in a split, below which its colour is not known
SURE = 3.0  # standard errors, root mean square over classes and channels
APART = 0.9  # share of the pairs (train, val) of pictures that are ordered one way, where splits differ
CERTAIN = 5.0  # standard errors of that share
STEP = 8.0  # grey levels that the splits' medians then lie apart, at least


@dataclass(frozen=True)
class Thumbnails:
    """Of the sampled images: pixels uint8 [N, SIDE, SIDE, 3]."""

    images: list[Image]
    pixels: np.ndarray


def check(train: Sequence[Image], val: Sequence[Image], *, root: Path, tasks: Sequence[Task]) -> list[Finding]:
    """The findings of all checks here, warnings and notes. Raises UserError for a picture that does not decode."""
    small = {name: thumbnails(images, root, MOST[name]) for name, images in (("train", train), ("val", val))}
    found = [*leaks(train, val, **small), *(list(dark(small["train"])) or differ(**small))]
    looked = {name: edges.sample(images, root=root) for name, images in (("train", train), ("val", val))}
    for name, outlines in looked.items():
        found += edges.check(outlines, name)
    return [*found, *swapped(**looked, tasks=tasks)]


def leaks(
    all_train: Sequence[Image], all_val: Sequence[Image], *, train: Thumbnails, val: Thumbnails
) -> Iterator[Finding]:  # fmt: skip
    """Pictures of val that train has too, by name or by sight, mirrored or not: val then scores what was learnt by
    heart."""
    names = {image.file_name for image in all_train}
    same = {image.file_name: image.file_name for image in all_val if image.file_name in names}
    grey = [grey_values(pixels) for pixels in (train.pixels, val.pixels, val.pixels[:, :, ::-1])]
    number = groups(np.concatenate(grey))
    first = {group: image.file_name for group, image in zip(number, train.images, strict=False)}
    as_is, turned = number[len(train.images) :].reshape(2, -1)
    alike = {
        image.file_name: first.get(group) or f"{first[other]}, mirrored"
        for image, group, other in zip(val.images, as_is, turned, strict=True)
        if group in first or other in first
    }
    pairs = alike | same
    if pairs:
        known, twin = min(pairs.items())
        judged = len(all_val) if len(same) == len(pairs) else len(val.images)
        sampled = f" (looking at {len(val.images)} and {len(train.images)} of them)"
        whole = len(val.images) == len(all_val) and len(train.images) == len(all_train)
        evidence = (
            f"{len(pairs)} of {judged} val pictures are in train too, or nearly so{'' if whole else sampled}: "
            f"{known} as {twin}"
        )
        yield Finding("split_leak", "warning", evidence, "keep copies and neighbouring frames in one split")
    elif len(train.images) < len(all_train) or len(val.images) < len(all_val):
        evidence = (
            f"no copies found between {len(train.images)} of {len(all_train)} train pictures and {len(val.images)} of "
            f"{len(all_val)} val pictures"
        )
        yield Finding("split_leak", "note", evidence, "more were not compared")


def dark(train: Thumbnails) -> Iterator[Finding]:
    """Pictures of values 0..1 that were written as bytes 0..255."""
    brightest = np.median(train.pixels.reshape(len(train.pixels), -1).max(1))
    if brightest < DARK:
        evidence = f"half of the train pictures are nowhere brighter than {brightest:.0f} of 255"
        yield Finding("normalisation", "warning", evidence, "write the pictures with values 0..255, as 8 bits")


def differ(train: Thumbnails, val: Thumbnails) -> Iterator[Finding]:
    """Nearly every picture of val is darker, flatter, greyer than nearly every one of train, or the other way about."""
    sides = len(train.images), len(val.images)
    error = ((sum(sides) + 1) / (12 * sides[0] * sides[1])) ** 0.5  # of the share, were there no difference
    told = []
    for name, measure in MEASURES.items():
        ours, theirs = (measure(sample.pixels.astype(np.float32)) for sample in (train, val))
        ranks = rankdata(np.concatenate([ours, theirs]))[sides[0] :]
        share = (ranks.mean() - (sides[1] + 1) / 2) / sides[0]  # the area under the ROC curve, as of Mann and Whitney
        medians = np.median(ours), np.median(theirs)
        if max(share, 1 - share) > APART and abs(share - 0.5) > CERTAIN * error and abs(np.diff(medians)[0]) > STEP:
            told.append(f"{name} {medians[1]:.0f}, in train {medians[0]:.0f}")
    if told:
        evidence = f"the pictures of val are others than those of train, of 255 in the median: {'; '.join(told)}"
        yield Finding("splits_differ", "warning", evidence, "write them as train's were, or split by data.split", "val")


def swapped(train: Sequence[Outlines], val: Sequence[Outlines], *, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Objects of a class are in val of the colours that they have in train, once red and blue change places."""
    classes, as_is, as_swapped = 0, 0.0, 0.0
    for task in tasks:
        one, other = (_colours(looked, task.name) for looked in (train, val))
        for label in sorted(one.keys() & other.keys()):
            pair = one[label], other[label]
            if min(map(len, pair)) < FEWEST:
                continue
            error = np.sqrt(sum(values.var(0, ddof=1) / len(values) for values in pair)) + 1.0
            gap = pair[0].mean(0) - pair[1].mean(0)
            turned = pair[0].mean(0) - pair[1].mean(0)[::-1]
            classes += 1
            as_is += float(((gap / error) ** 2).mean())
            as_swapped += float(((turned / error) ** 2).mean())
    if classes and as_is / classes > SURE**2 and as_swapped < as_is / 4:
        evidence = (
            f"the colours of {classes} classes in val are {(as_is / classes) ** 0.5:.1f} standard errors from those in "
            f"train, with red and blue swapped {(as_swapped / classes) ** 0.5:.1f}"
        )
        yield Finding("channels_swapped", "warning", evidence, "write the pictures of one split anew, as RGB", "val")


def _colours(looked: Sequence[Outlines], task: str) -> dict[int, np.ndarray]:
    """Mean colours [n, 3] of the instances of each class."""
    found: dict[int, list[np.ndarray]] = {}
    for one in looked:
        for colour, labels in zip(one.colours, one.labels, strict=True):
            if labels[task] is not None:
                found.setdefault(labels[task], []).append(colour)
    return {label: np.array(colours) for label, colours in found.items()}


MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of pixels [N, SIDE, SIDE, 3], one number each [N]
    "brightness": lambda pixels: pixels.mean((1, 2, 3)),
    "contrast": lambda pixels: pixels.mean(3).std((1, 2)),
    "saturation": lambda pixels: np.ptp(pixels, axis=3).mean((1, 2)),
}


def thumbnails(images: Sequence[Image], root: Path, most: int) -> Thumbnails:
    """Of up to `most` images, of large ones fewer, evenly spread. A mirrored picture has the mirrored thumbnail: a JPEG
    decoded at just that size, or a filter that breaks ties, would not give it."""
    largest = max(image.height * image.width for image in images)
    count = min(len(images), most, max(FEWEST_READ, PIXELS // largest))
    chosen = [images[i] for i in np.unique(np.linspace(0, len(images) - 1, count).round().astype(int))]
    pixels = [
        np.asarray(small_picture(root, image, 2 * SIDE).resize((SIDE, SIDE), PIL.Image.Resampling.HAMMING))
        for image in chosen
    ]
    return Thumbnails(chosen, np.stack(pixels))


def grey_values(pixels: np.ndarray) -> np.ndarray:
    """What `groups` compares: uint8 [N, SIDE x SIDE]."""
    return (pixels @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8).reshape(len(pixels), SIDE * SIDE)
