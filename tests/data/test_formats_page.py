"""The examples of docs/formats.md are read as the page says."""

import importlib
import re
from pathlib import Path

import pytest

from mtseg.data import formats
from mtseg.data.labels import Vocabulary
from tests.data import folders

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
SECTIONS = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])

# format: title, files that its blocks are, images, number of objects in the first image
EXAMPLES = {
    "labelme": ("LabelMe", ["train/a.json"], ["train/a.png"], 3),
    "coco": ("COCO", ["annotations/instances_train2017.json"], ["train2017/a.png"], 1),
    "cvat": ("CVAT", ["annotations.xml"], ["images/a.png"], 2),
    "label_studio": ("Label Studio", ["export.json"], ["images/a.png"], 1),
    "yolo": ("YOLO", ["data.yaml", "labels/train/a.txt"], ["images/train/a.png", "images/val/b.png"], 2),
    "masks": ("Masks", ["labelmap.txt", "write.py"], ["JPEGImages/a.png"], 2),
}


@pytest.mark.parametrize("format", EXAMPLES)
def test_the_example_of_a_format_is_read(tmp_path, monkeypatch, format):
    title, files, images, count = EXAMPLES[format]
    blocks = re.findall(r"\n```\w*\n(.*?)```", SECTIONS[title], re.DOTALL)
    for name, block in zip(files, blocks, strict=True):
        if name.endswith(".py"):
            monkeypatch.chdir(tmp_path)
            for folder in ("SegmentationObject", "SegmentationClass"):
                (tmp_path / folder).mkdir()
            exec(block, {})
            continue
        assert f"`{name}`" in SECTIONS[title]
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block, encoding="utf-8")
    for name in images:
        folders.draw(tmp_path / name, size=(400, 240))
    tasks = {"part": ("door", "wheel")} | ({} if format in ("yolo", "masks") else {"colour": ("red", "black")})
    data = importlib.import_module(f"mtseg.data.formats.{format}").read(tmp_path, Vocabulary(tasks))
    assert not data.faults and formats.recognise(tmp_path)[0] == format
    (image,) = data.images
    assert image.file_name == images[0] and len(image.objects) == count and image.size in ((240, 400), None)
    assert image.split == (None if format in ("label_studio", "masks") else "train")
    assert all(None not in item.labels.values() for item in image.objects)


def test_every_format_has_a_section_that_says_what_is_lost():
    linked = dict(re.findall(r"^\| \[`(\w+)`\]\(#([\w-]+)\)", PAGE, re.MULTILINE))
    assert tuple(sorted(linked)) == formats.FORMATS
    lost = {title.lower().replace(" ", "-") for title, text in SECTIONS.items() if "\nLost: " in text}
    assert lost == {*linked.values()}
