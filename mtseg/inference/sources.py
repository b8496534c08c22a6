"""Inputs of a model: files, folders, glob patterns, videos, images in memory. Each image is read when it is needed."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import PIL.Image

from mtseg.core.errors import UserError
from mtseg.data.files import LOST
from mtseg.data.images import DECODE_ERRORS, MOST_PIXELS, decode, rgb, suffixes
from mtseg.inference import overlay_files

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


@dataclass(frozen=True)
class Source:
    """An image that is not read yet.

    name: the path of a file relative to the given folder, `video.mp4#7` for frame 7 (from 0) of a video, `image0` for
    the first image in memory. read(): returns RGB pixels, uint8 [height, width, 3], rotated by EXIF data; raises
    UserError if the image cannot be read, or has more than MOST_PIXELS. path: of a file, else None.
    """

    name: str
    read: Callable[[], np.ndarray]
    path: Path | None = None

    def release(self) -> None:
        """Free the pixels of a frame of a video, which `read` then decodes again."""
        if isinstance(self.read, Frame):
            self.read.release()

    def open(self) -> np.ndarray | Pixels:
        """The same pixels, to be read in parts: of a file without a copy of the whole image."""
        return self.read() if self.path is None else Pixels(_decoded(self.path))


class Pixels:
    """A decoded image of which parts are read, `pixels[rows]` or `pixels[rows, columns]`, as those of an array."""

    def __init__(self, image: PIL.Image.Image):
        self.image, self.shape = image, (image.height, image.width, 3)

    def __getitem__(self, part: slice | tuple[slice, slice]) -> np.ndarray:
        rows, columns = part if isinstance(part, tuple) else (part, slice(None))
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        return np.asarray(self.image.crop((left, top, right, bottom)))


@dataclass(frozen=True)
class File:
    """An image or a video on disk. name: of its image (see `Source`), or before `#` of its frames."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS

    def images(self) -> Iterator[Source]:
        if self.is_video:
            return _frames(self.path, self.name)
        return iter([Source(self.name, partial(_read, self.path), self.path)])

    def count(self) -> int:
        """Number of images; of a video what its header states, which is not always exact."""
        if not self.is_video or not _is_utf8(self.path):
            return 1
        video = cv2.VideoCapture(str(self.path))
        try:
            return max(1, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
        finally:
            video.release()


def find(source: Any) -> Iterator[Source]:
    """Yield the images of a source: the path of an image, a video or a folder (of both, recursive, sorted by name), a
    pattern such as `shots/**/*.jpg`, a PIL image, a uint8 array [height, width, 3] (RGB), [height, width, 4] (RGBA,
    composited on white) or [height, width] (grey), or an iterable of these. Raises UserError for any other type, and
    for a path without images."""
    return _numbered(source, count())


def _numbered(source: Any, numbers: Iterator[int]) -> Iterator[Source]:
    if isinstance(source, Source):
        yield source
    elif isinstance(source, File):
        yield from source.images()
    elif isinstance(source, str | Path):
        yield from _numbered(files(source), numbers)
    elif isinstance(source, PIL.Image.Image):
        name = f"image{next(numbers)}"
        yield Source(name, partial(_of_pil, source, name))
    elif isinstance(source, np.ndarray):
        name = f"image{next(numbers)}"
        yield Source(name, partial(_of_array, source, name))
    elif (
        isinstance(source, Iterable)
        and not isinstance(source, bytes | bytearray | Mapping)
        and getattr(source, "ndim", 1) == 1
    ):
        for one in source:
            yield from _numbered(one, numbers)
    else:
        raise UserError(
            f"cannot predict on a {type(source).__name__}: give a path, a folder, a pattern, a PIL image, a NumPy "
            "array (uint8 [height, width, 3]), or a list of these"
        )


def files(source: str | Path) -> list[File]:
    """The images and videos of a path of an image, a video or a folder, or of a pattern; see `find`. None is decoded.
    Images that mtseg has drawn are left out, unless the path is of one. Raises UserError when there is none."""
    if not str(source).strip():  # Path("") is the current folder
        raise UserError("a source is empty: give the path of an image, a video or a folder; `.` is the current one")
    path = Path(source)
    if path.is_dir():
        known = suffixes().union(VIDEOS)
        # a link to nowhere, as DVC leaves them when its cache is cleaned, is found too: reading it is an error
        # Path.rglob would leave out a folder that cannot be read, without a word
        inside = (Path(folder, name) for folder, _, names in os.walk(path, onerror=_raise) for name in names)
        of_known = (file for file in inside if file.suffix.lower() in known)
        found = (file for file in of_known if file.is_file() or not file.exists())
        sought = _undrawn(found, f"{path}: no image and no video in this folder or its subfolders")
        return [File(file, file.relative_to(path).as_posix()) for file in sought]
    if path.exists():
        if not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path} is neither a file nor a folder")
        return [File(path, path.name)]
    return _of_pattern(str(source))


def _raise(error: OSError) -> None:
    name = Path(error.filename).name
    if not (name.startswith(".") or name == LOST):  # of the system, not of the user
        raise error


def _of_pattern(pattern: str) -> list[File]:
    if "://" in pattern:
        raise UserError(f"{pattern} is a URL: download it first, and give the path of the file")
    if not glob.has_magic(pattern):
        raise UserError(f"{pattern}: no such file or folder")
    matches = (Path(file) for file in glob.glob(pattern, recursive=True) if Path(file).is_file())
    found = _undrawn(matches, f"{pattern}: no file matches this pattern")
    root = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    names = (file.relative_to(root) for file in found)
    return [
        File(file, file.name if ".." in name.parts else name.as_posix())
        for file, name in zip(found, names, strict=True)
    ]


def _undrawn(found: Iterable[Path], none: str) -> list[Path]:
    """Sorted, without the images that mtseg has drawn. none: the error where none is left."""
    found = sorted(found)
    kept = [path for path in found if not overlay_files.is_overlay(path)]
    if not kept:
        raise UserError(none + ", but images that mtseg has drawn" * bool(found))
    return kept


def _read(path: Path) -> np.ndarray:
    return np.asarray(_decoded(path))


def _decoded(path: Path) -> PIL.Image.Image:
    try:
        return decode(path, most=MOST_PIXELS)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except DECODE_ERRORS as error:
        raise UserError(f"{path}: the image does not decode ({error})") from None


def _of_pil(image: PIL.Image.Image, name: str) -> np.ndarray:
    try:
        return np.asarray(rgb(PIL.ImageOps.exif_transpose(image)))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def _of_array(pixels: np.ndarray, name: str) -> np.ndarray:
    if not pixels.size:
        raise UserError(f"{name}: the array has no pixel")
    if pixels.dtype != np.uint8:
        raise UserError(f"{name}: an array must be uint8, got {pixels.dtype}: {_fix(pixels.dtype)}")
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or channels not in (1, 3, 4):
        fix = ": give pixels.transpose(1, 2, 0)" if pixels.ndim == 3 and len(pixels) in (1, 3, 4) else ""
        fix = ": of several images, give list(pixels)" if pixels.ndim == 4 else fix
        raise UserError(
            f"{name}: an array must be [height, width, 3] in RGB, [height, width, 4] in RGBA, or [height, width] in "
            f"grey, got {list(pixels.shape)}{fix}"
        )
    if channels == 4:
        return np.asarray(rgb(PIL.Image.fromarray(pixels)))
    return pixels if channels == 3 else np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)


def _fix(kind: np.dtype) -> str:
    if np.issubdtype(kind, np.floating):
        return "for values from 0 to 1, give (255 * pixels).round().astype('uint8')"
    if kind == np.uint16:
        return "for values up to 65535, give (pixels // 257).astype('uint8')"
    return "scale the values to 0 to 255, and give pixels.astype('uint8')"


def _frames(path: Path, name: str) -> Iterator[Source]:
    """The frames of a video, each decoded as it is reached; of a video that does not decode one that raises the
    error."""
    if not _is_utf8(path):
        yield Source(name, partial(_broken, path), path)
        return
    video, film = cv2.VideoCapture(str(path)), Film(path)
    try:
        number = 0
        while True:
            decoded, pixels = video.read()
            if not decoded:
                break
            yield Source(f"{name}#{number}", Frame(film, number, pixels))
            number += 1
        if not number:
            yield Source(name, partial(_broken, path), path)
    finally:
        video.release()


class Frame:
    """Reads a frame of a video. Until `release` its pixels are in memory, then the film decodes it again."""

    def __init__(self, film: Film, number: int, pixels: np.ndarray):
        self.film, self.number, self.pixels = film, number, pixels  # in BGR

    def __call__(self) -> np.ndarray:
        pixels = self.film.decode(self.number) if self.pixels is None else self.pixels
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

    def release(self) -> None:
        self.pixels = None


class Film:
    """Decodes single frames of a video: those in ascending order in one pass, an earlier one from the start, as a seek
    is not exact with every codec."""

    def __init__(self, path: Path):
        self.path, self.lock = path, Lock()
        self.video, self.next = None, 0

    def __reduce__(self) -> tuple:
        return Film, (self.path,)

    def decode(self, number: int) -> np.ndarray:
        """In BGR. Raises UserError if the video does not decode."""
        with self.lock:
            if self.video is None or number < self.next:
                self.video, self.next = cv2.VideoCapture(str(self.path)), 0
            for _ in range(number - self.next):
                self.video.grab()
            decoded, pixels = self.video.read()
            self.next = number + 1
        return pixels if decoded else _broken(self.path)


def _is_utf8(path: Path) -> bool:
    """Whether OpenCV can be given a path: any other ends the process."""
    return str(path) == str(path).encode(errors="ignore").decode()


def _broken(path: Path) -> np.ndarray:
    why = "" if _is_utf8(path) else ", as its path is not UTF-8: rename it"
    raise UserError(f"{path}: the video does not decode{why}")


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
