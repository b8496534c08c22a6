"""Joint AP of the combinations of labels that training never showed, and of the others."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from mtseg.evaluation import curves
from mtseg.evaluation.average_precision import combined, percent
from mtseg.evaluation.evidence import Evidence


def metrics(evidence: Evidence, trained: Collection[tuple[int, ...]]) -> dict[str, Any]:
    """`unseen`, how many combinations in the ground truth `trained` lacks; `unseen_AP` and `seen_AP`, in percent,
    joint AP over those and over the others, left out where there is none. Empty where training showed all.

    trained: class indices of all tasks, in their order; mirror images that a flip makes are not added.
    """
    labels = [evidence.labels[task.name] for task in evidence.tasks]
    true, found = np.column_stack([own.true for own in labels]), np.column_stack([own.found for own in labels])
    _, _, names = combined(true, found, evidence.tasks)
    known = {tuple(task.classes[i] for task, i in zip(evidence.tasks, own, strict=True)) for own in trained}
    once = np.ones((1, evidence.overlaps.pictures))
    scored = curves.average_precision(evidence.jointly, evidence.pictures, once)
    counted = ~np.isnan(scored).all(axis=(0, 2))  # a combination of crowds alone is asked of nobody
    seen = np.array([name in known for name in names], dtype=bool)
    groups = {"unseen_AP": counted & ~seen, "seen_AP": counted & seen}
    if not groups["unseen_AP"].any():
        return {}
    means = {name: float(curves.mean(scored[:, group])[0]) for name, group in groups.items() if group.any()}
    return {"unseen": int(groups["unseen_AP"].sum())} | {name: percent(value) for name, value in means.items()}
