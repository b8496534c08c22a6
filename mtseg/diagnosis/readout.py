"""A diagnosis read and written: the curves it needs, its record as JSON, its lines on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtseg.core.errors import UserError
from mtseg.diagnosis.run import Diagnosis


def curve(path: Path) -> pd.DataFrame:
    """A table that train left. Raises UserError when it is missing or no table."""
    try:
        return pd.read_csv(path, sep="\t")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro train` first") from None
    except ValueError as error:
        raise UserError(f"{path} is no table ({error}): run `dvc repro train` again") from None


def record(diagnosis: Diagnosis) -> dict[str, Any]:
    """For data/diagnosis.json: findings as records, errors first, and every figure, by question."""
    return {"findings": [finding.as_record() for finding in diagnosis.findings], "figures": _plain(diagnosis.details)}


def text(diagnosis: Diagnosis) -> str:
    """A line a finding, then where AP is lost."""
    lines = [finding.line() for finding in diagnosis.findings]
    oracles = diagnosis.details["oracles"]
    if oracles:
        gains = {name: value - oracles["AP"] for name, value in oracles.items() if name != "AP"}
        words = {"labels": "right labels", "ranking": "the best ranking", "masks": "perfect masks",
                 "all_found": "no object missed"}  # fmt: skip
        told = ", ".join(f"{words[name]} +{gains[name]:.1f}" for name in sorted(gains, key=gains.get, reverse=True))
        lines.append(f"joint AP {oracles['AP']:.1f}; it would gain by {told}")
    if not any(finding.severity in ("error", "warning") for finding in diagnosis.findings):
        lines.append("nothing is wrong that is known to go wrong  (docs/diagnosis.md)")
    else:
        lines.append("each cause and its mend: docs/diagnosis.md")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """JSON's types, floats with 5 digits, NaN as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
