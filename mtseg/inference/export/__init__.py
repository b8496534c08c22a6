"""Output formats of predictions, one file each, found by file name: `label-studio` is label_studio.py. What several
share is in a file whose name starts with an underscore.

A format's file says what is lost in it, and holds
  NAME_IN_FOLDER  the file or folder that it is written to in a folder of outputs;
  write(path, images, predictions, tasks)
                  `images` need no ground truth, and each of them is in the output also where nothing was found, if the
                  format has a place for it. The path is replaced as a whole, and the same predictions give the same
                  bytes. Raises UserError for a class or file name that the format cannot carry;
  check(names, tasks)
                  raises it for the names of images alone; a format that takes any name has none.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from mtseg.core.errors import UserError
from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions

FORMATS = tuple(sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[!_]*.py")))


def write(format: str, folder: Path, images: Images, predictions: Predictions, tasks: Sequence[Task]) -> Path:
    """Write the predictions into a folder and return the path of the file or folder that was made. format: one of
    `FORMATS`; UserError lists them."""
    target = path(format, folder)
    _module(format).write(target, images, predictions, tasks)
    return target


def path(format: str, folder: Path) -> Path:
    """The file or folder of a format in a folder of outputs."""
    return Path(folder) / _module(format).NAME_IN_FOLDER


def check(format: str, names: Sequence[str], tasks: Sequence[Task]) -> None:
    """Raise the UserError of `write` for the classes and for images of these names."""
    if hasattr(module := _module(format), "check"):
        module.check(names, tasks)


def _module(format: str) -> ModuleType:
    if format not in FORMATS:
        raise UserError(f"there is no format '{format}', valid: {', '.join(FORMATS)}")
    return importlib.import_module(f"{__name__}.{format.replace('-', '_')}")
