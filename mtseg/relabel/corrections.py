"""Corrected LabelMe files -> a new version of the raw data. The old one stays as it is."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from mtseg.core.errors import UserError
from mtseg.core.files import replace_folder
from mtseg.data.files import check_files
from mtseg.data.formats import labelme
from mtseg.data.labels import Vocabulary
from mtseg.data.splits import split_of


def apply(
    folder: Path, raw: Path, to: Path, vocabulary: Vocabulary, *, check: bool = True
) -> tuple[int, int, list[str]]:
    """Write `to`, a copy of the LabelMe data `raw`, in which the annotations of `folder` replace those of the same
    paths, and images that `raw` lacks are added with theirs, to train/ if `raw` has a split.

    Returns how many annotation files were replaced, how many added, and the records that `convert` would reject. check:
    raise UserError for these, which lists them. Raises UserError too when `to` exists, and where both folders have
    another image under one name. Files are copied, never linked: the data that DVC caches may be links. Hidden files,
    which `convert` does not read, are left out.
    """
    if not raw.is_dir():
        raise UserError(f"{raw} (data.raw) is missing")
    if to.exists() or to.resolve().is_relative_to(raw.resolve()):
        raise UserError(f"{to}: the new data must be a new folder, outside {raw}")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    for given in (folder, raw):
        known = check_files(given, follow_links=True, most=float("inf"))
    if gone := [name for name in known.names if not (raw / name).exists()]:
        raise UserError(f"{raw / gone[0]} is a link to nothing: restore its file, or remove it")
    corrected = labelme.read(folder, vocabulary)
    listed = [*map(str, corrected.faults)]
    if listed and check:
        raise UserError.many(f"{folder}: {len(listed)} invalid records: fix them first", listed)
    if not corrected.images:
        raise UserError(f"{folder} has no LabelMe file of an image")
    splits = {split_of(path.name): path.name for path in sorted(raw.iterdir()) if path.is_dir()}
    replaced = added = 0
    with replace_folder(to) as new:
        for name in known.names:  # copytree would follow a link to a folder above, and list every file of a full disk
            _copy(raw / name, new / name)
        for image in corrected.images:
            below = new
            if {"train", "val"} <= {*splits} and not split_of(Path(image.where).parts[0]):
                below = new / splits["train"]
            target, pixels = below / image.where, below / image.file_name
            if pixels.exists() and not filecmp.cmp(folder / image.file_name, pixels, shallow=False):
                raise UserError(
                    f"{folder / image.file_name} is another image than {pixels.relative_to(new)} in {raw}: rename it"
                )
            if target.exists():
                replaced += 1
            else:
                added += 1
            for source, copy in ((folder / image.where, target), (folder / image.file_name, pixels)):
                _copy(source, copy)
    return replaced, added, listed


def _copy(source: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, copy)
