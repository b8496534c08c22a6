"""The small data sets of the cases: the embedded shapes as LabelMe files, on plain backgrounds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np

from benchmarks import temporary
from mtseg.core.files import write_json
from mtseg.core.params import Generate
from mtseg.data import shapes

Edit = Callable[[dict[str, Any], int], None]  # changes a LabelMe record in place, given its index


def draw(folder: Path, *, settings: Generate, tasks: Sequence[str], plain: bool) -> None:
    """Write LabelMe files into `folder`/{train,val}.

    tasks: some of shape, colour, fill, side and level (halves of the image). plain: plain backgrounds instead of
    those of the embedded data."""
    shutil.copytree(_drawn(settings, tuple(tasks), plain).name, folder)


@cache
def _drawn(settings: Generate, tasks: tuple[str, ...], plain: bool) -> TemporaryDirectory:
    """A temporary folder with these files, drawn once for all cases of a process."""
    folder = TemporaryDirectory(dir=temporary.parent())
    with patch.object(shapes, "_background", _clouds if plain else shapes._background):
        shapes.generate(settings, Path(folder.name), seed=settings.seed)

    def relabel(record: dict[str, Any], number: int) -> None:
        for shape in record["shapes"]:
            known = dict(zip(("shape", "colour", "fill"), shape["label"].split(","), strict=True))
            x, y = np.mean(shape["points"], axis=0) / (record["imageWidth"], record["imageHeight"])
            known |= {"side": "left" if x < 0.5 else "right", "level": "upper" if y < 0.5 else "lower"}
            shape["label"] = ",".join(known[task] for task in tasks)

    edit(Path(folder.name), relabel)
    return folder


def edit(folder: Path, change: Edit) -> None:
    """Apply `change` to every LabelMe record under a folder, in order of file name."""
    for number, path in enumerate(sorted(folder.rglob("*.json"))):
        record = json.loads(path.read_bytes())
        change(record, number)
        write_json(path, record, indent=None)


def edit_labels(folder: Path, change: Callable[[list[str], np.random.Generator], list[str]]) -> None:
    """Apply `change` to the parts of every label under a folder."""
    rng = np.random.default_rng(0)

    def each(record: dict[str, Any], number: int) -> None:
        for shape in record["shapes"]:
            shape["label"] = ",".join(change(shape["label"].split(","), rng))

    edit(folder, each)


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random, nearly grey background, float32 [height, width, 3] of 0 to 1."""
    coarse = rng.uniform(0.1, 0.9, (4, 4, 1)) + rng.uniform(-0.08, 0.08, (4, 4, 3))
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1).astype(np.float32)
