"""Read images from the raw data, which are never copied, and bring them to the network's size."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps

from mtseg.core.errors import UserError
from mtseg.core.tables import Image

# exceptions of Pillow for an image that it cannot decode
DECODE_ERRORS = (OSError, SyntaxError, TypeError, ValueError, PIL.Image.DecompressionBombError)


PAD = 128  # grey value (0 to 255) of the padding, in training and prediction


def square(pixels: np.ndarray, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """An image as the network takes it in prediction: resized (bilinear) so that its longer side is `size`, and padded
    with grey at the right and the bottom.

    pixels: uint8 [height, width, 3]. Returns uint8 [size, size, 3], and height and width of the image in it.
    """
    height, width = (max(1, int(size * side / max(pixels.shape[:2]) + 0.5)) for side in pixels.shape[:2])
    if (height, width) != pixels.shape[:2]:
        pixels = np.asarray(PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BILINEAR))
    padded = np.full((size, size, 3), PAD, dtype=np.uint8)
    padded[:height, :width] = pixels
    return padded, (height, width)


def decode(file: Path | BinaryIO, *, side: int | None = None) -> PIL.Image.Image:
    """An image in RGB, rotated by its EXIF data. With `side`, a large JPEG is decoded faster, at 1/2, 1/4 or 1/8 of its
    size, but with a shorter side of at least `side`. Raises FileNotFoundError, or one of DECODE_ERRORS."""
    with PIL.Image.open(file) as opened:
        if side:
            opened.draft("RGB", (side, side))
        return PIL.ImageOps.exif_transpose(opened).convert("RGB")


def open_image(root: Path, image: Image, *, side: int | None = None) -> PIL.Image.Image:
    """The image of a record; see `decode`. Raises UserError, which names the file."""
    path = root / image.file_name
    try:
        return decode(path, side=side)
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
