"""Inputs of a model: files, folders, glob patterns, videos, images in memory. Each image is read when it is needed."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image

from mtseg.core.errors import UserError
from mtseg.data.images import DECODE_ERRORS, decode

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")

NO_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}  # formats that Pillow lists but cannot decode


@dataclass(frozen=True)
class Source:
    """An image that is not read yet.

    name: the path of a file relative to the given folder, `video.mp4#7` for frame 7 (from 0) of a video, `image0` for
    the first image in memory. read(): returns RGB pixels, uint8 [height, width, 3], rotated by EXIF data; raises
    UserError if the image cannot be read. path: of a file, else None.
    """

    name: str
    read: Callable[[], np.ndarray]
    path: Path | None = None


def find(source: Any) -> Iterator[Source]:
    """Yield the images of a source: the path of an image, a video or a folder (recursive, sorted by name), a pattern
    such as `shots/**/*.jpg`, a PIL image, a uint8 array [height, width, 3] (RGB) or [height, width] (grey), or an
    iterable of these. Raises UserError for any other type, and for a path without images."""
    return _numbered(source, count())


def _numbered(source: Any, numbers: Iterator[int]) -> Iterator[Source]:
    if isinstance(source, Source):
        yield source
    elif isinstance(source, str | Path):
        yield from _of_path(source)
    elif isinstance(source, PIL.Image.Image):
        yield Source(f"image{next(numbers)}", partial(_of_pil, source))
    elif isinstance(source, np.ndarray):
        name = f"image{next(numbers)}"
        yield Source(name, partial(_of_array, source, name))
    elif isinstance(source, Iterable) and not isinstance(source, bytes | bytearray):
        for one in source:
            yield from _numbered(one, numbers)
    else:
        raise UserError(
            f"cannot predict on a {type(source).__name__}: give a path, a folder, a pattern, a PIL image, a uint8 "
            "array [height, width, 3], or a list of these"
        )


def _of_path(source: str | Path) -> Iterator[Source]:
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _suffixes() and file.is_file())
        if not files:
            raise UserError(f"{path}: no image in this folder or its subfolders")
        for file in files:
            yield _of_file(file, file.relative_to(path).as_posix())
    elif path.exists():
        yield from _frames(path) if path.suffix.lower() in VIDEOS else [_of_file(path, path.name)]
    else:
        yield from _of_pattern(str(source))


def _of_pattern(pattern: str) -> Iterator[Source]:
    if not glob.has_magic(pattern):
        raise UserError(f"{pattern}: no such file or folder")
    files = sorted(Path(file) for file in glob.glob(pattern, recursive=True) if Path(file).is_file())
    if not files:
        raise UserError(f"{pattern}: no file matches this pattern")
    root = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    for file in files:
        name = file.relative_to(root).as_posix()
        if file.suffix.lower() in VIDEOS:
            yield from _frames(file, name)
        else:
            yield _of_file(file, name)


def _of_file(path: Path, name: str) -> Source:
    return Source(name, partial(_read, path), path)


def _read(path: Path) -> np.ndarray:
    try:
        return np.asarray(decode(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except DECODE_ERRORS as error:
        raise UserError(f"{path}: the image does not decode ({error})") from None


def _of_pil(image: PIL.Image.Image) -> np.ndarray:
    return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))


def _of_array(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.ndim == 3 and pixels.shape[2] != 3:
        raise UserError(
            f"{name}: an array must be uint8 [height, width, 3] in RGB, or [height, width] in grey, got "
            f"{pixels.dtype} {list(pixels.shape)}"
        )
    if not pixels.size:
        raise UserError(f"{name}: the array has no pixel")
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _frames(path: Path, name: str | None = None) -> Iterator[Source]:
    """Yield the frames of a video, decoded one at a time."""
    video = cv2.VideoCapture(str(path))
    try:
        number = 0
        while True:
            decoded, pixels = video.read()
            if not decoded:
                break
            yield Source(f"{name or path.name}#{number}", partial(cv2.cvtColor, pixels, cv2.COLOR_BGR2RGB))
            number += 1
        if not number:
            raise UserError(f"{path}: the video does not decode")
    finally:
        video.release()


@cache
def _suffixes() -> frozenset[str]:
    PIL.Image.init()
    formats = PIL.Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in formats if name in PIL.Image.OPEN and name not in NO_IMAGES)


def batches(sources: Iterable[Source], size: int) -> Iterator[Sequence[Source]]:
    """Yield lists of `size` sources; the last can be shorter."""
    batch = []
    for source in sources:
        batch.append(source)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
