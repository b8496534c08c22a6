"""COCO average precision by pycocotools: the reference numbers. The IoUs are handed in."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools.cocoeval import COCOeval

from mtseg.scoring.average_precision import EVERY, Curves


@dataclass(frozen=True)
class View:
    """One picture as one score sees it. overlap [P, G]: IoU; inside [P, G]: the crowd's, over the predicted area."""

    true: np.ndarray  # int [G], category index or EVERY
    crowd: np.ndarray  # bool [G]
    true_area: np.ndarray  # [G], pixels
    found: np.ndarray  # int [P], category index
    scores: np.ndarray  # [P]
    found_area: np.ndarray  # [P], pixels
    overlap: np.ndarray
    inside: np.ndarray

    def rows(self, kept: np.ndarray) -> View:
        """The view with some of its predictions. kept: bool [P]"""
        names = ("found", "scores", "found_area", "overlap", "inside")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})


def curves(views: Sequence[View], *, categories: int, max_dets: Sequence[int], sizes: bool = False) -> Curves:
    """Match and accumulate; with `sizes`, also apart for small, medium and large ground truth."""
    evaluation = _Evaluation(views, categories, max_dets, sizes)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(evaluation.eval["precision"], evaluation.eval["recall"], tuple(evaluation.params.maxDets))


class _Evaluation(COCOeval):
    def __init__(self, views: Sequence[View], categories: int, max_dets: Sequence[int], sizes: bool):
        super().__init__(iouType="segm")
        self.views = views
        self.params.imgIds = range(len(views))
        self.params.catIds = range(categories)
        self.params.maxDets = list(max_dets)
        if not sizes:
            self.params.areaRng, self.params.areaRngLbl = self.params.areaRng[:1], self.params.areaRngLbl[:1]

    def _prepare(self) -> None:
        self._gts, self._dts = defaultdict(list), defaultdict(list)
        for picture, view in enumerate(self.views):
            # ids count from 1: pycocotools takes a match with id 0 for no match
            for index, category in enumerate(view.found):
                self._dts[picture, category].append(
                    {"id": index + 1, "score": view.scores[index], "area": view.found_area[index]}
                )
            for index, category in enumerate(view.true):
                ignored = bool(view.crowd[index] or category == EVERY)
                truth = {"id": index + 1, "ignore": ignored, "iscrowd": ignored, "area": view.true_area[index]}
                for scored in set(view.found) if category == EVERY else [category]:
                    self._gts[picture, scored].append(dict(truth))

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray:
        view = self.views[imgId]
        rows = [found["id"] - 1 for found in self._dts[imgId, catId]]
        rows = [rows[i] for i in np.argsort(-view.scores[rows], kind="mergesort")][: self.params.maxDets[-1]]
        columns = [truth["id"] - 1 for truth in self._gts[imgId, catId]]
        ignored = np.array([truth["iscrowd"] for truth in self._gts[imgId, catId]], dtype=bool)
        pairs = np.ix_(rows, columns)
        return np.where(ignored, view.inside[pairs], view.overlap[pairs])
