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

from mtseg.core.errors import UserError, quoted
from mtseg.data.files import Files

FORMATS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))
OTHERS = {  # formats that are named and not read, by what their files have at the start
    "VIA (VGG Image Annotator)": "_via_settings|shape_attributes",
    # \A and ?>: goes through the text once, and not once for each of its "tags" and "size"
    "Supervisely": r'"(classTitle|classId)"|\A(?>.*?"tags")(?>.*?"size").*"objects"',
    "Cityscapes": '"imgHeight"',
    "ISAT": r'"description"\s*:\s*"ISAT"',
    "Labelbox": '"data_row"|"Labeled Data"',
    "Datumaro": r'"categories"\s*:\s*\{.*"items"',
    "V7 Darwin": r'"slots"\s*:',
    "Segment Anything (SA-1B), which has no classes": r'^\s*\{\s*"image"\s*:\s*\{',
    "nnU-Net, whose masks have the class of each pixel and no objects": r'"(channel_names|numTraining)"\s*:',
    "COCO's results (predictions without images)": r'^\s*\[\s*\{[^{}]*"image_id"',
    "LabelMe's web tool": r"<pt>\s*<x>",
    "DOTA (rotated boxes)": r"^(imagesource:|gsd:|([\d.]+ ){8}\S+ \d\s)",
}
TEXTS = (".json", ".ndjson", ".jsonl", ".csv", ".xml", ".txt", ".yaml", ".yml")
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
    return f"it has files {listed}{_other(files) or _masks(files)}"


def _other(files: Files) -> str:
    """Advice for annotations of a tool whose own format is not read."""
    for name in (name for suffix in TEXTS for name in files.ending(suffix)[:20]):
        with (files.folder / name).open("rb") as file:
            start = file.read(1 << 16).decode(errors="replace")
        if not start.strip():
            return f"; {name} is empty"
        if name.lower().endswith(".json") and "\0" not in start and start.lstrip("\ufeff \t\r\n")[:1] not in "[{":
            return f"; {name} is no JSON, it starts with {quoted(start.strip()[:40])}"
        for tool, pattern in OTHERS.items():
            if re.search(pattern, start, re.DOTALL):
                return f"; {name} is of {tool}, which is not read: export or convert it to COCO"
        if name.lower().endswith((".yaml", ".yml")) and re.search(r"^(train|val|nc)\s*:", start, re.MULTILINE):
            return f"; {name} has no `names`, the classes of YOLO"
        if "<bndbox>" in start:
            return f"; {name} is of Pascal VOC and has boxes alone, and outlines are needed"
    return ""


def _masks(files: Files) -> str:
    """Advice for images in a folder whose name is one of masks, in no layout of them."""
    folders = {PurePosixPath(name).parent for name in files.images}
    found = sorted(
        str(folder) for folder in folders if re.search("(^|/)(mask|label|annotation|gt)", f"{folder}".lower())
    )
    if not found:
        return ""
    return (
        f"; if the images in {found[0]}/ are masks, they are in no layout of the format masks (docs/formats.md), which "
        "needs a file or a number for each object: the class of each pixel does not tell which object it is of"
    )
