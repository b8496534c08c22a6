"""COCO average precision by pycocotools, of any category that predictions and ground truth can be given.

Two things are ours: the IoUs are handed in, since every task is scored on the same masks, and the summary is read
from the accumulated curves, since `COCOeval.summarize` says -1 for AP when 100 is not among maxDets.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools.cocoeval import COCOeval

EVERY = -1  # category of a ground truth without a label: neither hit nor miss, whatever category is scored


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


@dataclass(frozen=True)
class Curves:
    """precision [IoU, recall, category, area, maxDets], recall [IoU, category, area, maxDets]; -1 where undefined."""

    precision: np.ndarray
    recall: np.ndarray
    max_dets: tuple[int, ...]

    def summary(self) -> dict[str, float]:
        """COCO's numbers in percent, the undefined ones left out: AP, AP50, AP75, AR1, ...; with sizes, APs, ..."""
        numbers = {
            "AP": self.precision[:, :, :, 0, -1],
            "AP50": self.precision[0, :, :, 0, -1],
            "AP75": self.precision[5, :, :, 0, -1],
        }
        numbers |= {f"AR{most}": self.recall[:, :, 0, index] for index, most in enumerate(self.max_dets)}
        for index in range(1, self.precision.shape[3]):
            numbers[f"AP{'sml'[index - 1]}"] = self.precision[:, :, :, index, -1]
            numbers[f"AR{'sml'[index - 1]}"] = self.recall[:, :, index, -1]
        return {name: value for name, curve in numbers.items() if (value := percent(curve)) is not None}

    def of(self, category: int) -> dict[str, float | None]:
        """AP and AP50 of one category in percent, None where it has no ground truth."""
        curve = self.precision[:, :, category, 0, -1]
        return {"AP": percent(curve), "AP50": percent(curve[0])}


def percent(values: np.ndarray) -> float | None:
    """Mean of the defined values (not -1) x 100, 3 decimals; None if there is none."""
    defined = values[values > -1]
    return round(100 * float(defined.mean()), 3) if defined.size else None


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
