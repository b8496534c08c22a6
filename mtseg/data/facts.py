"""Compare what an annotation states twice: the outline with `bbox` and `area`, sizes and file names with the images.

A disagreement has a likely cause, found by trying the known ones on the object: the one that makes both statements
agree is reported. A cause that makes the outline wrong is an error (`BadRecord`); one that leaves the outline right or
in doubt is a remark, of which `convert` prints a warning with the number of objects and an example.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtseg.core.errors import one_line
from mtseg.core.masks import Box, Segmentation
from mtseg.core.tables import Image, Instance
from mtseg.data import duplicates, edges
from mtseg.data.polygons import Measure, enclosed
from mtseg.data.raw import BadRecord, RawObject, by

if TYPE_CHECKING:
    from mtseg.data.convert import Seen

Boxes = Sequence[tuple[Box, Box]]

PIXELS, SHARE = 1.5, 0.02  # two boxes agree if their edges differ by less than either: pixels, share of the box's side
BEYOND = 0.05  # share of the image's side by which an outline leaves the image, beyond what imprecise drawing explains
MOST = 0.5  # share of images without objects, or of crowds, that is more than usual
SPECKS, PARTS = 8, 2  # connected parts of a mask that is read in the wrong order, and at most of the right one
ENLARGED = 0.67, 0.4  # largest coordinate, and mean centre, of outlines made on smaller images than these
FEWEST = 20  # images that such a statement needs
NEAR = 0.6  # IoU of boxes and masks above which two objects of one class are the same
JITTER = 2.5, 0.06  # pixels, or share of the shorter side, by which their edges differ at most
TRACED_TWICE = 0.01  # share of such objects that is more than objects behind each other explain
EVEN = 2  # grey levels that a border of one colour has, in a thumbnail
ON_BORDER = 0.25, 0.02  # share of a box on such a border, and of objects of which it is more than imprecise drawing
AT_ONCE = 1024  # thumbnails
FEWEST_OF_SIZE = 10  # images of one size, where others are smaller by the same factor

WRONG = {  # causes that make an outline wrong, and how to fix them
    "normalised coordinates": "multiply x by the image's width and y by its height",
    "x and y swapped": "write x before y",
    "y counted from the bottom": "count it from the top: subtract it from the image's height",
    "all x before all y": "write them in turns: x, y, x, y",
    "three numbers for each point": "write x and y alone",
    "inverted RLE": "its first run is of background: put a 0 before the runs, or encode the inverse mask",
    "row-major RLE": "COCO's runs go down the columns: encode the transposed mask, for example with pycocotools",
    "coordinates of another image size": "scale them by the size of the image as it is now",
}


@dataclass
class Remarks:
    """Number of objects or images by remark, and the first of each as an example."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, remark: str, example: str, count: int = 1) -> None:
        self.counts[remark] = self.counts.get(remark, 0) + count
        self.examples.setdefault(remark, example)

    def lines(self) -> list[str]:
        return [one_line(f"{text}: {self.counts[text]}, such as {self.examples[text]}") for text in sorted(self.counts)]


def check_outline(
    item: RawObject,
    measure: Measure,
    height: int,
    width: int,
    *,
    of_image: Boxes = (),
    relative: bool = False,
    pixels: bool = False,
) -> None:
    """Raise BadRecord if the outline of an object is wrong by one of the causes `WRONG`. of_image: stated box and
    outline's box of all objects of its image. relative: coordinates were stated as shares of the image's size. pixels:
    those of other objects are plainly pixels."""
    outline, extent = item.segmentation, measure.extent
    if not extent[2] or not extent[3]:
        return
    normalised = not relative and isinstance(outline, list) and _is_normalised(extent, height, width)
    if normalised and not (pixels and _is_one_pixel(item, extent)):
        _refuse("normalised coordinates", f"all coordinates are from 0 to 1, the image has {width} x {height} pixels")
    if isinstance(outline, dict) and outline["size"] == [height, width]:
        _check_order(item, extent)
    if item.box is None or _agree(item.box, extent):
        return
    stated = f"bbox is {_text(item.box)}, the outline's {_text(extent)}"
    if isinstance(outline, list):
        x, y, w, h = extent
        if _agree(item.box, (y, x, h, w)):
            _refuse("x and y swapped", stated)
        if _agree(item.box, (x, height - y - h, w, h)):
            _refuse("y counted from the bottom", stated)
        for cause, other in _other_orders(outline):
            if _agree(item.box, other):
                _refuse(cause, stated)
        scale = item.box[2] / w, item.box[3] / h
        if min(scale) > 0 and abs(np.log(scale)).max() > 0.05 and _is_scaled(item, measure, scale, of_image):
            slack = _slack(extent)
            away = abs(x * (scale[0] - 1)) > slack[0], abs(y * (scale[1] - 1)) > slack[1]  # else it is in its place
            if 0.9 < scale[0] / scale[1] < 1.1 and any(away):
                _refuse("coordinates of another image size", f"{stated}, {scale[0]:.3g} times as large")
            if all(away) and max(item.box) > 2:  # by two factors: the image was stretched, if the box is in pixels
                both = f"{scale[0]:.3g} times in width and {scale[1]:.3g} times in height"
                _refuse("coordinates of another image size", f"{stated}, {both}")


def _is_scaled(item: RawObject, measure: Measure, scale: tuple[float, float], of_image: Boxes) -> bool:
    """Whether a box is the outline's times a factor, as if the image had another size. It has not if the stated area is
    that of the outline, or if other boxes of the image are in place: then this one is out of date."""
    if not _agree(item.box, _scaled(measure.extent, scale)):
        return False
    if item.area and abs(item.area - measure.area) < abs(item.area - measure.area * scale[0] * scale[1]):
        return False
    return not any(_agree(box, extent) and not _agree(box, _scaled(extent, scale)) for box, extent in of_image)


def _scaled(box: Box, scale: tuple[float, float]) -> Box:
    x, y, w, h = box
    return x * scale[0], y * scale[1], w * scale[0], h * scale[1]


def in_pixels(outlines: Iterable[Segmentation]) -> bool:
    """Whether a coordinate of a polygon is plainly one of pixels, and not from 0 to 1."""
    return any(max(polygon) > 2 for outline in outlines if isinstance(outline, list) for polygon in outline)


def remark(
    item: RawObject,
    measure: Measure,
    instance: Instance,
    height: int,
    width: int,
    *,
    of_image: Boxes = (),
    relative: bool = False,
) -> str | None:
    """What is in doubt about an object whose outline is valid, None if nothing is. of_image, relative: see
    `check_outline`."""
    extent = measure.extent
    if item.box is not None and not _agree(item.box, extent) and not _agree(item.box, instance.bbox):
        in_place = any(_agree(*boxes) for boxes in of_image)
        return _box_remark(item.box, extent, instance.bbox, height, width, in_place=in_place)
    if isinstance(item.segmentation, list):
        if _leaving(extent, height, width) > BEYOND:
            cause = _beyond_cause(extent, height, width, relative)
            return f"outlines reach far beyond the image (likely cause: {cause})"
        if len(item.segmentation) > 1 and _states_hole(item, measure, instance):
            return (
                "holes written as a second polygon, which are filled: the stated area is the outer polygon's minus the "
                "inner one's (write such objects as RLE)"
            )
    if isinstance(item.segmentation, list) and _crosses(measure, instance):
        return "outlines whose edges cross: what they enclose is used (likely cause: points in the wrong order)"
    if item.area is not None and not item.crowd and not _areas_agree(item, measure, instance):
        w, h = instance.bbox[2:]
        if item.box is not None and abs(item.area - item.box[2] * item.box[3]) <= 0.02 * item.area + 1:
            return None  # as many tools write it; the area of the mask is used
        return f"the stated area is not that of the outline{', and larger than its box' if item.area > w * h else ''}"
    return None


def outside(extent: Box, height: int, width: int, *, relative: bool = False) -> str:
    """That an outline is outside the image, and the likely cause. relative: see `check_outline`."""
    cause = _beyond_cause(extent, height, width, relative)
    return f"is outside the image of {width} x {height} pixels (likely cause: {cause})"


def _beyond_cause(extent: Box, height: int, width: int, relative: bool) -> str:
    if relative:  # a resized image has the same shares
        return "coordinates divided by another size than that of the annotated image, or an image that was cropped"
    x, y, w, h = extent
    swapped = height != width and not _leaving((y, x, h, w), height, width)
    return "x and y are swapped" if swapped else "the image was resized or cropped after annotating"


def size_cause(stated: tuple[int, int], height: int, width: int, orientation: int) -> str:
    """The likely cause of a stated size, height and width, that is not the image's."""
    if stated == (width, height):
        if orientation in (5, 6, 7, 8):
            return (
                f"annotated on the pixels as stored, the image has EXIF orientation {orientation}: remove it, for "
                "example with exiftool -Orientation= FILE, or export the annotations with it applied"
            )
        return "height and width are exchanged, or the image was turned after annotating"
    factors = height / stated[0], width / stated[1]
    if abs(factors[0] / factors[1] - 1) < 0.02:
        return (
            f"the image was resized after annotating, by {factors[1]:.3g}: scale the annotations or restore the image"
        )
    return (
        f"the image was stretched after annotating, by {factors[1]:.3g} in width and {factors[0]:.3g} in height, or "
        "cropped, padded or replaced: restore the image, or annotate it as it is now"
    )


def of_images(images: Sequence[Seen], folder: Path, remarks: Remarks, *, relative: bool = False) -> None:
    """Add remarks on images: EXIF orientation, names of other images, outlines that are all at the top left and follow
    no edges. folder: of the raw data. relative: see `check_outline`."""
    proven = any(  # then the tool that stated the turned size turned the image
        image.orientation in (5, 6, 7, 8) and image.raw.size and image.height != image.width for image in images
    )
    for image in images:
        if image.orientation != 1 and image.objects and not proven:
            text = (
                "images have an EXIF orientation other than 1, and annotations are read on the turned image: if yours "
                "were made on the pixels as stored (as OpenCV's and other tools' may be), remove it from the images, "
                "for example with exiftool -Orientation= FILE"
            )
            remarks.add(text, f"{image.raw.file_name} ({image.orientation})")
        if image.raw.stated_name:
            text = "the annotation states the name of another image; the image with the file's own name is used"
            remarks.add(text, f"{image.raw.where} states {image.raw.stated_name}, used is {image.raw.file_name}")
        if image.raw.shown:
            _compare_shown(image, image.raw.shown, remarks)
    _near_duplicates(images, remarks)
    own = [image for image in images if image.objects]
    if not own:
        return
    boxes, starts = _boxes(own)
    _on_borders(own, boxes, starts, remarks)
    sides = np.array([(image.width, image.height) for image in own])
    corners, counts = boxes[:, :2] + boxes[:, 2:], np.diff(starts, append=len(boxes))[:, None]
    ends = np.maximum.reduceat(corners, starts) / sides
    centres = np.add.reduceat(boxes[:, :2] + boxes[:, 2:] / 2, starts) / counts / sides
    if np.max(ends) < ENLARGED[0] and np.mean(centres, axis=0).max() < ENLARGED[1]:
        if _follow_edges(own, folder):
            return
        fitting = (factor for factor in edges.FACTORS if factor <= 1.01 / np.max(ends))
        factor = next((factor for factor in fitting if _follow_edges(own, folder, factor)), None)
        if not factor and len(own) < FEWEST:
            return
        cause = "coordinates divided by too large a size" if relative else "enlarged after annotating"
        cause += f": multiplied by {factor:g} they follow edges" if factor else ""
        text = f"images whose outlines are all at the top left (likely cause: {cause})"
        remarks.add(text, f"{own[0].raw.file_name}; none reaches beyond {np.max(ends):.0%} of a side", len(own))
    elif not relative:
        _enlarged_in_part(own, ends, folder, remarks)


def _boxes(images: Sequence[Seen]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the objects of images that have some, [N, 4], and where those of each image start."""
    boxes = np.array([instance.bbox for image in images for _, instance in image.objects])
    return boxes, np.cumsum([0, *(len(image.objects) for image in images[:-1])])


def _follow_edges(images: Sequence[Seen], folder: Path, factor: float = 1.0) -> bool:
    rles = [(folder / image.raw.file_name, [instance.rle for _, instance in image.objects]) for image in images]
    return edges.are_followed(rles, factor)


def _enlarged_in_part(images: Sequence[Seen], ends: np.ndarray, folder: Path, remarks: Remarks) -> None:
    """Find sizes of images that are a multiple of another size, by which all outlines on them would fit divided. ends:
    largest x and y of each image's outlines, as shares of its size."""
    of_size: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        of_size.setdefault((image.width, image.height), []).append(index)
    for (width, height), own in of_size.items():
        reach = ends[own].max()
        if len(own) < FEWEST_OF_SIZE or reach > ENLARGED[0]:
            continue
        factors = [width / w for w, h in of_size if abs(width * h / (w * height) - 1) < 0.02]
        factor = min((factor for factor in factors if 1.5 <= factor <= 1.01 / reach), default=None)
        if factor and not _follow_edges([images[index] for index in own], folder):
            cause = f"enlarged by {factor:.3g} after annotating, as other images are smaller by as much"
            text = f"images of {width} x {height} pixels whose outlines are all at the top left (likely cause: {cause})"
            remarks.add(text, f"{images[own[0]].raw.file_name}; none reaches beyond {reach:.0%} of a side", len(own))


def _near_duplicates(images: Sequence[Seen], remarks: Remarks) -> None:
    """Find objects that nearly equal an earlier one of their image and class. Equal ones are found by the readers."""
    found: dict[str, int] = {}
    for low in range(0, len(images), AT_ONCE):
        again: dict[int, set[int]] = {}
        whole = [
            (row, next(iter(labels.values())), one)
            for row, image in enumerate(images[low : low + AT_ONCE], start=low)
            for labels, one in image.objects
            if not one.crowd
        ]
        boxes = np.array([one.bbox for _, _, one in whole]).reshape(-1, 4)
        for i, j in _near(np.array([row for row, _, _ in whole]), boxes):
            (row, label, one), (_, other_label, other) = whole[i], whole[j]
            if label == other_label and one.rle != other.rle:
                size = [images[row].height, images[row].width]
                masks = [{"size": size, "counts": own.rle} for own in (one, other)]
                if all(coco_mask.iou([a], [b], [False])[0, 0] > NEAR for a, b in (boxes[[i, j]], masks)):
                    again.setdefault(row, set()).add(i)
        found |= {images[row].raw.file_name: len(own) for row, own in sorted(again.items())}
    if sum(found.values()) > TRACED_TWICE * sum(len(image.objects) for image in images):
        text = (
            "near-duplicates: objects with the class and nearly the outline of another object of their image (likely "
            "cause: annotated twice, or two versions of the annotations merged)"
        )
        remarks.add(text, next(iter(found)), sum(found.values()))


def _near(image: np.ndarray, boxes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows of every two boxes of one image whose edges are near, the later one first. image: int [N], ascending."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    slack = np.maximum(JITTER[0], JITTER[1] * boxes[:, 2:].min(1))
    later, apart = np.arange(1, len(image)), 1
    while len(later := later[later >= apart]) and len(later := later[image[later] == image[later - apart]]):
        near = np.abs(corners[later] - corners[later - apart]).max(1) <= slack[later]
        yield from ((i, i - apart) for i in later[near].tolist())
        apart += 1


def _on_borders(images: Sequence[Seen], boxes: np.ndarray, starts: np.ndarray, remarks: Remarks) -> None:
    """Find objects on borders of one colour, where nothing can be seen. boxes, starts: see `_boxes`."""
    found: dict[str, int] = {}
    contents = _contents([image.thumbnail for image in images])
    for row in np.flatnonzero((contents != (0, 0, 1, 1)).any(1)).tolist():
        image, (left, top, right, bottom) = images[row], contents[row].tolist()
        own = boxes[starts[row] : starts[row] + len(image.objects)] / ([image.width, image.height] * 2)
        low, high = own[:, :2], own[:, :2] + own[:, 2:]
        inside = (np.minimum(high, (right, bottom)) - np.maximum(low, (left, top))).clip(0).prod(1)
        large = (own[:, 2:] * duplicates.SIDE).min(1) > 1  # smaller ones do not show in a thumbnail
        over = inside > 0.99 * (right - left) * (bottom - top)  # of a whole page or scene
        if count := int((large & ~over & (inside < (1 - ON_BORDER[0]) * own[:, 2:].prod(1))).sum()):
            found[image.raw.file_name] = count
    if len(found) > 1 and sum(found.values()) > ON_BORDER[1] * len(boxes):
        text = (
            "objects on borders of one colour, as those of letterboxed images (likely cause: the borders were added "
            "after annotating)"
        )
        remarks.add(text, next(iter(found)), sum(found.values()))


def _contents(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """Left, top, right and bottom, as shares of the sides, of thumbnails without borders of one colour; all of it if
    one has only one colour: [N, 4]."""
    side, found = duplicates.SIDE, [np.zeros((0, 4))]
    for low in range(0, len(thumbnails), AT_ONCE):
        rows = np.stack(thumbnails[low : low + AT_ONCE]).reshape(-1, side, side).astype(np.int16)
        columns = rows.swapaxes(1, 2)
        left, top = (_border(lines) for lines in (columns, rows))
        right, bottom = (side - _border(lines[:, ::-1]) for lines in (columns, rows))
        shares = np.stack([left, top, right, bottom], axis=1) / side
        found.append(np.where((top >= bottom)[:, None], (0, 0, 1, 1), shares))
    return np.concatenate(found)


def _border(lines: np.ndarray) -> np.ndarray:
    """How many of the first lines of each thumbnail, [N, side, side], have the colour of the first corner alone."""
    other = np.abs(lines - lines[:, :1, :1]).max(2) > EVEN
    return np.where(other.any(1), other.argmax(1), lines.shape[1])


def _compare_shown(image: Seen, shown: tuple[tuple[int, int], np.ndarray], remarks: Remarks) -> None:
    size, thumbnail = shown
    if size != (image.height, image.width):
        text, example = "of another size than the image file", f" ({by(size)})"
    elif duplicates.differ(thumbnail, image.thumbnail):
        text, example = "another image than the file", ""
    else:
        return
    text = (
        f"`imageData`, on which LabelMe shows the outlines, is {text}, which is used: replace the file by it, or "
        "remove it from the annotation"
    )
    remarks.add(text, f"{image.raw.where}{example}, used is {image.raw.file_name} ({by((image.height, image.width))})")


def of_splits(splits: Mapping[str, Sequence[Image]]) -> list[str]:
    """Warnings of splits without objects or of crowds alone, of many images without objects and of many crowds."""
    lines = []
    for name, images in splits.items():
        kinds = {instance.crowd for image in images for instance in image.instances}
        if images and False not in kinds:
            crowds = " but crowds (iscrowd 1; if they are single objects, set it to 0)" if kinds else ""
            use = "learnt" if name == "train" else "measured"
            lines.append(f"{name} has no object{crowds}: nothing can be {use} from its images")
    images = [image for split in splits.values() for image in split]
    bare = [image.file_name for image in images if not image.instances]
    if len(bare) > MOST * len(images) and not lines:
        lines.append(
            f"{len(bare)} of {len(images)} images have no object, such as {bare[0]}: if they are not annotated yet, "
            "take them out, as their objects are learnt as background"
        )
    crowds = sum(instance.crowd for image in images for instance in image.instances)
    if crowds > MOST * sum(len(image.instances) for image in images):
        lines.append(
            f"{crowds} objects are crowds (iscrowd 1), which are neither trained on nor scored: if they are single "
            "objects, as masks of CVAT are, set iscrowd to 0"
        )
    return lines


def _refuse(cause: str, text: str) -> None:
    raise BadRecord(cause, f"{cause}: {text}; {WRONG[cause]}")


def _other_orders(polygons: Sequence[Sequence[float]]) -> Iterator[tuple[str, Box]]:
    """The bounding boxes of polygons whose numbers are in another order than x0, y0, x1, y1, ..., by cause."""
    values = [np.asarray(polygon) for polygon in polygons]
    yield "all x before all y", _extent([own.reshape(2, -1) for own in values])
    if all(len(own) % 3 == 0 for own in values):
        yield "three numbers for each point", _extent([own.reshape(-1, 3).T[:2] for own in values])


def _extent(points: Sequence[np.ndarray]) -> Box:
    """The bounding box of points [2, N]."""
    every = np.concatenate(points, axis=1)
    (left, top), (right, bottom) = every.min(1).tolist(), every.max(1).tolist()
    return left, top, right - left, bottom - top


def _check_order(item: RawObject, extent: Box) -> None:
    """Raise BadRecord if an RLE fits its box only when it is inverted or read row by row, or if it is of one part only
    when it is read row by row."""
    if item.box is not None:
        if _agree(item.box, extent):
            return
        if _agree(item.box, tuple(coco_mask.toBbox(_row_major(item.segmentation)).tolist())):
            _refuse(
                "row-major RLE", f"bbox is {_text(item.box)}, the mask's {_text(extent)}, read row by row it agrees"
            )
        inverse = coco_mask.encode(np.asfortranarray(1 - coco_mask.decode(item.segmentation)))
        if _agree(item.box, tuple(coco_mask.toBbox(inverse).tolist())):
            _refuse("inverted RLE", f"bbox is {_text(item.box)}, the mask's {_text(extent)}")
        return
    if len(item.segmentation["counts"]) < 2 * SPECKS:
        return
    if _parts(item.segmentation) >= SPECKS and _parts(_row_major(item.segmentation)) <= PARTS:
        _refuse("row-major RLE", "the mask is scattered, and in one part if it is read row by row")


def _row_major(segmentation: dict) -> dict:
    """The mask of an RLE whose runs go along the rows."""
    height, width = segmentation["size"]
    flat = coco_mask.decode(segmentation).ravel(order="F")
    return coco_mask.encode(np.asfortranarray(flat.reshape(height, width)))


def _parts(segmentation: dict) -> int:
    return cv2.connectedComponents(np.ascontiguousarray(coco_mask.decode(segmentation)), connectivity=8)[0] - 1


def _box_remark(box: Box, extent: Box, of_mask: Box, height: int, width: int, *, in_place: bool) -> str:
    """in_place: whether other boxes of the image agree with their outlines."""
    x, y, a, b = box
    forms = {
        "as two corners (x, y, x, y)": (x, y, a - x, b - y),
        "as centre and size": (x - a / 2, y - b / 2, a, b),
        "in 0 to 1": (x * width, y * height, a * width, b * height),
        "with x and y swapped": (y, x, b, a),
    }
    for form, read in forms.items():
        if _agree(read, extent) or _agree(read, of_mask):
            return f"bbox is written {form}, the outline is used"
    w, h = extent[2:]
    other = "one of them belongs to another object or image"
    if not in_place and min(a, b, w, h) > 6 and abs(a * h / (b * w) - 1) < 0.03:
        return (
            "bbox has the proportions of the outline, which is used, and not its place (likely cause: the image was "
            f"cropped or got borders after annotating, or {other})"
        )
    if coco_mask.iou(np.array([box]), np.array([extent]), [False])[0, 0] > 0:
        other = f"bbox is of an older outline, or {other}"
    return f"bbox and outline disagree; the outline is used (likely cause: {other})"


def _is_normalised(extent: Box, height: int, width: int) -> bool:
    x, y, w, h = extent
    return min(height, width) > 4 and min(x, y) >= -0.05 and x + w <= 1.05 and y + h <= 1.05


def _is_one_pixel(item: RawObject, extent: Box) -> bool:
    """Whether an outline from 0 to 1 may be the pixel at the top left: its corners are, and so are box and area."""
    whole = all(float(value).is_integer() for part in item.segmentation for value in part)
    return whole and (item.box is None or _agree(item.box, extent)) and (item.area or 1) <= 1


def _states_hole(item: RawObject, measure: Measure, instance: Instance) -> bool:
    """Whether the stated area is that of the outer polygons minus those inside them."""
    if item.area is None or item.area > measure.area - 1.5 * min(
        measure.areas
    ):  # it would be twice the inner area less
        return False
    inner = sum(itertools.compress(measure.areas, enclosed(item.segmentation)))
    return inner > 0 and abs(item.area - (measure.area - 2 * inner)) < 0.25 * abs(item.area - instance.area)


def _crosses(measure: Measure, instance: Instance) -> bool:
    """Whether edges cross: lobes count with opposite signs, so that the area is less than the mask has pixels, by more
    than rounding explains: at most 0.9 of the perimeter, found with 8,649 random thin outlines."""
    return measure.area < 0.9 * instance.area and measure.area + measure.perimeter < instance.area


def _areas_agree(item: RawObject, measure: Measure, instance: Instance) -> bool:
    tolerance = 2 * SHARE * instance.area + PIXELS * (measure.extent[2] + measure.extent[3])
    if abs(item.area - instance.area) <= tolerance:
        return True
    return isinstance(item.segmentation, list) and abs(item.area - measure.area) <= tolerance


def _leaving(extent: Box, height: int, width: int) -> float:
    """The share of the image's side by which a box leaves it, 0 if it does not."""
    x, y, w, h = extent
    return max(-x / width, -y / height, (x + w) / width - 1, (y + h) / height - 1, 0.0)


def _slack(box: Box) -> tuple[float, float]:
    """By how much the edges of a box may differ in x and y."""
    return max(PIXELS, SHARE * box[2]), max(PIXELS, SHARE * box[3])


def _agree(one: Box, other: Box) -> bool:
    x, y, w, h = other
    slack_x, slack_y = _slack(other)
    return (
        abs(one[0] - x) <= slack_x
        and abs(one[1] - y) <= slack_y
        and abs(one[0] + one[2] - x - w) <= slack_x
        and abs(one[1] + one[3] - y - h) <= slack_y
    )


def _text(box: Box) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in box) + "]"
