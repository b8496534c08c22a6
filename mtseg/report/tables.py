"""The stages' tables, read as they were written: empty is undefined, and a class may well be called "none" or "NA"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mtseg.core.errors import UserError

TEXT = ("task", "class", "label", "metric", "ranking", "stage", "rule")  # the columns that are no numbers


def parse(source: Any, sep: str = ",") -> pd.DataFrame:
    """A table from a path or an open file. Raises ValueError where it is none."""
    table = pd.read_csv(source, sep=sep, keep_default_na=False, dtype=str)
    numeric = [name for name in table if name not in TEXT]
    table[numeric] = table[numeric].apply(pd.to_numeric, errors="coerce")
    return table


def read(path: Path, *, made_by: str) -> pd.DataFrame:
    """The table that a stage made. Raises UserError when it is missing or broken."""
    try:
        return parse(path, "\t" if path.suffix == ".tsv" else ",")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro {made_by}` first") from None
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} is not a table ({error}): run `dvc repro {made_by}` again") from None
