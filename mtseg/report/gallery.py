"""The report's pictures: thumbnails, and the overlays that the page's script draws over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from mtseg.core.params import Ranking, Task, Visualise
from mtseg.core.tables import Image, Instance, Prediction
from mtseg.evaluation import f1, predictions
from mtseg.evaluation.matching import Picture, pictures
from mtseg.report import outline
from mtseg.report.verdicts import judge


def collect(
    images: Sequence[Image],
    raw: Sequence[Prediction],
    filtered: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    ranking: Ranking,
    settings: Visualise,
    removed: Sequence[str | None],
) -> list[dict[str, Any]]:
    """What the page needs of each picture it shows, worst joint F1 first; thumbnails are left to `thumbnail`.

    removed: for each of raw the rule of the filter that took it out, or None. Of each picture: id, name, width, height
    (of the thumbnail), joint_f1 (None where undefined), truth, raw, filtered: lists of objects. An object has path and
    area (in pixels of the thumbnail), labels (class indices, None for no label), and, if predicted, score 0..1, chances
    (percent, of its labels), kind, truth and wrong (`verdicts.Verdict`), removed (raw: the rule, or None).
    """
    after = {p.image.id: p for p in pictures(images, filtered, tasks=tasks, ranking=ranking)}
    scores = {key: f1.summary([f1.count(picture, tasks)]).get("joint_f1") for key, picture in after.items()}
    shown = choose(scores, settings.pictures)
    ids = {*shown}
    own = predictions.own_ranking(raw)  # the score that the slider moves: within 0..1 whatever the ranking
    values = predictions.scores(raw, tasks)[own]
    loud = [p for p, value in zip(raw, values, strict=True) if value >= settings.min_score]
    loud = [p for p in loud if p.image_id in ids]
    before = pictures([after[key].image for key in shown], loud, tasks=tasks, ranking=own)
    before = {picture.image.id: picture for picture in before}
    rule = {id(prediction): name for prediction, name in zip(raw, removed, strict=True)}
    return [_entry(after[key], before[key], tasks, settings.size, rule) | {"joint_f1": scores[key]} for key in shown]


def choose(scores: Mapping[int, float | None], count: int) -> list[int]:
    """Up to `count` ids, worst score first, undefined ones last, equal ones by id: a third each of the worst, of the
    middle and of the best where there are more."""
    ordered = sorted(scores, key=lambda key: (scores[key] is None, scores[key] or 0.0, key))
    defined = [key for key in ordered if scores[key] is not None]
    if len(defined) <= count:
        return ordered[:count]
    worst, best = -(-count // 3), count // 3
    middle = count - worst - best
    start = (len(defined) - middle) // 2
    return defined[:worst] + defined[start : start + middle] + defined[len(defined) - best :]


def thumbnail(pixels: np.ndarray, size: int) -> PIL.Image.Image:
    """The picture, uint8 [height, width, 3], its longer side at most `size` pixels."""
    picture = PIL.Image.fromarray(pixels)
    picture.thumbnail((size, size), PIL.Image.Resampling.LANCZOS)
    return picture


def _entry(
    after: Picture, before: Picture, tasks: Sequence[Task], size: int, rule: Mapping[int, str | None]
) -> dict[str, Any]:
    image = after.image
    scale = size / max(image.height, image.width)

    def drawn(item: Instance | Prediction) -> dict[str, Any]:
        return {
            "path": outline.path(item.segmentation, image.height, image.width, scale=scale),
            "area": round(item.area * scale**2),
            "labels": [item.labels[task.name] for task in tasks],
        }

    def chance(item: Prediction, task: Task) -> int:
        return round(100 * predictions.probability(item, task))

    def found(picture: Picture) -> list[dict[str, Any]]:
        ranking = predictions.own_ranking(picture.predictions)
        scores = predictions.scores(picture.predictions, tasks)[ranking].round(3).tolist()
        return [
            drawn(item)
            | {"score": value, "chances": [chance(item, task) for task in tasks]}
            | {"kind": verdict.kind, "truth": verdict.truth, "wrong": list(verdict.wrong)}
            for item, value, verdict in zip(picture.predictions, scores, judge(picture, tasks), strict=True)
        ]

    raw = found(before)
    for item, prediction in zip(raw, before.predictions, strict=True):
        item["removed"] = rule[id(prediction)]
    return {
        "id": image.id,
        "name": image.file_name,
        "width": max(1, round(image.width * scale)),
        "height": max(1, round(image.height * scale)),
        "truth": [drawn(instance) | {"crowd": instance.crowd} for instance in image.instances],
        "raw": raw,
        "filtered": found(after),
    }
