"""How exact masks can be at the network's resolution, before anything is trained.

The network gives mask logits on a grid of a fourth of `input.size`. The ground truth is brought onto that grid, as the
share of each cell that a mask covers, and back to the original size as predictions are; the AP of the result is an
estimate of the best that a model of this `input.size` can reach. A learnt map of logits may be a little better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import cv2
import numpy as np

from mtseg.checks.cost import Cost
from mtseg.checks.findings import Finding
from mtseg.core import masks
from mtseg.core.params import Input, Task
from mtseg.core.tables import UNLABELLED, Images

STRIDE = 4  # of the mask logits
FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of input.size, in the table
WORK = 2e8  # pixels of all masks at most: with large images a sample of the objects is enough
CERTAIN = 1e-3  # the share of a cell that is covered is taken as this to 1 - this: the logits of 0 and 1 are infinite
PAYS = 0.5  # exponent: a larger size must raise AP by this power of the factor of the side, at a cost of the power of 2
IOUS = np.linspace(0.5, 0.95, 10)  # COCO's


def ceilings(images: Images, task: Task, size: int) -> dict[int, float]:
    """{input size: AP in percent}, for `size` and those near it, multiples of 32. Empty without objects."""
    objects = images.instances[~images.instances.crowd & (images.instances.labels[task.name] != UNLABELLED)]
    pixels = np.cumsum(objects.height * objects.width.astype(float))
    step = max(1, int(np.ceil(pixels[-1] / WORK))) if len(objects) else 1
    objects = objects[::step]
    if not len(objects):
        return {}
    sizes = sorted({max(32, round(size * factor / 32) * 32) for factor in FACTORS} | {size})
    sides = zip(objects.height.tolist(), objects.width.tolist(), strict=True)
    true = [masks.mask(rle, *shape) for rle, shape in zip(objects.rles(), sides, strict=True)]
    ious = {own: np.array([_iou(mask, representable(mask, own)) for mask in true]) for own in sizes}
    return {own: round(ideal(iou, objects.labels[task.name]), 1) for own, iou in ious.items()}


def representable(mask: np.ndarray, size: int) -> np.ndarray:
    """bool [H, W]: the mask [H, W] as the network could give it at best at this input size."""
    H, W = mask.shape
    height, width = (max(1, int(size * side / max(H, W) + 0.5)) for side in (H, W))  # as `mtseg.data.images.square`
    shrinks = max(H, W) > size
    content = cv2.resize(
        mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    square = np.zeros((size, size), dtype=np.float32)
    square[:height, :width] = content
    cells = square.reshape(size // STRIDE, STRIDE, size // STRIDE, STRIDE).mean((1, 3)).clip(CERTAIN, 1 - CERTAIN)
    logits = cv2.resize(np.log(cells / (1 - cells)), (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(np.ascontiguousarray(logits[:height, :width]), (W, H), interpolation=cv2.INTER_LINEAR) > 0


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    one = one.astype(bool)
    return float((one & other).sum() / max((one | other).sum(), 1))


def ideal(iou: np.ndarray, true: np.ndarray) -> float:
    """COCO's AP in percent of one prediction for each object, with the right label and ranked by its IoU: at each
    threshold, precision is 1 up to the recall reached. iou: [N]; true: int [N], class, or UNLABELLED."""
    hit = iou[:, None] >= IOUS
    recall = np.array([hit[true == label].mean(0) for label in np.unique(true[true != UNLABELLED])])
    return float(100 * np.where(recall > 0, np.floor(100 * recall + 1e-9) + 1, 0).mean() / 101)


def lines(found: dict[int, float], costs: Mapping[int, Cost], size: int) -> list[str]:
    """The table of `ceilings` as text, with the costs of a training step where they are known: time beside that of
    `size`, memory in GB. Empty without objects."""
    if not found:
        return []
    head = (
        "How exact masks can be: AP of ideal predictions on val, time and memory of a step in one process (estimates)"
    )
    rows = [f"  {'input.size':>10}  {'AP':>5}" + f"  {'time':>10}  {'memory':>8}" * bool(costs)]
    for own, ap in found.items():
        cost = ""
        if own in costs:
            time, memory = costs[own].operations / costs[size].operations, costs[own].memory / 1e9
            cost = f"  {time:4.2f} times  {memory:5.2f} GB"
        rows.append(f"  {own:>10}  {ap:5.1f}{cost}")
    return [head, *rows]


def check(found: dict[int, float], *, input: Input) -> Iterator[Finding]:
    """Warn when the ceiling rises so fast with the size that a larger one pays. That needs a low ceiling: above about
    100 / 1.5^0.5 = 82, no size of the table can bring enough. found: `ceilings` of val."""
    now, size = found.get(input.size, 0.0), input.size
    pays = [own for own in found if own > size and found[own] > now * (own / size) ** PAYS]
    if pays:
        listed = ", ".join(f"{ap:.0f} at {own}" for own, ap in found.items())
        evidence = (
            f"at input.size {size} even ideal masks of this val split reach about AP {now:.0f} (an estimate; {listed})"
            ", for the network's masks have a fourth of that resolution"
        )
        cost = f"up to {(pays[0] / size) ** 2:.1f} times the time and memory"
        change = f"raise input.size to {pays[0]} or more, at {cost}"
        yield Finding("resolution_too_low", "warning", evidence, change)
