"""Predictions on disk, and the score that ranks one.

JSON: COCO results (any COCO tool reads them) plus `query`, `mask_quality`, and of every task `labels`, `logits` and,
where the network combines labels, `probabilities`.
CSV: the same without logits, a row a prediction, for tools that want a table.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit

from mtseg.core.errors import UserError
from mtseg.core.files import read_json, replace_file, uncollected, write_json_array
from mtseg.core.params import Ranking, Task
from mtseg.core.tables import Image, Prediction

DECIMALS = 5
SUREST = 1e-7  # that log-odds are taken of: they stay finite
DIGITS = 6  # of a probability, small ones too: their products rank


def probability(prediction: Prediction, task: Task) -> float:
    """Of the task's label."""
    return float(_of_labels([prediction], task)[1][0])


def scores(predictions: Sequence[Prediction], tasks: Sequence[Task]) -> dict[Ranking, np.ndarray]:
    """What predictions are ranked by, in every way (F13): float64 [N] each.

    main: probability of the main class; sum: the chosen labels' logits added up; product: their probabilities
    multiplied; main_quality, product_quality: the same times the mask quality; sum_quality: the sum plus the logarithm
    of the mask quality, which orders as exp(sum) x quality does, where a product would turn round below 0. Mask2Former
    ranks by main_quality. Under a softmax over combinations a label's probability is given the labels before it, and
    its log-odds stand for its logit.
    """
    logits, probabilities = zip(*(_of_labels(predictions, task) for task in tasks), strict=True)
    quality = np.array([prediction.mask_quality for prediction in predictions], dtype=np.float64)
    plain = {"main": probabilities[0], "sum": np.sum(logits, axis=0), "product": np.prod(probabilities, axis=0)}
    logarithm = np.log(np.maximum(quality, np.finfo(float).tiny))  # finite, as an axis needs it
    return plain | {
        "main_quality": plain["main"] * quality,
        "sum_quality": plain["sum"] + logarithm,
        "product_quality": plain["product"] * quality,
    }


def own_ranking(predictions: Sequence[Prediction]) -> Ranking:
    """The one that the network answers by, within 0..1: what `score` in the files and the report is."""
    return "product_quality" if predictions and predictions[0].probabilities else "main_quality"


def places(predictions: Sequence[Prediction], tasks: Sequence[Task]) -> np.ndarray:
    """int [N]: the predictions by picture and query, the likeliest labels of a query first. Where equal scores go by
    it, no number hangs on the order in a file, and under a softmax over combinations, where all of a query with one
    main class share that class's probability, the likeliest is the one."""
    keys = [[p.image_id, p.query, *(p.labels[task.name] for task in tasks)] for p in predictions]
    picture, query, *labels = np.array(keys, dtype=int).reshape(-1, 2 + len(tasks)).T
    return np.lexsort((*reversed(labels), -scores(predictions, tasks)["product"], query, picture))


def score(prediction: Prediction, tasks: Sequence[Task], ranking: Ranking) -> float:
    """One of the `scores` of one prediction."""
    return float(scores([prediction], tasks)[ranking][0])


def _of_labels(predictions: Sequence[Prediction], task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The chosen labels' logits and probabilities, [N] each."""
    flat = np.fromiter(chain.from_iterable(p.logits[task.name] for p in predictions), dtype=np.float64)
    logits = flat.reshape(-1, task.num_outputs)
    labels = np.array([p.labels[task.name] for p in predictions], dtype=int)[:, None]
    chosen = np.take_along_axis(logits, labels, axis=1)[:, 0]
    if len(predictions) and predictions[0].probabilities:
        own = np.array([p.probabilities[task.name] for p in predictions], dtype=np.float64)
        return logit(own.clip(SUREST, 1 - SUREST)), own
    highest = logits.max(axis=1, initial=-np.inf)
    total = np.exp(logits - highest[:, None]).sum(axis=1)
    return chosen, np.exp(chosen - highest) / total


def write(
    path_json: Path | str,
    path_csv: Path | str | None,
    predictions: Sequence[Prediction],
    images: Sequence[Image],
    tasks: Sequence[Task],
) -> None:
    """Write the JSON and, unless None, the CSV, in the order given; floats keep 5 decimals.

    `score` is that of the ranking `own_ranking`.
    """
    values = scores(predictions, tasks)[own_ranking(predictions)].tolist()
    scored = zip(predictions, values, strict=True)
    with uncollected():
        write_json_array(path_json, (_record(prediction, value, tasks) for prediction, value in scored))
    if path_csv is None:
        return
    file_names = {image.id: image.file_name for image in images}
    columns = {  # in params.RESERVED
        "file_name": [file_names[p.image_id] for p in predictions],
        "image_id": [p.image_id for p in predictions],
        "query": [p.query for p in predictions],
        "score": _round(values),
        **{key: _round(p.bbox[i] for p in predictions) for i, key in enumerate(("x", "y", "width", "height"))},
        "area": _round(p.area for p in predictions),
    }
    for task in tasks:
        columns[task.name] = [task.classes[p.labels[task.name]] for p in predictions]
        columns[f"{task.name}_probability"] = _round(_of_labels(predictions, task)[1].tolist())
    columns["rle"] = [p.segmentation["counts"] for p in predictions]
    with replace_file(path_csv) as temporary:
        pd.DataFrame(columns).to_csv(temporary, index=False, lineterminator="\n")


def read(path: Path | str, tasks: Sequence[Task], *, made_by: str = "predict") -> list[Prediction]:
    """Read the JSON that `write` made in stage `made_by`. Raises UserError when it is missing, broken or for other
    tasks."""
    with uncollected():
        records = read_json(path, made_by=made_by)
        if not isinstance(records, list):
            raise UserError(f"{path}: expected a list of predictions, found {type(records).__name__}")
        for number, record in enumerate(records):
            try:
                records[number] = _prediction(record, tasks)  # in its place, so that there are never two of all
            except (KeyError, TypeError, ValueError) as error:
                what = f"key {error} is missing" if isinstance(error, KeyError) else error
                raise UserError(f"{path}: prediction {number}: {what}: run `dvc repro {made_by}` again") from None
    return records


def _round(values: Iterable[float]) -> list[float]:
    return [round(float(value), DECIMALS) for value in values]


def _record(prediction: Prediction, value: float, tasks: Sequence[Task]) -> dict[str, Any]:
    return {
        "image_id": prediction.image_id,
        "category_id": prediction.labels[tasks[0].name] + 1,
        "bbox": _round(prediction.bbox),
        "score": round(value, DECIMALS),
        "segmentation": prediction.segmentation,
        "area": round(float(prediction.area), DECIMALS),
        "query": prediction.query,
        "mask_quality": round(float(prediction.mask_quality), DECIMALS),
        "labels": {task.name: task.classes[prediction.labels[task.name]] for task in tasks},
        "logits": {task.name: _round(prediction.logits[task.name]) for task in tasks},
    } | (
        {"probabilities": {name: float(f"{p:.{DIGITS}g}") for name, p in prediction.probabilities.items()}}
        if prediction.probabilities
        else {}
    )


def _prediction(record: dict[str, Any], tasks: Sequence[Task]) -> Prediction:
    """Raises KeyError, TypeError or ValueError on a record that `write` would not have made for these tasks."""
    logits = {task.name: array("d", record["logits"][task.name]) for task in tasks}
    for task in tasks:
        if len(logits[task.name]) != task.num_outputs:
            raise ValueError(f"{len(logits[task.name])} logits for task '{task.name}', which has {task.num_outputs}")
    segmentation, given = record["segmentation"], record.get("probabilities")
    if not isinstance(segmentation["counts"], str) or len(segmentation["size"]) != 2:
        raise ValueError("segmentation is no compressed RLE")
    return Prediction(
        image_id=record["image_id"],
        query=record["query"],
        bbox=tuple(record["bbox"]),
        area=record["area"],
        segmentation=segmentation,
        mask_quality=record["mask_quality"],
        labels={task.name: task.index(record["labels"][task.name]) for task in tasks},
        logits=logits,
        probabilities={task.name: float(given[task.name]) for task in tasks} if given else None,
    )
