"""Select the images of the report, and collect the objects that the page's script draws over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtseg.core.params import Ranking, Visualise
from mtseg.core.tables import UNLABELLED, Instances, Predictions
from mtseg.evaluation import errors, f1
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.rankings import RANKINGS, score
from mtseg.report import overlays

Entry = dict[str, Any]


def collect(raw: Evaluation, filtered: Evaluation, *, settings: Visualise, removed: Sequence[str]) -> list[Entry]:
    """One entry for each image shown, lowest joint F1 first.

    removed: for each raw prediction the rule of the filter that removed it, or "". An entry has id, name, width and
    height (of the thumbnail), joint_f1 (percent, None if undefined), and the lists of objects truth, raw and filtered.
    An object has path and area (in pixels of the thumbnail) and labels (class indices, None if unlabelled); a
    prediction also score (0 to 1), chances (probabilities of its labels in percent), and kind, truth (index in the
    list, or None) and wrong (indices of tasks) as in `errors.verdicts`; a raw prediction also removed.
    """
    images, scores = raw.images, [f1.summary(counts).get("joint_f1") for counts in f1.counts(filtered)]
    chosen = choose(dict(zip(images.id.tolist(), scores, strict=True)), settings.pictures)
    shown = images.rows(np.array(chosen, dtype=int))
    of_raw = _predicted(raw, shown, settings.min_score)
    of_filtered = _predicted(filtered, shown)
    entries = []
    for key, row in zip(chosen, shown.tolist(), strict=True):
        height, width = int(images.height[row]), int(images.width[row])
        scale = settings.size / max(height, width)
        truth = images.instances[images.instances.image == row]
        crowds = zip(_drawn(truth, scale), truth.crowd.tolist(), strict=True)
        before = of_raw(row, scale)
        entries.append(
            {
                "id": key,
                "name": str(images.file_name[row]),
                "width": max(1, round(width * scale)),
                "height": max(1, round(height * scale)),
                "joint_f1": scores[row],
                "truth": [item | {"crowd": crowd} for item, crowd in crowds],
                "raw": [item | {"removed": removed[place] or None} for place, item in before.items()],
                "filtered": list(of_filtered(row, scale).values()),
            }
        )
    return entries


def choose(scores: Mapping[int, float | None], count: int) -> list[int]:
    """Up to `count` ids, lowest score first, undefined ones last, equal ones by id. If there are more, a third each
    with the lowest, the middle and the highest scores."""
    ordered = sorted(scores, key=lambda key: (scores[key] is None, scores[key] or 0.0, key))
    defined = [key for key in ordered if scores[key] is not None]
    if len(defined) <= count:
        return ordered[:count]
    worst, best = -(-count // 3), count // 3
    middle = count - worst - best
    start = (len(defined) - middle) // 2
    return defined[:worst] + defined[start : start + middle] + defined[len(defined) - best :]


def _stored(predictions: Predictions) -> Ranking:
    """The ranking of the stored column `score`."""
    own = predictions.score
    return min(RANKINGS, key=lambda ranking: np.abs(score(predictions, ranking) - own).max(initial=0))


def _predicted(evaluation: Evaluation, shown: np.ndarray, min_score: float | None = None):
    """A function (row of an image, scale) -> {row: object} of its predictions, best first. shown: int, rows of the
    images that it may be called with. min_score: of the predictions; they are then ranked by the stored score."""
    own = np.unique(shown)
    of_shown = np.flatnonzero(np.isin(evaluation.image, own))
    predictions = evaluation.predictions[of_shown]
    stored = _stored(predictions)
    few = Evaluation(
        evaluation.images[own], predictions, tasks=evaluation.tasks,
        # the slider is a threshold on the stored score; verdicts hold at every threshold only if ranked by that score
        ranking=evaluation.ranking if min_score is None else stored,
    )  # fmt: skip
    kind, instance, wrong = errors.verdicts(few)
    scores, order = few.scores_by(stored), np.argsort(few.rank)
    order = order if min_score is None else order[scores[order] >= min_score]

    def objects(image: int, scale: float) -> dict[int, Entry]:
        place = np.searchsorted(own, image)
        rows = order[few.image[order] == place]
        first = np.searchsorted(few.images.instances.image, place)
        found = few.predictions[rows]
        chances = np.rint(100 * np.stack(list(found.probability.values()), axis=1)).astype(int)
        return {
            int(of_shown[row]): item
            | {"score": score, "chances": chance, "kind": kind[row], "wrong": np.flatnonzero(wrong[row]).tolist()}
            | {"truth": None if instance[row] < 0 else int(instance[row] - first)}
            for row, item, score, chance in zip(
                rows.tolist(), _drawn(found, scale), scores[rows].round(3).tolist(), chances.tolist(), strict=True
            )
        }

    return objects


def _drawn(objects: Instances | Predictions, scale: float) -> list[Entry]:
    labels = np.stack(list(objects.labels.values()), axis=1).tolist()
    return [
        {
            "path": overlays.path(rle, scale=scale),
            "area": round(area * scale**2),
            "labels": [None if label == UNLABELLED else label for label in own],
        }
        for rle, area, own in zip(objects.rles(), objects.area.tolist(), labels, strict=True)
    ]
