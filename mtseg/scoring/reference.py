"""COCO average precision by pycocotools: the reference numbers. The IoUs are handed in."""

from __future__ import annotations

import io
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from mtseg.records import Image, Prediction
from mtseg.scoring.average_precision import EVERY, Curves
from mtseg.scoring.matching import Picture, pictures
from mtseg.sections import Ranking, Task

PAYS = 20_000  # predictions, a second's work: fewer are scored before another process has started


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


def view(picture: Picture, task: Task, kind: str = "segm") -> View:
    """A picture as a task's score sees it. kind: segm, or bbox; as in COCO, ground truth's area stays its mask's."""
    seen = View(
        true=picture.true(task),
        crowd=picture.crowd,
        true_area=np.array([instance.area for instance in picture.image.instances]),
        found=picture.predicted(task),
        scores=picture.scores,
        found_area=np.array([prediction.area for prediction in picture.predictions]),
        overlap=picture.overlap,
        inside=picture.inside,
    )
    if kind == "segm":
        return seen
    found = np.array([p.bbox for p in picture.predictions], dtype=np.float64).reshape(-1, 4)
    true = np.array([i.bbox for i in picture.image.instances], dtype=np.float64).reshape(-1, 4)
    overlap, inside = seen.overlap, seen.inside
    if found.size and true.size:
        overlap, inside = (coco_mask.iou(found, true, [crowd] * len(true)) for crowd in (False, True))
    return replace(seen, found_area=found[:, 2] * found[:, 3], overlap=overlap, inside=inside)


@contextmanager
def started(
    images: Sequence[Image],
    predictions: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    ranking: Ranking,
    max_dets: Sequence[int],
) -> Iterator[Callable[[], dict[str, dict[str, float]]]]:
    """Start to score the main task, in two other processes where that pays; the function that is given waits for
    `segm` and `bbox`, each with COCO's 12 numbers in percent. Raises UserError as `pictures` does.
    """
    scene = pictures(images, predictions, tasks=tasks, ranking=ranking)
    views = {kind: [view(picture, tasks[0], kind) for picture in scene] for kind in ("segm", "bbox")}
    options = {"categories": tasks[0].num_classes, "max_dets": max_dets}
    if len(predictions) < PAYS:
        yield lambda: {kind: _summary(seen, **options) for kind, seen in views.items()}
        return
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        running = {kind: pool.submit(_summary, seen, **options) for kind, seen in views.items()}
        yield lambda: {kind: future.result() for kind, future in running.items()}


def _summary(views: Sequence[View], *, categories: int, max_dets: Sequence[int]) -> dict[str, float]:
    return curves(views, categories=categories, max_dets=max_dets, sizes=True).summary()


def curves(views: Sequence[View], *, categories: int, max_dets: Sequence[int], sizes: bool = False) -> Curves:
    """Match and accumulate; with `sizes`, also apart for small, medium and large ground truth."""
    evaluation = _Evaluation(views, categories, max_dets, sizes)
    with redirect_stdout(io.StringIO()):
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
