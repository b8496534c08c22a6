"""The embedded data set: synthetic images of objects with a shape, a colour and a fill, in LabelMe format.

The images are hard enough to reveal a faulty model: objects overlap, are rotated and cut by the image border;
backgrounds have textures in the objects' colours; hue and lighting vary, so that single pixels do not determine labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mtseg.core.files import replace_folder, write_image, write_json
from mtseg.core.params import Generate

SHAPES = ("circle", "square", "star", "triangle")
HUES = {"red": 0.0, "green": 0.33, "blue": 0.61, "yellow": 0.145}
FILLS = ("solid", "striped", "dotted")
FINE = 4  # masks are drawn at this multiple of the image size
EMPTY = 0.04  # share of images without an object
INSIDE = 0.7  # smallest share of an object inside the image
VISIBLE = 0.5  # smallest share of that part which other objects may leave visible
TRIES = 30  # random positions tried per object
REPEATED = 0.37  # radius of an object in a grid cell, as a share of the cell's side (a triangle's corner: 1.3 radii)


@dataclass(frozen=True)
class Shape:
    """One object. mask: uint8 [FINE x height, FINE x width], 255 inside. centre, radius: pixels. angle: radians."""

    label: str
    mask: np.ndarray
    centre: np.ndarray
    radius: float
    angle: float


def generate(params: Generate, folder: Path, *, seed: int) -> None:
    """Write `folder`/{train,val}/NNNNN.{jpg,json}. An image depends on its number, its split and the params except the
    counts. `unseen` changes only train."""
    missing = unseen(params.unseen, seed=seed)
    with replace_folder(folder) as temporary:
        for split, (name, count, without) in enumerate(
            (("train", params.train, missing), ("val", params.val, frozenset()))
        ):
            (temporary / name).mkdir()
            for number in range(count):
                rng = np.random.default_rng([seed, split, number])
                pixels, shapes = draw(rng, params.size, params.max_objects, params.scale, without, params.alike)
                file = temporary / name / f"{number:05d}.jpg"
                # no chroma subsampling: it would blur stripes three pixels wide
                write_image(file, Image.fromarray(pixels), "JPEG", quality=92, subsampling=0)
                height, width = pixels.shape[:2]
                annotation = {
                    "version": "5.5.0",
                    "flags": {},
                    "shapes": shapes,
                    "imagePath": file.name,
                    "imageData": None,
                    "imageHeight": height,
                    "imageWidth": width,
                }
                write_json(file.with_suffix(".json"), annotation, indent=None)


def unseen(count: int, *, seed: int) -> frozenset[str]:
    """Random combinations to leave out, such as `circle,red,striped`. Every shape, colour and fill still occurs. A
    smaller set is a subset of a larger one."""
    left = sorted(itertools.product(SHAPES, HUES, FILLS))
    classes = len({*SHAPES, *HUES, *FILLS})
    drawn: list[str] = []
    for label in np.random.default_rng([seed, 2]).permutation(left).tolist():  # the splits have 0 and 1
        others = [other for other in left if other != tuple(label)]
        if len(drawn) < count and len({name for other in others for name in other}) == classes:
            left = others
            drawn.append(",".join(label))
    return frozenset(drawn)


def draw(
    rng: np.random.Generator,
    size: int,
    max_objects: int,
    scale: float = 1.0,
    without: Collection[str] = (),
    alike: float = 0.0,
) -> tuple[np.ndarray, list[dict]]:
    """An image, uint8 [height, width, 3] with longer side `size`, and its LabelMe shapes (visible parts). scale: object
    size. without: combinations that no object has. alike: probability that all objects are copies of one."""
    shorter = round(size * rng.uniform(0.7, 1.0))
    height, width = (size, shorter) if rng.random() < 0.5 else (shorter, size)
    wanted = 0 if rng.random() < EMPTY else int(rng.integers(1, max_objects + 1))
    look = _copies(int(rng.integers(2**31))) if alike and rng.random() < alike else lambda _: rng
    objects, visible = _scene(rng, height, width, wanted, scale, without, look)
    canvas = _background(rng, height, width)
    for item in objects:
        _paint(look("paint"), canvas, item)
    shapes = []
    for number, (item, seen) in enumerate(zip(objects, visible, strict=True)):
        polygons = _outlines(seen)
        for polygon in polygons:
            shapes.append(
                {
                    "label": item.label,
                    "points": [[round(float(x), 2), round(float(y), 2)] for x, y in polygon],
                    "group_id": number if len(polygons) > 1 else None,
                    "shape_type": "polygon",
                    "flags": {},
                }
            )
    return _light(rng, canvas), shapes


def grid(
    seed: int, size: int, side: int, shown: Sequence[int], *, alike: bool
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """An image of one object in each of the cells `shown` of a grid of side x side, numbered row by row. Returns the
    image, uint8 [size, size, 3], the labels, and masks, bool [N, size, size]. Background, light and the object of each
    cell depend on the seed alone, not on `shown`. alike: all objects are copies. An object fills its cell."""
    cell = size // side
    canvas = _background(np.random.default_rng([seed, 0]), size, size)
    labels, masks = [], np.zeros((len(shown), size, size), dtype=bool)
    for mask, number in zip(masks, shown, strict=True):
        rng = np.random.default_rng([seed, 1, 0 if alike else 1 + number])
        label = ",".join((rng.choice(SHAPES), rng.choice(list(HUES)), rng.choice(FILLS)))
        item = _placed(label, np.full(2, cell / 2), REPEATED * cell, rng.uniform(-0.4, 0.4), cell, cell)
        top, left = (size * place // side for place in divmod(number, side))
        place = slice(top, top + cell), slice(left, left + cell)
        _paint(rng, canvas[place], item)
        mask[place] = _shrink(item.mask, cell, cell)[..., 0] >= 0.5
        labels.append(label)
    return _light(np.random.default_rng([seed, 2]), canvas), labels, masks


def scattered(
    rng: np.random.Generator, size: int, diameters: Sequence[float]
) -> tuple[np.ndarray, list[tuple[str, int, int, np.ndarray]]]:
    """A large image, uint8 [size, size, 3], of objects of these diameters in pixels, at random places where none
    touches another: label, left, top and mask, bool [side, side], of each. One for which there is no place is left
    out."""
    canvas, objects, taken = _background(rng, size, size), [], []
    for diameter in diameters:
        radius = diameter / 2
        reach = int(1.3 * radius) + 2  # a triangle's corner
        for _ in range(TRIES):
            centre = rng.integers(reach, size - reach, 2)
            if all(np.hypot(*(centre - other)) > reach + theirs for other, theirs in taken):
                break
        else:
            continue
        taken.append((centre, reach))
        label = ",".join((rng.choice(SHAPES), rng.choice(list(HUES)), rng.choice(FILLS)))
        item = _placed(label, np.full(2, float(reach)), radius, rng.uniform(-0.4, 0.4), 2 * reach, 2 * reach)
        left, top = (centre - reach).tolist()
        _paint(rng, canvas[top : top + 2 * reach, left : left + 2 * reach], item)
        objects.append((label, left, top, _shrink(item.mask, 2 * reach, 2 * reach)[..., 0] >= 0.5))
    return _light(rng, canvas), objects


def _copies(seed: int) -> Callable[[str], np.random.Generator]:
    """A source of random numbers that repeats the same numbers for each part of an object's look."""
    return lambda part: np.random.default_rng([seed, *part.encode()])


def _scene(
    rng: np.random.Generator,
    height: int,
    width: int,
    wanted: int,
    scale: float,
    without: Collection[str],
    look: Callable[[str], np.random.Generator],
) -> tuple[list[Shape], list[np.ndarray]]:
    """Up to `wanted` objects, from back to front, and the visible part of each mask."""
    objects: list[Shape] = []
    visible: list[np.ndarray] = []
    for _ in range(wanted):
        for _ in range(TRIES):
            new, inside = _shape(rng, height, width, scale, without, look("form"))
            left = [np.where(new.mask, 0, seen) for seen in visible]
            spoilt = any(_spoilt(item.mask, after) for item, after in zip(objects, left, strict=True))
            if inside > INSIDE and not spoilt:
                objects.append(new)
                visible = [*left, new.mask]
                break
    return objects, visible


def _shape(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: float,
    without: Collection[str],
    look: np.random.Generator,
) -> tuple[Shape, float]:
    """A shape with random parameters from `look` at a random position, and the share of it inside the image."""
    label = None
    while label is None or label in without:
        label = ",".join((look.choice(SHAPES), look.choice(list(HUES)), look.choice(FILLS)))
    radius = min(height, width) * look.uniform(0.24, 0.55) / 2 * scale
    centre = rng.uniform(0.05, 0.95, 2) * (width, height)
    angle = look.uniform(-0.4, 0.4)
    shape = _placed(label, centre, radius, angle, height, width)
    x, y = _corners(label.split(",")[0]).T * radius
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    return shape, np.count_nonzero(shape.mask) / (area * FINE**2)


def _placed(label: str, centre: np.ndarray, radius: float, angle: float, height: int, width: int) -> Shape:
    corners = _corners(label.split(",")[0]) * radius
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    mask = Image.new("L", (FINE * width, FINE * height))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in FINE * (corners @ turn + centre)], fill=255)
    return Shape(label, np.asarray(mask), centre, radius, angle)


def _corners(kind: str) -> np.ndarray:
    """Outline [N, 2] of a shape, about the size of the unit circle."""
    if kind == "circle":
        angles, radii = np.linspace(0, 2 * np.pi, 64, endpoint=False), np.ones(64)
    elif kind == "star":
        angles, radii = np.arange(10) * np.pi / 5, np.tile([1.25, 0.6], 5)
    elif kind == "square":
        angles, radii = np.arange(4) * np.pi / 2 + np.pi / 4, np.full(4, 1.25)
    else:
        angles, radii = np.arange(3) * 2 * np.pi / 3, np.full(3, 1.3)
    return np.stack([np.sin(angles), -np.cos(angles)], 1) * radii[:, None]


def _spoilt(mask: np.ndarray, visible: np.ndarray) -> bool:
    """Whether too little of an object is visible, or the visible part has a hole, which polygons cannot express."""
    if np.count_nonzero(visible) < VISIBLE * np.count_nonzero(mask):
        return True
    _, tree = cv2.findContours(visible, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return bool((tree[0, :, 3] >= 0).any())


def _outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons [N, 2] in image pixels of each part of a region, without parts smaller than 4 square pixels."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    kept = [cv2.approxPolyDP(part, 1.0, True) for part in contours if cv2.contourArea(part) >= 4 * FINE**2]
    return [(part[:, 0] + 0.5) / FINE for part in kept]


def _paint(rng: np.random.Generator, canvas: np.ndarray, item: Shape) -> None:
    """Draw an object onto the image, float32 [height, width, 3] from 0 to 1, in place."""
    height, width = canvas.shape[:2]
    _, colour, fill = item.label.split(",")
    base = _rgb((HUES[colour] + rng.uniform(-0.035, 0.035)) % 1, rng.uniform(0.65, 1.0), rng.uniform(0.7, 1.0))
    paint = base + _pattern(rng, height, width, fill, item)[..., None] * (_grey(rng) - base)
    kernel = np.ones((FINE + 1, FINE + 1), np.uint8)
    core = _shrink(cv2.erode(item.mask, kernel, borderValue=255), width, height)
    paint = paint * (0.45 + 0.55 * core)  # a darker rim: an object stays visible on its own colour
    canvas += _shrink(item.mask, width, height) * (paint - canvas)


def _pattern(rng: np.random.Generator, height: int, width: int, fill: str, item: Shape) -> np.ndarray:
    """Share [height, width] of the fill's second colour. Stripes and dots rotate with the object."""
    angle = item.angle + rng.uniform(-0.3, 0.3) + rng.integers(2) * np.pi / 2
    return _texture(height, width, fill, item.centre, angle, item.radius * rng.uniform(0.5, 0.6))


def _texture(height: int, width: int, fill: str, origin: np.ndarray, angle: float, period: float) -> np.ndarray:
    """Stripes or dots [height, width] from 0 to 1 with a period in pixels; edges are one pixel soft."""
    if fill == "solid":
        return np.zeros((height, width))
    y, x = np.mgrid[:height, :width] + 0.5 - origin[::-1].reshape(2, 1, 1)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    u, v = ((value / period % 1 - 0.5) * period for value in (u, v))
    edge = period / 4 - np.abs(u) if fill == "striped" else 0.32 * period - np.hypot(u, v)
    return np.clip(edge + 0.5, 0, 1)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A gradient, clouds, stripes or dots in the objects' colours, float32 [height, width, 3] from 0 to 1."""
    hues = (rng.choice(list(HUES.values()), 16) + rng.uniform(-0.06, 0.06, 16)) % 1
    colours = np.stack([_rgb(hue, rng.uniform(0.2, 1.0), rng.uniform(0.25, 1.0)) for hue in hues])
    kind = rng.choice(["gradient", "clouds", "striped", "dotted"])
    if kind in FILLS:
        period = min(height, width) * rng.uniform(0.08, 0.4)
        share = _texture(height, width, kind, rng.uniform(0, width, 2), rng.uniform(0, np.pi), period)
        other = _grey(rng) if rng.random() < 0.5 else colours[1]
        canvas = colours[0] + share[..., None] * (other - colours[0]) * rng.uniform(0.3, 1.0)
    else:
        side = 2 if kind == "gradient" else 4
        canvas = cv2.resize(colours[: side**2].reshape(side, side, 3), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = cv2.resize(rng.normal(0, 0.06, (height // 3, width // 3)), (width, height))
    return np.clip(canvas + grain[..., None], 0, 1).astype(np.float32)


def _light(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Add a brightness gradient, a colour cast and noise. Returns uint8."""
    height, width = canvas.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    fall = 1 + rng.uniform(0, 0.3) * (x * np.cos(angle) + y * np.sin(angle))
    lit = canvas * (rng.uniform(0.75, 1.1) * fall[..., None]) * rng.uniform(0.92, 1.08, 3)
    return np.clip(255 * lit + rng.normal(0, 5, lit.shape), 0, 255).round().astype(np.uint8)


def _grey(rng: np.random.Generator) -> np.ndarray:
    """A grey that is nearly white or nearly black."""
    return np.full(3, rng.uniform(0.85, 1.0) if rng.random() < 0.5 else rng.uniform(0.0, 0.15))


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """HSV to RGB, all 0 to 1."""
    ramp = np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return value * (1 - saturation * (1 - np.clip(ramp, 0, 1)))


def _shrink(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """Downscale a mask to coverage, float32 [height, width, 1] from 0 to 1."""
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)[..., None].astype(np.float32) / 255
