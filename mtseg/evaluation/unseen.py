"""Joint AP of combinations of labels that are not in the training data, and of the others."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from mtseg.evaluation.ap.average_precision import mean, percent
from mtseg.evaluation.ap.evaluation import Evaluation, combined


def metrics(evaluation: Evaluation, trained: Collection[tuple[int, ...]]) -> dict[str, Any]:
    """`unseen`: number of combinations in the ground truth that are not in `trained`; `unseen_AP` and `seen_AP`: joint
    AP over those and over the others, in percent, left out if there are none. Empty if all are in `trained`.

    trained: class indices, one of each task; combinations that a flip makes are not added.
    """
    _, _, names = combined(evaluation.images, evaluation.predictions.labels, evaluation.tasks)
    known = {tuple(task.classes[i] for task, i in zip(evaluation.tasks, own, strict=True)) for own in trained}
    scored = evaluation.average_precision(evaluation.joint)
    counted = ~np.isnan(scored).all(axis=(0, 2))  # a combination of crowds alone is not scored
    seen = np.array([name in known for name in names], dtype=bool)
    groups = {"unseen_AP": counted & ~seen, "seen_AP": counted & seen}
    if not groups["unseen_AP"].any():
        return {}
    means = {name: mean(scored[:, group])[0] for name, group in groups.items() if group.any()}
    return {"unseen": int(groups["unseen_AP"].sum())} | {name: percent(value) for name, value in means.items()}
