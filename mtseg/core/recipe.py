"""Recipes: YAML files of params that are written into params.yaml. Its comments and other values are kept."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mtseg.core import yaml
from mtseg.core.errors import UserError
from mtseg.core.files import replace_file
from mtseg.core.params import load, validate

RECIPES = Path("recipes")


def find(name: str) -> Path:
    """A recipe's file, by its path or by its name in RECIPES."""
    path = Path(name)
    return path if path.suffix or path.is_file() else RECIPES / f"{name}.yaml"


def apply(recipe: Path, *, params: Path, raw: str | None = None) -> None:
    """Write `recipe` into `params`, key by key; a list (such as `tasks`) is replaced as a whole. `raw` sets data.raw.

    Applying a recipe twice has no further effect. Raises UserError, without writing, when the recipe is missing or
    broken, when the result is not a valid params.yaml, or when the folder data.raw does not exist.
    """
    load(params)
    keeping = YAML()  # round trip, formatted as DVC does: comments and the notation of numbers stay
    keeping.width = 4096
    merged = keeping.load(params)
    try:
        yaml.read(recipe)  # which names what is wrong
        overlay = keeping.load(recipe)
    except FileNotFoundError:
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml"))) or "none"
        raise UserError(f"{recipe}: no such recipe, available in {RECIPES}/: {known}") from None
    except OSError as error:
        raise UserError(f"{recipe}: {error.strerror.lower()}") from None
    except ValueError as error:
        raise UserError(f"{recipe} {error}") from None
    if not isinstance(overlay, dict):
        raise UserError(f"{recipe}: expected sections such as 'solver:', as in {params}")
    _merge(merged, overlay)
    if raw:
        merged["data"]["raw"] = str(Path(raw).resolve())  # `dvc exp run --temp` runs in another folder
    text = StringIO()
    keeping.dump(merged, text)
    folder = validate(yaml.parse(text.getvalue()), recipe).data.raw
    if not folder.is_dir():
        raise UserError(f"{recipe}: no folder {folder}: put or link the data there, or set its path with DATA=")
    with replace_file(params) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _merge(target: Any, overlay: Any) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value
