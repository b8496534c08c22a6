"""Every reader, with data sets that hypothesis makes up: what goes in comes out the same, or is reported."""

import base64
import importlib
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mtseg.core.masks import mask
from mtseg.data import formats
from mtseg.data.labels import Vocabulary
from mtseg.inference.export.label_studio import _pack

CLASSES, COLOURS = ("car", "büs", "a & <b>"), ("red", "2", "true")
# of which it is another layout
FORMAT = {"voc": "masks", "paco": "coco", "dentex": "coco", "attr_eomt": "coco", "sidecars": "coco", "roboflow": "coco"}
ONE_TASK = {"yolo", "masks"}  # formats without attributes
NAMES = st.text(alphabet="aé日 1#%+&'_-", min_size=1, max_size=6).filter(lambda name: name.strip() == name)


@dataclass(frozen=True)
class Object:
    label: str
    colour: str
    box: tuple[int, int, int, int]  # left, top, right, bottom: the edges of pixels
    as_mask: bool


@dataclass(frozen=True)
class Scene:
    """Images by path, in the folder of their split."""

    size: tuple[int, int]
    images: dict[str, list[Object]]


@st.composite
def scenes(draw):
    size = draw(st.integers(6, 20)), draw(st.integers(6, 20))
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique_by=str.casefold))
    images = {}
    for name in names:
        boxes = draw(st.lists(st.tuples(*[st.integers(0, side - 2) for side in size[::-1]]), max_size=3, unique=True))
        images[f"{draw(st.sampled_from(['train', 'val']))}/{name}.png"] = [
            Object(
                draw(st.sampled_from(CLASSES)),
                draw(st.sampled_from(COLOURS)),
                (x, y, x + 2, y + 2),
                draw(st.booleans()),
            )
            for x, y in boxes
        ]
    return Scene(size, images)


def pixels(item, size):
    left, top, right, bottom = item.box
    drawn = np.zeros(size, np.uint8)
    drawn[top:bottom, left:right] = 1
    return drawn


def corners(item):
    left, top, right, bottom = item.box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def png(array):
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, "png")
    return file.getvalue()


def labelme(scene):
    for name, objects in scene.images.items():
        shapes = []
        for item in objects:
            left, top, right, bottom = item.box
            shape = {"label": item.label, "attributes": {"colour": item.colour}, "points": corners(item)}
            if item.as_mask:
                shape |= {"shape_type": "mask", "points": [[left, top], [right - 1, bottom - 1]]}
                shape["mask"] = base64.b64encode(png(np.full((bottom - top, right - left), 255, np.uint8))).decode()
            shapes.append(shape)
        raw = {
            "imagePath": Path(name).name,
            "imageHeight": scene.size[0],
            "imageWidth": scene.size[1],
            "shapes": shapes,
        }
        yield name.replace(".png", ".json"), raw
        yield name, None


def coco(scene):
    annotations = []
    for number, (_, objects) in enumerate(scene.images.items(), start=1):
        for item in objects:
            outline = [[value for point in corners(item) for value in point]]
            if item.as_mask:
                packed = coco_mask.encode(np.asfortranarray(pixels(item, scene.size)))
                outline = {"size": [*scene.size], "counts": packed["counts"].decode()}
            annotations.append({"image_id": number, "category_id": CLASSES.index(item.label), "segmentation": outline})
            annotations[-1] |= {"id": len(annotations), "attributes": {"colour": item.colour}}
    images = [
        {"id": number, "file_name": name, "height": scene.size[0], "width": scene.size[1]}
        for number, name in enumerate(scene.images, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    yield "annotations/all.json", {"images": images, "annotations": annotations, "categories": categories}
    yield from ((f"images/{name}", None) for name in scene.images)


def changed(scene, change):
    """COCO's files; `change` gets the contents of the .json, its annotations, and the place of each one's colour."""
    (name, raw), *images = coco(scene)
    places = [COLOURS.index(item["attributes"].pop("colour")) for item in raw["annotations"]]
    for item in raw["annotations"]:
        del item["attributes"]
    yield from change(raw, raw["annotations"], places) or [(name, raw)]
    yield from images


def paco(scene):
    def change(raw, annotations, places):
        raw["attributes"] = [{"id": 7 + number, "name": name} for number, name in enumerate(COLOURS)]
        raw["attr_type_to_attr_idxs"] = {"colour": [7, 8, 9]}
        for item, place in zip(annotations, places, strict=True):
            item["attribute_ids"] = [7 + place]

    return changed(scene, change)


def dentex(scene):
    def change(raw, annotations, places):
        raw["categories_1"] = raw.pop("categories")
        raw["categories_2"] = [{"id": number, "name": name} for number, name in enumerate(COLOURS)]
        for item, place in zip(annotations, places, strict=True):
            item |= {"category_id_1": item.pop("category_id"), "category_id_2": place}

    return changed(scene, change)


def attr_eomt(scene):
    def change(raw, annotations, places):
        categories = [{"id": 5 - number, "name": name} for number, name in enumerate(COLOURS)]
        raw["attributes"] = [{"name": "colour", "categories": categories}]
        for item, place in zip(annotations, places, strict=True):
            item["attributes"] = {"colour": 5 - place}

    return changed(scene, change)


def sidecars(scene):
    def change(raw, annotations, places):
        values = zip(annotations, places, strict=True)
        yield "annotations/all.json", raw
        yield "attributes.yaml", json.dumps({"attributes": [{"name": "colour", "categories": COLOURS}]})
        yield "attributes/all.json", {str(item["id"]): {"colour": COLOURS[place]} for item, place in values}

    return changed(scene, change)


def roboflow(scene):
    """A file for each split, and the images beside it."""
    for split in sorted({name.split("/")[0] for name in scene.images}):
        own = {name.split("/")[1]: objects for name, objects in scene.images.items() if name.startswith(split)}
        (_, raw), *_ = coco(Scene(scene.size, own))
        yield f"{split}/_annotations.coco.json", raw
        yield from ((f"{split}/{name}", None) for name in own)


def cvat(scene):
    root = ElementTree.Element("annotations")
    for name, objects in scene.images.items():
        image = ElementTree.SubElement(root, "image", name=name, height=str(scene.size[0]), width=str(scene.size[1]))
        for item in objects:
            left, top, right, bottom = item.box
            if item.as_mask:
                keys = {"rle": f"0, {(right - left) * (bottom - top)}", "left": left, "top": top}
                keys |= {"width": right - left, "height": bottom - top}
            else:
                keys = {"points": ";".join(f"{x},{y}" for x, y in corners(item))}
            shape = ElementTree.SubElement(image, "mask" if item.as_mask else "polygon", label=item.label)
            shape.attrib |= {key: str(value) for key, value in keys.items()}
            ElementTree.SubElement(shape, "attribute", name="colour").text = item.colour
        yield f"images/{name}", None
    yield "annotations.xml", root


def label_studio(scene):
    tasks = []
    for name, objects in scene.images.items():
        results = []
        for number, item in enumerate(objects):
            shared = {"id": str(number), "original_height": scene.size[0], "original_width": scene.size[1]}
            value = {"polygonlabels": [item.label]}
            value["points"] = [[100 * x / scene.size[1], 100 * y / scene.size[0]] for x, y in corners(item)]
            if item.as_mask:
                black = np.zeros((*scene.size, 3), np.uint8)
                drawn = png(np.dstack([black, 255 * pixels(item, scene.size)]))
                value = {
                    "bitmasklabels": [item.label],
                    "imageDataURL": f"data:image/png;base64,{base64.b64encode(drawn).decode()}",
                }
                if number % 2:
                    packed = _pack(coco_mask.encode(np.asfortranarray(pixels(item, scene.size))))
                    value = {"brushlabels": [item.label], "format": "rle", "rle": packed}
            results.append(shared | {"from_name": "label", "value": value})
            results.append(shared | {"from_name": "colour", "value": {"choices": [item.colour]}})
        tasks.append({"data": {"image": f"/data/local-files/?d={quote(name)}"}, "annotations": [{"result": results}]})
        yield name, None
    yield "export.json", tasks


def yolo(scene):
    for name, objects in scene.images.items():
        lines = []
        for item in objects:
            flat = [
                value / side for point in corners(item) for value, side in zip(point, scene.size[::-1], strict=True)
            ]
            lines.append(" ".join(map(str, [CLASSES.index(item.label), *flat])))
        yield f"labels/{name[:-4]}.txt", "\n".join(lines)
        yield f"images/{name}", None
    splits = {name.split("/")[0] for name in scene.images}
    yield "data.yaml", json.dumps({"names": CLASSES} | {split: f"images/{split}" for split in splits})


def masks(scene):
    for name, objects in scene.images.items():
        for number, item in enumerate(objects):
            yield f"masks/{name[:-4]}/{item.label}_{number}.png", png(255 * pixels(item, scene.size))
        yield f"images/{name}", None


def voc(scene):
    for name, objects in scene.images.items():
        instances, classes = voc_indices(objects, scene.size)
        yield f"SegmentationObject/{name}", png(instances.astype(np.uint16) * 300)
        yield f"SegmentationClass/{name}", png(classes)
        yield f"images/{name}", None
    yield "class_names.txt", "\n".join(["background", *CLASSES])


def voc_indices(objects, size):
    """Later objects cover earlier ones."""
    instances, classes = np.zeros((2, *size), dtype=np.uint8)
    for number, item in enumerate(objects, start=1):
        instances[pixels(item, size) > 0] = number
        classes[pixels(item, size) > 0] = 1 + CLASSES.index(item.label)
    return instances, classes


def write(folder, scene, files):
    for name, content in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            PIL.Image.new("RGB", scene.size[::-1]).save(path)
        elif isinstance(content, ElementTree.Element):
            ElementTree.ElementTree(content).write(path, encoding="utf-8")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            path.write_text(text, encoding="utf-8")


def read(format, folder):
    format = FORMAT.get(format, format)
    classes = {"kind": CLASSES} if format in ONE_TASK else {"kind": CLASSES, "colour": COLOURS}
    return importlib.import_module(f"mtseg.data.formats.{format}").read(folder, Vocabulary(classes))


def outcome(data, scene):
    """Split, and labels and pixels of the objects, by the path of the image below images/."""
    found = {}
    for image in data.images:
        areas = [mask(item.segmentation, *scene.size).tobytes(order="C") for item in image.objects]
        labels = [tuple(item.labels.values()) for item in image.objects]
        own = sorted((*names, area) for names, area in zip(labels, areas, strict=True))
        found[image.file_name.removeprefix("images/")] = (image.split, own)
    return found


def expected(format, scene):
    found = {}
    for name, objects in scene.images.items():
        if format == "voc":
            instances, _ = voc_indices(objects, scene.size)
            seen = [(item.label, instances == number) for number, item in enumerate(objects, start=1)]
            own = sorted((label, area.astype(np.uint8).tobytes()) for label, area in seen if area.any())
            found[name] = (name.split("/")[0], own)
        elif objects or format != "masks":  # an image without masks is not used there
            labels = [(item.label,) if format in ONE_TASK else (item.label, item.colour) for item in objects]
            drawn = [pixels(item, scene.size).tobytes() for item in objects]
            found[name] = (name.split("/")[0], sorted((*own, area) for own, area in zip(labels, drawn, strict=True)))
    return found


WRITERS = {
    write.__name__: write
    for write in (
        *(coco, paco, dentex, attr_eomt, sidecars, roboflow),
        *(cvat, label_studio, labelme, masks, voc, yolo),
    )
}
SETTINGS = settings(deadline=None, derandomize=True, max_examples=12, suppress_health_check=list(HealthCheck))


def test_every_format_has_a_writer_here():
    assert {FORMAT.get(name, name) for name in WRITERS} == {*formats.FORMATS}


@pytest.mark.parametrize("format", WRITERS)
@SETTINGS
@given(scene=scenes())
def test_what_goes_in_comes_out_the_same(format, scene):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), scene, WRITERS[format](scene))
        data = read(format, Path(folder))
        notes = [text for text in data.notes if "four corners" not in text]  # YOLO's quadrilaterals may be boxes
        assert not data.faults and not notes
        assert outcome(data, scene) == expected(format, scene)
        assert sum(data.unused.values()) == len(scene.images) - len(expected(format, scene))
        if format != "masks" or data.images:
            assert formats.recognise(Path(folder))[0] == FORMAT.get(format, format)


@pytest.mark.parametrize("format", WRITERS)
@settings(SETTINGS, max_examples=25)
@given(scene=scenes(), source=st.data())
def test_what_is_damaged_is_reported(format, scene, source):
    files = list(WRITERS[format](scene))
    number = source.draw(st.integers(0, len(files) - 1))
    name, content = files[number]
    if not isinstance(content, ElementTree.Element):
        content = json.loads(json.dumps(content)) if isinstance(content, dict | list) else content
    files[number] = (name, damaged(content, source.draw))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), scene, files)
        data = read(format, Path(folder))
    reported = data.faults or data.notes or sum(data.unused.values()) > len(scene.images) - len(expected(format, scene))
    assert reported or outcome(data, scene) == expected(format, scene)


def damaged(content, draw):
    """One value deeper in the content, replaced by what cannot stand there, or missing."""
    junk = draw(st.sampled_from([None, "junk", {}, 1e400]))
    if isinstance(content, ElementTree.Element):
        element = draw(st.sampled_from(list(content.iter())))
        if key := draw(st.sampled_from([None, *element.keys()])):
            element.set(key, "junk")
        else:
            element.text = "junk"
        return content
    if not isinstance(content, dict | list):
        return draw(st.sampled_from([b"junk", b"\xff\xfe\xfa"]))
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return content
        key = draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or draw(st.integers(0, 3)) == 0:
            null_is_unlabelled = key in ("colour", "attribute_ids", "category_id_2")
            place[key] = "junk" if null_is_unlabelled else junk
            return content
        place = place[key]
