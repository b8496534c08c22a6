"""Overlays that can be read (F15): every object's outline, all its labels beside it, columns that compare.

Not detectron2's Visualizer: at the size of a report it cuts labels off at the frame and puts them over each other.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mtseg.core.params import Task
from mtseg.core.tables import Image as Record
from mtseg.core.tables import Instance, Prediction
from mtseg.data import coco
from mtseg.evaluation.predictions import score

INK, PAPER = (255, 255, 255), (24, 26, 30)  # of titles and labels
GAP, PAD = 6, 2  # pixels between panels, and round a label's text
FILL = 0.35  # share of the class colour inside a mask
NO_LABEL = "–"
LINE = 24  # characters of a label's line


@dataclass(frozen=True)
class Overlay:
    """One object to draw. mask: uint8 [height, width] of the picture. text: its labels, in lines."""

    mask: np.ndarray
    colour: tuple[int, int, int]
    text: str


def truth(image: Record, tasks: Sequence[Task]) -> list[Overlay]:
    """The ground truth, crowds marked as such."""
    return [_overlay(i, i.labels, tasks, "crowd" if i.crowd else "", image) for i in image.instances]


def found(image: Record, predictions: Iterable[Prediction], tasks: Sequence[Task]) -> list[Overlay]:
    """Predictions with their score, main class probability x mask quality, in percent."""
    return [_overlay(p, p.labels, tasks, f"{100 * score(p, tasks, 'main_quality'):.0f} %", image) for p in predictions]


def compare(pixels: np.ndarray, columns: Mapping[str, Sequence[Overlay]], *, size: int) -> Image.Image:
    """The picture (uint8 [height, width, 3]) once a column, under the column's name. size: pixels, longer side."""
    panels = [_panel(pixels, title, overlays, size) for title, overlays in columns.items()]
    width, height = panels[0].size
    sheet = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height), PAPER)
    for number, panel in enumerate(panels):
        sheet.paste(panel, (number * (width + GAP), 0))
    return sheet


def _overlay(
    item: Instance | Prediction, labels: Mapping[str, int | None], tasks: Sequence[Task], note: str, image: Record
) -> Overlay:
    names = [NO_LABEL if labels[task.name] is None else task.classes[labels[task.name]] for task in tasks]
    lines = (f"{names[0]} {note}".strip(), ", ".join(names[1:]))
    return Overlay(
        mask=coco.mask(item.segmentation, image.height, image.width),
        colour=_colour(labels[tasks[0].name]),
        text="\n".join(part for line in lines for part in textwrap.wrap(line, LINE)),
    )


def _colour(index: int | None) -> tuple[int, int, int]:
    """Of a main class; past ten classes colours repeat, the labels tell."""
    red, green, blue, _ = matplotlib.colormaps["tab10"]((index or 0) % 10, bytes=True)
    return int(red), int(green), int(blue)


def _panel(pixels: np.ndarray, title: str, overlays: Sequence[Overlay], size: int) -> Image.Image:
    scale = size / max(pixels.shape[:2])
    width, height = (max(1, round(side * scale)) for side in pixels.shape[1::-1])
    canvas = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    masks = [cv2.resize(o.mask * 255, (width, height), interpolation=cv2.INTER_LINEAR) > 127 for o in overlays]
    order = sorted(range(len(overlays)), key=lambda index: -masks[index].sum())  # small ones on top
    for index in order:
        colour, inside = np.array(overlays[index].colour), masks[index]
        canvas[inside] = (1 - FILL) * canvas[inside] + FILL * colour
    for index in order:
        contours, _ = cv2.findContours(masks[index].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for colour, extra in ((PAPER, 2), (overlays[index].colour, 0)):  # on a dark rim, for objects of its own colour
            cv2.drawContours(canvas, contours, -1, colour, max(1, round(size / 200)) + extra, cv2.LINE_AA)
    picture = Image.fromarray(canvas)
    _write_labels(picture, [(masks[index], overlays[index]) for index in order if masks[index].any()], size)
    font = _font(size)
    bar = 2 * font.size
    panel = Image.new("RGB", (width, height + bar), PAPER)
    panel.paste(picture, (0, bar))
    ImageDraw.Draw(panel).text((font.size // 2, bar // 2), title, font=font, fill=INK, anchor="lm")
    return panel


def _write_labels(picture: Image.Image, objects: Sequence[tuple[np.ndarray, Overlay]], size: int) -> None:
    """A label at the innermost point of each mask, or, where others are in the way, near it with a leader."""
    draw, font = ImageDraw.Draw(picture, "RGBA"), _font(size)
    taken: list[np.ndarray] = []
    centres = [_innermost(mask) for mask, _ in objects]
    boxes = []
    for number, (_, overlay) in enumerate(objects):
        x0, y0, x1, y1 = draw.multiline_textbbox((0, 0), overlay.text, font=font, spacing=1)
        extent = np.ceil([x1 - x0 + 2 * PAD, y1 - y0 + 2 * PAD]).astype(int)
        others = [centre for other, centre in enumerate(centres) if other != number]
        box = _place(centres[number], extent, taken, others, picture.size)
        taken.append(box)
        boxes.append((box, (x0, y0)))
    for (box, _), centre, (_, overlay) in zip(boxes, centres, objects, strict=True):
        if not (box[:2] <= centre).all() or not (centre <= box[2:]).all():
            middle = tuple(np.clip(centre, box[:2], box[2:]).tolist())
            draw.line([tuple(centre.tolist()), middle], fill=(*INK, 255), width=1)
            draw.circle(tuple(centre.tolist()), 2, fill=(*INK, 255), outline=(*overlay.colour, 255))
    for (box, (x0, y0)), (_, overlay) in zip(boxes, objects, strict=True):
        draw.rectangle(box.tolist(), fill=(*PAPER, 185), outline=(*overlay.colour, 255))
        corner = (box[0] + PAD - x0, box[1] + PAD - y0)
        draw.multiline_text(corner, overlay.text, font=font, fill=INK, spacing=1)


def _innermost(mask: np.ndarray) -> np.ndarray:
    """(x, y) of the pixel farthest from the mask's edge."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return np.array([x, y])


def _place(
    centre: np.ndarray, extent: np.ndarray, taken: list[np.ndarray], others: list[np.ndarray], frame: tuple[int, int]
) -> np.ndarray:
    """[x0, y0, x1, y1] inside the frame for a label of that extent: near the centre, off labels and others' centres."""
    offsets = [(0.0, 0.0)]
    for radius in (0.7, 1.1, 1.6, 2.2, 3.0, 4.0):
        offsets += [(radius * np.cos(a), radius * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)]
    unit = np.array([extent[0] / 1.5, extent[1]])
    room = np.maximum(np.array(frame) - 1 - extent, 0)
    corners = np.clip(np.round(centre + np.array(offsets) * unit - extent / 2), 0, room).astype(int)
    boxes = np.concatenate([corners, corners + extent], axis=1)
    cost = np.linalg.norm(boxes[:, :2] + extent / 2 - centre, axis=1) / extent[1]
    for box in taken:
        sides = np.minimum(boxes[:, 2:], box[2:] + 1) - np.maximum(boxes[:, :2], box[:2] - 1)
        cost += 200 * np.clip(sides, 0, None).prod(axis=1) / extent.prod()
    for other in others:
        cost += 1.5 * ((boxes[:, :2] <= other) & (other <= boxes[:, 2:])).all(axis=1)
    return boxes[int(cost.argmin())]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries, so that every machine draws alike."""
    path = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(path, max(9, round(size / 32)), layout_engine=ImageFont.Layout.BASIC)
