"""Render the templates: one HTML file each, with style and script inside, and all values escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from mtseg.inference.overlays import COLOURS

UNDEFINED = "–"
ERRORS = {  # kinds of `evaluation.errors` by the names of the gallery; its `missed` differs from that of an object
    "class": "wrong label",
    "localisation": "poor localisation",
    "both": "label and localisation",
    "missed": "no prediction there",
}


def render(template: str, **values: Any) -> str:
    """The page as HTML. template: a file of templates/. All values are escaped except those of type Markup.

    Filters of the templates: `number`, `percent`, `delta`, `metric`, `ranking`, `error`, `data`.
    """
    return _environment().get_template(template).render(**values)


def number(value: float | None, decimals: int = 1) -> str:
    """A number with fixed decimals; a dash for None and NaN."""
    return UNDEFINED if value is None or pd.isna(value) else f"{value:.{decimals}f}"


def percent(share: float | None) -> str:
    """A share (0 to 1) in percent, as `number`."""
    return number(None if share is None else 100 * share)


def delta(value: float | None, decimals: int = 1) -> str:
    """A difference with its sign, which zero has not; "" for None and NaN."""
    if value is None or pd.isna(value):
        return ""
    text = f"{value:+.{decimals}f}"
    return text[1:] if not text.strip("+-0.") else text.replace("-", "−")


def decimals(*values: float) -> int:
    """The fewest decimals with which none of the values, unless it is 0, reads as 0."""
    return next(count for count in range(1, 400) if all(round(value, count) or not value for value in values))


def metric(name: str) -> str:
    """The readable name of a metric, such as `mask AP` for `segm.AP`."""
    words = name.removeprefix("tasks.").removeprefix("filtered.").replace(".", " ").replace("_", " ").split()
    known = {"segm": "mask", "bbox": "box", "f1": "F1"}
    return " ".join(known.get(word, word) for word in words)


def ranking(name: str) -> str:
    """The readable name of a ranking of predictions."""
    return {"sum_quality": "sum + log(mask quality)"}.get(name, name.replace("_quality", " × mask quality"))


def error(kind: str) -> str:
    """The readable name of a kind of error."""
    return ERRORS.get(kind, kind)


def text(value: Any) -> str:
    """A value of params.yaml as in YAML."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return ", ".join(map(text, value)) or "[]" if isinstance(value, list) else str(value)


def data(value: Any) -> Markup:
    """JSON for a script element: compact, keys sorted, with <, >, & and ' escaped."""
    return htmlsafe_json_dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False, ensure_ascii=False)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"colours": COLOURS, "decimals": decimals}
    environment.filters |= {"number": number, "percent": percent, "delta": delta, "data": data}
    environment.filters |= {"metric": metric, "ranking": ranking, "error": error}
    return environment
