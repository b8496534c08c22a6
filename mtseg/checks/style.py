"""Check how objects are annotated: boxes drawn for outlines, outlines that cross themselves, objects merged, split or
left out, one inside another, sizes, class names. Splits are compared by shares of their objects and images; each
difference has a cause of its own. No image is read here; `by_side` is called with what was read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, islice, product

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy.stats import fisher_exact

from mtseg.checks import strays
from mtseg.checks.alignment import Outlines, inset
from mtseg.checks.findings import Finding
from mtseg.checks.labels import count, unpaired
from mtseg.core import masks, names
from mtseg.core.params import Input, Task
from mtseg.core.strips import Strips
from mtseg.core.tables import UNLABELLED, Images, Instances
from mtseg.evaluation.ap.pairs import box_overlaps
from mtseg.evaluation.bootstrap import auc

MOST = 2000  # images of a split that are looked at
AT_ONCE = 500  # objects of an image that are compared with all others at once
SURE = 4.5  # standard errors by which shares differ surely: one in 100,000 by chance
BY_CHANCE = 1e-4  # that shares of images differ as much: images are independent, their objects are not
FEWER = 1.4  # ratio of the objects per image from which splits differ
DIFFERENT = 0.15  # difference of two shares from which it matters
FEWEST = 20  # objects of a split, or images with such, to compare it
SITES = 5  # images of a split to compare its objects: those of an image are alike, such as the houses of a street
FULL, HOLLOW = 0.985, 0.85  # share of its box that a drawn box covers at least, and most outlines at most
MIXED = 0.05, 0.9  # share of drawn boxes among the outlines of a class: some, and not nearly all
SMALL = 8  # pixels: boxes of a smaller side are not judged
APART = 0.95  # AUC of the sizes of objects, from which splits differ, or sizes determine a class
BAND, SHARP = 1.25, 0.9  # factor around the border between two sizes; share that is on the right side there
RAGGED = 0.9  # ratio of two splits' medians of the solidity of a class, from which they differ, with AUC as APART
UNLIKE = 0.85  # AUC of that solidity against any class of the other split
CORNERS = 4  # points of an outline, up to which it is coarse unless train draws the class so
OF_A_KIND = 0.7  # AUC of width over height, beyond which two classes are things of two kinds, which also differ in size
STRAIGHT, STEPPED, STEP = 0.01, 0.85, 3  # of steps: pixels off the axis; share of the outline; median length in pixels
CROSSED, LOST, EDGES = 0.2, 0.8, 200  # crossings per point and share of its mask that an outline surrounds; edges tried
TANGLED = 0.01  # share of the outlines that cross themselves, from which it matters
INSIDE, WITHIN = 0.95, (0.1, 0.9)  # share of an object that lies in another one, and share of that one which it covers
TWICE = 0.7  # IoU of two objects with the same labels, if two people have drawn the same one
AS_FREQUENT, TIMES = 0.1, 3  # of `uniform`: difference of two shares of a class; images of no other class are as many
RARELY = 0.05  # share of the images that have something by chance, at most, if twice as many in another split matter
IDS = "give each object an outline and an id of its own"
SIDED = 0.97  # share of the objects of a class on one side of the image's middle, if the side decides the class
CROSSING = 0.1  # share of the objects whose size the jitter carries beyond the border between two classes


def check(train: Images, scored: Mapping[str, Images], *, tasks: Sequence[Task], input: Input) -> list[Finding]:
    """Warnings. scored: val and, if the data have one, test. At most one on the objects of each split."""
    findings = [finding for task in tasks for finding in (*alike(train, task), *by_size(train, task, input))]
    own = {name: Style(images) for name, images in {"train": train, **scored}.items()}
    enough = len(train) >= SITES
    compared = [name for name, images in scored.items() if enough and len(images) >= SITES]
    drawn = list(islice((finding for name in compared for finding in in_blocks(own["train"], own[name], name)), 1))
    drawn += [finding for name, style in own.items() for finding in boxes(style, name, tasks[0])]
    drawn += [finding for name, style in own.items() for finding in crossed(style, name)]
    drawn += [finding for name in compared for finding in nested(own["train"], own[name], name, tasks)]
    findings += drawn
    for name in compared if not drawn else ():
        pair = own["train"], own[name], name
        findings += (
            [*differ(*pair)]
            or [*coarse(*pair, tasks[0])]
            or ragged(*pair, tasks[0])
            or sizes(*pair)
            or [*alone(*pair, tasks)]
            or uniform(*pair, tasks)
        )
    return findings


class Style:
    """Measures of the objects of up to `MOST` images, evenly spread. objects: Instances without crowds. Of each object:
    area (of its mask), full (its outline is a box), only (of its image), parts (more than one), touching (abuts
    another), size (of the image), points (of its outline, 0 if it has none), blocks (its outline has steps), solidity
    (its area over that of the convex hull of its outline). empty: whether each image has none; counts and single: of
    the others, how many, and whether one."""

    def __init__(self, images: Images):
        rows = np.unique(np.linspace(0, len(images) - 1, min(MOST, len(images))).round().astype(int))
        images = images[rows]
        self.images = images
        self.objects = objects = images.instances[~images.instances.crowd]
        sides = objects.box[:, 2:]
        self.area = area = masks.areas(objects.rles()) if len(objects) else np.zeros(0)
        self.extent = area / np.maximum(np.ceil(sides).prod(1), 1)
        self.large = sides.min(1, initial=np.inf) >= SMALL
        self.full = (self.extent >= FULL) & self.large
        self.size = np.sqrt(area / (objects.height * objects.width))
        counts = np.bincount(objects.image, minlength=len(images))
        self.empty, self.counts = counts == 0, counts[counts > 0]
        self.single = self.counts == 1
        self.only = counts[objects.image] == 1
        self.parts = np.array([bool(Strips.of(rle).parts().any()) for rle in objects.rles()], dtype=bool)
        self.touching = _touching(objects.image, objects.box)
        drawn = (objects.polygons[row] or [] for row in range(len(objects)))
        measured = [(sum(map(len, own)) // 2, any(map(_stepped, own))) for own in drawn]
        self.points, blocks = np.array(measured, dtype=int).reshape(-1, 2).T
        self.blocks = (blocks > 0) & ~self.full
        hulls = [_hull(objects.polygons[row]) if self.points[row] else 0.0 for row in range(len(objects))]
        self.solidity = area / np.maximum(hulls, 1)

    def per_image(self, statistic: Callable[[np.ndarray], float]) -> tuple[np.ndarray, np.ndarray]:
        """Row, and a statistic of the objects' sizes, of each image that has objects."""
        order = np.argsort(self.objects.image, kind="stable")
        rows, starts = np.unique(self.objects.image[order], return_index=True)
        return rows, np.array([statistic(own) for own in np.split(self.size[order], starts[1:]) if len(own)])


def _stepped(outline: Sequence[float]) -> bool:
    """Whether an outline is made of six or more horizontal and vertical lines, longer than a pixel."""
    points = np.reshape(outline, (-1, 2))
    sides = np.abs(points - np.roll(points, 1, axis=0))
    straight = sides.max(1)[(sides.min(1) < STRAIGHT) & (sides.max(1) > STRAIGHT)]
    most = STEPPED * np.linalg.norm(sides, axis=1).sum()
    return len(straight) > CORNERS + 1 and straight.sum() > most and np.median(straight) >= STEP


def _hull(polygons: Sequence[Sequence[float]]) -> float:
    """Area of the convex hull of an outline."""
    points = np.concatenate([np.reshape(one, (-1, 2)) for one in polygons]).astype(np.float32)
    return cv2.contourArea(cv2.convexHull(points))


def _touching(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """bool [N]: whether a box shares nearly a whole side with another box of the image."""
    touching = np.zeros(len(image), dtype=bool)
    order = np.argsort(image, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(image[order])) + 1):
        low, high = box[rows, :2], box[rows, :2] + box[rows, 2:]
        for part, axis in product(_parts(len(rows)), (0, 1)):
            across = 1 - axis
            gap = np.abs(high[part, None, axis] - low[None, :, axis]) <= 1.5
            shared = np.minimum(high[part, None, across], high[None, :, across])
            shared = shared - np.maximum(low[part, None, across], low[None, :, across])
            longer = np.maximum(box[rows[part], None, 2 + across], box[None, rows, 2 + across])
            pairs = gap & (shared >= 0.8 * longer) & (longer >= SMALL / 2)
            touching[rows] |= pairs.any(0)
            touching[rows[part]] |= pairs.any(1)
    return touching


def _parts(count: int) -> list[slice]:
    """Parts of `count` rows: all pairs of the objects of an image would need memory that grows with their square."""
    return [slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)]


def surely(one: np.ndarray, other: np.ndarray) -> float:
    """Difference of two shares, one - other, or 0 unless it is sure."""
    if min(len(one), len(other)) < FEWEST:
        return 0.0
    share = (one.sum() + other.sum()) / (len(one) + len(other))
    error = np.sqrt(max(share * (1 - share), 0) * (1 / len(one) + 1 / len(other)))
    difference = float(one.mean() - other.mean())
    return difference if abs(difference) > max(DIFFERENT, SURE * error) else 0.0


def in_blocks(train: Style, other: Style, split: str) -> Iterator[Finding]:
    """Outlines with steps in one split much more often than in the other: of masks of a low resolution."""
    if blocks := surely(other.blocks, train.blocks):
        where = split if blocks > 0 else "train"
        evidence = f"{_percent(other.blocks)} of the outlines in {split} have steps, horizontal and vertical lines of "
        evidence += f"several pixels, {_percent(train.blocks)} in train"
        change = f"make the masks of {where} at the resolution of the images"
        yield Finding("outlines_differ", "warning", evidence, change, where)


def boxes(style: Style, split: str, task: Task) -> Iterator[Finding]:
    """Some objects of a class have a box as outline, while others of it fill much less of theirs."""
    label = style.objects.labels[task.name]
    for one in np.unique(label[label != UNLABELLED]):
        own = style.large & (label == one)
        full = style.full & own
        share = full.sum() / max(own.sum(), 1)
        others, nearly = style.extent[own & ~full], (style.extent[own] > 0.93).sum() - full.sum()
        if full.sum() < 10 or share < MIXED[0] or len(others) and np.median(others) > HOLLOW or nearly > full.sum() / 2:
            continue
        if share < MIXED[1] or len(others) and split != "train":
            yield _drawn(split, full.sum(), own.sum(), f"'{task.classes[one]}'", style, full)
            return


def all_boxes(images: Images, split: str, outlines: Sequence[Outlines]) -> Iterator[Finding]:
    """Nearly all outlines are boxes, and the edges of the objects lie inside of them; of things that are boxes they lie
    on them. outlines: of the split."""
    style = Style(images)
    full, large = int(style.full.sum()), int(style.large.sum())
    if full < FEWEST or full <= MIXED[1] * large or (inside := inset(outlines)) is None:
        return
    evidence = (
        f"{full} of {large} outlines are boxes, and the edges of the objects lie {-inside:.0%} of a radius inside"
    )
    change = "draw outlines of the objects: masks are learnt as boxes"
    yield Finding("boxes_for_outlines", "warning", evidence, change, split)


def _drawn(split: str, full: int, own: int, what: str, style: Style, rows: np.ndarray) -> Finding:
    names = style.images.file_name[np.unique(style.objects.image[rows])].tolist()
    evidence = f"{full} of {own} outlines of {what} ({full / own:.0%}) are boxes, the others are not, in "
    evidence += strays.named(names)
    change = "draw outlines for these objects, or leave the images out: masks are learnt as boxes"
    return Finding("boxes_for_outlines", "warning", evidence, change, split, names)


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether an outline [x0, y0, ...] crosses itself again and again, as if its points were out of order. A hand that
    slips makes a single loop of many points, which hardly changes the area."""
    points = np.reshape(polygon, (-1, 2)).astype(np.float64)
    points = points[:: len(points) // EDGES + 1]
    count = len(points)
    if count < 4:
        return False
    start, end = points[:, None], np.roll(points, -1, axis=0)[:, None]

    def sides(others: np.ndarray) -> np.ndarray:
        """[edges, others]: on which side of each edge a point lies."""
        x, y = np.moveaxis(others[None] - start, 2, 0)
        dx, dy = np.moveaxis(end - start, 2, 0)
        return np.sign(dx * y - dy * x)

    apart = sides(points) * np.roll(sides(points), -1, axis=1) < 0  # the ends of an edge are on both sides of another
    return bool((apart & apart.T).sum() / 2 >= max(1, CROSSED * count))


def crossed(style: Style, split: str) -> Iterator[Finding]:
    """Outlines that cross themselves: their points are out of order."""
    objects = style.objects
    rows, drawn = [], 0
    for row in np.flatnonzero(style.points).tolist():
        drawn += 1
        parts = [np.reshape(part, (-1, 2)) for part in objects.polygons[row]]
        around = sum(abs(float(np.linalg.det(np.stack([p, np.roll(p, -1, 0)], 1)).sum())) / 2 for p in parts)
        if style.large[row] and around < LOST * style.area[row] and any(map(crosses_itself, objects.polygons[row])):
            rows.append(row)
    images = np.unique(objects.image[rows])
    if len(images) >= strays.FEWEST and len(rows) >= TANGLED * drawn:
        names = style.images.file_name[images].tolist()
        evidence = f"{len(rows)} of {drawn} outlines cross themselves, in {len(images)} images ({strays.named(names)})"
        change = "draw their points in order along the edge: masks have other areas than the objects"
        yield Finding("outlines_differ", "warning", evidence, change, split, names)


def nested(train: Style, other: Style, split: str, tasks: Sequence[Task]) -> list[Finding]:
    """Objects that lie inside another one with the same labels, or nearly on it, in more images of one split than of
    the other."""
    text = "an object lies inside another one with the same labels, or nearly on it"
    rows = _nested(train, tasks), _nested(other, tasks)
    return in_more(train, other, split, *rows, "annotated_twice", text, "keep one outline of each object")


def in_more(
    train: Style, other: Style, split: str, in_train: np.ndarray, in_other: np.ndarray, cause: str, text: str,
    change: str,
) -> list[Finding]:  # fmt: skip
    """A warning if surely more images of one split have something. in_train, in_other: rows of these images."""
    sides = (
        (split, other, in_other, len(train.images), in_train),
        ("train", train, in_train, len(other.images), in_other),
    )
    for name, style, rows, known, others in sides:
        if strays.more(len(rows), len(style.images), len(others), known):
            names = style.images.file_name[rows].tolist()
            part = strays.described(names, len(style.images), name)
            evidence = f"in {part}, {text}; in {len(others)} of {known} in {'train' if name == split else split}"
            return [Finding(cause, "warning", evidence, change, name, names)]
    return []


def _nested(style: Style, tasks: Sequence[Task]) -> np.ndarray:
    """int: rows of the images with an object inside another one that has the same labels, or nearly on it."""
    objects, found = style.objects, []
    labels = np.column_stack([objects.labels[task.name] for task in tasks])
    low, high = objects.box[:, :2], objects.box[:, :2] + objects.box[:, 2:]
    for rows in np.split(np.arange(len(objects)), np.flatnonzero(np.diff(objects.image)) + 1):
        if any(_drawn_twice(objects[rows], part, labels[rows]) for part in _parts(len(rows))):
            found.append(int(objects.image[rows[0]]))
            continue
        for row in rows.tolist():
            share = style.area[rows] / max(style.area[row], 1)
            inner = rows[
                (low[rows] >= low[row] - 1).all(1) & (high[rows] <= high[row] + 1).all(1)
                & (share > WITHIN[0]) & (share < WITHIN[1]) & (labels[rows] == labels[row]).all(1)
            ]  # fmt: skip
            if len(inner) and (coco_mask.iou(objects[inner].rles(), objects[[row]].rles(), [True]) >= INSIDE).any():
                found.append(int(objects.image[row]))  # with a crowd, the IoU is the share of the inner object
                break
    return np.array(found, dtype=int)


def _drawn_twice(objects: Instances, part: slice, labels: np.ndarray) -> bool:
    """Whether one of a part of an image's objects lies nearly on a later one with the same labels [n, T]."""
    near = box_overlaps(objects.box[part], objects.box)[0] >= TWICE
    first, other = np.nonzero(near)
    first += part.start
    kept = (first < other) & (labels[first] == labels[other]).all(1)
    return any(
        masks.iou(objects[[one]].rles(), objects[[two]].rles())[0, 0] >= TWICE
        for one, two in zip(first[kept].tolist(), other[kept].tolist(), strict=True)
    )


def differ(train: Style, other: Style, split: str) -> Iterator[Finding]:
    """The first difference between the objects of a split and those of train."""
    if full := surely(other.full, train.full):
        where, part = (split, other) if full > 0 else ("train", train)
        yield _drawn(where, int(part.full.sum()), len(part.full), "all classes", part, part.full)
        return
    if parts := surely(other.parts, train.parts):
        where = split if parts > 0 else "train"
        evidence = (
            f"{_percent(other.parts)} of the objects in {split} have several parts, {_percent(train.parts)} in train"
        )
        yield Finding("objects_merged", "warning", evidence, IDS, where)
        return
    rows = (style.objects.image[style.parts & style.only] for style in (train, other))
    if joined := in_more(train, other, split, *rows, "objects_merged", "the only object has several parts", IDS):
        yield from joined
        return
    if touching := surely(other.touching, train.touching):
        where = split if touching > 0 else "train"
        evidence = f"{_percent(other.touching)} of the objects in {split} abut another along a whole side, "
        evidence += f"{_percent(train.touching)} in train"
        change = "one outline or one id for the parts of an object"
        yield Finding("objects_split", "warning", evidence, change, where)
        return
    if single := surely(other.single, train.single):
        where, part = (split, other) if single > 0 else ("train", train)
        if part.single.mean() > 0.98:
            evidence = f"{_percent(other.single)} of {split}'s images with objects have a single one, "
            evidence += f"{_percent(train.single)} of train's"
            change = f"annotate all objects of {where}: objects without an outline are learnt as background"
            yield Finding("annotations_missing", "warning", evidence, change, where)
            return
    empty = other.empty.mean() - train.empty.mean()
    table = [np.bincount(own, minlength=2) for own in (other.empty, train.empty)]
    if abs(empty) > DIFFERENT and fisher_exact(table).pvalue < BY_CHANCE:
        where = split if empty > 0 else "train"
        evidence = f"{_percent(other.empty)} of {split}'s images have no objects, {_percent(train.empty)} of train's"
        change = f"check whether {where}'s images without annotations show objects"
        yield Finding("annotations_missing", "warning", evidence, change, where)
        return
    ours, theirs = (style.per_image(np.median)[1] for style in (train, other))
    separation = auc(np.concatenate([theirs, ours]), np.arange(len(theirs) + len(ours)) < len(theirs))
    if separation and min(len(ours), len(theirs)) >= FEWEST:
        medians = float(np.median(theirs)), float(np.median(ours))
        far = abs(separation.value - 0.5) > APART - 0.6 and max(medians) > 1.4 * min(medians)
        if far and (separation.low > 0.5 or separation.high < 0.5):
            evidence = f"objects of {split} take {medians[0]:.0%} of the images' sides (median), "
            evidence += f"those of train {medians[1]:.0%}"
            change = "prepare both alike, widen input.min_scale to max_scale, or use data.split"
            yield Finding("splits_differ", "warning", evidence, change, split)
            return
    if min(len(train.counts), len(other.counts)) >= FEWEST:
        most, counts = min(train.counts.max(), other.counts.max()), [other.counts, train.counts]
        beyond = max(float((some > most).mean()) for some in counts)
        cut = 0 < beyond < 0.5  # some images with many more are another matter
        counts = [np.minimum(some, most) for some in counts] if cut else counts
        means = own, its = float(counts[0].mean()), float(counts[1].mean())
        error = sum(some.var() / len(some) for some in counts) ** 0.5
        if max(means) > FEWER * min(means) and abs(own - its) > SURE * error:
            where = split if own < its else "train"
            evidence = f"{split}'s images have {own:.1f} objects (mean of those with any), train's {its:.1f}"
            evidence += f", counting at most {most} of an image" * cut
            change = f"check whether all objects of {where} are annotated: those without an outline are background"
            yield Finding("annotations_missing", "warning", evidence, change, where)


def coarse(train: Style, other: Style, split: str, task: Task) -> Iterator[Finding]:
    """Outlines of a class have `CORNERS` points or fewer in one split much more often than in the other."""
    drawn = [(style.points > 0) & style.large for style in (other, train)]
    few = [(style.points <= CORNERS)[own] for style, own in zip((other, train), drawn, strict=True)]
    if not all(map(len, few)) or abs(few[0].mean() - few[1].mean()) < DIFFERENT / 2:
        return  # a class may have other outlines because its labels are wrong
    labels = [style.objects.labels[task.name][own] for style, own in zip((other, train), drawn, strict=True)]
    for one in range(task.num_classes):
        parts = [own[label == one] for own, label in zip(few, labels, strict=True)]
        if difference := surely(*parts):
            where = split if difference > 0 else "train"
            evidence = (
                f"{_percent(parts[0])} of the outlines of '{task.classes[one]}' have {CORNERS} points or fewer in "
            )
            evidence += f"{split}, {_percent(parts[1])} in train"
            yield Finding(
                "outlines_differ", "warning", evidence, f"draw the outlines of {where} with more points", where
            )
            return


def ragged(train: Style, other: Style, split: str, task: Task) -> list[Finding]:
    """A warning if the outlines of a class fill nearly always less of their convex hull than in the other split, and
    than those of any class there: wrong labels do not explain it."""
    rows = [
        [np.flatnonzero((style.points > 0) & style.large & (style.objects.labels[task.name] == one))
         for one in range(task.num_classes)]
        for style in (other, train)
    ]  # fmt: skip
    own, its = ([style.solidity[of] for of in part] for style, part in zip((other, train), rows, strict=True))
    sites = [
        [len(np.unique(style.objects.image[of])) for of in part]
        for style, part in zip((other, train), rows, strict=True)
    ]
    for here, there, where in ((own, its, split), (its, own, "train")):
        for one, values in enumerate(here):
            if min(len(values), len(there[one])) < FEWEST or min(sites[0][one], sites[1][one]) < SITES:
                continue
            medians = [float(np.median(part)) for part in (values, there[one])]
            if medians[0] >= RAGGED * medians[1] or not _unlike_all(values, [there[one]], APART):
                continue
            if _unlike_all(values, [others for others in there if len(others) >= FEWEST], UNLIKE):
                evidence = f"outlines of '{task.classes[one]}' fill {medians[0]:.0%} of their convex hull (median) in "
                evidence += f"{where}, {medians[1]:.0%} in {'train' if where == split else split}"
                change = "compare the outlines of both splits: draw them along the edges of the objects"
                return [Finding("outlines_differ", "warning", evidence, change, where)]
    return []


def _unlike_all(values: np.ndarray, others: Sequence[np.ndarray], least: float) -> bool:
    """Whether the AUC of the values against each of the others is beyond `least`, to either side."""
    areas = (auc(np.concatenate([values, own]), np.arange(len(values) + len(own)) < len(values)) for own in others)
    return all(abs(area.value - 0.5) > least - 0.5 for area in areas)


def alone(train: Style, other: Style, split: str, tasks: Sequence[Task]) -> Iterator[Finding]:
    """All objects of an image have the same labels in one split much more often than in the other."""
    own = [_same_labels(style, tasks) for style in (other, train)]
    same = surely(*own)
    for here, there in (own, own[::-1]):
        if not same and len(there) and there.mean() < RARELY and here.sum() > 2 * RARELY * len(here):
            same = float(here.mean()) * strays.more(int(here.sum()), len(here), int(there.sum()), len(there))
            same *= 1 if here is own[0] else -1
    if same:
        where = split if same > 0 else "train"
        evidence = f"all objects have the same labels in {_percent(own[0])} of {split}'s images with several objects, "
        evidence += f"in {_percent(own[1])} of train's"
        change = f"check the labels of such images of {where}: does the annotation tool keep those of the last object?"
        yield Finding("label_noise", "warning", evidence, change, where)


def uniform(train: Style, other: Style, split: str, tasks: Sequence[Task]) -> list[Finding]:
    """A warning if all objects of an image have the same class of a task in many more images of one split, of one class
    only, which is no more frequent in its other images: the mix of classes does not explain that. Of a task that most
    images of the other split have a single class of, it would."""
    for task in tasks:
        ours, theirs = (
            [own for labels in _several(style, [task]) if len(own := labels[labels != UNLABELLED]) > 1]
            for style in (train, other)
        )
        for here, there, where in ((theirs, ours, split), (ours, theirs, "train")):
            if min(len(here), len(there)) < FEWEST:
                continue
            # of each image the class of all its objects, -1 if there is none
            same, its = (np.array([own[0] if (own == own[0]).all() else -1 for own in part]) for part in (here, there))
            counts = np.bincount(same[same >= 0], minlength=task.num_classes)
            one = int(counts.argmax())
            rest = [
                np.concatenate([own for own, kind in zip(part, kinds, strict=True) if kind != one] or [[one]])
                for part, kinds in ((here, same), (there, its))
            ]
            count, known = int(counts[one]), int((its == one).sum())
            if (
                count / len(here) - known / len(there) > DIFFERENT
                and (its >= 0).mean() < 0.5
                and count > TIMES * np.delete(counts, one).max(initial=0)
                and (rest[0] == one).mean() < (rest[1] == one).mean() + AS_FREQUENT
                and strays.more(count, len(here), known, len(there))
            ):
                evidence = (
                    f"all objects are '{task.classes[one]}' in {count} of {len(here)} {where} images with several "
                )
                evidence += f"objects, elsewhere in {known} of {len(there)}; in other images the class is as frequent"
                change = f"check the labels '{task.classes[one]}' of such images of {where}: are they a default?"
                return [Finding("label_noise", "warning", evidence, change, f"task '{task.name}'")]
    return []


def _same_labels(style: Style, tasks: Sequence[Task]) -> np.ndarray:
    """bool: of each image with two objects or more, whether all have the same labels in all tasks."""
    return np.array([bool((own == own[0]).all()) for own in _several(style, tasks)], dtype=bool)


def _several(style: Style, tasks: Sequence[Task]) -> list[np.ndarray]:
    """Of each image with two objects or more the labels [n, T] of its objects."""
    objects = style.objects
    labels = np.column_stack([objects.labels[task.name] for task in tasks])
    order = np.argsort(objects.image, kind="stable")
    groups = np.split(labels[order], np.flatnonzero(np.diff(objects.image[order])) + 1)
    return [own for own in groups if len(own) > 1]


def sizes(train: Style, other: Style, split: str) -> list[Finding]:
    """A warning if a part of the images has objects smaller or larger than nearly all of train."""
    found = []
    for what, statistic in (("smallest", np.min), ("largest", np.max)):
        low, high = strays.usual(100 * train.per_image(statistic)[1])
        rows, values = other.per_image(statistic)
        beyond = (100 * values < low) | (100 * values > high)
        if strays.a_part(beyond.sum(), len(values), 1 / (len(train.per_image(statistic)[1]) + 1)):
            names = other.images.file_name[rows[beyond]].tolist()
            text = f"their {what} object takes {np.median(values[beyond]):.0%} of the image's sides (median), in train "
            found.append((names, f"{text}{max(low, 0):.0f} to {high:.0f} %"))
    if not found:
        return []
    names, text = max(found, key=lambda one: len(one[0]))
    evidence = f"{strays.described(names, len(other.images), split)} are beyond nearly all of train: {text}"
    change = f"check the annotations of these images of {split}"
    return [Finding("splits_differ", "warning", evidence, change, split, names)]


def _percent(values: np.ndarray) -> str:
    return f"{values.mean():.0%}"


def alike(train: Images, task: Task) -> Iterator[Finding]:
    """Classes whose names are the same but for case, separators, a plural s, or a letter too many or too few."""
    counts = count(train, task)
    for (a, one), (b, other) in combinations(enumerate(task.classes), 2):
        if _same(one, other):
            pair = f"'{one}' ({counts[a]} in train) and '{other}' ({counts[b]})"
            evidence = f"the names of the classes {pair} are nearly the same"
            change = "if they mean the same, correct the labels, or map one to the other in data.mapping"
            yield Finding("classes_alike", "warning", evidence, change, f"task '{task.name}'")


def _same(one: str, other: str) -> bool:
    short, long = sorted(map(names.shape, (one, other)), key=len)
    if short == long or (len(short) > 3 and long == short + "s"):
        return True
    if len(short) < 5 or len(long) - len(short) > 1 or re.search(r"\d", long):
        return False
    if len(short) == len(long):  # two neighbouring letters exchanged
        wrong = [i for i in range(len(long)) if short[i] != long[i]]
        return len(wrong) == 2 and wrong[1] - wrong[0] == 1 and short[wrong[0]] == long[wrong[1]]
    return any(long[:i] + long[i + 1 :] == short for i in range(1, len(long)))


def by_side(train: Images, task: Task, input: Input, sample: Sequence[Outlines]) -> Iterator[Finding]:
    """Classes of alike objects that the side of the image decides, on which an object is: a flip contradicts them.
    Those that their names tell are reported by `labels.unpaired`. sample: of train's images, in which classes that look
    different are things of two kinds, each in a lane of its own."""
    if not input.flip or any(unpaired(task, input)):
        return
    objects = train.instances[~train.instances.crowd]
    label, box = objects.labels[task.name], objects.box
    right = box[:, 0] + box[:, 2] / 2 > objects.width / 2
    size, slender = np.sqrt(objects.area), box[:, 2] / np.maximum(box[:, 3], 1)
    height = (box[:, 1] + box[:, 3] / 2) / np.maximum(objects.height, 1)
    extent = objects.area / np.maximum(box[:, 2:].prod(1), 1)
    seen, looks = _looks(sample, task)
    swapped = {name for pair in task.flip_pairs for name in pair}
    shares = {
        one: right[label == one].mean()
        for one, name in enumerate(task.classes)
        if name not in swapped and len(np.unique(objects.image[label == one])) >= FEWEST
    }
    unlike = {}  # how far the objects of two classes differ otherwise: AUC
    for a, b in product(shares, shares):
        if shares[a] <= 1 - SIDED and shares[b] >= SIDED:
            of_form = _unlike(label, a, b, size, slender, height, extent)
            # light from one side changes the brightness of alike objects
            brighter = _unlike(seen, a, b, looks[0]) - (APART - OF_A_KIND)
            unlike[a, b] = max(of_form, _unlike(seen, a, b, *looks[1:]), brighter)
    listed: set[int] = set()  # classes: each has one counterpart
    for a, b in sorted(unlike, key=unlike.__getitem__):
        if unlike[a, b] <= OF_A_KIND - 0.5 and not listed & {a, b}:
            listed |= {a, b}
            one, other = task.classes[a], task.classes[b]
            evidence = f"alike objects are '{one}' in the left half of an image and '{other}' in the right half, and "
            evidence += f"images are flipped (input.flip {input.flip:g}), but flip_pairs does not list the two"
            change = f"if only the side tells them apart, add [{one}, {other}] to the task's flip_pairs, or set "
            change += "input.flip: 0"
            yield Finding("flip_without_pairs", "warning", evidence, change, f"task '{task.name}'")


def _unlike(label: np.ndarray, a: int, b: int, *measures: np.ndarray) -> float:
    """How far two classes differ in one of the measures: the largest distance of an AUC from 0.5."""
    pair = (label == a) | (label == b)
    areas = (auc(own[pair], label[pair] == b) for own in measures)
    return max(abs(area.value - 0.5) if area else 0.0 for area in areas)


def _looks(sample: Sequence[Outlines], task: Task) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels [n] of the instances, and measures [n] of each: brightness, shares of red and blue, contrast."""
    label = [UNLABELLED if own[task.name] is None else own[task.name] for image in sample for own in image.labels]
    colours = np.concatenate([np.zeros((0, 3)), *(image.colours for image in sample)])
    texture = np.concatenate([np.zeros(0), *(image.texture for image in sample)])
    total = np.maximum(colours.sum(1), 1)
    return np.array(label, dtype=int), [total, colours[:, 0] / total, colours[:, 2] / total, texture / total]


def by_size(train: Images, task: Task, input: Input) -> Iterator[Finding]:
    """Classes that the size of an object in its image decides, at a border that the jitter of the scale crosses."""
    objects = train.instances[~train.instances.crowd]
    label = objects.labels[task.name]
    size = np.sqrt(objects.area) / np.maximum(objects.height, objects.width)
    slender = objects.box[:, 2] / np.maximum(objects.box[:, 3], 1)
    for a, b in combinations(np.unique(label[label != UNLABELLED]), 2):
        pair = (label == a) | (label == b)
        of_b = label[pair] == b
        separation = auc(size[pair], of_b)
        if separation is None or abs(separation.value - 0.5) < APART - 0.5 or min(of_b.sum(), (~of_b).sum()) < FEWEST:
            continue
        if abs(auc(slender[pair], of_b).value - 0.5) > OF_A_KIND - 0.5:
            continue
        larger, smaller = (b, a) if separation.value > 0.5 else (a, b)
        own, above = size[pair], label[pair] == larger
        order = np.argsort(own, kind="stable")
        right = np.cumsum(~above[order]) + above.sum() - np.cumsum(above[order])  # with the border after each object
        border = own[order][int(right.argmax())]
        near = (own > border / BAND) & (own < border * BAND)
        sharp = ((own > border) == above)[near]
        # classes of things that differ in size blend at the border, or leave a gap; a rule on the size does neither
        if min(near[above].sum(), near[~above].sum()) < FEWEST / 2 or sharp.mean() < SHARP:
            continue
        crossing = ((own > border) != (own * np.where(above, input.min_scale, input.max_scale) > border)).mean()
        if crossing > CROSSING:
            pair = f"'{task.classes[larger]}' and '{task.classes[smaller]}'"
            apart = max(separation.value, 1 - separation.value)
            evidence = f"objects of {pair} differ in size alone (AUC {apart:.2f}), and the scale of training "
            evidence += (
                f"({input.min_scale:g} to {input.max_scale:g}) carries {crossing:.0%} beyond the border between them"
            )
            change = "set input.min_scale and max_scale near 1, or derive the size from the mask instead of learning it"
            yield Finding("jitter_changes_label", "warning", evidence, change, f"task '{task.name}'")
