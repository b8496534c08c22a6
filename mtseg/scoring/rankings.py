"""What each way to rank makes of the same predictions (F13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtseg.records import Image, Prediction
from mtseg.scoring import curves
from mtseg.scoring.average_precision import percent
from mtseg.scoring.evidence import Evidence
from mtseg.scoring.overlaps import Matches, match
from mtseg.scoring.predictions import scores
from mtseg.sections import Ranking, Task


def rankings(
    images: Sequence[Image],
    predictions: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    ranking: Ranking,
    max_dets: Sequence[int],
) -> list[dict[str, Any]]:
    """`rows` of these predictions. Raises UserError on predictions for pictures that are not among `images`."""
    return rows(Evidence.of(images, predictions, tasks=tasks, ranking=ranking, max_dets=max_dets))


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """A row each ranking: ranking, segm_AP, joint_AP in percent, None where undefined."""
    ranked = scores(evidence.predictions, evidence.tasks)
    columns = {"segm_AP": evidence.matches[evidence.tasks[0].name], "joint_AP": evidence.jointly}
    return [
        {"ranking": ranking} | {name: _ap(evidence, matches, values) for name, matches in columns.items()}
        for ranking, values in ranked.items()
    ]


def _ap(evidence: Evidence, matches: Matches, values: np.ndarray) -> float | None:
    labels = matches.true, matches.found
    ranked = match(evidence.overlaps, *labels, values, categories=matches.categories, most=evidence.most)
    once = np.ones((1, evidence.overlaps.pictures))
    value = float(curves.mean(curves.average_precision(ranked, evidence.pictures, once))[0])
    return None if np.isnan(value) else percent(value)
