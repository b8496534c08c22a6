"""Raw folders for tests: small images of coloured noise, each different, and their annotations."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtseg.core.params import Data, Task
from mtseg.core.tables import Image as Record
from mtseg.core.tables import Images
from mtseg.data.convert import convert

WIDTH, HEIGHT = 40, 30
SQUARE = [[4, 4], [14, 4], [14, 14], [4, 14]]


def tasks(**classes: Any) -> tuple[Task, ...]:
    """Tasks by name, with a list of classes or auto. Default: shape, colour and fill, with `auto`."""
    named = classes or dict.fromkeys(("shape", "colour", "fill"), "auto")
    return tuple(
        Task(
            name=name, classes=found, loss_weight=1, match_weight=1, background=True, class_weights=None, flip_pairs=()
        )
        for name, found in named.items()
    )


def draw(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), **save: Any) -> Path:
    """Noise that depends only on the last two names of the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32("/".join(path.parts[-2:]).encode())
    colours = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(colours).resize(size).save(path, **save)
    return path


def png_of_size(path: Path, width: int, height: int) -> None:
    """Write the header of a PNG, from which Pillow reads its size, without pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


def shape(label: Any, points: Any = SQUARE, **keys: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}} | keys


def labelme(folder: Path, name: str, *shapes: dict[str, Any], **keys: Any) -> Path:
    """Write an image and its .json; `keys` overrides values of the .json."""
    path = draw(folder / f"{name}.png")
    raw = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": path.name, "imageData": None}
    path.with_suffix(".json").write_text(json.dumps(raw | {"imageHeight": HEIGHT, "imageWidth": WIDTH} | keys))
    return path.with_suffix(".json")


def coco(folder: Path, split: str, annotations: list[dict[str, Any]], count: int = 2, names: Any = ("a", "b")) -> Path:
    """Write annotations/SPLIT.json, with images images/SPLIT/N.png and categories, both with ids from 1."""
    images = []
    for number in range(1, count + 1):
        path = draw(folder / "images" / split / f"{number}.png")
        images.append({"id": number, "file_name": path.name, "height": HEIGHT, "width": WIDTH})
    raw = {
        "images": images,
        "annotations": [{"id": number} | annotation for number, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
    }
    path = folder / "annotations" / f"{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw))
    return path


def annotation(image: int = 1, category: int = 1, **keys: Any) -> dict[str, Any]:
    flat = [float(value) for point in SQUARE for value in point]
    return {"image_id": image, "category_id": category, "segmentation": [flat], "iscrowd": 0} | keys


def converted(
    raw: Path,
    tasks: tuple[Task, ...],
    *,
    format: str = "labelme",
    on_error: str = "error",
    mapping: Path | None = None,
    flatten: bool = False,
    ignored: tuple[str, ...] = (),
    follow_links: bool = False,
) -> dict[str, Record]:
    """Convert into the folder `coco` next to the raw folder; returns the images of both splits by file name."""
    out = raw.parent / "coco"
    settings = {
        "format": format,
        "mapping": mapping,
        "on_error": on_error,
        "flatten": flatten,
        "ignore_shapes": ignored,
        "follow_links": follow_links,
    }
    convert(Data(raw=raw, split=0.5, share=1, seed=0, **settings), tasks, out, seed=0)
    return {image.file_name: image for split in ("train", "val") for image in Images.read(out / f"{split}.parquet")}


def report(raw: Path) -> dict[str, Any]:
    return json.loads((raw.parent / "coco" / "report.json").read_bytes())
