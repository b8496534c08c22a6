"""The split of the images: as the raw data state it, by names of folders, annotation files and lists, or drawn.

What the data state is never drawn anew. Only a split that they lack is drawn, from the images of train or, if the data
state no split, from all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np

from mtseg.core.errors import UserError, quoted
from mtseg.core.params import Data
from mtseg.data.formats._common import Files, Splits
from mtseg.data.images import suffixes
from mtseg.data.raw import BadRecord, RawData, RawImage, read_text, read_value
from mtseg.data.splits import looks_split, names_splits, split_in, split_of


@dataclass(frozen=True)
class Assigned:
    """The split of each image, None for an image that is left out, and where it comes from."""

    splits: list[str | None]
    source: str


class Lists:
    """Text files that list the images of a split: train.txt, val.txt, test.txt with paths, names or stems; or tables
    with a column of splits; or split.json with {split: images}."""

    def __init__(
        self, listed: Mapping[tuple[str, str], Sequence[str]], images: Sequence[str], bare: Iterable[str]
    ) -> None:
        """listed: lines, by the path of the file and the split. images: paths of the annotated images; bare: of the
        others. Raises UserError if an image is in the lists of two splits, or if a list names no image, unless it is
        the only list.

        splits   of the images that are listed, by their place in `images`
        names    of the files that are lists
        bare     number of images without annotations that the lists of each split name
        unknown  number of lines that name no image
        """
        self.splits: dict[int, str] = {}
        self.names: list[str] = []
        self.bare: Counter[str] = Counter()
        self.unknown = 0
        if not listed:
            return
        index = _index(images)
        others = {name for path in bare for tail in _tails(path) for name in (tail, _stem(tail))}
        source: dict[int, str] = {}
        strange = []
        for (path, split), lines in listed.items():
            own = [_find(index, line) for line in lines]
            missing = [line for line, number in zip(lines, own, strict=True) if number is None]
            unknown = [line for line in missing if not others & {*_meant(line)}]
            if unknown and not split_of(PurePosixPath(path).stem) and _meaning(path):
                continue  # train_log.txt is no list
            if lines and len(unknown) == len(lines):
                strange.append((split, path, lines[0]))
                continue
            self.names.append(path if PurePosixPath(path).stem == split else f"{path} ({split})")
            self.bare[split] += len(missing) - len(unknown)
            self.unknown += len(unknown)
            for number in {*own} - {None}:
                if self.splits.setdefault(number, split) != split:
                    raise UserError(f"{images[number]} is in {source[number]} and {path}: keep it in one of them")
                source.setdefault(number, path)
        if strange and (self.names or len({split for split, *_ in strange}) > 1):
            _, path, line = strange[0]
            raise UserError(
                f"{path}: none of its lines, such as {quoted(line)}, is an image; expected paths, file names or names "
                "without suffix; rename the file if it is no list of images"
            )


def _index(images: Sequence[str]) -> dict[str, int | None]:
    """The place of the image that a path, or the last parts of it, with or without suffix, means; None if several."""
    index: dict[str, int | None] = {}
    for number, image in enumerate(images):
        for name in {name for tail in _tails(image) for name in (tail, _stem(tail))}:
            index[name] = None if name in index else number
    return index


def _tails(path: str) -> Iterable[str]:
    parts = PurePosixPath(path.casefold()).parts
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix("")) if PurePosixPath(path).name else path


def _meant(line: str) -> Iterable[str]:
    """Names that a line of a list may mean, the most likely first: it is a path, or has one in a column. In a table, a
    name with an image's suffix counts before the first column, which may have other numbers."""
    columns = _columns(line)
    named = [text for text in columns if PurePosixPath(text).suffix.lower() in suffixes()]
    texts = [line, *(named if named and len(columns) > 1 else [re.split(r"[\s,;]", line)[0]])]
    for text in dict.fromkeys([*texts, *map(unquote, texts)]):
        for tail in _tails(text.replace("\\", "/").removeprefix("./")):
            yield tail
            if PurePosixPath(tail).suffix:
                yield _stem(tail)


def _meaning(path: str) -> str | None:
    """The split that a file's name means, or has among other words."""
    stem = PurePosixPath(path).stem
    return split_of(stem) or split_in(stem)


def _columns(line: str) -> list[str]:
    return [text.strip().strip("\"'") for text in re.split(r"[,;\t]", line)]


def _find(index: Mapping[str, int | None], line: str) -> int | None:
    return next((index[name] for name in _meant(line) if index.get(name) is not None), None)


def assign(raw: RawData, images: Sequence[RawImage], similar: np.ndarray, data: Data, seed: int) -> Assigned:
    """The split of each of the `images`. What is stated is kept; val, and test if `data.split` has it, are drawn from
    train where the data state none.

    similar: group number [N] of the images; a draw keeps a group together. Raises UserError, with what to do, if the
    data look split in a way that is not understood.
    """
    names, files = [image.file_name for image in images], Files(data.raw)
    bare = files.images - {*names}
    lists = Lists(_listed(files, raw), names, bare)
    found, sources = _stated(images, lists), [source for source in (raw.split_source,) if source]
    if found != [image.split for image in images]:
        sources.append(", ".join(lists.names))
    own = [_meaning(name) for name in names]
    if not any(found) and None not in own and {"train"} < {*own} and not _look_split(images, images):
        found, sources = own, ["names of the images"]
    source = "; ".join(sources)
    if lists.unknown:
        raw.leave(f"lines of {', '.join(lists.names)} that name no image", lists.unknown)
    if left_out := _check_unknown(images, found, source, data):
        raw.leave("images of no split, beside those of a split", left_out)
    have = {*found} - {None}
    of_folders = Splits(files).of_folders
    _check_stated(have, source, data, Counter(map(of_folders, bare)) + lists.bare)
    shares = data.split if isinstance(data.split, Mapping) else {"val": data.split}
    wanted = {name: share for name, share in shares.items() if name not in have}
    pool = [number for number, own in enumerate(found) if own == "train" or not have]
    if wanted:
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


def _listed(files: Files, raw: RawData) -> dict[tuple[str, str], list[str]]:
    """Lines of the text files whose names mean a split, of Pascal VOC's folders those for segmentation; otherwise of
    the tables that have splits, or of .json files called split. Columns of folds, which are none, are noted."""
    stems = {_stem(image) for image in files.images}  # YOLO has a .txt for each image
    files_of = {
        path: split_of(PurePosixPath(path).stem)
        for path in files.ending(".txt", ".lst", ".csv", ".tsv")
        if "labels" not in PurePosixPath(path.lower()).parts and _stem(path) not in stems
    }
    loose = {path: split or _meaning(path) for path, split in files_of.items() if split or path.endswith(".txt")}
    several = len({*loose.values()} - {None}) > 1  # autosplit_train.txt is of train, crash_test.txt alone of none
    paths = {path: split for path, split in (loose if several else files_of).items() if split}
    paths = {path: split for path, split in paths.items() if "ImageSets/Segmentation/" in path} or paths
    if paths:
        return {(path, split): _lines(files, path) for path, split in paths.items()}
    found = {key: lines for path in files.ending(".csv", ".tsv") for key, lines in _table(files, path, raw).items()}
    named = [
        path
        for path in files.ending(".json")
        if re.search("split|fold|train|val|test", PurePosixPath(path).stem.lower())
    ]
    return found or {key: lines for path in named for key, lines in _json_lists(files, path, raw).items()}


def _lines(files: Files, path: str) -> list[str]:
    try:
        return [*filter(None, map(str.strip, read_text(files.folder / path).splitlines()))]
    except BadRecord as bad:
        raise UserError(f"{files.folder}: {bad}") from None


def _table(files: Files, path: str, raw: RawData) -> dict[tuple[str, str], list[str]]:
    """Lines of a table by the split in its column called split, set, fold or the like; see `_by_split`."""
    with (files.folder / path).open(encoding="utf-8-sig", errors="replace") as file:
        names = _columns(file.readline())
    places = [place for place, name in enumerate(names) if names_splits(name)]
    if not places:
        return {}
    lines = _lines(files, path)[1:]
    rows = [_columns(line) + [""] * len(names) for line in lines]
    return _by_split(files, path, raw, {names[place]: [row[place] for row in rows] for place in places}, lines)


def _by_split(
    files: Files, path: str, raw: RawData, columns: Mapping[str, Sequence[Any]], lines: Sequence[str]
) -> dict[tuple[str, str], list[str]]:
    """The lines by the split that they have in the first of the columns that has splits; none if no column has any,
    which is noted. Raises UserError if some lines have one and others not."""
    for name, values in columns.items():
        splits = [split_of(str(value)) for value in values]
        if not any(splits):
            text = f"lines of {path} whose column {name} has no split (train, val or test) and is not used"
            raw.note(text, len(lines))
            continue
        if None in splits:
            line = quoted(lines[splits.index(None)])
            raise UserError(f"{files.folder / path}: {line} has no split, unlike others: train, val or test")
        found: dict[tuple[str, str], list[str]] = {}
        for line, split in zip(lines, splits, strict=True):
            found.setdefault((path, split), []).append(line)
        return found
    return {}


def _json_lists(files: Files, path: str, raw: RawData) -> dict[tuple[str, str], list[str]]:
    """{split: [image, ...]} of a .json file, or [image, ...] of train.json, or [{"image": image, "split": split}, ...];
    none if it has other contents."""
    stem = PurePosixPath(path).stem
    with (files.folder / path).open("rb") as file:
        start = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
    records = start.startswith(b"[") and any(
        map(names_splits, re.findall(r'"(\w+)"\s*:', start.decode(errors="replace")))
    )
    if not records and not re.match(rb'\[\s*["\d]' if split_of(stem) else rb'\{\s*"\w+"\s*:\s*\[\s*["\d]', start):
        return {}
    try:
        value = read_value(files.folder / path)
    except BadRecord as bad:
        raise UserError(f"{files.folder / path} {bad}") from None
    if records:
        return _of_records(files, path, raw, value)
    value = {stem: value} if isinstance(value, list) else value
    lists = {(path, split_of(key)): lines for key, lines in value.items()}
    return {
        key: [*map(str, lines)]
        for key, lines in lists.items()
        if key[1] and isinstance(lines, list) and all(isinstance(line, str | int) for line in lines)
    }


def _of_records(files: Files, path: str, raw: RawData, records: Any) -> dict[tuple[str, str], list[str]]:
    """The texts of each record, by the split that it has."""
    if not all(isinstance(record, dict) for record in records):
        return {}
    columns = [key for key in dict.fromkeys(key for record in records for key in record) if names_splits(key)]
    lines = [",".join(str(value) for value in record.values() if isinstance(value, str | int)) for record in records]
    return _by_split(files, path, raw, {key: [record.get(key, "") for record in records] for key in columns}, lines)


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


def _check_unknown(images: Sequence[RawImage], found: Sequence[str | None], source: str, data: Data) -> int:
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
        raise UserError(
            f"{len(unknown)} of {len(found)} images, such as {unknown[0].file_name}{named}, are of no split, the "
            f"others are ({source}): move or list them in train, val or test, or leave them out with data.on_error: "
            "skip"
        )
    return len(unknown)


def _check_stated(have: set[str], source: str, data: Data, bare: Mapping[str | None, int]) -> None:
    """Raises UserError if the data state some splits, but not train, or no val that may be drawn. bare: number of
    images of each split without annotations."""
    where = f"{data.raw} (data.raw)"
    if have and "train" not in have:
        raise UserError(
            f"{where} has no image of train, all are of {' and '.join(sorted(have))} ({source}): give a part of them "
            "to train; if the data are not split, rename that folder or file"
        )
    if not have or "val" in have:
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


def _shown(data: Data) -> str:
    if not isinstance(data.split, Mapping):
        return f"{data.split:g}"
    return "{" + ", ".join(f"{name}: {share:g}" for name, share in data.split.items()) + "}"


def _look_split(some: Sequence[RawImage], images: Sequence[RawImage]) -> list[str]:
    """The folders and annotation files of some of the images that look like a part of a split data set. One that holds
    all images is none."""

    def places(image: RawImage) -> set[str]:
        file, several, _ = image.where.partition(", ")  # an annotation file of several images
        folders = (*PurePosixPath(image.file_name).parents, *PurePosixPath(file).parents)
        found = {f"{folder}/" for folder in folders if looks_split(folder.name)}
        return found | ({file} if several and looks_split(PurePosixPath(file).stem) else set())

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
