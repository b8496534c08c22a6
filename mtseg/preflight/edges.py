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
from scipy.ndimage import binary_erosion, gaussian_gradient_magnitude

from mtseg.data import coco
from mtseg.data.pictures import read_picture
from mtseg.findings import Finding
from mtseg.records import Image, Segmentation

MOST = 120  # pictures that are looked at
LONGER = 192  # pixels, their longer side while they are
REACH = 10  # of those pixels: shifts up to it are tried
FEWEST = 20  # pictures below which nothing is said
SURE = 5.0  # standard errors, by which a shift must be better than none: the best of 441 shifts is chosen
FAINT = 0.1  # standard deviations of a picture's edges; outlines that are sharper by less lie on none
MISSED = 2  # pixels of a shift that edges, blurred, and outlines, hand-drawn, may differ by


@dataclass(frozen=True)
class Outlines:
    """edges: of one picture [H, W], mean 0, standard deviation 1; points [N, 2]: (y, x) of its instances' outlines."""

    edges: np.ndarray
    points: np.ndarray


def check(images: Sequence[Image], *, root: Path) -> list[Finding]:
    """Warnings: masks_of_other_picture, masks_displaced."""
    labelled = [image for image in images if any(not instance.crowd for instance in image.instances)]
    spread = np.unique(np.linspace(0, len(labelled) - 1, min(MOST, len(labelled))).round().astype(int))
    looked = [found for i in spread if (found := outlines(labelled[i], root)) is not None]
    if len(looked) < FEWEST:
        return []
    own = np.array([sharpness(one, one.points) for one in looked])
    steps = [len(looked) // 4, len(looked) // 2, 3 * len(looked) // 4]
    other = np.array(
        [np.mean([sharpness(looked[i - step], one.points) for step in steps]) for i, one in enumerate(looked)]
    )
    best, gain = best_shift(looked)
    if max(abs(best)) > MISSED and gain.mean() > SURE * standard_error(gain):
        evidence = (
            f"outlines lie best on the edges of their pictures when moved by ({best[0]:+d}, {best[1]:+d}) pixels of a "
            f"picture {LONGER} pixels long ({gain.mean():.2f} +- {2 * standard_error(gain):.2f} standard deviations of "
            f"the edges better, {len(looked)} pictures)"
        )
        return [
            Finding("masks_displaced", "warning", evidence, "look at the raw annotations: of another size?", "train")
        ]
    gap = own - other
    if gap.mean() + 2 * standard_error(gap) < FAINT:
        evidence = (
            f"outlines lie on edges of their own pictures no better than on those of other pictures "
            f"({gap.mean():+.2f} +- {2 * standard_error(gap):.2f} standard deviations, {len(looked)} pictures)"
        )
        change = "look at the raw annotations: do they belong to these pictures?"
        return [Finding("masks_of_other_picture", "warning", evidence, change, "train")]
    return []


def best_shift(looked: Sequence[Outlines]) -> tuple[np.ndarray, np.ndarray]:
    """The shift (x, y) by which all outlines together lie best, and what each picture gains by it."""
    moves = [(y, x) for y in range(-REACH, REACH + 1) for x in range(-REACH, REACH + 1)]
    table = np.array([[sharpness(one, one.points + move) for move in moves] for one in looked])
    best = int(table.mean(0).argmax())
    return np.array(moves[best][::-1]), table[:, best] - table[:, moves.index((0, 0))]


def sharpness(picture: Outlines, points: np.ndarray) -> float:
    """Mean edge under the points, those outside of the picture left out."""
    height, width = picture.edges.shape
    inside = (points >= 0).all(1) & (points[:, 0] < height) & (points[:, 1] < width)
    return float(picture.edges[tuple(points[inside].T)].mean()) if inside.any() else 0.0


def outlines(image: Image, root: Path) -> Outlines | None:
    """None for a picture of one tone, or where no instance has an outline inside the picture."""
    pixels = PIL.Image.fromarray(read_picture(root, image)).convert("L")
    scale = min(1.0, LONGER / max(pixels.size))
    width, height = (max(round(side * scale), 1) for side in pixels.size)
    grey = np.asarray(pixels.resize((width, height), PIL.Image.Resampling.BOX), dtype=np.float32)
    edges = gaussian_gradient_magnitude(grey, 1.0)
    points = []
    for instance in image.instances:
        if not instance.crowd:
            mask = small_mask(instance.segmentation, image, height, width)
            points.append(np.argwhere(mask & ~binary_erosion(mask, border_value=1)))
    points = np.concatenate(points)
    if not len(points) or edges.std() < 0.5:
        return None
    return Outlines((edges - edges.mean()) / edges.std(), points)


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
