"""Read images from the raw data; they are never copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from mtseg.core.errors import UserError
from mtseg.core.tables import Image

# exceptions of Pillow for an image that it cannot decode
DECODE_ERRORS = (OSError, SyntaxError, TypeError, ValueError, PIL.Image.DecompressionBombError)


def open_image(root: Path, image: Image, *, side: int | None = None) -> PIL.Image.Image:
    """The image in RGB, rotated by its EXIF data. With `side`, a large JPEG is decoded faster, at 1/2, 1/4 or 1/8 of
    its size, but with a shorter side of at least `side`. Raises UserError, which names the file."""
    path = root / image.file_name
    try:
        with PIL.Image.open(path) as opened:
            if side:
                opened.draft("RGB", (side, side))
            return PIL.ImageOps.exif_transpose(opened).convert("RGB")
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
