"""Draw predictions or ground truth over an image: outlines, each with all its labels.

detectron2's Visualizer is not used: on small images it cuts labels off at the border and draws them over each other.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextToPath
from pycocotools import mask as coco_mask

from mtseg.core.params import Task
from mtseg.core.tables import UNLABELLED, Instances, Predictions

COLOURS = (  # of the main classes, in turn; each is visible on a photograph
    *("#4ea1e8", "#f59335", "#45c07a", "#f0605c", "#b48cf0"),
    *("#2ec4c4", "#f08cc8", "#d3a27c", "#d6d64a", "#9db8d2"),
)
INK, PAPER = "#ffffff", "#14161a"  # of labels
TOLERANCE = 0.75  # largest error of an outline in pixels of the thumbnail
NO_LABEL = "–"
LINE = 24  # largest number of characters in a line of a label
PAD = 3  # pixels around the text of a label
SPACING = 1.25  # line spacing of labels
SIDES = (640, 2000)  # pixels: the longer side of an overlay is brought into this range, so that labels are legible


@dataclass(frozen=True)
class Labelled:
    """One object. rings: its outline as by `rings`. text: its labels, with line breaks."""

    rings: list[np.ndarray]
    colour: str
    text: str


def rings(rle: dict, *, scale: float, corner: tuple[int, int] = (0, 0)) -> list[np.ndarray]:
    """The outline of a mask as rings, int [n, 2] (x, y) each, including holes (fill rule evenodd). [] for an empty
    mask.

    scale: size of the thumbnail over that of the image. corner: x, y of the thumbnail's origin in the image.
    """
    left, top, wide, high = (int(value) for value in coco_mask.toBbox(rle))
    if not wide:
        return []
    cut = np.ascontiguousarray(coco_mask.decode(rle)[top : top + high, left : left + wide])
    contours, _ = cv2.findContours(cut, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    shift = np.array([left - corner[0], top - corner[1]])
    simple = (cv2.approxPolyDP(contour, TOLERANCE / scale, True)[:, 0] for contour in contours)
    outline = [np.round((points + shift + 0.5) * scale).astype(int) for points in simple]
    outline = [points[(points != np.roll(points, 1, axis=0)).any(axis=1)] for points in outline]
    outline = [points for points in outline if len(points) >= 3]
    return outline or [_box(shift * scale, (shift + [wide, high]) * scale)]


def labelled(objects: Instances | Predictions, tasks: Sequence[Task], *, scale: float) -> list[Labelled]:
    """The objects of one image with their labels; a crowd is marked, a prediction has its score in percent."""
    notes = (
        [f"{100 * score:.0f} %" for score in objects.score]
        if isinstance(objects, Predictions)
        else ["crowd" if crowd else "" for crowd in objects.crowd]
    )
    items = []
    for row, (rle, note) in enumerate(zip(objects.rles(), notes, strict=True)):
        labels = [int(objects.labels[task.name][row]) for task in tasks]
        main, *further = (
            NO_LABEL if label == UNLABELLED else task.classes[label] for label, task in zip(labels, tasks, strict=True)
        )
        lines = (f"{main} {note}".strip(), ", ".join(further))
        text = "\n".join(part for line in lines for part in textwrap.wrap(line, LINE))
        items.append(Labelled(rings(rle, scale=scale), COLOURS[max(labels[0], 0) % len(COLOURS)], text))
    return items


def overlay(pixels: np.ndarray, objects: Instances | Predictions, tasks: Sequence[Task]) -> PIL.Image.Image:
    """The objects of one image drawn over it. pixels: uint8 [height, width, 3] in RGB."""
    longer = max(pixels.shape[:2])
    scale = float(np.clip(longer, *SIDES)) / longer
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
        resized = PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.LANCZOS)
        axes.imshow(resized, extent=(0, width, height, 0), interpolation="none")
        draw(axes, labelled(objects, tasks, scale=scale), (width, height))
        canvas.draw()
    return PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def draw(axes: Axes, objects: Sequence[Labelled], size: tuple[int, int], font: float = 11) -> None:
    """Draw outlines and labels, larger objects first. size: width and height of the axes in pixels. font: pixels."""
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()
    masks = [_filled(item.rings, size) for item in objects]
    order = sorted((i for i, mask in enumerate(masks) if mask.any()), key=lambda i: -int(masks[i].sum()))
    for item in (objects[i] for i in order):
        outline = Outline.make_compound_path(*(Outline([*ring, ring[0]], closed=True) for ring in item.rings))
        axes.add_patch(PathPatch(outline, fc=f"{item.colour}40", ec=f"{PAPER}b0", lw=3.5))
        axes.add_patch(PathPatch(outline, fill=False, ec=item.colour, lw=2))
    centres, taken = [_innermost(masks[i]) for i in order], []
    for number, i in enumerate(order):
        others = centres[:number] + centres[number + 1 :]
        taken.append(_place(centres[number], _extent(objects[i].text, font), taken, others, size))
    for box, centre, i in zip(taken, centres, order, strict=True):
        nearest = np.clip(centre, box[:2], box[2:])
        if (nearest != centre).any():
            axes.plot(*zip(centre, nearest, strict=True), color=INK, lw=1)
            axes.plot(*centre, "o", mfc=INK, mec=objects[i].colour, ms=4)
    for box, i in zip(taken, order, strict=True):
        width, height = box[2:] - box[:2]
        axes.add_patch(Rectangle(tuple(box[:2]), width, height, fc=f"{PAPER}c0", ec=objects[i].colour, lw=1, zorder=3))
        middle = {"va": "center", "linespacing": SPACING, "zorder": 4}
        axes.text(box[0] + PAD, box[1] + height / 2, objects[i].text, color=INK, size=font, **middle)


def _box(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Ring of a mask that is too small for an outline: its box, at least 2 pixels wide."""
    x0, y0, x1, y1 = np.round([*low, *high]).astype(int)
    x1, y1 = max(x1, x0 + 2), max(y1, y0 + 2)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _filled(outline: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width], 1 inside the rings."""
    mask = np.zeros(size[::-1], dtype=np.uint8)
    if outline:
        cv2.fillPoly(mask, [ring.astype(np.int32) for ring in outline], 1)
    return mask


def _innermost(mask: np.ndarray) -> np.ndarray:
    """(x, y) of the pixel with the largest distance from the edge of the mask."""
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return np.array([x, y])


def _extent(text: str, font: float) -> np.ndarray:
    """Width and height of a label in pixels."""
    lines, face = text.split("\n"), FontProperties(family="DejaVu Sans", size=font)
    widths = [TextToPath().get_text_width_height_descent(line, face, ismath=False)[0] for line in lines]
    return np.ceil([max(widths) + 2 * PAD, len(lines) * SPACING * font + PAD])


def _place(
    centre: np.ndarray, extent: np.ndarray, taken: list[np.ndarray], others: list[np.ndarray], frame: tuple[int, int]
) -> np.ndarray:
    """[x0, y0, x1, y1] in the frame for a label of size `extent`: near the centre of its object, away from the labels
    `taken` and the centres of other objects."""
    offsets = [(0.0, 0.0)]
    for radius in (0.7, 1.1, 1.6, 2.2, 3.0, 4.0):
        offsets += [(radius * np.cos(a), radius * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)]
    unit = np.array([extent[0] / 1.5, extent[1]])
    room = np.maximum(np.array(frame) - 1 - extent, 0)
    corners = np.clip(np.round(centre + np.array(offsets) * unit - extent / 2), 0, room)
    boxes = np.concatenate([corners, corners + extent], axis=1)
    cost = np.linalg.norm(boxes[:, :2] + extent / 2 - centre, axis=1) / extent[1]
    for box in taken:
        sides = np.minimum(boxes[:, 2:], box[2:] + 1) - np.maximum(boxes[:, :2], box[:2] - 1)
        cost += 200 * np.clip(sides, 0, None).prod(axis=1) / extent.prod()
    for other in others:
        cost += 1.5 * ((boxes[:, :2] <= other) & (other <= boxes[:, 2:])).all(axis=1)
    return boxes[int(cost.argmin())]
