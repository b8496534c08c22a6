"""`mtseg info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mtseg.core.metadata import Metadata


def command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A model, `.safetensors` or `.onnx`.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the metadata as JSON.")] = False,
) -> None:
    """Print what a model's file records: tasks and classes, network, input, filter, scores, data, licence.

    Examples:

        mtseg info segmenter.safetensors

        mtseg info segmenter.onnx --json | jq .scores

    Exit codes: 0 done, 1 when the file is missing, broken or no complete model.
    """
    import json

    from mtseg.core import metadata

    known = metadata.read(file)
    if as_json:
        print(json.dumps(json.loads(known.text()), indent=1, ensure_ascii=False))
    else:
        _print(file, known)


def _print(file: Path, known: Metadata) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from mtseg.core.errors import printable
    from mtseg.core.metadata import recorded

    model = recorded(known.model)
    facts = {
        "file": f"{file}, {file.stat().st_size / 1e6:.1f} MB, {known.precision}",
        "written by": f"mtseg {known.version}",
        "licence": known.licence or "not stated",
        "trained for": f"{known.step} steps",
    }
    square = known.input
    sections = {
        "model": facts,
        "tasks": {
            task.name: f"{len(task.classes)}: {', '.join(task.classes)}{' (and no-object)' * task.background}"
            for task in known.tasks
        },
        "network": {"backbone": model.pop("backbone")} | model,
        "input": {
            "size": f"{square.size} x {square.size} pixels, RGB",
            "pixel_mean": ", ".join(map(str, square.pixel_mean)),
            "pixel_std": ", ".join(map(str, square.pixel_std)),
        },
        "predictions": {"detections": f"{known.detections} in an image", "ranking": known.ranking},
        "filter": known.filter.model_dump(exclude={"thresholds"}),
        "data": known.data or {"": "not recorded"},
        "scores": _lines(known.scores) or {"": "not recorded"},
    }
    console = Console(highlight=False, soft_wrap=False)
    for name, entries in sections.items():
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        for key, value in entries.items():
            table.add_row(*(Text(printable(text)) for text in (key, _words(value))))  # the file may be of anyone
        console.print(Text(name, style="bold"))
        console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _lines(scores: dict[str, Any], above: str = "") -> dict[str, str]:
    """A line for each innermost section of scores, and one for the numbers beside sections."""
    own = {key: value for key, value in scores.items() if not isinstance(value, dict)}
    found = {above: _words(own)} if own else {}
    for key, value in scores.items():
        if isinstance(value, dict):
            found |= _lines(value, f"{above}.{key}".lstrip("."))
    return found


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(own)}" for key, own in value.items())
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return str(value)
