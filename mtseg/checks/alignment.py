"""Check that annotated outlines lie on edges of their images. The image gradient along an outline is compared with
shifted outlines and with the same outline on other images. No model is needed.

Of a part of the images, it is compared after changes of the outlines, each for each image alone: a change explains an
image if it brings the outlines onto edges, and helps more than it helps nearly all images of another split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from scipy.ndimage import (
    binary_dilation,
    binary_erosion,
    distance_transform_edt,
    gaussian_gradient_magnitude,
    uniform_filter1d,
)
from scipy.signal import fftconvolve
from scipy.stats import betabinom, binom

from mtseg.checks.findings import Finding
from mtseg.checks.strays import described, more
from mtseg.core import masks
from mtseg.core.masks import Segmentation
from mtseg.core.tables import Image, Images
from mtseg.data.images import open_image

MOST = 300  # largest number of images that are read
LONGER = 192  # longer side in pixels to which they are resized
REACH = 10  # largest shift that is tried, in pixels of the resized image
FEWEST = 20  # images below which nothing is reported
STANDARD_ERRORS = (
    5.0  # standard errors by which a shift must improve the fit; high, since the best of 441 shifts is chosen
)
FAINT = 0.1  # smallest difference of edge strength, in standard deviations, between own and other images
SAME_PLACES = 0.5  # share of the outlines that are the same in other images, of lots or gauges under a fixed camera
SMALL_SHIFT = 2  # pixels; smaller shifts are ignored (blurred edges, inaccurate outlines)
OFFSETS = np.arange(-8, 9) * 0.05  # of an outline, outwards, in radii of a disc of the object's area
LOOSE = 0.1  # the same: smallest difference of two splits that is reported
SCALES = (0.5, 0.6, 0.7, 0.8, 1.25, 1.5, 1.7, 2.0)  # about the middle of the image, and about its corner
TILTS = (-30, -15, 15, 30)  # degrees


def tilted(points: np.ndarray, last: np.ndarray, degrees: float) -> np.ndarray:
    """Points (y, x) turned clockwise about the middle of the image."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return (points - last / 2) @ np.array([[cos, -sin], [sin, cos]]) + last / 2


TURNED = (  # cause, text, function that corrects the points (y, x), given the last (y, x) of the image
    ("masks_mirrored", "mirrored left to right", lambda points, last: points * (1, -1) + (0, last[1])),
    ("masks_mirrored", "mirrored top to bottom", lambda points, last: points * (-1, 1) + (last[0], 0)),
    ("masks_transposed", "with x and y exchanged", lambda points, last: points[:, ::-1]),
    ("images_turned", "turned by 180 degrees", lambda points, last: last - points),
    ("images_turned", "turned by 90 degrees counter-clockwise",
     lambda points, last: points[:, ::-1] * (-1, 1) + (last[0], 0)),
    ("images_turned", "turned by 90 degrees clockwise", lambda points, last: points[:, ::-1] * (1, -1) + (0, last[1])),
    *(("masks_scaled", f"drawn {by} times as large about the middle of the image",
       lambda points, last, by=by: (points - last / 2) * by + last / 2) for by in SCALES),
    *(("masks_displaced", f"drawn {by} times as large about its corner",
       lambda points, last, by=by: points * by) for by in SCALES),
    *(("masks_displaced", f"stretched {by} times along {name}",
       lambda points, last, by=by, axes=axes: points * by**axes)
      for name, axes in (("x", np.array([0, 1])), ("y", np.array([1, 0]))) for by in SCALES),
    ("masks_displaced", "moved by half the width of the image, round its border",
     lambda points, last: np.column_stack([points[:, 0], (points[:, 1] + (last[1] + 1) / 2) % (last[1] + 1)])),
    *(("images_turned", f"turned by {abs(by)} degrees {'clockwise' if by > 0 else 'counter-clockwise'}",
       lambda points, last, by=by: tilted(points, last, by)) for by in TILTS),
)  # fmt: skip
GROWN = (0.6, 0.7, 0.77, 0.85, 1.2, 1.3, 1.45, 1.6)  # each outline about its own centre
STEPS = (-2, -1, 1, 2)  # images further on, to which outlines may belong
FURTHER = (-7, -6, -5, -4, 4, 5, 6, 7)  # images with which these are compared
FARTHEST = 20  # largest distance, in images, of another image on which outlines are laid
FEWEST_OF_OTHERS = 3  # images with outlines of other images, at least
COMPARED = 60  # images of the other split, at most, whose outlines are laid on all others of it
RARE, GOOD = 0.01, 0.05  # shares of the other split's images that lie less on edges, or gain more by a change
FAINT_OF_OBJECTS, GOOD_OF_OBJECTS = 0.05, 0.2  # shares of the other split's objects that lie less on edges
LEAST = 0.3  # smallest gain in edge strength by a change, in standard deviations
LEVEL = 0.01  # chance of a false alarm by any of the changes
NOWHERE = "and most do on none after any change that was tried"


@dataclass(frozen=True)
class Outlines:
    """Outlines of the instances of one image. edges [H, W]: gradient magnitude, mean 0, standard deviation 1.
    points [N, 2]: (y, x) on the outlines. colours [I, 3]: mean RGB (0 to 255) inside each instance that has a pixel.
    labels: of the same instances. profile [len(OFFSETS)]: mean edge strength inside and outside of the outlines. name:
    of the file. owner [N]: number of the instance of each point. texture [I]: standard deviation of the grey values
    inside each instance."""

    edges: np.ndarray
    points: np.ndarray
    colours: np.ndarray
    labels: list[dict[str, int | None]]
    profile: np.ndarray
    name: str
    owner: np.ndarray
    texture: np.ndarray

    def sharpness(self, points: np.ndarray) -> np.ndarray:
        """Mean edge strength at those of the points [..., N, 2] that are inside the image, [...]; 0 if none is."""
        y, x = np.moveaxis(np.rint(points).astype(np.int32), -1, 0)
        height, width = self.edges.shape
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        strength = self.edges[np.where(inside, y, 0), np.where(inside, x, 0)]
        return np.where(inside, strength, 0).sum(-1) / np.maximum(inside.sum(-1), 1)

    def scaled(self, edges: np.ndarray) -> np.ndarray:
        """The points in an image of the size of `edges` [H, W]."""
        return self.points * ((np.array(edges.shape) - 1) / np.maximum(np.array(self.edges.shape) - 1, 1))

    def on(self, other: Outlines) -> float:
        """`sharpness` on another image, of any size."""
        return float(other.sharpness(self.scaled(other.edges)))

    def drawn_as(self, other: Outlines) -> float:
        """How many more points than by chance lie on outlines of another image, to a pixel, of 1."""
        drawn = np.zeros(other.edges.shape, dtype=bool)
        drawn[tuple(other.points.T)] = True
        near = binary_dilation(drawn, np.ones((3, 3)))
        places = np.rint(self.scaled(other.edges)).astype(int)
        return float((near[tuple(places.T)].mean() - near.mean()) / max(1 - near.mean(), 1e-9))

    def turned(self) -> np.ndarray:
        """The points after each change of `TURNED`, [changes, N, 2]."""
        last = np.array(self.edges.shape) - 1
        return np.stack([change(self.points, last) for _, _, change in TURNED])

    def each(self, edges: np.ndarray) -> np.ndarray:
        """Mean edge strength on the outline of each instance, on edges [H, W] of any image."""
        places = np.rint(self.scaled(edges)).astype(int)
        count = np.bincount(self.owner)
        sums = np.bincount(self.owner, edges[tuple(places.T)])
        return sums[count > 0] / count[count > 0]


def sample(images: Images, *, root: Path) -> list[Outlines]:
    """Outlines of up to `MOST` images with instances, evenly spread. Raises UserError if an image does not decode."""
    rows = np.unique(images.instances.image[~images.instances.crowd])
    rows = rows[_evenly(len(rows), MOST)]
    drawn = (outlines(images[row], root) for row in rows)
    return [image for image in drawn if image is not None]


def check(images: Sequence[Outlines], split: str) -> list[Finding]:
    """At most one warning: masks_displaced, masks_scaled, masks_mirrored, masks_transposed, images_turned or
    masks_of_other_image."""
    if len(images) < FEWEST:
        return []
    count, change = f"{len(images)} images", "compare the raw annotations with their images"
    (x, y), gain = best_shift(images)
    if max(abs(x), abs(y)) > SMALL_SHIFT and gain.mean() > STANDARD_ERRORS * standard_error(gain):
        evidence = (
            f"outlines fit the edges of their images best when shifted by ({x:+d}, {y:+d}) pixels in images "
            f"{images[0].edges.shape[1]} pixels wide (edge strength {with_interval(gain)}, {count})"
        )
        return [Finding("masks_displaced", "warning", evidence, f"{change}: was the image size different?", split)]
    own = np.array([image.sharpness(image.points) for image in images])
    gains = np.array([image.sharpness(image.turned()) for image in images]).T - own
    best = int(gains.mean(1).argmax())
    (cause, text, _), gain = TURNED[best], gains[best]
    if gain.mean() > STANDARD_ERRORS * standard_error(gain):
        evidence = f"outlines fit the image edges better if {text}: edge strength {with_interval(gain)}, {count}"
        return [Finding(cause, "warning", evidence, change, split)]
    steps = [len(images) // 4, len(images) // 2, 3 * len(images) // 4]
    others = [[images[row - step] for step in steps] for row in range(len(images))]
    other = [[other.sharpness(image.points) for other in some] for image, some in zip(images, others, strict=True)]
    gap = own - np.mean(other, axis=1)
    same = [image.drawn_as(other) for image, some in zip(images, others, strict=True) for other in some]
    if np.mean(same) < SAME_PLACES and gap.mean() + 2 * standard_error(gap) < FAINT:
        evidence = (
            f"outlines fit their own images no better than other images: edge strength {with_interval(gap)}, {count}"
        )
        return [Finding("masks_of_other_image", "warning", evidence, f"{change}: are the pairs correct?", split)]
    return []


def tightness(train: Sequence[Outlines], other: Sequence[Outlines], split: str) -> list[Finding]:
    """A warning if the edges of the objects lie further inside or outside of the outlines than in train."""
    if min(len(train), len(other)) < FEWEST:
        return []
    profiles = [np.array([image.profile for image in sample]) for sample in (train, other)]
    best = [int(profile.mean(0).argmax()) for profile in profiles]
    ours, theirs = OFFSETS[best]
    gain = profiles[1][:, best[1]] - profiles[1][:, best[0]]
    if abs(theirs - ours) < LOOSE - 1e-9 or gain.mean() <= STANDARD_ERRORS * standard_error(gain):
        return []
    evidence = (
        f"outlines are {'looser' if theirs < ours else 'tighter'} than in train: the edges of the objects lie at "
        f"{theirs:+.0%} of a radius from their outlines, in train at {ours:+.0%} (edge strength {with_interval(gain)}, "
        f"{len(other)} images)"
    )
    change = "draw the outlines of all splits by the same rule"
    return [Finding("outlines_differ", "warning", evidence, change, split)]


def inset(images: Sequence[Outlines]) -> float | None:
    """Where the edges of the objects lie, in radii from their outlines, if that is surely inside."""
    if len(images) < FEWEST:
        return None
    profile = np.array([image.profile for image in images])
    profile = uniform_filter1d(profile, 3, axis=1, mode="nearest")  # distances are whole pixels, of small objects few
    best, own = int(profile.mean(0).argmax()), int(np.abs(OFFSETS).argmin())
    gain = profile[:, best] - profile[:, own]
    sure = gain.mean() > STANDARD_ERRORS * standard_error(gain)
    return float(OFFSETS[best]) if sure and OFFSETS[best] <= -LOOSE + 1e-9 else None


def unexplained(finding: Finding) -> bool:
    """Whether a finding of `partly` is only that outlines lie on no edges."""
    return NOWHERE in finding.evidence


def partly(
    known: Sequence[Outlines], images: Sequence[Outlines], split: str, *, unexplained: bool = True
) -> list[Finding]:
    """A warning for the change that explains most images surely; or, if none does, for images whose outlines lie on no
    edges. known: outlines of another split. unexplained: whether the latter is reported, which images that look
    different explain."""
    if min(len(known), len(images)) < FEWEST:
        return []
    ours, theirs, change = _changed(known), _changed(images), "compare the annotations of these images with the images"
    names, found = [image.name for image in images], []
    faint = np.quantile(ours[0], RARE)
    nowhere = np.flatnonzero(theirs[0] < faint)
    if not more(len(nowhere), len(images), int((ours[0] < faint).sum()), len(known)):
        nowhere = nowhere[:0]
    least, gains = np.quantile(ours[0], GOOD), theirs[1:] - theirs[0]
    for place, (cause, text) in enumerate(CHANGES):
        gain = ours[place + 1] - ours[0]
        limit = max(float(np.quantile(gain, 1 - RARE)), LEAST)
        by_chance = ((gain > limit) & (ours[place + 1] > least)).sum()
        rows = np.flatnonzero((gains[place] > limit) & (theirs[place + 1] > least))
        if more(len(rows), len(images), int(by_chance), len(known), level=LEVEL / len(CHANGES)):
            found.append((len(rows), float(gains[place, rows].sum()), cause, text, rows))
    for text, rows, fit in _of_others(known, images, nowhere, least) if unexplained and len(nowhere) else ():
        found.append((len(rows), fit - float(theirs[0, rows].sum()), "masks_of_other_image", f"laid on {text}", rows))
    if found:
        _, _, cause, text, rows = max(found, key=lambda one: one[:2])
        files = [names[row] for row in rows]
        part = described(files, len(images), split)
        return [Finding(cause, "warning", f"outlines of {part} fit the edges only if {text}", change, split, files)]
    if strangers := _strangers(known, images, split):
        return strangers
    if not unexplained or not len(nowhere):
        return []
    files = [names[row] for row in nowhere]
    evidence = f"outlines of {described(files, len(images), split)} lie on no edges, "
    fits = (gains[:, nowhere] > LEAST) & (theirs[1:, nowhere] > least)
    best = int((fits + 1e-3 * gains[:, nowhere]).sum(1).argmax())
    cause, text = CHANGES[best]
    if fits[best].sum() > len(nowhere) / 2:
        evidence += f"and those of {fits[best].sum()} of these do if {text}"
    else:
        cause, evidence = "masks_displaced", f"{evidence}{NOWHERE}"
    return [Finding(cause, "warning", evidence, change, split, files)]


def _of_others(
    known: Sequence[Outlines], images: Sequence[Outlines], rows: Sequence[int], least: float
) -> Iterator[tuple[str, list[int], float]]:
    """Those of the rows, whose outlines lie on no edges, that fit other images of the split, with where these are and
    the sum of the edge strength there.

    All together they may surely fit images nearby. If those of the other split do so too, the images are frames of a
    video, and this says nothing. Or more of them fit one image far better than the rest than is usual in the other
    split. Of those with few points the best image always stands out."""
    step, fits = _nearby(images, rows)
    if _nearby(known, _evenly(len(known), COMPARED))[0] in STEPS:
        return
    if step in STEPS and len(fits) >= FEWEST_OF_OTHERS:
        yield f"the image {step} before or {step} further on", [*fits], sum(fits.values())
    others = [known[row] for row in _evenly(len(known), len(images))]  # of more, the best fits better by chance
    some = _evenly(len(others), COMPARED)
    limit = np.quantile([_best_other(others, row)[1] for row in some], 1 - GOOD)
    chance = 1 - (1 - GOOD) ** ((len(images) - 1) / (len(others) - 1))
    few = np.quantile([len(image.points) for image in known], 0.25)
    large = [row for row in rows if len(images[row].points) >= few]
    best = {row: _best_other(images, row) for row in large}
    own = {row: fit for row, (fit, apart, _) in best.items() if apart > limit and fit > least}
    places = len({best[row][2] for row in own})  # outlines of frames of a video have the same
    by_chance = betabinom.sf(places - 1, len(large), len(some) * chance + 1, len(some) * (1 - chance))
    if places >= FEWEST_OF_OTHERS and by_chance < LEVEL:
        yield "other images, in no regular order", [*own], sum(own.values())


def _evenly(count: int, most: int) -> list[int]:
    """`most` of so many rows, or all."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _best_other(images: Sequence[Outlines], row: int) -> tuple[float, float, int]:
    """Edge strength of an image's outlines on that of the other images that they fit best, by how many standard
    deviations of all this is above the mean, and the row of that image."""
    others = [place for place in range(len(images)) if place != row]
    fits = np.array([images[row].on(images[place]) for place in others])
    best = int(fits.argmax())
    return float(fits[best]), float((fits[best] - fits.mean()) / max(fits.std(), 1e-9)), others[best]


def _nearby(images: Sequence[Outlines], rows: Sequence[int]) -> tuple[int, dict[int, float]]:
    """The distance in images at which the outlines of the rows surely fit better than at others, on the image before or
    further on, 0 if there is none; and the edge strength there of the rows that fit best at that distance."""
    count = len(images)
    steps = np.arange(1, min(FARTHEST, (count - 1) // 2) + 1)
    fits = np.array(
        [[max(images[row].on(images[(row + by) % count]) for by in (-step, step)) for step in steps] for row in rows]
    )
    mean = fits.mean(0)
    best = int(mean.argmax())
    others = np.delete(mean, best)
    if mean[best] - others.mean() <= STANDARD_ERRORS * others.std(ddof=1):
        return 0, {}
    return int(steps[best]), {
        row: float(fit[best]) for row, fit in zip(rows, fits, strict=True) if fit.argmax() == best
    }


def _strangers(known: Sequence[Outlines], images: Sequence[Outlines], split: str) -> list[Finding]:
    """A warning if some outlines of a part of the images lie on no edges there, and on edges of an image nearby: of
    more images than in the other split, and than fit images further away, as small outlines fit any."""
    usual = np.concatenate([image.each(image.edges) for image in known])
    limits = np.quantile(usual, FAINT_OF_OBJECTS), np.quantile(usual, GOOD_OF_OBJECTS)
    further = sum(len(_fitting(images, step, *limits)) for step in FURTHER)
    for step in STEPS:
        rows, others = _fitting(images, step, *limits), _fitting(known, step, *limits)
        by_chance = binom.sf(len(rows) - 1, len(images), (further + 1) / (len(FURTHER) * len(images) + 1))
        level = LEVEL / len(STEPS)
        if by_chance < level and more(len(rows), len(images), len(others), len(known), level=level):
            files = [images[row].name for row in rows]
            part = described(files, len(images), split)
            evidence = f"some outlines of {part} lie on no edges of their image, and on those of the image {abs(step)} "
            change = "remove the outlines that belong to another image"
            where = "before" if step < 0 else "further on"
            return [Finding("masks_of_other_image", "warning", f"{evidence}{where}", change, split, files)]
    return []


def _fitting(images: Sequence[Outlines], step: int, faint: float, good: float) -> list[int]:
    """Rows of the images with an outline that lies on no edges there, and on edges of the image `step` further on."""
    pairs = ((image, images[(row + step) % len(images)]) for row, image in enumerate(images))
    return [
        row
        for row, (image, other) in enumerate(pairs)
        if ((image.each(image.edges) < faint) & (image.each(other.edges) > good)).any()
    ]


CHANGES = (
    *((cause, text) for cause, text, _ in TURNED),
    *(("outlines_differ", f"drawn {by} times as large about their own centres") for by in GROWN),
    *(("masks_of_other_image", f"laid on the image {abs(step)} {'before' if step < 0 else 'further on'}")
      for step in STEPS),
)  # fmt: skip


def _changed(images: Sequence[Outlines]) -> np.ndarray:
    """[1 + len(CHANGES), len(images)]: `sharpness` of the outlines as they are, and after each change."""
    return np.array([_sharpness(images, row) for row in range(len(images))]).T


def _sharpness(images: Sequence[Outlines], row: int) -> np.ndarray:
    image = images[row]
    count = np.maximum(np.bincount(image.owner), 1)
    centre = np.column_stack([np.bincount(image.owner, axis) / count for axis in image.points.T])[image.owner]
    grown = [(image.points - centre) * by + centre for by in GROWN]
    laid = [image.on(images[(row + step) % len(images)]) for step in STEPS]
    return np.array([*image.sharpness(np.stack([image.points, *image.turned(), *grown])), *laid])


def with_interval(values: np.ndarray) -> str:
    """The mean with its 95 % confidence interval, as text."""
    return f"{values.mean():+.2f} +- {2 * standard_error(values):.2f} standard deviations"


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def best_shift(images: Sequence[Outlines]) -> tuple[tuple[int, int], np.ndarray]:
    """The shift (x, y) that fits all outlines best, and the gain of each image."""
    table = np.array([shifted(image) for image in images])
    y, x = np.unravel_index(table.mean(0).argmax(), table.shape[1:])
    return (int(x) - REACH, int(y) - REACH), table[:, y, x] - table[:, REACH, REACH]


def shifted(image: Outlines) -> np.ndarray:
    """`sharpness` of the outlines for every shift (y, x) in -REACH..REACH: the correlation with the edges, divided by
    the number of points inside (the correlation with an image of ones)."""
    drawn = np.zeros(image.edges.shape)
    np.add.at(drawn, tuple(image.points.T), 1)
    planes = [np.pad(plane, REACH) for plane in (image.edges, np.ones(image.edges.shape))]
    total, inside = (fftconvolve(plane, drawn[::-1, ::-1], mode="valid") for plane in planes)
    return np.where(inside > 0.5, total / np.maximum(inside, 1), 0.0)


def outlines(image: Image, root: Path) -> Outlines | None:
    """The outlines of an image. None if the image is uniform or no outline is inside it."""
    scale = min(1.0, LONGER / max(image.height, image.width))
    width, height = (max(round(side * scale), 1) for side in (image.width, image.height))
    small = open_image(root, image, side=LONGER).resize((width, height), PIL.Image.Resampling.BOX)
    grey = np.asarray(small.convert("L"), dtype=np.float32)
    edges = gaussian_gradient_magnitude(grey, 1.0)
    points, colours, texture, labels, sums = [], [], [], [], np.zeros((2, len(OFFSETS)))
    for instance in image.instances:
        mask = None if instance.crowd else small_mask(instance.segmentation, image, height, width)
        if mask is not None and mask.any():
            points.append(np.argwhere(mask & ~binary_erosion(mask, border_value=1)))
            colours.append(np.asarray(small)[mask].mean(0))
            texture.append(grey[mask].std())
            labels.append(instance.labels)
            sums += _rings(mask, edges)
    if not sum(map(len, points)) or edges.std() < 0.5:
        return None
    mean, spread = edges.mean(), edges.std()
    profile = (sums[0] / np.maximum(sums[1], 1) - mean) / spread
    owner = np.repeat(np.arange(len(points)), list(map(len, points)))
    return Outlines(
        (edges - mean) / spread, np.concatenate(points), np.array(colours), labels, profile, image.file_name, owner,
        np.array(texture),
    )  # fmt: skip


def _rings(mask: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sum of the edges and number of pixels [2, len(OFFSETS)] at each offset from the outline of a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    radius = float(np.sqrt(mask.sum() / np.pi))
    reach = int(np.ceil(radius * OFFSETS[-1])) + 2
    part = tuple(slice(max(0, own[0] - reach), own[-1] + reach + 1) for own in (rows, columns))
    mask, edges = mask[part], edges[part]
    inner = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    outer = distance_transform_edt(~mask) if not mask.all() else np.zeros(mask.shape)
    offset = (np.where(mask, 0.5 - inner, outer - 0.5)) / radius
    place = np.round((offset - OFFSETS[0]) / (OFFSETS[1] - OFFSETS[0])).astype(int)
    kept = (place >= 0) & (place < len(OFFSETS))
    return np.stack([np.bincount(place[kept], weights, len(OFFSETS)) for weights in (edges[kept], None)])


def small_mask(segmentation: Segmentation, image: Image, height: int, width: int) -> np.ndarray:
    """Mask at a smaller size, bool [height, width]. Polygons are scaled before drawing, which is faster."""
    if isinstance(segmentation, list):
        scale = np.array([width / image.width, height / image.height])
        points = [(np.reshape(polygon, (-1, 2)) * scale).ravel().tolist() for polygon in segmentation]
        return masks.mask(points, height, width).astype(bool)
    whole = masks.mask(segmentation, image.height, image.width)
    rows = (np.arange(height) + 0.5) * image.height / height
    columns = (np.arange(width) + 0.5) * image.width / width
    return whole[rows.astype(int)][:, columns.astype(int)].astype(bool)
