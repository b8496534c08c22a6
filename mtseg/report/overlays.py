"""Overlays as the report shows them: outlines as SVG path data, drawings as SVG, and a JPEG for the docs.

Coordinates are pixels of the thumbnail.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.figure import Figure

from mtseg.core.errors import UserError
from mtseg.core.files import replace_file
from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions
from mtseg.data.images import read_image
from mtseg.inference.overlays import INK, PAPER, Labelled, draw, labelled, rings
from mtseg.report.plotting import style, svg

WIDTH, GAP, BAR = 1200, 8, 26  # pixels: width of a file, gap between its images, height of the titles


def path(rle: dict, *, scale: float, corner: tuple[int, int] = (0, 0)) -> str:
    """`rings` as SVG path data, "" for an empty mask."""
    return "".join(
        f"M{ring[0, 0]} {ring[0, 1]}l{' '.join(f'{x} {y}' for x, y in np.diff(ring, axis=0).tolist())}z".replace(
            " -", "-"
        )
        for ring in rings(rle, scale=scale, corner=corner)
    )


def thumbnail(pixels: np.ndarray, size: int) -> PIL.Image.Image:
    """The image, uint8 [height, width, 3], resized so that its longer side has at most `size` pixels."""
    image = PIL.Image.fromarray(pixels)
    image.thumbnail((size, size), PIL.Image.Resampling.LANCZOS)
    return image


def as_svg(objects: Sequence[Labelled], size: tuple[int, int], name: str, title: str) -> str:
    """SVG to place over a thumbnail of size (width, height). name: unique in the page."""
    with style():
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
        draw(figure.add_axes((0, 0, 1, 1)), objects, size)
        return svg(figure, name, title)


def save(
    file: Path, images: Images, predictions: Predictions, ids: Sequence[int], *, tasks: Sequence[Task], root: Path
) -> None:
    """Write a JPEG with ground truth and predictions of each image side by side. root: folder of the images."""
    rows = images.rows(np.array(ids))
    if unknown := [key for key, row in zip(ids, rows, strict=True) if row < 0]:
        raise UserError(f"the validation split has no image {unknown[0]}")
    gaps = GAP * (2 * len(rows) - 1)
    height = round((WIDTH - gaps) / (2 * images.width[rows] / images.height[rows]).sum())  # of all images
    left, whole = 0, height + BAR
    with style(), replace_file(file) as temporary:
        figure = Figure(figsize=(WIDTH / 72, whole / 72), dpi=72, facecolor=PAPER)
        for row in rows.tolist():
            image, scale = images[row], height / images.height[row]
            size = (round(image.width * scale), height)
            shown = PIL.Image.fromarray(read_image(root, image)).resize(size, PIL.Image.Resampling.LANCZOS)
            truth, found = images.instances.image == row, predictions.image_id == image.id
            for title, objects in (("ground truth", images.instances[truth]), ("prediction", predictions[found])):
                axes = figure.add_axes((left / WIDTH, 0, size[0] / WIDTH, height / whole))
                axes.imshow(shown, extent=(0, *size, 0), interpolation="none")
                draw(axes, labelled(objects, tasks, scale=scale), size, font=13)
                axes.set_title(f" {title}", color=INK, size=14, pad=7)
                left += size[0] + GAP
        figure.savefig(content := BytesIO(), format="jpeg", pil_kwargs={"quality": 90, "optimize": True})
        temporary.write_bytes(content.getvalue())
