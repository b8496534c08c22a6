"""Images with their predictions drawn over them, as JPEG files in a folder, under the names of the images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.core.errors import UserError
from mtseg.core.files import replace_file, write_image

if TYPE_CHECKING:
    from mtseg.inference.result import Result

MADE = b"drawn by mtseg predict"  # the comment in a file, by which it is known again
SUFFIXES = (".jpg", ".jpeg")


def check(names: Iterable[str], folder: Path) -> None:
    """Raise UserError when two images would share a file, or one would replace a file that is no overlay, such as the
    image itself. names: of the images."""
    drawn: dict[str, str] = {}
    for name in names:
        if (file := _file(name)) in drawn:
            raise UserError(f"images {drawn[file]!r} and {name!r} would share the overlay {file!r}: rename one of them")
        drawn[file] = name
        path = folder / file
        if path.exists() and not is_overlay(path):
            raise UserError(f"{path} is no overlay of mtseg: move it, or choose another folder")


def write(result: Result, folder: Path) -> None:
    """Draw every image of a result. See `check`."""
    for one in result.by_image():
        with replace_file(folder / _file(one.images.file_name[0])) as temporary:
            write_image(temporary, one.plot(), "JPEG", quality=90, comment=MADE)


def remove(folder: Path) -> None:
    """Remove all overlays; what else is in the folder stays."""
    for path in sorted(folder.rglob("*"), reverse=True):  # files before their folder
        if is_overlay(path):
            path.unlink()
        elif path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


def _file(name: str) -> str:
    return name if name.lower().endswith(SUFFIXES) else f"{name}.jpg"


def is_overlay(path: Path) -> bool:
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return MADE in file.read(1024)
    except OSError:  # whoever reads the image reports it
        return False
