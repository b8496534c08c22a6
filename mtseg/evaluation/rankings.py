"""What each way to rank makes of the same predictions (F13)."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtseg.evaluation import curves
from mtseg.evaluation.average_precision import first_of_query, percent
from mtseg.evaluation.evidence import Evidence
from mtseg.evaluation.overlaps import Matches, match


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """A row each ranking: ranking, segm_AP, joint_AP in percent, None where undefined."""
    found = []
    for ranking, values in evidence.ranked.items():
        once = first_of_query(evidence.predictions, values, evidence.tasks[0])
        segm = _ap(evidence, evidence.matches[evidence.tasks[0].name], values, once)
        found.append({"ranking": ranking, "segm_AP": segm, "joint_AP": _ap(evidence, evidence.jointly, values)})
    return found


def _ap(evidence: Evidence, matches: Matches, values: np.ndarray, kept: np.ndarray | None = None) -> float | None:
    labels = matches.true, matches.found
    ranked = match(evidence.overlaps, *labels, values, categories=matches.categories, most=evidence.most, kept=kept)
    once = np.ones((1, evidence.overlaps.pictures))
    value = float(curves.mean(curves.average_precision(ranked, evidence.pictures, once))[0])
    return None if np.isnan(value) else percent(value)
