"""Predictions as annotations to correct, read back by this project's reader and by readers written for the tests."""

import json
from urllib.parse import unquote
from xml.etree import ElementTree

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from ruamel.yaml import YAML

from mtseg.core.masks import areas, iou, mask, rle
from mtseg.core.tables import Image
from mtseg.data.formats import labelme as reader
from mtseg.data.labels import Vocabulary
from mtseg.inference import export
from tests.data.folders import converted
from tests.scenes import Row, images_of, logits_of, make_tasks, table

HEIGHT, WIDTH = 90, 120
NAMES = ["empty.jpg", "deep/down/ä 1.jpg", "deep/x.jpg"]


@pytest.fixture(params=[1, 2, 4])
def tasks(request):
    first, *further = make_tasks(request.param)
    return (first.model_copy(update={"classes": ("rød", 'a "b" & <c>', "star")}), *further)


@pytest.fixture
def images(tasks):
    return images_of([Image(n, name, HEIGHT, WIDTH) for n, name in enumerate(NAMES, start=1)], tasks)


@pytest.fixture
def predictions(tasks):
    """On each image but the first, masks of every kind with labels that run through the classes. The second image's
    are the first's, moved; scores differ."""
    rows = []
    for image_id in (2, 3):
        for query, pixels in enumerate(masks()):
            packed = rle_of(np.roll(pixels, 3 * image_id, axis=1))
            labels = {task.name: (query + image_id * i) % task.num_classes for i, task in enumerate(tasks)}
            ys, xs = np.nonzero(mask(packed, HEIGHT, WIDTH))
            box = (float(xs.min()), float(ys.min()), float(np.ptp(xs) + 1), float(np.ptp(ys) + 1))
            logits = {task.name: logits_of(task, labels[task.name], 2.0 + query) for task in tasks}
            rows.append(Row(image_id, query, box, float(pixels.sum()), packed, 0.9, labels, logits))
    return table(rows, tasks)


def masks():
    """A disc, a ring, two parts, an island in a ring, a thin line, and one pixel."""
    disc = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (40, 40), 20, 1, -1)
    ring = cv2.circle(disc.copy(), (40, 42), 9, 0, -1)
    parts = cv2.rectangle(disc.copy(), (70, 50), (95, 80), 1, -1)
    island = cv2.circle(ring.copy(), (40, 42), 4, 1, -1)
    line = cv2.line(np.zeros_like(disc), (5, 80), (90, 20), 1)
    pixel = np.zeros_like(disc)
    pixel[30, 50] = 1
    return [disc, ring, parts, island, line, pixel]


def rle_of(pixels):
    runs = np.diff([0, *np.flatnonzero(np.diff(pixels.ravel(order="F"), prepend=0)), pixels.size]).tolist()
    return rle({"size": [*pixels.shape], "counts": runs}, *pixels.shape)


def labels_of(predictions, tasks):
    return [
        {task.name: task.classes[predictions.labels[task.name][i]] for task in tasks} for i in range(len(predictions))
    ]


def check(found, predictions, tasks, exact):
    """found: (RLE, labels) in the order of the predictions."""
    assert [labels for _, labels in found] == labels_of(predictions, tasks)
    agreement = [iou([one], [other])[0, 0] for (one, _), other in zip(found, predictions.rles(), strict=True)]
    assert min(agreement) == 1 if exact else min(agreement) >= 0.95


def test_labelme_is_read_back_beside_the_images(tmp_path, images, predictions, tasks):
    written = export.write("labelme", tmp_path, images, predictions, tasks)
    for name in NAMES:
        PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(written / name)
    raw = reader.read(written, Vocabulary({task.name: task.classes for task in tasks}))
    assert not raw.faults and not raw.unused
    read = {image.file_name: image for image in raw.images}
    assert sorted(read) == sorted(NAMES) and not read[NAMES[0]].objects
    assert {image.size for image in raw.images} == {(HEIGHT, WIDTH)}
    found = [one for name in NAMES for one in read[name].objects]
    check([(rle(one.segmentation, HEIGHT, WIDTH), one.labels) for one in found], predictions, tasks, exact=False)


def test_labelme_goes_through_convert(tmp_path, images, predictions, tasks):
    written = export.write("labelme", tmp_path, images, predictions, tasks)
    rng = np.random.default_rng(0)
    for name in NAMES:
        PIL.Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(written / name)
    read = converted(written, tasks)
    found = [instance for name in NAMES for instance in read[name].instances]
    assert [one.labels for one in found] == [
        {task.name: int(predictions.labels[task.name][i]) for task in tasks} for i in range(len(predictions))
    ]
    agreement = [
        iou([rle(one.segmentation, HEIGHT, WIDTH)], [other])[0, 0]
        for one, other in zip(found, predictions.rles(), strict=True)
    ]
    assert min(agreement) >= 0.95


def test_labelme_files_are_as_labelme_writes_them(tmp_path, images, predictions, tasks):
    written = export.write("labelme", tmp_path, images, predictions, tasks)
    read = json.loads((written / "deep/down/ä 1.json").read_bytes())
    assert read["imagePath"] == "ä 1.jpg" and read["imageData"] is None
    assert (read["imageHeight"], read["imageWidth"], read["flags"]) == (HEIGHT, WIDTH, {})
    own = predictions[predictions.image_id == 2]
    groups = [shape["group_id"] for shape in read["shapes"]]
    assert len(groups) == len(own) + 2, "two objects have two parts"
    assert sorted(groups.count(group) for group in {*groups} - {None}) == [2, 2]
    assert {shape["shape_type"] for shape in read["shapes"]} == {"polygon"}
    scores = dict.fromkeys(float(shape["description"].removeprefix("score ")) for shape in read["shapes"])
    assert [*scores] == own.score.tolist()


def test_cvat_has_exact_masks_and_an_attribute_for_each_further_task(tmp_path, images, predictions, tasks):
    root = ElementTree.parse(export.write("cvat", tmp_path, images, predictions, tasks)).getroot()
    assert root.findtext("version") == "1.1" and root.findtext("meta/task/size") == "3"
    read = root.findall("image")
    assert [(image.get("id"), image.get("name")) for image in read] == [*zip("012", sorted(NAMES), strict=True)]
    assert {(image.get("height"), image.get("width")) for image in read} == {(str(HEIGHT), str(WIDTH))}
    by_name = {image.get("name"): image for image in read}
    assert not by_name[NAMES[0]].findall("mask")
    main, *further = tasks
    found = []
    for one in (one for name in NAMES for one in by_name[name].findall("mask")):
        left, top, width, height = (int(one.get(side)) for side in ("left", "top", "width", "height"))
        runs = [int(run) for run in one.get("rle").split(",")]
        pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        pixels[top : top + height, left : left + width] = flat.reshape(height, width)
        labels = {main.name: one.get("label")} | {given.get("name"): given.text for given in one.findall("attribute")}
        found.append((rle_of(pixels), labels))
    check(found, predictions, tasks, exact=True)


def test_cvat_describes_its_labels(tmp_path, images, predictions, tasks):
    main, *further = tasks
    root = ElementTree.parse(export.write("cvat", tmp_path, images, predictions, tasks)).getroot()
    labels = root.findall("meta/task/labels/label")
    assert [label.findtext("name") for label in labels] == [*main.classes]
    for label in labels:
        attributes = label.findall("attributes/attribute")
        assert [one.findtext("name") for one in attributes] == [task.name for task in further]
        assert [one.findtext("values").split("\n") for one in attributes] == [[*task.classes] for task in further]
        assert {one.findtext("input_type") for one in attributes} <= {"select"}


def unpack(packed):
    """RGBA values of Label Studio's RLE, one bit after the other, as its JavaScript reads them."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    place = 0

    def take(count):
        nonlocal place
        place += count
        assert place <= len(bits)
        return int(bits[place - count : place], 2)

    total, word, sizes, values = take(32), take(5) + 1, [take(4) + 1 for _ in range(4)], []
    while len(values) < total:
        run = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(word)] * length if run else [take(word) for _ in range(length)]
    assert len(bits) - place < 8
    return np.array(values, dtype=np.uint8)


def test_label_studio_has_exact_masks_and_a_choice_for_each_further_task(tmp_path, images, predictions, tasks):
    written = export.write("label-studio", tmp_path, images, predictions, tasks)
    read = json.loads((written / "tasks.json").read_bytes())
    urls = [one["data"]["image"] for one in read]
    assert all(url.isascii() and " " not in url for url in urls)
    assert [unquote(url.partition("?d=")[2]) for url in urls] == NAMES
    assert read[0]["predictions"] == [{"model_version": "mtseg", "result": []}]
    found, scores = [], []
    for one in read[1:]:
        (prediction,) = one["predictions"]
        regions = {}
        for result in prediction["result"]:
            assert (result["original_height"], result["original_width"]) == (HEIGHT, WIDTH)
            regions.setdefault(result["id"], []).append(result)
        for brush, *choices in regions.values():
            assert brush["type"] == "brushlabels" and {choice["type"] for choice in choices} <= {"choices"}
            rgba = unpack(brush["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
            assert (rgba == rgba[..., :1]).all() and {*np.unique(rgba).tolist()} == {0, 255}
            labels = {brush["from_name"]: brush["value"]["brushlabels"]}
            labels |= {choice["from_name"]: choice["value"]["choices"] for choice in choices}
            found.append(
                (rle_of((rgba[..., 3] > 0).astype(np.uint8)), {task: name for task, (name,) in labels.items()})
            )
            scores.append(brush["score"])
        assert prediction["score"] == pytest.approx(np.mean(scores[-len(regions) :]), abs=1e-5)
    check(found, predictions, tasks, exact=True)
    assert scores == predictions.score.tolist()


def test_runs_longer_than_label_studio_counts_are_split(tmp_path):
    tasks = make_tasks(1)
    pixels = np.zeros((300, 400), np.uint8)
    pixels[90:250] = 1  # 64,000 pixels in one run, of four values each
    row = Row(1, 0, (0, 90, 400, 160), 64000, rle_of(pixels), 0.9, {"shape": 0}, {"shape": logits_of(tasks[0], 0)})
    images = images_of([Image(1, "a.jpg", 300, 400)], tasks)
    written = export.write("label-studio", tmp_path, images, table([row], tasks), tasks)
    (read,) = json.loads((written / "tasks.json").read_bytes())
    packed = read["predictions"][0]["result"][0]["value"]["rle"]
    assert np.array_equal(unpack(packed).reshape(300, 400, 4)[..., 3] > 0, pixels > 0)


def test_label_studios_labelling_interface_fits_the_predictions(tmp_path, images, predictions, tasks):
    written = export.write("label-studio", tmp_path, images, predictions, tasks)
    view = ElementTree.parse(written / "config.xml").getroot()
    controls = {
        tag.get("name"): (tag.tag.lower(), [*(value.get("value") for value in tag)])
        for tag in view
        if tag.tag in ("BrushLabels", "Choices")
    }
    image = view.find("Image")
    assert image.get("value") == "$image"
    assert {tag.get("toName") for tag in view if tag.get("toName")} == {image.get("name")}
    assert {name: names for name, (_, names) in controls.items()} == {task.name: [*task.classes] for task in tasks}
    assert {choices.get("perRegion") for choices in view.findall("Choices")} <= {"true"}
    for one in json.loads((written / "tasks.json").read_bytes()):
        for result in one["predictions"][0]["result"]:
            kind, names = controls[result["from_name"]]
            assert result["type"] == kind and {*result["value"][kind]} <= {*names}
            assert result["to_name"] == image.get("name")


def test_yolo_has_the_main_class_and_a_polygon_and_the_rest_beside_it(tmp_path, images, predictions, tasks):
    written = export.write("yolo", tmp_path, images, predictions, tasks)
    data = YAML(typ="safe").load(written / "data.yaml")
    assert data["names"] == dict(enumerate(tasks[0].classes)) and {"train", "val"} <= {*data}
    files = sorted(file.relative_to(written).as_posix() for file in written.rglob("*.txt"))
    assert files == sorted("labels/" + name.replace(".jpg", ".txt") for name in NAMES)
    assert (written / "labels/empty.txt").read_bytes() == b""
    table, found = pd.read_csv(written / "objects.csv", dtype={"line": int}), []
    for row in table.to_dict("records"):
        line = (written / row["label_file"]).read_text(encoding="utf-8").splitlines()[row["line"] - 1]
        category, *values = line.split()
        points = np.array(values, dtype=float).reshape(-1, 2)
        assert len(points) >= 3 and points.min() >= 0 and points.max() <= 1
        polygon = (points * [WIDTH, HEIGHT]).ravel().tolist()
        labels = {task.name: row[f"labels.{task.name}"] for task in tasks}
        assert labels[tasks[0].name] == data["names"][int(category)]
        found.append((rle([polygon], HEIGHT, WIDTH), labels))
    check(found, predictions, tasks, exact=False)
    assert sum(len((written / file).read_text().splitlines()) for file in files) == len(predictions)
    assert table.score.tolist() == predictions.score.tolist()


def test_a_yolo_polygon_fills_as_ultralytics_fills_it(tmp_path, images, predictions, tasks):
    """Ultralytics truncates coordinates and fills with OpenCV, which adds the outline: half a pixel all round."""
    written = export.write("yolo", tmp_path, images, predictions, tasks)
    rows = [row for name in NAMES for row in (written / "labels" / name).with_suffix(".txt").read_text().splitlines()]
    for line, wanted, area in zip(rows, predictions.rles(), areas(predictions.rles()), strict=True):
        points = np.array(line.split()[1:], dtype=float).reshape(-1, 2) * [WIDTH, HEIGHT]
        filled = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [points.astype(np.int32)], 1)
        if area > 500:
            assert iou([rle_of(filled)], [wanted])[0, 0] > 0.8


def test_names_that_yaml_reads_as_something_else_stay_names(tmp_path):
    odd = ("yes", "1", "null", "a: b")
    tasks = (make_tasks(1)[0].model_copy(update={"classes": odd}),)
    written = export.write("yolo", tmp_path, images_of([Image(1, "a.jpg", 9, 9)], tasks), table([], tasks), tasks)
    assert YAML(typ="safe").load(written / "data.yaml")["names"] == dict(enumerate(odd))
