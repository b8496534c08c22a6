"""COCO average precision by pycocotools as it is: slow, and what every other number is held against.

Only the summary is ours, since `COCOeval.summarize` says -1 for AP when 100 is not among maxDets.
"""

from __future__ import annotations

import gc
import io
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtseg.core.params import Ranking, Task
from mtseg.core.tables import Image, Prediction
from mtseg.evaluation import predictions as predicted
from mtseg.evaluation.average_precision import EVERY, Curves, Scorer, first_of_query, labels_found, labels_true
from mtseg.evaluation.matching import check, in_order

KINDS = ("segm", "bbox")
PAYS = 20_000  # predictions, some seconds' work: fewer are scored about when another process has started


@contextmanager
def started(
    images: Sequence[Image],
    predictions: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    ranking: Ranking,
    max_dets: Sequence[int],
) -> Iterator[Callable[[], dict[str, dict[str, float]]]]:
    """Start to score the main task, in a process beside this one where that pays. The function that is given waits for
    `segm` and `bbox`, each with COCO's 12 numbers in percent. Raises UserError as `check` does.
    """
    check(images, predictions)
    predictions = in_order(predictions, tasks)
    labels = labels_true(images, tasks[0]), labels_found(predictions, tasks[0])
    scores = predicted.scores(predictions, tasks)[ranking]
    arguments = Scorer(images, predictions), *labels, scores
    once = first_of_query(predictions, scores, tasks[0])
    options = {"categories": tasks[0].num_classes, "max_dets": max_dets, "kept": once}
    if len(predictions) < PAYS:
        yield lambda: summaries(*arguments, **options)
        return
    # spawned, not forked: this process may have threads, of hotcoco for one
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), gc.disable) as pool:
        yield pool.submit(summaries, *arguments, **options).result


def summaries(*arguments: Any, **options: Any) -> dict[str, dict[str, float]]:
    """The summaries of `run`, of the same arguments, by kind."""
    return {kind: run(*arguments, kind=kind, **options).summary() for kind in KINDS}


def run(
    scorer: Scorer,
    true: np.ndarray,
    found: np.ndarray,
    scores: np.ndarray,
    *,
    categories: int,
    max_dets: Sequence[int],
    kind: str = "segm",
    kept: np.ndarray | None = None,
) -> Curves:
    """What `Scorer.run` gives for these arguments, by pycocotools."""
    pictures, of_truth = scorer.found_picture.tolist(), scorer.true_picture.tolist()
    areas = scorer.areas if kind == "segm" else scorer.boxes[:, 2] * scorer.boxes[:, 3]
    columns = (found.tolist(), scorer.boxes.tolist(), areas.tolist(), scorer.masks)
    detections = [
        _annotation(picture, *row) | {"score": score}
        for picture, score, keep, *row in zip(
            pictures, scores.tolist(), [True] * len(found) if kept is None else kept, *columns, strict=True
        )
        if keep and row[0] < categories
    ]
    in_picture = defaultdict(set)
    for detection in detections:
        in_picture[detection["image_id"]].add(detection["category_id"] - 1)
    columns = (scorer.true_boxes.tolist(), scorer.true_areas.tolist(), scorer.true_masks)
    truth = [
        _annotation(picture, category, *row) | {"iscrowd": int(crowd or label == EVERY)}
        for picture, label, crowd, *row in zip(of_truth, true.tolist(), scorer.crowd, *columns, strict=True)
        for category in ([label] if label != EVERY else sorted(in_picture[picture]))
    ]
    names = [{"id": index + 1} for index in range(categories)]
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(scorer, names, truth), _coco(scorer, names, detections), kind)
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(evaluation.eval["precision"], evaluation.eval["recall"], tuple(evaluation.params.maxDets))


def _annotation(picture: int, category: int, box: list[float], area: float, mask: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": picture, "category_id": category + 1, "bbox": box, "area": area, "segmentation": mask}


def _coco(scorer: Scorer, categories: list[dict], annotations: list[dict]) -> COCO:
    for index, annotation in enumerate(annotations):
        annotation["id"] = index + 1  # from 1: pycocotools takes a match with id 0 for no match
    coco = COCO()
    coco.dataset = {"images": scorer.images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco
