"""The images that the lines of lists mean, by path, file name or stem."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

from mtseg.core.errors import UserError, quoted
from mtseg.data.images import suffixes
from mtseg.data.split_files import columns, meaning, stem_of
from mtseg.data.splits import SPLITS, split_of


class Lists:
    """The images that lists of splits name."""

    def __init__(
        self, lines_of: Mapping[tuple[str, str], Sequence[str]], images: Sequence[str], bare: Iterable[str],
        ids: Mapping[str, str],
    ) -> None:  # fmt: skip
        """lines_of: by the path of the file and the split. images: paths of the annotated images; bare: of the others.
        ids: paths of images by the id that the annotations give them. Raises UserError if an image is in the lists of
        two splits, if a list beside others names no image, or if a line may mean either of two images.

        splits   of the images that are listed, by their place in `images`
        names    of the files that are lists
        bare     number of images without annotations that the lists of each split name
        unknown  number of lines that name no image
        strange  why a file is no list, by its path, if all its lines name none
        empty    the files without a line, by split
        """
        self.splits: dict[int, str] = {}
        self.names: list[str] = []
        self.bare: Counter[str] = Counter()
        self.unknown = 0
        self.strange: dict[str, str] = {}
        self.empty = {split: path for (path, split), lines in lines_of.items() if not lines}
        if not lines_of:
            return
        index = _index(images)
        by_id = {key: index[path.casefold()] for key, path in ids.items() if path.casefold() in index}
        tables = {
            path for path, split in lines_of if any((path, other) in lines_of for other in SPLITS if other != split)
        }
        others = {name for path in bare for tail in _tails(path) for name in (tail, stem_of(tail))}
        source: dict[int, str] = {}
        for (path, split), lines in lines_of.items():
            if not lines:
                continue
            for line in lines if path in tables else ():
                _check_one(path, line, index, by_id, images)
            own = [_find(index, by_id, line) for line in lines]
            missing = [line for line, number in zip(lines, own, strict=True) if number is None]
            unknown = [line for line in missing if not others & {*_meant(line)}]
            loose = not split_of(PurePosixPath(path).stem) and meaning(path)
            if loose and 2 * len(unknown) >= len(lines):
                continue  # train_log.txt is no list
            if len(unknown) == len(lines):
                kind = "several images" if any(index.get(name, 0) is None for name in _meant(lines[0])) else "no image"
                self.strange[path] = f"its lines, such as {quoted(lines[0])}, name {kind}"
                continue
            self.names.append(path if PurePosixPath(path).stem == split else f"{path} ({split})")
            self.bare[split] += len(missing) - len(unknown)
            self.unknown += len(unknown)
            for number in {*own} - {None}:
                if self.splits.setdefault(number, split) != split:
                    raise UserError(f"{images[number]} is in {source[number]} and {path}: keep it in one of them")
                source.setdefault(number, path)
        if self.strange and (self.names or len(self.strange) > 1):
            path, reason = next(iter(self.strange.items()))
            raise UserError(
                f"{path} (in data.raw): {reason}; expected paths, file names or names without suffix; rename the file "
                "if it is no list of images"
            )


def _index(images: Sequence[str]) -> dict[str, int | None]:
    """The place of the image that a path, or the last parts of it, with or without suffix, means; None if several."""
    index: dict[str, int | None] = {}
    for number, image in enumerate(images):
        for name in {name for tail in _tails(image) for name in (tail, stem_of(tail))}:
            index[name] = None if name in index else number
    return index


def _tails(path: str) -> Iterable[str]:
    parts = PurePosixPath(path.casefold()).parts
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _meant(line: str) -> Iterable[str]:
    """Names that a line of a list may mean, the most likely first: it is a path, or has one in a column. In a table, a
    name with an image's suffix counts before the first column, which may have other numbers."""
    cells = columns(line)
    named = [text for text in cells if PurePosixPath(text).suffix.lower() in suffixes()]
    texts = [line, *(named if named and len(cells) > 1 else [re.split(r"[\s,;]", line)[0]])]
    for text in dict.fromkeys([*texts, *map(unquote, texts)]):
        for tail in _tails(text.replace("\\", "/").removeprefix("./")):
            yield tail
            if PurePosixPath(tail).suffix:
                yield stem_of(tail)


def _find(index: Mapping[str, int | None], by_id: Mapping[str, int | None], line: str) -> int | None:
    found = next((index[name] for name in _meant(line) if index.get(name) is not None), None)
    return by_id.get(line) if found is None else found


def _check_one(
    path: str, line: str, index: Mapping[str, int | None], by_id: Mapping[str, int | None], images: Sequence[str]
) -> None:
    """Raises UserError if the cells of a line name several images, or one by its id and another by its name."""
    found = {index[name] for cell in columns(line) for name in _meant(cell) if index.get(name) is not None}
    found |= {by_id[line]} if line in by_id else set()
    if len(found) > 1:
        both = " or ".join(images[number] for number in sorted(found)[:2])
        raise UserError(f"{path} (in data.raw): {quoted(line)} may mean {both}: write file names, in a column `image`")
