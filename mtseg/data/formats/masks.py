"""Masks as image files: indexed PNGs as in Pascal VOC, or one file for each object.

    SegmentationObject/NAME.png, SegmentationClass/NAME.png      images in JPEGImages/ or images/
    masks/NAME/CLASS_1.png or masks/NAME/CLASS/1.png             images in images/ or beside masks/
    NAME/masks/CLASS_1.png                                       image in NAME/images/ or NAME/

VOC: every index or colour of SegmentationObject is an object, and SegmentationClass has its class; 0 or black is
background, and 255 is the unlabelled border. Class names are those of labelmap.txt (CVAT: `name:r,g,b`), of
class_names.txt or labels.txt (LabelMe: a name in each line, the first of index 0), otherwise VOC's own. The split is
that of ImageSets/Segmentation/train.txt and val.txt, or of the image's folder.
One file for each object: what is neither 0 nor transparent is the object. A file name without a class is allowed if
there is one class. The class is the label (see mtseg/data/labels.py): `door,front_1.png` has two. An image without
masks is not used.
Lost: pixels that are of several objects, in VOC's files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mtseg.core.errors import quoted
from mtseg.data.files import Files
from mtseg.data.formats._rasters import pasted
from mtseg.data.formats._reading import note_duplicates
from mtseg.data.images import DECODE_ERRORS, MOST_PIXELS, open_lazily, pillow
from mtseg.data.labels import Vocabulary
from mtseg.data.raw import BadRecord, Fault, RawData, RawImage, RawObject, by, read_text
from mtseg.data.splits import Splits

OBJECTS, CLASSES, MASKS = "SegmentationObject", "SegmentationClass", "masks"
NAMES = ("labelmap.txt", "class_names.txt", "labels.txt", "classes.txt")
IMAGES = ("JPEGImages", "images", "Images", ".")
NO_CLASS = re.compile(r"(mask|object|obj|instance|inst|[0-9a-f]{8,})?", re.IGNORECASE)  # of a file's name
VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor".split()
)
BACKGROUND = re.compile(r"[_\W]*(back_?ground|bg|void|none|null|unlabell?ed|other|ignore)[_\W]*", re.IGNORECASE)
OF_VOC = re.compile(r"20\d\d_\d{6}")  # names of Pascal VOC's own images
JPEG = (".jpg", ".jpeg", ".jfif")
BORDER = 0xE0E0C0  # colour of index 255 in VOC's palette


def recognises(files: Files) -> str | None:
    return next((f"{name}/" for kind in (OBJECTS, MASKS, CLASSES) for name in files.folders(kind)), None)


def read(folder: Path, vocabulary: Vocabulary) -> RawData:
    """Read the masks of every SegmentationObject/ and masks/ of a folder."""
    data, files = RawData(), Files(folder, vocabulary.max_megapixels)
    splits = Splits(files)
    masks: set[str] = set()
    for place in files.folders(OBJECTS):
        masks |= _read_indexed(data, files, splits, PurePosixPath(place).parent, vocabulary)
    for place in files.folders(MASKS):
        masks |= _read_files(data, files, splits, PurePosixPath(place), vocabulary)
    data.split_source = data.split_source or splits.source()
    if not masks and files.folders(CLASSES):
        place = files.folders(CLASSES)[0]
        text = f"has the class of each pixel, but not which object it is of: {OBJECTS}/ is needed"
        data.faults.append(Fault("no objects", f"{place}/", text))
    if bare := len(files.images - masks - {image.file_name for image in data.images}):
        data.leave("images without masks", bare)
    return data


def _read_indexed(data: RawData, files: Files, splits: Splits, root: PurePosixPath, vocabulary: Vocabulary) -> set[str]:
    """VOC's layout below `root`. Returns the files that are masks."""
    objects, classes = _below(files, root / OBJECTS), _below(files, root / CLASSES)
    split_of = {}
    for name in files.ending(".txt"):
        if PurePosixPath(name).parent == root / "ImageSets" / "Segmentation":
            with data.refusing(name):
                for stem in read_text(files.folder / name).split():
                    split_of[stem] = splits.of_name(PurePosixPath(name).stem) or split_of.get(stem)
    names: _Names | None = None
    with data.refusing(f"{root / OBJECTS}/"):
        names = _Names.read(files, root)
        if objects and names.are_voc and not all(map(OF_VOC.fullmatch, objects)):
            data.note(f"classes named as Pascal VOC's, as there is none of {', '.join(NAMES)} beside {OBJECTS}")
    for stem, where in objects.items() if names else ():
        with data.refusing(where):
            if stem not in classes:
                raise BadRecord("missing image", f"there is no {root / CLASSES / stem}.png")
            image = _image(files, root, stem)
            size = files.size(image)
            instances, colours = _values(files, where, size)
            kinds, palette = _values(files, classes[stem], size)
            if instances.shape != kinds.shape:
                raise BadRecord("size", f"is {by(instances.shape)}, {classes[stem]} is {by(kinds.shape)}")
            found, before = [], len(data.faults)
            values = np.unique(instances[instances > 0]).tolist()
            for value in values:
                named = f"{where}, object {value:#x}"
                with data.refusing(named):
                    mask = instances == value
                    own, counts = np.unique(kinds[mask], return_counts=True)
                    kind = int(own[counts.argmax()])
                    label = names.of(kind, palette)
                    if label is None and _is_border(kind, palette):
                        if len(values) == 1:
                            text = "is the only one and of the border, 255, which is no object: number objects from 1"
                            raise BadRecord("no objects", text)
                        if not _is_border(value, colours):
                            data.leave("objects that are border, 255, in SegmentationClass")
                        continue
                    if label is None or counts.max() < 0.9 * counts.sum():
                        listed = ", ".join(f"{value:#x}" for value in own)
                        raise BadRecord("unknown label", f"SegmentationClass has no one class for it, but {listed}")
                    labels = vocabulary.labels(label)
                    if labels is None:
                        data.leave("objects that data.mapping leaves out")
                    else:
                        found.append(RawObject(named, labels, pasted(mask, 0, 0, mask.shape)))
            split = split_of.get(stem) or splits.of_folders(image)
            invalid = len(data.faults) - before
            data.images.append(RawImage(where, image, instances.shape, split, tuple(found), invalid=invalid))
    if source := splits.source():
        data.split_source = f"{root / 'ImageSets' / 'Segmentation'}: {source}"
    return {*objects.values(), *classes.values()}


def _read_files(data: RawData, files: Files, splits: Splits, place: PurePosixPath, vocabulary: Vocabulary) -> set[str]:
    """One file for each object below `place`, a folder `masks`. Returns the files that are masks."""
    masks = _below(files, place)
    by_image: dict[str, list[tuple[str, str]]] = {}
    for key, where in masks.items():
        with data.refusing(where):
            *parents, stem = key.split("/")
            label = re.sub(r"[_\-\s]*\d+$", "", stem)
            if not parents:  # NAME/masks/FILE
                if found := _found_image(files, place.parent, stem):
                    fix = f"a file for each object is needed, {place}/{stem}/CLASS_1.png"
                    raise BadRecord("no objects", f"is one mask for all of {found}: {fix}")
                image = _sole_image(files, place.parent)
            elif found := _found_image(files, place.parent, "/".join(parents)):
                image = found
            elif len(parents) > 1:
                image, label = _image(files, place.parent, "/".join(parents[:-1])), parents[-1]
            else:
                text = f"there is no image {parents[0]} in images/ or beside {place}/"
                raise BadRecord("missing image", text + _elsewhere(files, parents[0]))
            by_image.setdefault(image, []).append((where, label))
    classes = vocabulary.classes[next(iter(vocabulary.classes))]
    inverted = 0
    drawn: Counter[str] = Counter()  # masks by label
    framing: dict[str, list[str]] = {}  # those with every pixel of the border, and a hole
    for image, own in by_image.items():
        with data.refusing(image):
            size = files.size(image)
            found, before = [], len(data.faults)
            for where, label in own:
                with data.refusing(where):
                    if NO_CLASS.fullmatch(label):
                        if len(vocabulary.classes) > 1 or not classes or len(classes) > 1:
                            text = "has no class in its name, such as CLASS_1.png, and the main task lists not just one"
                            raise BadRecord("no label", text)
                        label = classes[0]
                    mask, _ = _values(files, where, size)
                    if mask.shape != size:
                        raise BadRecord("size", f"is {by(mask.shape)}, the image is {by(size)}")
                    if len(np.unique(mask)) > 2:
                        fix = "; JPEG blurs them: save masks as PNG" if where.lower().endswith(JPEG) else ""
                        raise BadRecord("geometry", f"has more than two values: expected 0 and another one{fix}")
                    inverted += 0 not in mask[[0, 0, -1, -1], [0, -1, 0, -1]] and 0 in mask
                    drawn[label] += 1
                    if mask[[0, -1]].all() and mask[:, [0, -1]].all() and 0 in mask:
                        framing.setdefault(label, []).append(where)
                    labels = vocabulary.labels(label)
                    if labels is None:
                        data.leave("objects that data.mapping leaves out")
                    else:
                        found.append(RawObject(where, labels, pasted(mask > 0, 0, 0, size)))
            note_duplicates(data, found)
            split, invalid = splits.of_folders(image), len(data.faults) - before
            data.images.append(RawImage(str(place), image, None, split, tuple(found), invalid=invalid))
    if 2 * inverted > len(masks):
        data.note("masks with all four corners of the image (inverted? what is not 0 is the object)", inverted)
    elif few := [where for label, own in framing.items() if 4 * len(own) <= drawn[label] for where in own]:
        text = "masks with the whole border of the image, unlike others of their class (likely cause: inverted"
        data.warn(f"{text}; what is not 0 is the object), such as {few[0]}", len(few))
    return {*masks.values()}


def _below(files: Files, place: PurePosixPath) -> dict[str, str]:
    """Image files below a folder, by path without suffix."""
    start = f"{place}/".lower()
    images = [name for name in sorted(files.images) if name.lower().startswith(start)]
    return {name[len(start) :].rpartition(".")[0]: name for name in images}


def _found_image(files: Files, root: PurePosixPath, stem: str) -> str | None:
    for place in IMAGES:
        if found := files.image_of_stem((root / place / stem).as_posix()):
            return found
    return None


def _image(files: Files, root: PurePosixPath, stem: str) -> str:
    if found := _found_image(files, root, stem):
        return found
    text = f"there is no image {stem} in {', '.join(IMAGES[:2])} or beside them"
    raise BadRecord("missing image", text + _elsewhere(files, PurePosixPath(stem).name))


def _elsewhere(files: Files, stem: str) -> str:
    """For a message: where an image may be that was not found by its stem."""
    for name in files.of_stem(stem):
        if {OBJECTS, CLASSES, MASKS}.isdisjoint(PurePosixPath(name).parts):
            return f"; {name} has this name: move it there, if it is the one"
    return ""


def _sole_image(files: Files, root: PurePosixPath) -> str:
    for place in (root / "images", root):
        found = [name for name in files.images if PurePosixPath(name).parent == place]
        if len(found) == 1:
            return found[0]
    raise BadRecord("missing image", f"expected a folder for each image, {root}/masks/NAME/, or one image in {root}/")


def _values(files: Files, where: str, size: tuple[int, int]) -> tuple[np.ndarray, dict[int, int]]:
    """The mask as int64 [height, width] of indices, grey values, or colours 0xRRGGBB; and the colours of the indices
    and grey values. size: height and width of the image, which no mask may exceed."""
    try:
        with open_lazily(files.folder / where, MOST_PIXELS) as opened:
            if opened.width * opened.height > math.prod(size):
                raise BadRecord("size", f"is {opened.width} x {opened.height}, the image is {size[1]} x {size[0]}")
            with pillow():
                opened.load()
            if opened.mode == "P":
                palette = np.array(opened.getpalette("RGB"), dtype=np.int64).reshape(-1, 3)
                return np.asarray(opened).astype(np.int64), dict(enumerate(_packed(palette).tolist()))
            if opened.mode in ("1", "L", "F") or opened.mode.startswith("I"):
                values = np.asarray(opened)
                if not np.array_equal(values, values.astype(np.int64)):
                    raise BadRecord("broken image", "has values with a fraction: expected whole numbers")
                return values.astype(np.int64), {255: BORDER}
            if not opened.has_transparency_data:
                return _packed(np.asarray(opened.convert("RGB"), dtype=np.int64)), {}
            pixels = np.asarray(opened.convert("RGBA"), dtype=np.int64)
            colours, alpha = _packed(pixels), pixels[..., 3]
            if np.ptp(colours) == 0 < np.ptp(alpha):  # drawn by transparency alone
                return alpha, {}
            return np.where(alpha > 0, colours, 0), {}
    except DECODE_ERRORS as error:
        raise BadRecord("broken image", f"does not decode: {error}") from None


def _is_border(value: int, palette: dict[int, int]) -> bool:
    """Whether a value of a mask is VOC's border: its colour, or index or grey value 255."""
    return BORDER in (value, palette.get(value)) or (value == 255 and value in palette)


def _packed(colours: np.ndarray) -> np.ndarray:
    """Colours [..., 3], or with alpha [..., 4], as 0xRRGGBB."""
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


@dataclass(frozen=True)
class _Names:
    """Class names by index and by colour."""

    by_index: dict[int, str]
    by_colour: dict[int, str]
    are_voc: bool = False

    def of(self, value: int, palette: dict[int, int]) -> str | None:
        """The class of a value of a mask, None for the background and for unknown values."""
        return self.by_index.get(value) or self.by_colour.get(palette.get(value, value))

    @classmethod
    def read(cls, files: Files, root: PurePosixPath) -> _Names:
        path = next((str(root / name) for name in NAMES if str(root / name) in files), None)
        lines = VOC if path is None else read_text(files.folder / path).splitlines()
        lines = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "__ignore__"))]
        if not path or not path.endswith(NAMES[0]):
            if lines and not BACKGROUND.fullmatch(lines[0]):
                text = f"{path}: the first name, {quoted(lines[0])}, is not that of the background, which index 0 is"
                raise BadRecord("broken text", f"{text}: write `background` above it, or rename it so")
            by_index = dict(enumerate(lines[1:], start=1))
            return cls(by_index, {_voc_colour(index): name for index, name in by_index.items()}, path is None)
        by_colour = {}
        for line in lines:
            name, _, colour = line.partition(":")
            try:
                red, green, blue = (int(value) for value in colour.split(":")[0].split(","))
            except ValueError:
                raise BadRecord("broken text", f"{path}: {quoted(line)} is not name:r,g,b") from None
            by_colour[red << 16 | green << 8 | blue] = name
        by_colour.pop(0, None)
        return cls({}, by_colour)


def _voc_colour(index: int) -> int:
    """Colour of an index in VOC's palette: its bits, three at a time, from the highest bit of each channel."""
    channels = [0, 0, 0]
    for shift in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * shift + channel) & 1) << (7 - shift)
    return channels[0] << 16 | channels[1] << 8 | channels[2]
