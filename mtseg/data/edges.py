"""Whether outlines lie on edges of their images: proof that they are in the right place, where geometry alone leaves
doubt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from mtseg.data.images import DECODE_ERRORS, open_lazily

FACTORS = (2, 4, 1.5, 3, 1.25, 2.5)  # by which images are enlarged
SAMPLE = 12  # images that are read
SIDE = 512  # pixels of the longer side at which images are compared
APART = 6  # pixels by which the same outlines are moved to compare with
SHARPER = 1.25  # contrast under outlines in the right place, as a multiple of that beside them


def are_followed(images: Sequence[tuple[Path, Sequence[str]]], factor: float = 1.0) -> bool:
    """Whether the outlines of masks, given as `counts` of the RLE and multiplied by a factor above 0, lie on edges in
    most of the images."""
    chosen = [images[place] for place in sorted({*np.linspace(0, len(images) - 1, SAMPLE).astype(int).tolist()})]
    found = []
    for path, rles in chosen:
        try:
            with open_lazily(path, None) as opened:
                found.append(_sharpness(opened, rles, factor))
        except DECODE_ERRORS:  # larger than Pillow's limit; the others tell
            continue
    return bool(found) and float(np.median(found)) > SHARPER


def _sharpness(image: Image.Image, rles: Iterable[str], factor: float) -> float:
    """The contrast under the outlines of masks, given as `counts` of the image's size, as a multiple of that under the
    same outlines moved in four directions: about 1 where they are in a wrong place."""
    opened = ImageOps.exif_transpose(image)
    height, width = opened.height, opened.width
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = cv2.GaussianBlur(np.asarray(opened.convert("L").resize(size), dtype=np.float32), (3, 3), 0)
    contrast = np.hypot(*(cv2.Sobel(grey, cv2.CV_32F, *way) for way in ((1, 0), (0, 1))))
    line = np.zeros(grey.shape, np.uint8)
    for counts in rles:
        mask = coco_mask.decode({"size": [height, width], "counts": counts})
        placed = cv2.resize(mask, (round(size[0] * factor), round(size[1] * factor)))[: size[1], : size[0]]
        line |= cv2.morphologyEx(placed, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    moved = [np.roll(line, way, (0, 1)) for way in ((APART, 0), (-APART, 0), (0, APART), (0, -APART))]
    on, *beside = (float(contrast[where > 0].mean()) if where.any() else 0.0 for where in (line, *moved))
    return (on + 1) / (np.mean(beside) + 1)
