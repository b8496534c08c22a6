"""Formats of raw data, one module each, found by file name. What several share is in a module whose name starts with
an underscore.

A format's module says what is lost in it, and holds
  recognises(files)          a file of `files` that shows that the folder is in this format, or None;
  read(folder, vocabulary)   the contents of the folder, see mtseg/data/raw.py.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path, PurePosixPath

from mtseg.core.errors import UserError
from mtseg.data.files import Files

FORMATS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))
OTHERS = {  # formats that are named and not read, by what their .json files have at the start
    "VIA (VGG Image Annotator)": '"(_via_settings|shape_attributes)"',
    "Supervisely": '"(classTitle|classId)"|"tags".*"size".*"objects"',
    "Cityscapes": '"imgHeight"',
    "Labelbox": '"data_row"|"Labeled Data"',
    "Datumaro": r'"categories"\s*:\s*\{.*"items"',
}
PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def recognised(folder: Path) -> dict[str, str]:
    """The formats of which a folder has annotations, each with a file that shows it."""
    files = Files(folder)
    found = {name: importlib.import_module(f"{__name__}.{name}").recognises(files) for name in FORMATS}
    return {name: evidence for name, evidence in found.items() if evidence}


def recognise(folder: Path) -> tuple[str, str]:
    """The format of a raw folder, and the file that shows it. Raises UserError if there is none or more than one."""
    found = recognised(folder)
    if not found:
        known = ", ".join(FORMATS)
        text = f"{folder} (data.raw) is in no format that data.format: auto knows ({known})"
        raise UserError(f"{text}: {contents(folder)}")
    if len(found) > 1:
        listed = ", ".join(f"{name} ({evidence})" for name, evidence in found.items())
        raise UserError(f"{folder} (data.raw) has annotations in several formats: set data.format to one of {listed}")
    return next(iter(found.items()))


def contents(folder: Path) -> str:
    """What a folder in no known format has instead, with advice."""
    files = Files(folder)
    names = files.names
    kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in names)
    if not kinds:
        return "it has no files"
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    if packed := [name for name in names if name.lower().endswith(PACKED)]:
        return f"it has files {listed}; unpack {packed[0]}"
    boxes = "; Pascal VOC's .xml files have boxes alone, and outlines are needed" if ".xml" in kinds else ""
    return f"it has files {listed}{boxes}{_other(files)}"


def _other(files: Files) -> str:
    """Advice for annotations of a tool whose own format is not read."""
    for name in files.ending(".json", ".ndjson")[:20]:
        with (files.folder / name).open("rb") as file:
            start = file.read(1 << 16).decode(errors="replace")
        for tool, pattern in OTHERS.items():
            if re.search(pattern, start, re.DOTALL):
                return f"; {name} is of {tool}, which is not read: export or convert it to COCO"
    return ""
