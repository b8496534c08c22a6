"""Tiled prediction: a large image is cut into overlapping tiles, and what they show is put together to one table.

Two tiles see the same pixels in the strip that they share. Where their predictions overlap there and agree in the
labels of every task, they show one object: of two that are whole the better stays, of parts the union. Before that, a
prediction that the border of its tile cuts off gives way to one that covers it in a tile that shows more of the place,
regardless of its labels, which a cut object often misleads. An object larger than a tile is found in the whole image,
which runs through the network as well, reduced; of its predictions only those are used that no tile can hold.

A mask is never made at the size of the image: it moves there as runs (`Strips`). Besides the image, memory grows with
the predictions that pass the filter alone, and time with those that lie near each other.

SAHI and supervision's `InferenceSlicer` merge by box or mask, but know one class of a prediction and one score, do not
know which predictions are cut off, compare whole masks instead of what both tiles see, so that two halves of an object,
whose IoU is small, stay two, and keep masks as arrays, of the tile's or the image's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mtseg.core import masks
from mtseg.core.errors import UserError
from mtseg.core.params import Task
from mtseg.core.strips import Strips
from mtseg.core.tables import Predictions
from mtseg.data.images import square
from mtseg.inference.postprocess import encode

Progress = Callable[[int, int], None]

SMALLEST = 32  # pixels of a tile
MOST_OVERLAP = 0.9  # a tenth of a tile as step: 100 times the pixels of the image
AGREE = 0.5  # share of the smaller of two masks, in the strip that both tiles see, that makes them one object
COVERED = 0.5  # share of a cut mask inside another to which it gives way
REACH = 2  # pixels of the network's input: a mask that ends so near to the tile's border is cut off by it
WHOLE = 1024  # pixels of the longer side at which masks of the whole image are made


def check(tile: int | None, overlap: float) -> None:
    """Raises UserError for settings that are not allowed."""
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int | np.integer) or tile < SMALLEST):
        raise UserError(f"tile: {tile!r} is no whole number of pixels, at least {SMALLEST}")
    number = isinstance(overlap, int | float | np.integer | np.floating) and not isinstance(overlap, bool)
    if not (number and 0 <= overlap <= MOST_OVERLAP):
        raise UserError(f"overlap: {overlap!r} is no share of a tile from 0 to {MOST_OVERLAP}")


def tiles(height: int, width: int, tile: int, overlap: float) -> np.ndarray:
    """Tiles that cover an image, row by row: int [n, 4], left, top, right, bottom. Each has `tile` pixels a side, or
    those of the image if it has fewer, and shares at least `overlap` of a side with its neighbours; the tiles are
    spread evenly. With an overlap of 0 an object on a border stays cut."""
    tops, lefts = (_starts(side, tile, overlap) for side in (height, width))
    corners = np.array([(left, top) for top in tops for left in lefts])
    return np.hstack([corners, np.minimum(corners + tile, (width, height))])


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    step = max(1, int(tile * (1 - overlap)))
    count = 1 + max(0, -(-(side - tile) // step))
    return [(side - tile) * i // (count - 1) for i in range(count)] if count > 1 else [0]


def predict(
    network: Any, pixels: Any, *, tasks: Sequence[Task], image_id: int, size: int, tile: int, overlap: float,
    batch: int, select: Callable[[Predictions], Predictions], progress: Progress | None = None,
) -> Predictions:  # fmt: skip
    """The predictions of an image, its best first, before the filter's last run.

    pixels: [height, width, 3], an array or what is read in parts like one. size: of the network's input. batch: tiles
    at a time. select: keeps those of a tile that are worth merging. progress: called with the numbers of tiles
    that are done, and of all. Labels, probabilities, logits, score and mask
    quality of a merged object are those of its best part by score; mask, box and area are of the union. `query` counts
    the distinct masks.
    """
    height, width = pixels.shape[:2]
    areas = tiles(height, width, tile, overlap)
    parts = []
    for start in range(0, len(areas), batch):
        some = areas[start : start + batch].tolist()
        cut = [pixels[top:bottom, left:right] for left, top, right, bottom in some]
        encoded = map(encode, _detect(network, cut, size), repeat(image_id), repeat(tasks))
        for own, found in zip(some, encoded, strict=True):
            placed = _placed(found, height, width, own[:2])
            parts.append(select(placed) if len(areas) > 1 else placed)
        if progress:
            progress(len(parts), len(areas))
    found = Predictions.concatenate(parts)
    if len(areas) == 1:
        return found
    tile_of = np.repeat(np.arange(len(areas)), [len(part) for part in parts])
    found, loose = merged(found, areas[tile_of], reach=-(-REACH * tile // size))
    return _numbered(_with_large(found, loose, select(_whole(network, pixels, size, image_id, tasks)), tile))


def _detect(network: Any, images: Sequence[Any], size: int, longest: int | None = None) -> Iterator[Any]:
    """Detections of images, with masks at their size or, if that is more, at a longer side of `longest`."""
    squares, content = zip(*(square(image, size) for image in images), strict=True)
    shares = [min(1.0, (longest or max(image.shape)) / max(image.shape)) for image in images]
    sizes = [
        tuple(max(1, round(side * share)) for side in image.shape[:2])
        for image, share in zip(images, shares, strict=True)
    ]
    return network.detect(np.stack(squares), content, sizes)


def _placed(found: Predictions, height: int, width: int, corner: Sequence[int] | None = None) -> Predictions:
    """Predictions of a part in the image, at the part's corner left, top; without it, of the image, enlarged."""
    moved = {}
    for rle in found.rles():
        if rle["counts"] not in moved:
            own = Strips.of(rle)
            moved[rle["counts"]] = own.placed(*corner, height, width) if corner else own.scaled(height, width)
    new = {counts: (strips.rle()["counts"], strips.box, float(strips.area)) for counts, strips in moved.items()}
    rle, box, area = zip(*(new[counts] for counts in found.rle), strict=True) if len(found) else ((), (), ())
    return found.replace(
        rle=np.array(rle, dtype=object), box=np.array(box, dtype=float).reshape(-1, 4), area=np.array(area, float),
        height=np.full(len(found), height), width=np.full(len(found), width),
    )  # fmt: skip


def _whole(network: Any, pixels: Any, size: int, image_id: int, tasks: Sequence[Task]) -> Predictions:
    (found,) = _detect(network, [pixels], size, WHOLE)
    return _placed(encode(found, image_id, tasks), *pixels.shape[:2])


def merged(found: Predictions, areas: np.ndarray, *, reach: int) -> tuple[Predictions, np.ndarray]:
    """One prediction for each object, and which of them are still cut off, bool [N].

    found: of all tiles, in the whole image. areas: int [N, 4], left, top, right, bottom of the tile of each. reach:
    pixels; a mask that ends so near to a border of its tile inside the image is cut off by it.
    """
    cut = _cut(found, areas, reach)
    one, other, _, shared = _pairs(found)
    apart = (areas[one] != areas[other]).any(axis=1)
    one, other, shared = one[apart], other[apart], shared[apart]
    kept = ~_giving_way(found, areas, cut, one, other, shared)
    same = kept[one] & kept[other] & _same_labels(found, one, other)
    one, other, shared = one[same], other[same], shared[same]
    agree = shared >= AGREE * _smaller_inside(found, areas, one, other)
    edges = coo_array((np.ones(agree.sum(), dtype=bool), (one[agree], other[agree])), shape=(len(found),) * 2)
    rows, loose = [], []
    group = connected_components(edges, directed=False)[1]
    columns = {name: found.column(name).copy() for name in ("rle", "box", "area")}
    every = found.rles()
    order = np.lexsort((-found.score, group))
    order = order[kept[order]]
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else ():
        best = members[0]
        if len(members) > 1 and cut[members].any():
            union = coco_mask.merge([every[row] for row in members])
            columns["rle"][best] = union["counts"].decode()
            columns["box"][best], columns["area"][best] = coco_mask.toBbox(union), coco_mask.area(union)
        x, y, width, height = columns["box"][best]
        left, top, right, bottom = areas[members].T
        ends = np.stack([x >= left, y >= top, x + width <= right, y + height <= bottom], axis=1)
        rows.append(best)
        loose.append((cut[members] & ends).any())  # at no border of these tiles the object goes on beyond it
    rows = np.array(rows, dtype=int)
    return found.replace(**columns)[rows], np.array(loose, dtype=bool)


def _cut(found: Predictions, areas: np.ndarray, reach: int) -> np.ndarray:
    """bool [N, 4]: whether a mask reaches the left, top, right, bottom border of its tile, inside the image."""
    low, high = found.box[:, :2], found.box[:, :2] + found.box[:, 2:]
    size = np.stack([found.width, found.height], axis=1)
    first = (areas[:, :2] > 0) & (low <= areas[:, :2] + reach)
    return np.hstack([first, (areas[:, 2:] < size) & (high >= areas[:, 2:] - reach)])


def _pairs(found: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every two masks that share pixels: rows, the first greater; IoU, and how many they share."""
    one, other, iou = masks.overlaps(found.rles())
    return one, other, iou, np.rint(iou * (found.area[one] + found.area[other]) / (1 + iou))


def _same_labels(found: Predictions, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.all([labels[one] == labels[other] for labels in found.labels.values()], axis=0)


def _smaller_inside(found: Predictions, areas: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each pair the area of the smaller mask in the rectangle that both tiles see."""
    zone = np.hstack([np.maximum(areas[one], areas[other])[:, :2], np.minimum(areas[one], areas[other])[:, 2:]])
    every, smaller = found.rles(), np.zeros(len(one))
    strips = cache(lambda row: Strips.of(every[row]))
    for place, (a, b, own) in enumerate(zip(one.tolist(), other.tolist(), zone.tolist(), strict=True)):
        smaller[place] = min(strips(row).area_inside(*own) for row in (a, b))
    return smaller


def _giving_way(
    found: Predictions, areas: np.ndarray, cut: np.ndarray, one: np.ndarray, other: np.ndarray, shared: np.ndarray
) -> np.ndarray:
    """bool [N]: which predictions are cut off, and covered by one that stays, of a tile that goes on where theirs ends,
    and which is whole or whose tile sees all of them."""
    a, b, shared = np.concatenate([one, other]), np.concatenate([other, one]), np.tile(shared, 2)
    beyond = np.hstack([areas[b, :2] < areas[a, :2], areas[b, 2:] > areas[a, 2:]])
    low, high = found.box[:, :2], found.box[:, :2] + found.box[:, 2:]
    inside = (low[a] >= areas[b, :2]).all(axis=1) & (high[a] <= areas[b, 2:]).all(axis=1)
    cut_off = cut.any(axis=1)
    order = np.lexsort((-found.area, cut_off))  # the whole ones first, then the larger ones
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    worse = cut_off[a] & (beyond | ~cut[a]).all(axis=1) & (inside | ~cut_off[b])
    worse &= (shared >= COVERED * found.area[a]) & (rank[b] < rank[a])
    a, b = a[worse], b[worse]
    gone = np.zeros(len(found), dtype=bool)
    for place in np.argsort(rank[a], kind="stable").tolist():
        gone[a[place]] |= not gone[b[place]]
    return gone


def _with_large(found: Predictions, loose: np.ndarray, whole: Predictions, tile: int) -> Predictions:
    """The tiles' predictions with those of the reduced image that are larger than a tile, unless the tiles show the
    object with the same labels; what such a one covers and is still cut off goes."""
    whole = whole[whole.box[:, 2:].max(axis=1, initial=0) > tile]
    both = Predictions.concatenate([found, whole])
    large, small, iou, shared = _pairs(both)
    across = (large >= len(found)) & (small < len(found))
    large, small, iou, shared = large[across], small[across], iou[across], shared[across]
    kept = np.ones(len(both), dtype=bool)
    same, loose = _same_labels(both, large, small), loose[small]
    kept[large[(shared >= AGREE * both.area[large]) & same & ~loose]] = False
    # parts of an object that no tile shows whole often agree in labels that are wrong
    wrong = (iou >= AGREE) & ~same & (both.box[small, 2:].max(axis=1, initial=0) > tile)
    kept[small[kept[large] & (wrong | loose & (shared >= COVERED * both.area[small]))]] = False
    return both[kept]


def _numbered(found: Predictions) -> Predictions:
    """The best first; `query` counts the distinct masks."""
    found = found[np.argsort(-found.score, kind="stable")]
    number: dict[str, int] = {}
    return found.replace(query=np.array([number.setdefault(rle, len(number)) for rle in found.rle], dtype=int))
