"""Predictions as columns, as the rules of the filter take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import block_diag, csr_array

from mtseg.core.params import Ranking, Task
from mtseg.core.tables import Prediction
from mtseg.evaluation.matching import iou
from mtseg.evaluation.predictions import places, scores


@dataclass(frozen=True)
class Found:
    """N predictions as columns, sliced together: picture by picture, the best ranking score first (as in `matching`).

    index: int [N], place among the predictions given. picture: int [N], ids. main: int [N], class index. background:
    bool [N], whether the greatest logit of some further task is its no-object slot's. score, logit: of each task's
    label, [N]; the score is probability x mask quality. overlap: sparse [N, N], mask IoU of each with those before it
    in its picture; None until `compared`.
    """

    predictions: np.ndarray  # of Prediction
    index: np.ndarray
    picture: np.ndarray
    main: np.ndarray
    background: np.ndarray
    score: dict[str, np.ndarray]
    logit: dict[str, np.ndarray]
    overlap: csr_array | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, kept: np.ndarray) -> Found:
        """Those of the rows `kept`: bool [N], or int, ascending."""
        columns = {
            name: getattr(self, name)[kept] for name in ("predictions", "index", "picture", "main", "background")
        }
        by_task = {name: {task: v[kept] for task, v in getattr(self, name).items()} for name in ("score", "logit")}
        return replace(
            self, **columns, **by_task, overlap=None if self.overlap is None else self.overlap[kept][:, kept]
        )

    def compared(self) -> Found:
        """The same with `overlap`. A mask is compared once, whatever number of predictions share it."""
        if self.overlap is not None or not len(self):
            return self
        blocks = []
        for own in np.split(self.predictions, np.flatnonzero(np.diff(self.picture)) + 1):
            masks = {p.segmentation["counts"]: p.segmentation for p in own}
            place = {counts: i for i, counts in enumerate(masks)}
            which = [place[p.segmentation["counts"]] for p in own]
            distinct = iou(list(masks.values()), list(masks.values()))
            blocks.append(csr_array(np.tril(distinct[np.ix_(which, which)], -1)))  # mostly zeros
        return replace(self, overlap=csr_array(block_diag(blocks, format="csr")))


def gather(predictions: Sequence[Prediction], *, tasks: Sequence[Task], ranking: Ranking) -> Found:
    """The predictions as columns; equal ranking scores go by `predictions.places`."""
    by_task = {task.name: scores(predictions, [task]) for task in tasks}
    main = np.array([p.labels[tasks[0].name] for p in predictions], dtype=int)
    picture = np.array([p.image_id for p in predictions], dtype=int)
    background = np.zeros(len(predictions), dtype=bool)
    for task in tasks[1:] if len(predictions) else ():
        background |= np.argmax([p.logits[task.name] for p in predictions], axis=1) >= task.num_classes
    order = places(predictions, tasks)
    order = order[np.lexsort((-scores(predictions, tasks)[ranking][order], picture[order]))]
    column = np.empty(len(predictions), dtype=object)
    column[:] = predictions
    return Found(
        predictions=column,
        index=np.arange(len(predictions)),
        picture=picture,
        main=main,
        background=background,
        score={name: own["main_quality"] for name, own in by_task.items()},
        logit={name: own["sum"] for name, own in by_task.items()},
    )[order]
