"""What each way to rank makes of the same predictions (F13)."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtseg.scoring import curves
from mtseg.scoring.average_precision import percent
from mtseg.scoring.evidence import Evidence
from mtseg.scoring.overlaps import Matches, match


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """A row each ranking: ranking, segm_AP, joint_AP in percent, None where undefined."""
    columns = {"segm_AP": evidence.matches[evidence.tasks[0].name], "joint_AP": evidence.jointly}
    return [
        {"ranking": ranking} | {name: _ap(evidence, matches, values) for name, matches in columns.items()}
        for ranking, values in evidence.ranked.items()
    ]


def _ap(evidence: Evidence, matches: Matches, values: np.ndarray) -> float | None:
    labels = matches.true, matches.found
    ranked = match(evidence.overlaps, *labels, values, categories=matches.categories, most=evidence.most)
    once = np.ones((1, evidence.overlaps.pictures))
    value = float(curves.mean(curves.average_precision(ranked, evidence.pictures, once))[0])
    return None if np.isnan(value) else percent(value)
