"""The split of the images: as the raw data state it, by names of folders, annotation files and lists, or drawn.

What the data state is never drawn anew. Only a split that they lack is drawn, from the images of train or, if the data
state no split, from all.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

import numpy as np

from mtseg.core.errors import UserError, quoted
from mtseg.core.params import Data
from mtseg.data.files import Files
from mtseg.data.raw import RawData, RawImage
from mtseg.data.split_files import FORMS, listed, meaning
from mtseg.data.split_lists import Lists
from mtseg.data.splits import Splits, folds, looks_split


@dataclass(frozen=True)
class Assigned:
    """The split of each image, None for an image that is left out, and where it comes from."""

    splits: list[str | None]
    source: str


def assign(raw: RawData, images: Sequence[RawImage], similar: np.ndarray, data: Data, seed: int) -> Assigned:
    """The split of each of the `images`. What is stated is kept; val, and test if `data.split` has it, are drawn from
    train where the data state none.

    similar: group number [N] of the images; a draw keeps a group together. Raises UserError, with what to do, if the
    data look split in a way that is not understood.
    """
    names, files = [image.file_name for image in images], Files(data.raw)
    bare = files.images - {*names}
    read = {image.where for image in images} | {fault.where for fault in raw.faults if ", " in fault.where}
    given = listed(files, raw, {where.partition(", ")[0] for where in read})
    lists = Lists(given.lines, names, bare, raw.ids)
    raw.unused_files = [path for path in raw.unused_files if path not in {path for path, _ in given.lines}]
    found, sources = _stated(images, lists), [source for source in (raw.split_source,) if source]
    if found != [image.split for image in images]:
        sources.append(", ".join(lists.names))
    if not any(found) and all(map(meaning, names)) and not _look_split(images, images):
        own = [meaning(name) for name in names]
        found, sources = (own, ["names of the images"]) if {"train"} < {*own} else (found, sources)
    source = "; ".join(sources)
    if lists.unknown:
        raw.leave(f"lines of {', '.join(lists.names)} that name no image", lists.unknown)
    if left_out := _check_unknown(images, found, source, given.not_understood, data):
        raw.leave("images of no split, beside those of a split", left_out)
    have = {*found} - {None}
    of_folders = Splits(files).of_folders
    _check_folds(images, found, data)
    shares = data.split if isinstance(data.split, Mapping) else {"val": data.split}
    wanted = {name: share for name, share in shares.items() if name not in have}
    if empty := [path for split, path in lists.empty.items() if split in wanted]:
        raise UserError(f"{data.raw / empty[0]} lists no image: write its images, or remove it to draw its split")
    _check_stated(have, source, data, Counter(map(of_folders, bare)) + lists.bare)
    pool = [number for number, own in enumerate(found) if own == "train" or not have]
    if wanted:
        _check_understood(given.not_understood | lists.strange, raw, data)
        for number, own in zip(pool, _draw(similar[pool], wanted, seed), strict=True):
            found[number] = own
    if missing := [name for name in ("train", *shares) if name not in found]:
        groups = len({*similar[pool].tolist()})
        folders = ", ".join(f"{name}/" for name in ("train", *shares))
        raise UserError(
            f"{missing[0]} has no image: images to draw from in {data.raw} (data.raw): {len(pool)}, or {groups} if "
            f"near-identical images count as one; make folders {folders}, or raise data.split"
        )
    if wanted:
        given = " from train" if have else ""
        drawn = f"{' and '.join(wanted)} drawn{given} with data.split {_shown(data)} and data.seed {seed}"
        sources = [source, drawn] if have else [drawn]
    return Assigned(found, "; ".join(sources))


def _stated(images: Sequence[RawImage], lists: Lists) -> list[str | None]:
    """The splits of folders and files, refined by lists: these divide what is of no split, or all in train. Raises
    UserError if both state a split of an image, and not the same."""
    found = [image.split for image in images]
    undivided = {*found} <= {None, "train"}
    for number, split in lists.splits.items():
        if found[number] not in (None, split) and not undivided:
            where = f"{images[number].file_name} is of {found[number]} by the name of its folder or annotation file"
            raise UserError(f"{where}, and of {split} by {', '.join(lists.names)}: correct one of them")
        found[number] = split
    return found


def _check_unknown(
    images: Sequence[RawImage], found: Sequence[str | None], source: str, unread: Mapping[str, str], data: Data
) -> int:
    """The number of images of no split, if these are left out. Raises UserError if they are not, or if they are in
    folders or annotation files that look like splits."""
    unknown = [image for image, split in zip(images, found, strict=True) if split is None]
    odd = _look_split(unknown, images)
    if len(unknown) == len(found):
        if odd:
            raise UserError(
                f"{data.raw} (data.raw): {', '.join(odd)} look{'s' * (len(odd) == 1)} like a split, but not which: no "
                "split is drawn over it; rename them to train, val and test"
            )
        return 0
    if unknown and data.on_error == "error":
        named = f" (in {', '.join(odd)})" if odd else ""
        source += "".join(f"; {path} is not read, {reason}" for path, reason in unread.items())
        raise UserError(
            f"{len(unknown)} of {len(found)} images, such as {unknown[0].file_name}{named}, are of no split, the "
            f"others are ({source}): move or list them in train, val or test, or leave them out with data.on_error: "
            "skip"
        )
    return len(unknown)


def _check_folds(images: Sequence[RawImage], found: Sequence[str | None], data: Data) -> None:
    """Raises UserError if the splits that are stated are those of several folds, which have the same images."""
    stated = [image for image, split in zip(images, found, strict=True) if split and image.split]
    named = {fold: image for image in stated if (fold := folds(image.where) or folds(image.file_name))}
    if len(named) > 1:
        one, other = (named[fold].file_name for fold in sorted(named)[:2])
        raise UserError(
            f"{data.raw} (data.raw) has {len(named)} folds, such as those of {one} and {other}: an image may be in "
            "train of one and in val of another; keep the files of one fold"
        )


def _check_stated(have: set[str], source: str, data: Data, bare: Mapping[str | None, int]) -> None:
    """Raises UserError if the data state some splits, but not train, or no val that may be drawn. bare: number of
    images of each split without annotations."""
    where = f"{data.raw} (data.raw)"
    if have and "train" not in have:
        raise UserError(
            f"{where} has no image of train, all are of {' and '.join(sorted(have))} ({source}): give a part of them "
            "to train; if the data are not split, rename that folder or file"
        )
    if "val" in have:
        return
    if count := bare.get("val"):
        raise UserError(
            f"{where} has {count} images of val, and no annotation of them was read: annotate them, or remove their "
            "folder or list to draw val from train"
        )
    if "test" in have and not isinstance(data.split, Mapping):
        raise UserError(
            f"{where} has train and test, but no val ({source}): make val/ of a part of train, rename test to val, or "
            f"set data.split to {{val: {data.split:g}}}, which draws val from train"
        )


def _check_understood(strange: Mapping[str, str], raw: RawData, data: Data) -> None:
    """Raises UserError if there is a file that looks like a list of splits and is not understood, or if images have
    keys, such as fold, that divide them."""
    for path, reason in strange.items():
        raise UserError(
            f"{data.raw / path} looks like a list of splits, over which none is drawn, but {reason}: write {FORMS}; or "
            "move the file out of data.raw for a random split"
        )
    for key, values in raw.unclear_splits.items():
        if len(values) > 1:
            few = ", ".join(map(quoted, sorted(values)[:3]))
            raise UserError(
                f"{data.raw} (data.raw): `{key}` of the images, such as {few}, looks like a split, over which none is "
                "drawn: for one of them, write val.txt with its images, one on each line, and train.txt with the "
                "others; for a random split, remove the key"
            )


def _shown(data: Data) -> str:
    if not isinstance(data.split, Mapping):
        return f"{data.split:g}"
    return "{" + ", ".join(f"{name}: {share:g}" for name, share in data.split.items()) + "}"


def _look_split(some: Sequence[RawImage], images: Sequence[RawImage]) -> list[str]:
    """The folders and annotation files of some of the images that look like a part of a split data set. One that holds
    all images is none."""

    @cache
    def of_folders(*paths: str) -> set[str]:
        folders = {folder for path in paths for folder in (PurePosixPath(path), *PurePosixPath(path).parents)}
        return {f"{folder}/" for folder in folders if looks_split(folder.name)}

    @cache
    def of_file(path: str) -> set[str]:
        return {path} if looks_split(PurePosixPath(path).stem) else set()

    def places(image: RawImage) -> set[str]:
        file, several, _ = image.where.partition(", ")  # an annotation file of several images
        found = of_folders(posixpath.dirname(image.file_name), posixpath.dirname(file))
        return found | of_file(file) if several else found

    counts = Counter(place for image in images for place in places(image))
    found = {place for image in some for place in places(image)}
    return sorted(place for place in found if counts[place] < len(images))


def _draw(similar: np.ndarray, shares: Mapping[str, float], seed: int) -> list[str]:
    """A random split of images into the `shares`, and train. Images with the same group number are near-identical and
    stay together. If no group fits a share, the smallest one is used."""
    numbers, similar = np.unique(similar, return_inverse=True)
    sizes = np.bincount(similar, minlength=len(numbers))
    room = {name: max(1, round(share * len(similar))) for name, share in shares.items()}
    split_of_group: dict[int, str] = {}
    for group in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        if fits := next((name for name in room if sizes[group] <= room[name]), None):
            room[fits] -= int(sizes[group])
            split_of_group[group] = fits
    for name in shares:
        free = [group for group in range(len(sizes)) if group not in split_of_group]
        if name not in split_of_group.values() and free:
            split_of_group[min(free, key=lambda group: sizes[group])] = name
    return [split_of_group.get(group, "train") for group in similar.tolist()]
