"""Read images from the raw data, which are never copied, and bring them to the network's size."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps

from mtseg.core.errors import UserError
from mtseg.core.tables import Image

# What `decode` and `open_lazily` raise for a file that Pillow cannot decode.
DECODE_ERRORS = (
    *(OSError, SyntaxError, TypeError, ValueError, RuntimeError, LookupError, EOFError, ArithmeticError),
    *(struct.error, zlib.error, PIL.Image.DecompressionBombError),
)
# Formats that Pillow lists but cannot decode, or only by starting another program: EPS runs Ghostscript.
NO_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}

DEEP = ("I", "F")  # modes of more than 8 bits per channel
PAD = 128  # grey value (0 to 255) of the padding, in training and prediction
MOST_PIXELS = 10**9  # of a file of the user's own: Pillow needs 4 bytes for each, and the area in an RLE has 32 bits
UNEXPECTED = 2**27  # of an image that has grown since it was converted; a larger one would fill the memory
AT_ONCE = 2**26  # pixels of an image that is resized at once: a copy of a larger one would take gigabytes
STRIP = 2**22  # pixels at a time of a larger one
_LIMIT = Lock()  # of Pillow's limit of pixels, which is global


def square(pixels: np.ndarray, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """An image as the network takes it in prediction: resized (bilinear) so that its longer side is `size`, and padded
    with grey at the right and the bottom.

    pixels: uint8 [height, width, 3]; of 67 million pixels or more, rounding may change a grey value by 1, as rows and
    columns are resized one after the other. Returns uint8 [size, size, 3], and height and width of the image in it.
    """
    height, width = (max(1, int(size * side / max(pixels.shape[:2]) + 0.5)) for side in pixels.shape[:2])
    if (height, width) != pixels.shape[:2]:
        if pixels.shape[0] * pixels.shape[1] > AT_ONCE:
            rows = max(1, STRIP // pixels.shape[1])
            strips = range(0, pixels.shape[0], rows)
            pixels = np.concatenate([_resized(pixels[top : top + rows], width=width) for top in strips])
        pixels = _resized(pixels[:], width=width, height=height)
    padded = np.full((size, size, 3), PAD, dtype=np.uint8)
    padded[:height, :width] = pixels[:]
    return padded, (height, width)


def _resized(pixels: np.ndarray, *, width: int, height: int | None = None) -> np.ndarray:
    size = width, height or pixels.shape[0]
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BILINEAR))


def decode(file: Path | BinaryIO, *, side: int | None = None, most: int | None = None) -> PIL.Image.Image:
    """An image in RGB, rotated by its EXIF data. With `side`, a large JPEG is decoded faster, at 1/2, 1/4 or 1/8 of its
    size, but with a shorter side of at least `side`. most: pixels of an image that is read; by default Pillow's own
    limit, 179 million, above which a file that is not one's own may be an attack. Raises FileNotFoundError, or one of
    DECODE_ERRORS."""
    with open_lazily(file, most) as opened:
        with pillow():
            if side:
                opened.draft("RGB", (side, side))
            opened.load()
        PIL.ImageOps.exif_transpose(opened, in_place=True)
        return opened if opened.mode == "RGB" else rgb(opened)


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """In RGB; transparent pixels, whose colour is not meant to be seen, become white. Raises ValueError for more than 8
    bits per channel, which Pillow would clip to white."""
    if image.mode.startswith(DEEP):
        raise ValueError(f"mode {image.mode} has more than 8 bits per channel: save it with 8 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    return PIL.Image.alpha_composite(white, image).convert("RGB")


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read; the suffix of a file does not matter."""
    PIL.Image.init()
    return tuple(sorted({*PIL.Image.OPEN} - NO_IMAGES))


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of image files, in lower case, with the dot. Pillow opens MPO, of cameras with two lenses, as JPEG."""
    PIL.Image.init()
    return frozenset(
        suffix for suffix, name in PIL.Image.registered_extensions().items() if name in {*formats(), "MPO"}
    )


def open_lazily(file: Path | BinaryIO, most: int | None) -> PIL.Image.Image:
    """An image of which only the header is read. most: see `decode`."""
    if isinstance(file, Path) and not (file.is_file() and file.stat().st_size) and file.exists():
        if not file.is_file():  # opening a FIFO would wait forever
            raise ValueError("it is not a regular file")
        raise ValueError("the file is empty")  # also those of /proc, some of which wait
    with pillow():
        return _open(file, most)


@contextmanager
def pillow() -> Iterator[None]:
    """Around calls of Pillow's plugins alone, whose errors for damaged files can be of any type, as AttributeError for
    SPIDER. Those that are not in DECODE_ERRORS become ValueError."""
    try:
        yield
    except (*DECODE_ERRORS, MemoryError):
        raise
    except Exception as error:
        raise ValueError("the file is damaged") from error


def _open(file: Path | BinaryIO, most: int | None) -> PIL.Image.Image:
    if most is None:
        return PIL.Image.open(file, formats=formats())
    with _LIMIT:  # only while the header is read
        before, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            opened = PIL.Image.open(file, formats=formats())
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = before
    if opened.width * opened.height > most:
        opened.close()
        raise PIL.Image.DecompressionBombError(
            f"it has {opened.width} x {opened.height} pixels, and at most {most} are read: cut it into parts"
        )
    return opened


def open_image(root: Path, image: Image, *, side: int | None = None) -> PIL.Image.Image:
    """The image of a record; see `decode`. Raises UserError, which names the file."""
    path, recorded = root / image.file_name, image.height * image.width
    try:
        if not image.follow_links and not os.path.realpath(path).startswith(os.path.join(os.path.realpath(root), "")):
            raise UserError(
                f"{path} is a link that leads out of {root} (data.raw): copy the file, or set data.follow_links: true "
                "if all links in it are yours"
            )
        return decode(path, side=side, most=min(max(recorded, UNEXPECTED), MOST_PIXELS))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; is data.raw the folder that was converted?") from None
    except DECODE_ERRORS as error:
        raise UserError(f"{path}: the image does not decode ({error}): fix it and run `dvc repro convert`") from None


def read_image(root: Path, image: Image) -> np.ndarray:
    """RGB pixels, uint8 [height, width, 3]. Raises UserError, which names the file."""
    pixels = np.asarray(open_image(root, image))
    if pixels.shape[:2] != (image.height, image.width):
        raise UserError(
            f"{root / image.file_name}: the image is {pixels.shape[1]} x {pixels.shape[0]}, but was converted as "
            f"{image.width} x {image.height}: run `dvc repro convert`"
        )
    return pixels
