"""Read YAML 1.2 with ruamel. PyYAML reads `1e-05`, which `dvc exp run -S` writes, as a string.

A file may be of anyone: its size, its depth and what its aliases repeat are limited.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import Node

from mtseg.core.errors import is_pipe, quoted

LONGEST = 2**22  # characters of a file
MOST = 10**5  # values, of which an alias repeats those that it stands for


def read(path: Path, typ: Literal["safe", "base"] = "safe") -> Any:
    """The content of a YAML file. Raises OSError, and ValueError as `parse` does."""
    if is_pipe(path):
        raise ValueError("is a pipe or a device, not a file")
    with path.open("rb") as file:
        return parse(_decoded(file.read(4 * LONGEST)), typ)


def parse(text: str, typ: Literal["safe", "base"] = "safe") -> Any:
    """The content of a YAML text. base: all scalars as text, so that 01 and no are names. Raises ValueError, whose
    message follows the name of the file: "is not YAML (...)"."""
    try:
        _check(text)
        return _reader(typ).load(text)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except YAMLError as error:
        raise ValueError(f"is not YAML ({' '.join(str(error).split())})") from None


def _check(text: str) -> None:
    """Raise ValueError or YAMLError if a text is too long, or its aliases repeat too much."""
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text)} characters, and at most {LONGEST} are read")
    if re.search(r"\*\S", text) and (root := YAML(typ="base").compose(text)) and _size(root) > MOST:
        raise ValueError(f"has aliases (*name) that stand for more than {MOST} values: write out what is needed")


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8: save it as UTF-8") from None


def _size(root: Node) -> float:
    """The number of values, those of an alias counted each time; infinite if an alias is inside what it stands for."""
    sizes: dict[int, float] = {}

    def of(node: Node) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = float("inf")
            inner = node.value if isinstance(node.value, list) else []
            flat = [part for own in inner for part in (own if isinstance(own, tuple) else (own,))]
            sizes[id(node)] = 1 + sum(map(of, flat))
        return sizes[id(node)]

    return of(root)


class _Constructor(SafeConstructor):
    """Names the place of a value that YAML takes for a date or a number and Python does not, such as 2024-13-45."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, LookupError, ValueError) as error:
            text = f"{quoted(node.value)} cannot be read ({error})"
            raise ConstructorError(problem=text, problem_mark=node.start_mark) from None


def _reader(typ: str) -> YAML:
    yaml = YAML(typ=typ)
    if typ == "safe":
        yaml.Constructor = _Constructor
    return yaml
