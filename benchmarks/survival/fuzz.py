"""Inputs that are mutated at random: images, the JSON of annotations, params.yaml."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
import PIL.Image
from ruamel.yaml import YAML

from benchmarks.survival.child import run
from benchmarks.survival.project import Project, set_params
from mtseg.core import masks
from mtseg.core.errors import UserError
from mtseg.core.params import load
from mtseg.data import images as reading
from mtseg.data import manifest
from mtseg.data.loader import Mapper, prediction_batches

AT_ONCE = 9  # mutated inputs of a run
ENCODED = tuple("AVIF BMP DDS GIF ICNS ICO JPEG JPEG2000 PCX PNG PPM SGI TGA TIFF WEBP".split())
VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -1e308, 0.5, "", "x", "x" * 10_000, "\x1b[2J", "a\nb",
    "\u00e9", "../..", "/dev/zero", "nan", "1e999", [], {}, [[]], [None], {"a": {}}, [1, "a"], float("nan"),
    float("inf"), "\udc80",
)  # fmt: skip
TEXTS = (
    "2024-13-45", "9" * 5000, "0x" + "f" * 5000, "1e999", ".nan", "!!int x", "!!python/object:os.system x", "[", "{",
    "*a", "&a [*a]", "'", "- -", "? x", "|", "2001-01-01", "0o7", "1_000", "~", "@", "%", "`", "\t", "[" * 300,
)  # fmt: skip


def images(project: Project, seeds: Sequence[int]) -> str | None:
    """Before `convert`, with both values of on_error, and after it, for the loader."""
    draw = random.Random(f"images {seeds[0]}")
    with project.copy() as folder:
        raw = [path for path in sorted(folder.glob("data/raw/**/*")) if path.suffix in reading.suffixes()]
        for path in draw.sample(raw, len(seeds)):
            path.write_bytes(mutated_bytes(draw, encoded(draw, path)))
        if wrong := run(read_images, folder).fault():
            return f"loader: {wrong}"
        for on_error in ("skip", "error"):
            set_params(folder, {"data": {"on_error": on_error}})
            if wrong := run("convert", folder).fault():
                return f"convert: {wrong}"
    return None


def read_images() -> None:
    params, data = load(), manifest.load(Path("data/manifest.json"))
    mapper = Mapper(data.tasks(params.tasks), params.input, root=params.data.raw, training=True)
    for split in data.splits:
        for image in data.images(split):
            try:
                list(prediction_batches([image], mapper, batch=1, workers=0))
            except UserError as error:
                print(error)


def encoded(draw: random.Random, path: Path) -> bytes:
    """The image in a format at random, under its own name: the suffix does not count."""
    name = draw.choice([name for name in ENCODED if name in PIL.Image.SAVE])
    with PIL.Image.open(path) as image:
        image.convert("P" if name == "GIF" else "RGBA" if name == "ICNS" else "RGB").save(file := io.BytesIO(), name)
    return file.getvalue()


def mutated_bytes(draw: random.Random, content: bytes) -> bytes:
    content, size = bytearray(content), len(content)
    for _ in range(draw.choice((1, 1, 2, 5, 30))):
        at, length = min(draw.randrange(size), draw.choice((32, size))), draw.choice((1, 1, 2, 4, 50))
        kind = draw.randrange(6)
        if kind == 0:
            content[at : at + length] = draw.randbytes(length)
        elif kind == 1:
            content[at : at + length] = bytes([draw.choice((0, 255, 127, 128))]) * length
        elif kind == 2:
            del content[at : at + length]
        elif kind == 3:
            content[at:at] = content[at : at + length]
        elif kind == 4 and draw.random() < 0.3:
            del content[at:]
        else:
            content[at : at + 1] = bytes([draw.randrange(256)])
    return bytes(content)


def annotations(project: Project, seeds: Sequence[int]) -> str | None:
    """A node, or bytes of XML, in each of several annotation files, of one of the formats in turn."""
    draw = random.Random(f"annotations {seeds[0]}")
    name = list(FORMATS)[seeds[0] // AT_ONCE % len(FORMATS)]
    with project.copy() as folder:
        files = sorted(folder.glob("data/raw/**/*.json"))
        changed = draw.sample(files, len(seeds))
        for path in files:
            value = FORMATS[name](draw, json.loads(path.read_text()))
            if isinstance(value, str):
                path.unlink()
                content = value.encode()
                path.with_suffix(".xml").write_bytes(mutated_bytes(draw, content) if path in changed else content)
            else:
                value = mutated_node(draw, value) if path in changed else value
                path.write_text(json.dumps(value), errors="surrogatepass")
        for on_error in ("skip", "error"):
            set_params(folder, {"data": {"format": name, "on_error": on_error}})
            outcome = run("convert", folder)
            if wrong := outcome.fault() or (not outcome.code and run("register", folder).fault()):
                return wrong
    return None


def as_coco(draw: random.Random, image: dict[str, Any]) -> dict[str, Any]:
    """The outlines as polygons, or as one of both kinds of RLE."""
    height, width, shapes = image["imageHeight"], image["imageWidth"], image["shapes"]
    names = sorted({shape["label"] for shape in shapes})
    found = []
    for number, shape in enumerate(shapes, start=1):
        own = [[float(value) for point in shape["points"] for value in point]]
        kind = draw.randrange(3)
        if kind:
            own = masks.rle(own, height, width)
        if kind == 2:
            drawn = masks.mask(own, height, width).T.ravel()  # runs of 0 and 1 in turn, along columns
            ends = np.flatnonzero(np.diff(drawn, prepend=0, append=2))
            own["counts"] = np.diff(ends, prepend=0).tolist()
        found.append({"id": number, "image_id": 1, "category_id": names.index(shape["label"]), "segmentation": own})
    return {
        "images": [{"id": 1, "file_name": image["imagePath"], "height": height, "width": width}],
        "annotations": found,
        "categories": [{"id": place, "name": name} for place, name in enumerate(names)],
    }


def as_label_studio(draw: random.Random, image: dict[str, Any]) -> list[dict[str, Any]]:
    sides = np.array([image["imageWidth"], image["imageHeight"]])
    regions = [
        {
            "id": str(number), "type": "polygonlabels", "original_width": int(sides[0]),
            "original_height": int(sides[1]), "image_rotation": 0,
            "value": {"points": (100 * np.array(shape["points"]) / sides).tolist(), "polygonlabels": [shape["label"]]},
        }
        for number, shape in enumerate(image["shapes"])
    ]  # fmt: skip
    return [{"id": 1, "data": {"image": image["imagePath"]}, "annotations": [{"id": 1, "result": regions}]}]


def as_cvat(draw: random.Random, image: dict[str, Any]) -> str:
    size = {"width": str(image["imageWidth"]), "height": str(image["imageHeight"])}
    root = Element("annotations")
    parent = SubElement(root, "image", {"id": "0", "name": image["imagePath"], **size})
    for shape in image["shapes"]:
        points = ";".join(f"{x},{y}" for x, y in shape["points"])
        SubElement(parent, "polygon", {"label": shape["label"], "points": points})
    return tostring(root, encoding="unicode")


FORMATS = {
    "labelme": lambda draw, image: image, "coco": as_coco, "label_studio": as_label_studio, "cvat": as_cvat,
}  # fmt: skip


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a tree."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [pair for key in keys for pair in ((value, key), *nodes(value[key]))]


def mutated_node(draw: random.Random, value: Any) -> Any:
    container, key = draw.choice(nodes(value))
    kind = draw.randrange(8)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[f"{key}{draw.choice('xé ')}"] = container.pop(key)
    elif kind == 2 and isinstance(container, list):
        container.insert(key, container[key])
    elif kind == 3 and isinstance(container[key], int | float):
        container[key] *= draw.choice((-1, 0, 1e6, 1e300))
    else:
        container[key] = draw.choice(VALUES)
    return value


def params(project: Project, seeds: Sequence[int]) -> str | None:
    """A key of params.yaml, which a stage reads."""
    with project.copy() as folder:
        for seed in seeds:
            draw = random.Random(f"params {seed}")
            write_params(draw, project.folder / "params.yaml", folder / "params.yaml")
            if wrong := run(draw.choice(("convert", "evaluate", "filter")), folder).fault():
                return f"input {seed}: {wrong}"
    return None


def write_params(draw: random.Random, source: Path, target: Path) -> None:
    """params.yaml with a mutation: of a node, or of a scalar's text."""
    tree = YAML(typ="safe").load(source)
    marker = None
    if draw.random() < 0.4:
        container, key = draw.choice([pair for pair in nodes(tree) if not isinstance(pair[0][pair[1]], dict | list)])
        container[key], marker = "MARKER", draw.choice(TEXTS)
    else:
        try:
            mutated_node(draw, tree)
        except OverflowError:  # 10**30 times 1e300
            return
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.dump(tree, text := io.StringIO())
    written = text.getvalue() if marker is None else text.getvalue().replace("MARKER", marker)
    target.write_bytes(written.encode(errors="surrogatepass"))


KINDS = {"images": images, "annotations": annotations, "params": params}
