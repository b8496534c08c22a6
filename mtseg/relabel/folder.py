"""The folder that a person corrects: pre-annotations in the format of a tool, the images, and suggestions.csv."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from mtseg.core.errors import UserError
from mtseg.core.files import check_folder, replace_folder, write_table
from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions
from mtseg.inference.export import cvat, label_studio, labelme

FORMATS = {"labelme": labelme, "cvat": cvat, "label-studio": label_studio}

COLUMNS = ("rank", "image", "object", "task", "given", "suggested", "probability", "score", "reason")

Save = Callable[[str, Path], None]  # (name of an image, file to write it to)


def write(
    out: Path, format: str, images: Images, objects: Predictions, tasks: Sequence[Task], suggestions: pd.DataFrame,
    save: Save,
) -> None:  # fmt: skip
    """Write `out`: for LabelMe each image with its .json beside it; for the others `images/` and what the tool imports.

    objects: as predictions, of which image_id, score, box, rle, height, width, labels, probability and, if there is
    one, `note` are used. Raises UserError where `out` holds anything, which may be someone's corrections.
    """
    with new_folder(out, suggestions) as folder:
        writer = FORMATS[format]
        labelme_folder = format == "labelme"
        writer.write(folder if labelme_folder else folder / writer.NAME_IN_FOLDER, images, objects, tasks)
        save_images(folder if labelme_folder else folder / "images", images.file_name.tolist(), save)


def check_new(out: Path) -> None:
    """Raise UserError where `out` is no new or empty folder, and the error of `replace_folder` where it cannot be."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and may hold corrections: choose another folder, or remove it")
    check_folder(out)


@contextmanager
def new_folder(out: Path, suggestions: pd.DataFrame) -> Iterator[Path]:
    """A temporary folder that becomes `out`, with suggestions.csv. Raises UserError where `out` is not empty."""
    check_new(out)
    with replace_folder(out) as folder:
        yield folder
        write_table(folder / "suggestions.csv", suggestions)


def save_images(folder: Path, names: Sequence[str], save: Save) -> None:
    """The images under their names below `folder`. Raises UserError for a name that leads out of it."""
    for name in names:
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"image {name!r} lies outside the folder of images: use a path without '..'")
        target.parent.mkdir(parents=True, exist_ok=True)
        save(name, target)
