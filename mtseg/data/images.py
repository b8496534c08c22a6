"""The pixels of an image, which stay where the raw data has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from mtseg.core.errors import UserError
from mtseg.core.tables import Image

# what Pillow raises on an image that it cannot or will not decode
DECODE_ERRORS = (OSError, SyntaxError, TypeError, ValueError, PIL.Image.DecompressionBombError)


def open_image(root: Path, image: Image, *, side: int | None = None) -> PIL.Image.Image:
    """The image in RGB, rotated as its EXIF data says. side: what its shorter side need not exceed; a large JPEG is
    then decoded, faster, at a half, a quarter or an eighth. Raises UserError naming the file."""
    path = root / image.file_name
    try:
        with PIL.Image.open(path) as opened:
            if side:
                opened.draft("RGB", (side, side))
            return PIL.ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; is data.raw the folder that was converted?") from None
    except DECODE_ERRORS as error:
        raise UserError(f"{path}: the image does not decode ({error}); fix or remove it and run convert") from None


def read_image(root: Path, image: Image) -> np.ndarray:
    """RGB pixels uint8 [height, width, 3]. Raises UserError naming the file."""
    pixels = np.asarray(open_image(root, image))
    if pixels.shape[:2] != (image.height, image.width):
        raise UserError(
            f"{root / image.file_name}: the image is {pixels.shape[1]} x {pixels.shape[0]}, its record says "
            f"{image.width} x {image.height}; run convert again"
        )
    return pixels
