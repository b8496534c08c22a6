"""Formats of raw data, one module each, found by file name. What several share is in a module whose name starts with
an underscore.

A format's module says what is lost in it, and holds
  recognises(files)          a file of `files` that shows that the folder is in this format, or None;
  read(folder, vocabulary)   the contents of the folder, see mtseg/data/raw.py.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from mtseg.core.errors import UserError
from mtseg.data.formats._common import Files

FORMATS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def recognised(folder: Path) -> dict[str, str]:
    """The formats of which a folder has annotations, each with a file that shows it."""
    files = Files(folder)
    found = {name: importlib.import_module(f"{__name__}.{name}").recognises(files) for name in FORMATS}
    return {name: evidence for name, evidence in found.items() if evidence}


def recognise(folder: Path) -> tuple[str, str]:
    """The format of a raw folder, and the file that shows it. Raises UserError if there is none or more than one."""
    found = recognised(folder)
    if not found:
        raise UserError(f"{folder} (data.raw) is in no format that data.format: auto knows: {', '.join(FORMATS)}")
    if len(found) > 1:
        listed = ", ".join(f"{name} ({evidence})" for name, evidence in found.items())
        raise UserError(f"{folder} (data.raw) has annotations in several formats: set data.format to one of {listed}")
    return next(iter(found.items()))
