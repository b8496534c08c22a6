"""Do the annotated outlines lie on edges of their pictures? The brightness changes more along an outline than along
the same outline laid over another picture, and most where nothing is shifted. Holds annotations against pictures
without a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from scipy.ndimage import binary_erosion, gaussian_gradient_magnitude
from scipy.signal import fftconvolve

from mtseg.checks.findings import Finding
from mtseg.core.errors import UserError
from mtseg.core.masks import Segmentation
from mtseg.core.tables import Image
from mtseg.data import coco
from mtseg.data.coco import DECODE_ERRORS

MOST = 120  # pictures that are looked at
LONGER = 192  # pixels, their longer side while they are
REACH = 10  # of those pixels: shifts up to it are tried
FEWEST = 20  # pictures below which nothing is said
SURE = 5.0  # standard errors, by which a shift must be better than none: the best of 441 shifts is chosen
FAINT = 0.1  # standard deviations of a picture's edges; outlines that are sharper by less lie on none
MISSED = 2  # pixels of a shift that edges, blurred, and outlines, hand-drawn, may differ by


@dataclass(frozen=True)
class Outlines:
    """edges: of one picture [H, W], mean 0, standard deviation 1; points [N, 2]: (y, x) of its instances' outlines.
    colours [I, 3]: mean RGB inside of each instance that has a pixel, and their labels."""

    edges: np.ndarray
    points: np.ndarray
    colours: np.ndarray
    labels: list[dict[str, int | None]]


def sample(images: Sequence[Image], *, root: Path) -> list[Outlines]:
    """Of up to `MOST` pictures with instances, evenly spread. Raises UserError for a picture that does not decode."""
    labelled = [image for image in images if any(not instance.crowd for instance in image.instances)]
    spread = np.unique(np.linspace(0, len(labelled) - 1, min(MOST, len(labelled))).round().astype(int))
    return [found for i in spread if (found := outlines(labelled[i], root)) is not None]


def check(looked: Sequence[Outlines], split: str) -> list[Finding]:
    """A warning at most: masks_displaced, masks_mirrored, masks_transposed or masks_of_other_image."""
    if len(looked) < FEWEST:
        return []
    own = np.array([sharpness(one, one.points) for one in looked])
    change = "look at the raw annotations beside their pictures"

    best, gain = best_shift(looked)
    if max(abs(best)) > MISSED and gain.mean() > SURE * standard_error(gain):
        evidence = (
            f"outlines lie best on the edges of their pictures when moved by ({best[0]:+d}, {best[1]:+d}) pixels of a "
            f"picture {looked[0].edges.shape[1]} pixels wide (sharper by {figure(gain)}, {len(looked)} pictures)"
        )
        return [Finding("masks_displaced", "warning", evidence, f"{change}: were they drawn at another size?", split)]
    for cause, turned in TURNED.items():
        gain = np.array([sharpness(one, turned(one)) for one in looked]) - own
        if gain.mean() > SURE * standard_error(gain):
            evidence = f"turned so outlines lie on edges sharper by {figure(gain)}, {len(looked)} pictures"
            return [Finding(cause, "warning", evidence, change, split)]
    steps = [len(looked) // 4, len(looked) // 2, 3 * len(looked) // 4]
    other = np.array(
        [np.mean([sharpness(looked[i - step], one.points) for step in steps]) for i, one in enumerate(looked)]
    )
    gap = own - other
    if gap.mean() + 2 * standard_error(gap) < FAINT:
        evidence = f"outlines lie on edges of their pictures no better than of others: {figure(gap)}"
        evidence += f", {len(looked)} pictures"
        return [Finding("masks_of_other_image", "warning", evidence, f"{change}: are they of these?", split)]
    return []


def figure(values: np.ndarray) -> str:
    """With its 95 % confidence."""
    return f"{values.mean():+.2f} +- {2 * standard_error(values):.2f} standard deviations of the edges"


def best_shift(looked: Sequence[Outlines]) -> tuple[np.ndarray, np.ndarray]:
    """The shift (x, y) by which all outlines together lie best, and what each picture gains by it."""
    side = 2 * REACH + 1
    table = np.array([shifted(one) for one in looked])
    best = int(table.mean(0).argmax())
    gain = table.reshape(-1, side * side)[:, best] - table[:, REACH, REACH]
    return np.array([best % side - REACH, best // side - REACH]), gain


def shifted(one: Outlines) -> np.ndarray:
    """`sharpness` of the outlines moved by every (y, x) of -REACH..REACH: a correlation, of the edges and of a picture
    of ones, by whose share of points inside it is divided."""
    height, width = one.edges.shape
    drawn = np.zeros((height, width))
    np.add.at(drawn, tuple(one.points.T), 1)
    padded = [np.pad(plane, REACH) for plane in (one.edges, np.ones((height, width)))]
    total, inside = (fftconvolve(plane, drawn[::-1, ::-1], mode="valid") for plane in padded)
    return np.where(inside > 0.5, total / np.maximum(inside, 1), 0.0)


def mirrored(one: Outlines) -> np.ndarray:
    return np.stack([one.points[:, 0], one.edges.shape[1] - 1 - one.points[:, 1]], axis=1)


def transposed(one: Outlines) -> np.ndarray:
    return one.points[:, ::-1]


TURNED = {"masks_mirrored": mirrored, "masks_transposed": transposed}


def sharpness(picture: Outlines, points: np.ndarray) -> float:
    """Mean edge under the points, those outside of the picture left out."""
    height, width = picture.edges.shape
    inside = (points >= 0).all(1) & (points[:, 0] < height) & (points[:, 1] < width)
    return float(picture.edges[tuple(points[inside].T)].mean()) if inside.any() else 0.0


def outlines(image: Image, root: Path) -> Outlines | None:
    """None for a picture of one tone, or where no instance has an outline inside the picture."""
    pixels = small_picture(root, image, LONGER)
    scale = min(1.0, LONGER / max(image.height, image.width))
    width, height = (max(round(side * scale), 1) for side in (image.width, image.height))
    small = pixels.resize((width, height), PIL.Image.Resampling.BOX)
    edges = gaussian_gradient_magnitude(np.asarray(small.convert("L"), dtype=np.float32), 1.0)
    points, colours, labels = [np.zeros((0, 2), int)], [], []
    for instance in image.instances:
        mask = None if instance.crowd else small_mask(instance.segmentation, image, height, width)
        if mask is not None and mask.any():
            points.append(np.argwhere(mask & ~binary_erosion(mask, border_value=1)))
            colours.append(np.asarray(small)[mask].mean(0))
            labels.append(instance.labels)
    points = np.concatenate(points)
    if not len(points) or edges.std() < 0.5:
        return None
    return Outlines((edges - edges.mean()) / edges.std(), points, np.array(colours), labels)


def small_picture(root: Path, image: Image, side: int) -> PIL.Image.Image:
    """The picture in RGB, turned as EXIF says, its shorter side not below `side` if it was not: a JPEG is decoded at a
    half, a quarter or an eighth. Raises UserError naming the file."""
    path = root / image.file_name
    try:
        with PIL.Image.open(path) as picture:
            picture.draft("RGB", (side, side))
            return PIL.ImageOps.exif_transpose(picture).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such picture; is data.raw the folder that was converted?") from None
    except DECODE_ERRORS as error:
        raise UserError(f"{path}: the picture does not decode ({error}); mend or remove it and run convert") from None


def small_mask(segmentation: Segmentation, image: Image, height: int, width: int) -> np.ndarray:
    """Bool [height, width] of a smaller picture. Polygons are drawn small, which is quick."""
    if isinstance(segmentation, list):
        scale = np.array([width / image.width, height / image.height])
        points = [(np.reshape(polygon, (-1, 2)) * scale).ravel().tolist() for polygon in segmentation]
        return coco.mask(points, height, width).astype(bool)
    whole = coco.mask(segmentation, image.height, image.width)
    rows = (np.arange(height) + 0.5) * image.height / height
    columns = (np.arange(width) + 0.5) * image.width / width
    return whole[rows.astype(int)][:, columns.astype(int)].astype(bool)


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)
