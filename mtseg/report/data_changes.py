"""How the annotations of two revisions differ: images, objects, and labels of each task."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.core.errors import UserError
from mtseg.core.tables import Images
from mtseg.data.splits import SPLITS
from mtseg.report.history import Revision


def rows(a: Revision, b: Revision, scratch: Path) -> list[dict[str, Any]]:
    """`annotation_changes` from A to B with the `split`, and its number of images in `a` and `b`, of each split that
    DVC's cache has of both. scratch: a folder for copies."""
    found = []
    for split in SPLITS:
        with suppress(UserError):
            one, other = (
                Images.read(side.fetch(f"data/coco/{split}.parquet", scratch / name))
                for name, side in (("a", a), ("b", b))
            )
            sizes = {"a": len(one), "b": len(other)}
            found += [{"split": split, **sizes, **row} for row in annotation_changes(one, other)]
    return found


def annotation_changes(one: Images, other: Images) -> list[dict[str, Any]]:
    """Rows of what, changed, added, removed, without those that are all 0: `images`, by their names; `objects` of
    images that both have, by their masks, so that a redrawn one is removed and added; and the `labels of` each task
    that both have, of objects with equal masks: changed from one class to another, added where there was none, removed.
    """
    first, second = (_by_mask(images) for images in (one, other))
    shared = {*one.file_name} & {*other.file_name}
    objects, tasks = Counter(), [task for task, _ in one.classes if task in dict(other.classes)]
    labels = {task: Counter() for task in tasks}
    for key in {*first, *second}:
        if key[0] not in shared:
            continue
        was, now = first.get(key, []), second.get(key, [])
        objects["removed"] += max(0, len(was) - len(now))
        objects["added"] += max(0, len(now) - len(was))
        for before, after in zip(was, now, strict=False):
            for task in tasks:
                if before[task] != after[task]:
                    kind = "added" if before[task] is None else "removed" if after[task] is None else "changed"
                    labels[task][kind] += 1
    images = {"added": len(other) - len(shared), "removed": len(one) - len(shared)}
    rows = {"images": images, "objects": objects} | {f"labels of {task}": counts for task, counts in labels.items()}
    kinds = ("changed", "added", "removed")
    return [
        {"what": what} | {kind: counts.get(kind, 0) for kind in kinds}
        for what, counts in rows.items()
        if any(counts.values())
    ]


def _by_mask(images: Images) -> dict[tuple, list[dict[str, str | None]]]:
    """Class names of each task of the objects by (name of the image, mask, whether a crowd)."""
    own = images.instances
    named = {task: np.array([*classes, None], dtype=object)[own.labels[task]] for task, classes in images.classes}
    found: dict[tuple, list[dict[str, str | None]]] = {}
    for row, key in enumerate(zip(images.file_name[own.image], own.rle, own.crowd.tolist(), strict=True)):
        found.setdefault(key, []).append({task: names[row] for task, names in named.items()})
    return found
