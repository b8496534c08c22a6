"""Check the images of the splits: copies between splits, copies with other labels, dark images, different splits
(light, colour, sharpness, noise, JPEG quality), swapped colour channels.

Only a sample of each split is read, at a small size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import PIL.Image
from scipy.ndimage import convolve, laplace
from scipy.optimize import linear_sum_assignment

from mtseg.checks import alignment, style, tiles
from mtseg.checks.alignment import Outlines
from mtseg.checks.findings import Finding, of_severity
from mtseg.checks.strays import FEWEST_OF_TRAIN, a_part, described, more, usual
from mtseg.core.params import Input, Task
from mtseg.core.tables import UNLABELLED, Images
from mtseg.data.duplicates import SIDE, groups, normalised
from mtseg.data.images import MOST_PIXELS, open_image, open_lazily
from mtseg.evaluation.bootstrap import auc

HALF = 0.5  # share of the images of a split that look different, from which their edges are not compared
MOST = {"train": 4000, "val": 1000, "test": 1000}  # images that are read of each split
PIXELS, FEWEST_READ = 600_000_000, 300  # large images: only as many as have this many pixels, but at least 300
REACH, CANDIDATES, USUAL = (
    4,
    3,
    30,
)  # pixels of a thumbnail by which a copy may be shifted; images that it is compared with
NEAR = 0.06  # largest distance (1 - correlation) of a shifted copy, as a share of that of most pairs
SAME = 10  # mean difference in grey levels, of two images and of an object in both, if one is compressed again
SAME_PLACE = 0.03  # of its longer side, by which the box of an object may differ between copies
FACTOR = 2  # of the largest changes by compression, but for 1 in 100, up to which an object may change
SEEN = 2  # pixels of a thumbnail from which it shows whether an object is the same
FEWEST_COPIES, MANY = 3, 0.01  # images, and share of them, from which contradictory copies are a warning
ONE_CAMERA = 5  # near-copies of an image, above which they are taken for shots of one scene, which may change
REPEATED = 0.5  # share of the images that must be different
DARK = 16  # grey levels; the brightest pixel of a normal image is brighter
FEWEST = 5  # smallest number of instances of a class in a split to estimate its colour
COLOUR_ERRORS = 3.0  # standard errors by which colours must differ, root mean square over classes and channels
APART = 0.9  # AUC of a measure, train against val, above which the splits differ
CERTAIN = 5.0  # standard errors by which that AUC must be above 0.5
STEP = 8.0  # grey levels by which the medians of the splits must differ as well
FEW, CROP = 150, 512  # images of a split, and pixels of the part in their middle, that are read at full resolution
JPEG_MEAN = 57.6  # of the luminance table of the JPEG standard, annex K, at quality 50
FINE = {  # measure: least difference of the medians, and least ratio
    "sharpness": (0.0, 1.5), "noise": (2.0, 1.5), "JPEG quality": (40.0, 1.0),
}  # fmt: skip
LEAST = {"brightness": 8.0, "JPEG quality": 20.0, "blank rows": 0.15}  # beyond train; the others are ratios
GREY = 2.0  # saturation up to which images are grey: a JPEG file of a grey image may have some
BLANK = 1.0  # standard deviation, in grey levels, of a row without content
FAR = 16.0  # squared distance of a colour from that of its class, in standard deviations: 1 in 1000 by chance
LEVEL = 0.005  # chance that as many images seem to have one of `RECOLOURED`
ORDERS = (  # text, and the stored channels in the order red, green, blue
    ("the channels as they are", (0, 1, 2)),
    ("red and blue swapped", (2, 1, 0)),
    ("red and green swapped", (1, 0, 2)),
    ("green and blue swapped", (0, 2, 1)),
    ("the channels read as green, blue, red", (2, 0, 1)),
    ("the channels read as blue, red, green", (1, 2, 0)),
)
RECOLOURED = (  # cause, text, function that corrects colours
    ("channels_swapped", "with red and blue swapped", lambda pixels: pixels[:, ::-1]),
    ("splits_differ", "with all values inverted", lambda pixels: 255 - pixels),
)
ALIKE = "difference of the two channels most alike"
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # pixels [N, SIDE, SIDE, 3] -> [N]
    "brightness": lambda pixels: pixels.mean((1, 2, 3)),
    "contrast": lambda pixels: pixels.mean(3).std((1, 2)),
    "saturation": lambda pixels: np.maximum(np.ptp(pixels, axis=3).mean((1, 2)), GREY),
    ALIKE: lambda pixels: np.maximum(np.abs(pixels - np.roll(pixels, 1, axis=3)).mean((1, 2)).min(1), GREY),
    "blank rows": lambda pixels: blank_rows(pixels),
}


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of a sample of a split: names [N], pixels uint8 [N, SIDE, SIDE, 3]. all_names: of all its images.
    scaled: grey values, uint8 [height, width] of each image, in which all images have the same scale."""

    split: str
    names: list[str]
    pixels: np.ndarray
    all_names: Sequence[str]
    scaled: Sequence[np.ndarray] = ()


def check(
    train: Images, scored: Mapping[str, Images], *, root: Path, tasks: Sequence[Task], input: Input
) -> list[Finding]:
    """Warnings and notes. scored: val and, if the data have one, test. Raises UserError for an image that does not
    decode."""
    splits = {"train": train, **scored}
    scale = tiles.LONGER / float(np.median(np.maximum(train.height, train.width)))
    small = {name: thumbnails(images, root, name, scale=scale) for name, images in splits.items()}
    findings = [finding for pair in combinations(small.values(), 2) for finding in leaks(*pair)]
    findings += [finding for name, images in splits.items() for finding in contradictory(small[name], images, tasks)]
    leaked = {file for one in of_severity(findings, "warning") if one.cause == "split_leak" for file in one.files}
    fine = {name: textures(images, root) for name, images in splits.items()}
    repeated, black = [*repeats(small["train"])], [*dark(fine["train"]["brightest"])]
    findings += repeated + black
    if repeated:  # what few different images differ in from those of val is no evidence
        return findings
    outlines = {name: alignment.sample(images, root=root) for name, images in splits.items()}
    findings += [finding for task in tasks for finding in style.by_side(train, task, input, outlines["train"])]
    findings += [
        finding for name, images in splits.items() for finding in style.all_boxes(images, name, outlines[name])
    ]
    misaligned = [finding for name, sample in outlines.items() for finding in alignment.check(sample, name)]
    findings += misaligned
    unlike: set[str] = set()  # splits with images that look different
    changed: set[str] = set()  # those of which most do: edges are no longer where they were
    for name in scored if not black else ():
        whole = [*differ(small["train"], small[name]), *textured(fine["train"], fine[name], name)]
        share = 1.0 if whole else 0.0
        if not whole and not leaked:  # copies may be saved in another way
            given = measured(small["train"], fine["train"]), measured(small[name], fine[name])
            whole, share = partly_differ(*given, name)
        changed |= {name} if share > HALF else set()
        findings += whole
        unlike |= {name} if whole else set()
    for name in scored:
        pair = outlines["train"], outlines[name]
        exchanged, alike = [*swapped(*pair, name, tasks=tasks)], name not in unlike
        findings += exchanged
        if not misaligned and name not in changed:
            drawn = (
                alignment.tightness(*pair, name)
                or alignment.partly(*pair, name, unexplained=alike and not exchanged)
                or alignment.partly(*pair[::-1], "train", unexplained=alike and not exchanged)
            )
            findings += [one for one in drawn if not _copied_over(one, leaked, len(scored[name]))]
            alike = alike and not drawn
        if not misaligned and not exchanged:  # other outlines or images of val show other colours of the classes
            colours = recoloured(*pair, name, tasks=tasks)
            findings += colours or (recoloured(*pair[::-1], "train", tasks=tasks) if alike else [])
    return findings


def _copied_over(finding: Finding, leaked: set[str], images: int) -> bool:
    """Whether most images of a split whose outlines lie on no edges are copies of another split's, but few others are:
    these were copied over the split's own images, and the outlines are of those."""
    copies = leaked & set(finding.files)
    return alignment.unexplained(finding) and 2 * len(copies) > len(finding.files) and 2 * len(leaked) < images


def leaks(one: Thumbnails, other: Thumbnails) -> Iterator[Finding]:
    """Images of a split that are also in another, by name or by pixels, mirrored, turned or in part: its scores are
    optimistic, or those of test are if the other is val, on which the checkpoint is chosen."""
    by_name = set(other.all_names) & set(one.all_names)
    texts, turned = zip(*turns(other.pixels), strict=True)
    group = groups(np.concatenate([grey_values(pixels) for pixels in (one.pixels, *turned)])).tolist()
    first = dict(zip(group, one.names, strict=False))
    copies: dict[str, str] = {}
    for text, own in zip(texts, np.split(np.array(group[len(one.names) :]), len(texts)), strict=True):
        for name, number in zip(other.names, own.tolist(), strict=True):
            if number in first:
                copies.setdefault(name, first[number] + text)
    overlapping = {
        other.names[row]: f"{one.names[copy]}, a part"
        for row, copy in tiles.overlapping(one.scaled, other.scaled).items()
    }
    copies = overlapping | shifted(one, other) | copies | {name: name for name in by_name}
    sampled = any(len(split.names) < len(split.all_names) for split in (one, other))
    for_parts = [len(rows) for rows in tiles.compared(one.scaled, other.scaled)]
    where = None if other.split == "val" else other.split
    if copies:
        seen = f"{len(other.names)} of {other.split}, {len(one.names)} of {one.split}; "
        seen += f"for parts {for_parts[1]} of {other.split}, {for_parts[0]} of {one.split}"
        fewer = for_parts != [len(one.scaled), len(other.scaled)]
        compared = f" (compared: {seen})" if sampled or fewer else ""
        name, copy = min(copies.items())
        count = f"{len(copies)} of {len(other.all_names)} {other.split} images"
        evidence = f"{count} have copies or near-copies in {one.split}{compared}: {name} as {copy}"
        change = "keep copies and neighbouring frames in one split"
        yield Finding("split_leak", "warning", evidence, change, where, sorted(copies))
    elif sampled:
        counts = (f"{len(split.names)} of {len(split.all_names)} {split.split} images" for split in (one, other))
        evidence = f"no copies found between {' and '.join(counts)}, no parts between {for_parts[0]} and {for_parts[1]}"
        yield Finding("split_leak", "note", evidence, "the other images were not compared", where)


def repeats(train: Thumbnails) -> Iterator[Finding]:
    """A warning if most images of train are exact copies of others."""
    different = len(np.unique(train.pixels.reshape(len(train.pixels), -1), axis=0))
    if different < REPEATED * len(train.names):
        evidence = f"only {different} of {len(train.names)} train images are different, the others are copies"
        change = "keep each image once: copies teach nothing more, and the model learns the few by heart"
        yield Finding("images_repeated", "warning", evidence, change, "train")


def turns(pixels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Square images [N, side, side, 3] as they are, mirrored and turned, each with what was done."""
    for text, own in (("", pixels), (", mirrored", pixels[:, :, ::-1])):
        for quarters in range(4):
            yield f"{text}, turned by {90 * quarters} degrees" if quarters else text, np.rot90(own, quarters, (1, 2))


def contradictory(small: Thumbnails, images: Images, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Images of a split that are there twice, with other labels of the same objects."""
    rows = {name: row for row, name in enumerate(images.file_name.tolist())}
    instances, found = images.instances, []
    order = np.flatnonzero(~instances.crowd)
    order = order[np.argsort(instances.image[order], kind="stable")]
    of_image = np.split(order, np.searchsorted(instances.image[order], np.arange(1, len(rows))))
    differ: set[str] = set()  # tasks
    for pair in copies(small.pixels):
        names = [small.names[place] for place in pair]
        own, other = (of_image[rows[name]] for name in names)
        size = [np.array([images.width[rows[name]], images.height[rows[name]]] * 2) / SIDE for name in names]
        boxes = instances.box[own] / size[0], instances.box[other] / size[1]
        near = np.abs(boxes[0][:, None] - boxes[1]).max(2) <= SAME_PLACE * boxes[0][:, 2:].max(1, keepdims=True)
        first, second = np.nonzero(near & _unchanged(*small.pixels[[*pair]], boxes[0])[:, None])
        contradicted = set()
        for task in tasks:
            one, two = instances.labels[task.name][own[first]], instances.labels[task.name][other[second]]
            if ((one != two) & (one != UNLABELLED) & (two != UNLABELLED)).any():
                contradicted.add(task.name)
        if contradicted:
            found.append(names)
            differ |= contradicted
    if found:
        evidence = (
            f"{len(found)} of {len(small.names)} {small.split} images are copies of another one with other labels "
        )
        evidence += f"of the same objects (tasks: {', '.join(sorted(differ))}): {' and '.join(found[0])}"
        severity = "warning" if len(found) >= max(FEWEST_COPIES, MANY * len(small.names)) else "note"
        change, files = (
            "keep one of the copies, with the right labels",
            sorted({name for pair in found for name in pair}),
        )
        yield Finding("label_noise", severity, evidence, change, small.split, files)


def copies(pixels: np.ndarray) -> Iterator[tuple[int, int]]:
    """(an earlier image, a later one) whose thumbnails are the same to compression, for each that has such a copy.
    Thumbnails do not show whether a part under a fixed camera is whole or broken."""
    group = groups(grey_values(pixels))
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        originals = members[:1]
        for place in members[1:].tolist() if len(members) <= ONE_CAMERA else ():
            apart = np.abs(pixels[originals].astype(np.int16) - pixels[place]).mean((1, 2, 3))
            if apart.min() <= SAME:
                yield int(originals[apart.argmin()]), place
            else:
                originals = np.append(originals, place)


def _unchanged(one: np.ndarray, other: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """bool [N]: whether what is in a box [N, 4] is large enough to be compared, and of the same colour in both
    thumbnails [SIDE, SIDE, 3]. A lamp that is lit in one of them differs more than compression changes the image."""
    found, changes = np.zeros(len(boxes), dtype=bool), np.abs(one.astype(np.int16) - other)
    most = FACTOR * np.quantile(changes, 0.99) + SAME
    for row, (x, y, width, height) in enumerate(np.clip(boxes, 0, SIDE - 1)):
        part = slice(int(y), int(y + height) + 1), slice(int(x), int(x + width) + 1)
        apart = np.abs(one[part].mean((0, 1)) - other[part].mean((0, 1))).max()
        found[row] = min(width, height) >= SEEN and apart <= SAME and changes[part].max() <= most
    return found


def shifted(one: Thumbnails, other: Thumbnails) -> dict[str, str]:
    """{name in `other`: name in `one`} of images that are the same but for a shift, as neighbouring frames of a video:
    they differ much less than most pairs do. Pairs are chosen at half the size."""
    grey = [grey_values(split.pixels).reshape(-1, SIDE, SIDE).astype(np.float32) for split in (one, other)]
    half = [values.reshape(-1, SIDE // 2, 2, SIDE // 2, 2).mean((2, 4)) for values in grey]
    usual = np.unique(np.linspace(0, len(grey[0]) - 1, USUAL).astype(int))
    found = {}
    for row, alike in enumerate(_correlation(*half[::-1], REACH // 2)):
        likely = np.argsort(-alike)[:CANDIDATES]
        fine = _correlation(grey[1][[row]], grey[0][[*likely, *usual]], REACH)[0]
        best = int(fine[: len(likely)].argmax())
        if 1 - fine[best] < NEAR * (1 - np.median(fine[len(likely) :])):
            found[other.names[row]] = f"{one.names[likely[best]]}, shifted"
    return found


def _correlation(images: np.ndarray, others: np.ndarray, reach: int) -> np.ndarray:
    """Highest correlation [len(images), len(others)] of the middle of `others` with a part of `images`, at shifts of up
    to `reach` pixels. images, others: grey values [N, side, side]."""
    side = others.shape[1]
    inner = normalised(others[:, reach : side - reach, reach : side - reach].reshape(len(others), -1))
    best = np.full((len(images), len(others)), -1, dtype=np.float32)
    for y, x in product(range(2 * reach + 1), repeat=2):
        part = images[:, y : y + side - 2 * reach, x : x + side - 2 * reach]
        np.maximum(best, normalised(part.reshape(len(images), -1)) @ inner.T, out=best)
    return best


def dark(brightest: np.ndarray) -> Iterator[Finding]:
    """Images that are black to the last pixel, because values 0..1 were stored as bytes. brightest: of `textures`."""
    brightest = np.median(brightest)
    if brightest < DARK:
        evidence = f"half of the train images have no pixel brighter than {brightest:.0f} of 255"
        yield Finding("normalisation", "warning", evidence, "save the images with values 0..255 (8 bits)")


def differ(train: Thumbnails, other: Thumbnails) -> Iterator[Finding]:
    """Nearly all images of val or test differ from nearly all of train in one of `MEASURES`."""
    differences = []
    for name, measure in MEASURES.items():
        ours, theirs = (measure(sample.pixels.astype(np.float32)) for sample in (train, other))
        if _apart(ours, theirs) and abs(np.median(theirs) - np.median(ours)) > STEP:
            differences.append(f"{name} {np.median(theirs):.0f}, in train {np.median(ours):.0f}")
    if differences:
        evidence = f"{other.split} images differ from train images (medians, 0 to 255): {'; '.join(differences)}"
        change = f"prepare {other.split} like train, or use data.split"
        yield Finding("splits_differ", "warning", evidence, change, other.split)


def textured(train: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], split: str) -> Iterator[Finding]:
    """The same for sharpness, noise and JPEG quality. train, other: of `textures`."""
    differences = []
    for name, (least, times) in FINE.items():
        ours, theirs = (values[np.isfinite(values)] for values in (train[name], other[name]))
        low, high = sorted((float(np.median(ours)), float(np.median(theirs)))) if len(ours) and len(theirs) else (0, 0)
        if high - low > least and high > times * low and _apart(ours, theirs):
            differences.append(f"{name} {np.median(theirs):.3g}, in train {np.median(ours):.3g}")
    if differences:
        evidence = f"{split} images differ from train images (medians): {'; '.join(differences)}"
        change = f"prepare {split} like train, or use data.split"
        yield Finding("splits_differ", "warning", evidence, change, split)


def measured(small: Thumbnails, fine: Mapping[str, np.ndarray]) -> dict[str, tuple[Sequence[str], np.ndarray]]:
    """measure: (names of the images, values [N])."""
    found = {name: (small.names, measure(small.pixels.astype(np.float32))) for name, measure in MEASURES.items()}
    return found | {name: (fine["names"], fine[name]) for name in FINE}


def partly_differ(
    train: Mapping[str, tuple[Sequence[str], np.ndarray]], other: Mapping[str, tuple[Sequence[str], np.ndarray]],
    split: str,
) -> tuple[list[Finding], float]:  # fmt: skip
    """A warning if a part of the images is beyond nearly all of train in one measure, and this part's share. train,
    other: of `measured`."""
    found = []
    for name, (names, values) in other.items():
        low, high = usual(train[name][1], LEAST.get(name))
        high = np.inf if name == ALIKE else high
        beyond = np.flatnonzero((values < low) | (values > high))
        if a_part(len(beyond), np.isfinite(values).sum(), 1 / (np.isfinite(train[name][1]).sum() + 1)):
            text = f"{name} {np.median(values[beyond]):.3g} (median), in train {max(low, 0):.3g} to {high:.3g}"
            found.append((text, [names[row] for row in beyond], len(values)))
    if not found:
        return [], 0.0
    found.sort(key=lambda one: -len(one[1]))
    _, own, count = found[0]
    text = "; ".join(text for text, others, _ in found if len(others) > 0.8 * len(own))
    evidence = f"{described(own, count, split)} are beyond nearly all of train: {text}"
    change = f"prepare these images of {split} like the others"
    return [Finding("splits_differ", "warning", evidence, change, split, own)], len(own) / count


def blank_rows(pixels: np.ndarray) -> np.ndarray:
    """Share of rows without content at the lower end of each image, of those that have content above: where a file was
    cut off."""
    blank = pixels.std(axis=2).max(axis=2) < BLANK
    return np.where(blank[:, 0], 0.0, np.logical_and.accumulate(blank[:, ::-1], axis=1).mean(1))


def _apart(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether nearly all values of one sample are above those of the other, and surely so."""
    separation = auc(np.concatenate([ours, theirs]), np.arange(len(ours) + len(theirs)) >= len(ours))
    # standard error of the AUC if there is no difference (Mann & Whitney 1947)
    error = ((len(ours) + len(theirs) + 1) / (12 * max(len(ours) * len(theirs), 1))) ** 0.5
    return separation is not None and abs(separation.value - 0.5) > max(APART - 0.5, CERTAIN * error)


def textures(images: Images, root: Path) -> dict[str, np.ndarray]:
    """Of up to `FEW` images, evenly spread, at their full resolution: names; sharpness, the standard deviation of the
    second derivative over that of the image; noise, in grey levels (Immerkaer 1996); JPEG quality, 1 to 100. NaN in
    images without content, and that are no JPEG files. brightest: the highest value of a pixel of the whole image."""
    found: dict[str, list[float]] = {name: [] for name in FINE}
    names, brightest = [], []
    for row in np.unique(np.linspace(0, len(images) - 1, min(FEW, len(images))).round().astype(int)):
        opened = open_image(root, images[row])
        height, width = opened.height, opened.width
        left, top = max(0, (width - CROP) // 2), max(0, (height - CROP) // 2)
        part = opened.crop((left, top, min(width, left + CROP), min(height, top + CROP))).convert("L")
        grey = np.asarray(part, dtype=np.float32)
        sharpness = noise = np.nan
        if min(grey.shape) > 4 and grey.std() > 1:
            sharpness = laplace(grey)[1:-1, 1:-1].std() / grey.std()
            across = convolve(grey, np.outer([1, -2, 1], [1, -2, 1]))[1:-1, 1:-1]
            noise = np.median(np.abs(across)) / 0.6745 / 6
        names.append(str(images.file_name[row]))
        brightest.append(max(high for _, high in opened.getextrema()))
        for name, value in zip(FINE, (sharpness, noise, _jpeg_quality(root / images.file_name[row])), strict=True):
            found[name].append(float(value))
    known = {"names": np.array(names), "brightest": np.array(brightest)}
    return known | {name: np.array(values) for name, values in found.items()}


def _jpeg_quality(path: Path) -> float:
    """The quality setting of libjpeg that has this mean of the first quantisation table; NaN if there is none."""
    with open_lazily(path, MOST_PIXELS) as opened:
        tables = getattr(opened, "quantization", None)
    if not tables:
        return np.nan
    scale = 100 * float(np.mean(tables[min(tables)])) / JPEG_MEAN  # percent of the standard's table
    return min(100.0, max(1.0, 5000 / scale if scale > 100 else (200 - scale) / 2))


def swapped(
    train: Sequence[Outlines], other: Sequence[Outlines], split: str, *, tasks: Sequence[Task]
) -> Iterator[Finding]:
    """Classes have the same colours in val or test as in train only with the channels in another order, or after the
    classes of a task are renamed, if that brings their colours closer."""
    most = 0  # classes of a task that are compared, at most
    gaps = []  # squared differences in standard errors, of each of `ORDERS`
    gains, names = 0.0, {}  # by renaming the classes of a task; names in train and in the other split
    for task in tasks:
        ours, theirs = (colours(sample, task.name) for sample in (train, other))
        kept = [label for label in ours.keys() & theirs.keys() if min(len(ours[label]), len(theirs[label])) >= FEWEST]
        apart = [[_colour_gaps(ours[a], theirs[b]) for b in kept] for a in kept]
        gaps += [apart[place][place] for place in range(len(kept))]
        most = max(most, len(kept))
        as_named = np.array([[gap[0] for gap in row] for row in apart]).reshape(len(kept), len(kept))
        order = linear_sum_assignment(as_named)[1]
        gain = np.trace(as_named) - as_named[np.arange(len(kept)), order].sum()
        if gain > gains:
            gains, where = gain, f"{split}: task '{task.name}'"
            names = {task.classes[a]: task.classes[kept[b]] for a, b in zip(kept, order, strict=True) if a != kept[b]}
    as_is, *reordered = np.mean(gaps, axis=0) if gaps else np.zeros(len(ORDERS))
    best = int(np.argmin(reordered))
    as_swapped = reordered[best]
    if best and (most < 2 or as_swapped > COLOUR_ERRORS**2):  # a class alone may have turned from green to red
        as_swapped = np.inf
    renamed = as_is - gains / max(len(gaps), 1)
    evidence = (
        f"the colours of {len(gaps)} classes differ between {split} and train by {as_is**0.5:.1f} standard errors, and "
    )
    if as_is <= COLOUR_ERRORS**2 or min(as_swapped, renamed) >= as_is / 4:
        return
    if renamed < as_swapped:
        evidence += f"by {max(renamed, 0) ** 0.5:.1f} with renamed classes: "
        evidence += ", ".join(f"{other} for {name}" for name, other in names.items())
        yield Finding("labels_permuted", "warning", evidence, "give the classes the same names in both splits", where)
    else:
        evidence += f"by {as_swapped**0.5:.1f} with {ORDERS[best + 1][0]}"
        yield Finding("channels_swapped", "warning", evidence, "save the images of one split again, as RGB", split)


def _colour_gaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean squared difference of two classes' colours [n, 3] in standard errors, with the channels of the other in each
    of `ORDERS`."""
    error = np.sqrt(sum(values.var(0, ddof=1) / len(values) for values in (one, other))) + 1.0
    reordered = other.mean(0)[[order for _, order in ORDERS]]
    return (((one.mean(0) - reordered) / error) ** 2).mean(1)


def recoloured(
    known: Sequence[Outlines], other: Sequence[Outlines], split: str, *, tasks: Sequence[Task]
) -> list[Finding]:
    """A warning if a part of the images of `other` has the colours that its classes have in `known` only after red and
    blue are swapped, or after all values are inverted."""
    found: list[Finding] = []
    for task in tasks:
        labelled = [(image, *_known(image, task)) for image in known]
        labelled = [(image, own, labels) for image, own, labels in labelled if len(labels)]
        if len(labelled) < FEWEST_OF_TRAIN:
            continue
        pixels, label = (
            np.concatenate(parts) for parts in zip(*((own, labels) for _, own, labels in labelled), strict=True)
        )
        mean = {one: pixels[label == one].mean(0) for one in np.unique(label) if (label == one).sum() >= FEWEST}
        if not mean:
            continue
        within = np.concatenate([pixels[label == one] - centre for one, centre in mean.items()])
        spread = np.linalg.inv(np.cov(within.T) + np.eye(3))
        for cause, what, undo in RECOLOURED:
            ours, theirs = (
                np.array([_far(image, task, mean, spread, undo) for image in images]) for images in (known, other)
            )
            fits, by_chance = ((far[:, 0] > 0) & (far[:, 1] == 0) for far in (theirs, ours))
            own = [image.name for image, fit in zip(other, fits, strict=True) if fit]
            # wrong labels are far from their colours as well, in all images, and some happen to fit afterwards
            usual = ours[:, 0].sum() / max(ours[:, 2].sum(), 1)
            unexplained = (theirs[:, 0] - usual * theirs[:, 2])[~fits].sum()
            # a few known images lack some colours
            part = more(len(own), len(other), int(by_chance.sum()), len(known), level=LEVEL)
            if part and theirs[fits, 0].sum() > unexplained:
                evidence = (
                    f"{described(own, len(other), split)} have the colours of their classes ({task.name}) only {what}"
                )
                change = "save these images again, as RGB"
                found.append(Finding(cause, "warning", evidence, change, split, own))
    return [max(found, key=lambda one: len(one.files))] if found else []


def _known(image: Outlines, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Colours [n, 3] and labels [n] of the labelled objects."""
    rows = [row for row, labels in enumerate(image.labels) if labels[task.name] is not None]
    return image.colours[rows].reshape(-1, 3), np.array([image.labels[row][task.name] for row in rows], dtype=int)


def _far(
    image: Outlines, task: Task, mean: Mapping[int, np.ndarray], spread: np.ndarray, undo: Callable
) -> tuple[int, int, int]:
    """How many objects surely have not the colours of their classes, as they are and after `undo`, and how many there
    are. Wrong labels can be closer afterwards, but not close."""
    pixels, label = _known(image, task)
    kept = [row for row, one in enumerate(label.tolist()) if one in mean]
    centre = np.array([mean[one] for one in label[kept].tolist()]).reshape(-1, 3)
    before, after = (
        (np.einsum("ni,ij,nj->n", apart, spread, apart) > FAR).sum()
        for apart in (pixels[kept] - centre, undo(pixels[kept]) - centre)
    )
    return int(before), int(after), len(kept)


def colours(sample: Sequence[Outlines], task: str) -> dict[int, np.ndarray]:
    """Mean colours [n, 3] of the instances of each class."""
    by_class: dict[int, list[np.ndarray]] = {}
    for image in sample:
        for colour, labels in zip(image.colours, image.labels, strict=True):
            if labels[task] is not None:
                by_class.setdefault(labels[task], []).append(colour)
    return {label: np.array(values) for label, values in by_class.items()}


def thumbnails(images: Images, root: Path, split: str, *, scale: float | None = None) -> Thumbnails:
    """Thumbnails of up to `MOST` images (fewer large ones), evenly spread. The thumbnail of a mirrored image is exactly
    the mirrored thumbnail; decoding a JPEG at that size, or an asymmetric filter, would not ensure this. scale: of
    `Thumbnails.scaled`, which is left out without it."""
    count = min(len(images), MOST[split], max(FEWEST_READ, PIXELS // int((images.height * images.width).max())))
    rows = np.unique(np.linspace(0, len(images) - 1, count).round().astype(int))
    pixels, scaled = [], []
    for row in rows:
        image, filter = open_image(root, images[row], side=2 * SIDE), PIL.Image.Resampling.HAMMING
        pixels.append(np.asarray(image.resize((SIDE, SIDE), filter)))
        if scale:
            size = [max(round(float(side[row]) * scale), 1) for side in (images.width, images.height)]
            size = size if max(size) <= tiles.LARGEST else [1, 1]  # it is not compared, and may need much memory
            scaled.append(np.asarray(image.convert("L").resize(size, filter)))
    return Thumbnails(split, images.file_name[rows].tolist(), np.stack(pixels), images.file_name.tolist(), scaled)


def grey_values(pixels: np.ndarray) -> np.ndarray:
    """Grey values for `duplicates.groups`: uint8 [N, SIDE x SIDE]."""
    return (pixels @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8).reshape(len(pixels), SIDE * SIDE)
