"""Suspected annotations and uncertain predictions become files to correct, and the corrections new data."""

import contextlib
import errno
import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from ruamel.yaml import YAML

import mtseg
from benchmarks.relabel import correct, spoil
from mtseg.cli.relabel import Format, Origin, Split
from mtseg.cli.relabel import command as relabel
from mtseg.core.errors import UserError, as_user_error
from mtseg.core.files import write_json
from mtseg.core.metadata import Metadata
from mtseg.core.params import load
from mtseg.core.tables import Images, Predictions, task_columns
from mtseg.data import labels, manifest
from mtseg.data.convert import convert
from mtseg.data.formats import labelme
from mtseg.data.shapes import generate
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference import checkpoint
from mtseg.inference.postprocess import Detections
from mtseg.inference.predictor import Predictor
from mtseg.inference.torch_network import description
from mtseg.relabel import corrections, different, suspects, uncertain
from mtseg.report.data_changes import annotation_changes
from tests import tiny
from tests.scenes import FILTER, make_tasks

ROOT = Path(__file__).parents[1]
RAW = Path("data/raw/shapes")
CLASSES = {  # by task; sorted, as convert sorts them
    task["name"]: classes
    for task, classes in zip(
        YAML(typ="safe").load(ROOT / "params.yaml")["tasks"],
        (("circle", "square", "star", "triangle"), ("blue", "green", "red", "yellow"), ("dotted", "solid", "striped")),
        strict=True,
    )
}


@pytest.fixture
def project(tmp_path):
    """A folder with params.yaml and raw data of 4 + 40 images, and its working directory."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params["generate"] |= {"train": 4, "val": 40, "size": 96}
    params["data"]["raw"] = str(RAW)
    YAML(typ="safe").dump(params, tmp_path / "params.yaml")
    with contextlib.chdir(tmp_path):
        generate(load().generate, RAW, seed=1)
        yield tmp_path


def converted(folder: str) -> Images:
    """The val split of data.raw, written to `folder`."""
    params = load()
    convert(params.data, params.tasks, Path(folder), seed=0)
    return Images.read(f"{folder}/val.parquet")


def predicted(images: Images, *, slips: float = 0.0) -> Predictions:
    """A stand-in for a model: the annotations, with noise in the logits and a share of wrong labels of each task. What
    15 s of training gives finds less than half of the wrong labels: `benchmarks.relabel` closes the circle with a whole
    training."""
    own, rng = images.instances, np.random.default_rng(0)
    columns = {"image_id": images.id[own.image], "query": np.arange(len(own)), "mask_quality": np.full(len(own), 0.95)}
    columns |= {name: own.column(name) for name in ("box", "area", "rle", "height", "width")}
    for task, classes in images.classes:
        known = own.labels[task]
        slip = rng.random(len(own)) < slips
        known = np.where(slip, (known + 1) % len(classes), known)
        logits = rng.normal(0, 0.5, (len(own), len(classes) + 1))
        logits[np.arange(len(own)), known] += np.where(slip, 2.0, 6.0)
        columns |= task_columns(task, known, logits)
    main = columns[f"probability.{images.classes[0][0]}"]
    return Predictions.of(columns | {"score": main * columns["mask_quality"]})


def as_after_repro(predictions: Predictions) -> Images:
    """The files of this project as `dvc repro` leaves them, with these predictions of val."""
    images = converted("data/coco")
    write_json("data/manifest.json", manifest.build(Path("data/coco")))
    tasks = manifest.load(Path("data/manifest.json")).tasks(load().tasks)
    predictions.write("data/predictions/val.parquet", tasks)
    pairs = Evaluation(images, predictions, tasks=tasks, ranking="product_quality").pairs
    pairs.write("data/evaluation/pairs.parquet", images, predictions)
    return images


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def notes(file: Path) -> list[str]:
    return [shape.get("description", "") for shape in json.loads(file.read_text())["shapes"]]


def set_raw(folder: str) -> None:
    params = YAML(typ="safe").load(Path("params.yaml"))
    params["data"]["raw"] = folder
    YAML(typ="safe").dump(params, Path("params.yaml"))


def test_wrong_labels_are_suspected_corrected_converted_and_counted(project):
    predictions = predicted(converted("clean"), slips=0.01)
    wrong = [one for one in spoil(RAW, CLASSES, share=0.1) if one["file"].startswith("val/")]
    spoilt, before = as_after_repro(predictions), contents(RAW)
    clean = Images.read("clean/val.parquet")
    assert sum(row["changed"] for row in annotation_changes(clean, spoilt)) == len(wrong) >= 5

    relabel(out=Path("check"), most=100)
    suggestions = pd.read_csv("check/suggestions.csv")
    corrected = correct(Path("check"), wrong)
    assert corrected >= 0.8 * len(wrong), "the model is mostly right"
    assert len(suggestions) <= len(wrong) + 5, "and seldom wrong where it is sure"

    relabel(apply=Path("check"), to=Path("data/raw/second"))
    assert contents(RAW) == before
    set_raw("data/raw/second")
    second = converted("second")
    rows = annotation_changes(spoilt, second)
    assert {row["what"].split()[0] for row in rows} == {"labels"}, "outlines and images are as they were"
    assert sum(row["changed"] for row in rows) == corrected
    assert sum(row["changed"] for row in annotation_changes(clean, second)) == len(wrong) - corrected


def test_images_with_most_suspects_come_first_and_no_more_than_asked_for(project):
    predictions = predicted(converted("clean"))
    spoil(RAW, CLASSES, share=0.3)
    as_after_repro(predictions)
    relabel(out=Path("all"))
    relabel(out=Path("three"), most=3)
    every, three = pd.read_csv("all/suggestions.csv"), pd.read_csv("three/suggestions.csv")
    worth = (every["score"] ** 4).groupby(every["rank"]).sum()
    assert worth.is_monotonic_decreasing and every["rank"].is_monotonic_increasing
    assert three.equals(every[every["rank"] <= 3])
    assert len(list(Path("three").rglob("*.json"))) == len(list(Path("three").rglob("*.jpg"))) == 3
    with pytest.raises(UserError, match="three"):
        relabel(out=Path("three"))


def test_an_object_that_nobody_annotated_is_added_and_all_else_of_the_file_stays(project):
    predictions = predicted(converted("clean"))
    file = next(file for file in sorted(RAW.glob("val/*.json")) if len(json.loads(file.read_text())["shapes"]) >= 3)
    value = json.loads(file.read_text())
    gone = value["shapes"].pop(1)
    value["shapes"][0] |= {"occluded": True, "description": "seen twice\nmtseg: of an earlier run"}
    write_json(file, value)
    as_after_repro(predictions)
    relabel(out=Path("check"))
    found = json.loads(Path("check", file.relative_to(RAW)).read_text())
    *known, added = found["shapes"]
    assert added["label"] == gone["label"] and added["description"].startswith("mtseg: ")
    assert known[0].pop("description") == "seen twice" and value["shapes"][0].pop("description")
    assert [shape | {"description": None} for shape in known] == [
        shape | {"description": None} for shape in value["shapes"]
    ]
    relabel(apply=Path("check"), to=Path("data/raw/second"))
    set_raw("data/raw/second")
    assert len(converted("second").instances) == len(Images.read("clean/val.parquet").instances)


def test_an_added_object_has_the_category_of_the_mapping(project):
    combinations = [dict(zip(CLASSES, own, strict=True)) for own in itertools.product(*CLASSES.values())]
    categories = {"-".join(own.values()): own for own in combinations}
    mapping = Path("recipes/mappings/flat.yaml")
    mapping.parent.mkdir(parents=True)
    YAML(typ="safe").dump({"categories": categories}, mapping)
    params = YAML(typ="safe").load(Path("params.yaml"))
    params["data"]["mapping"] = str(mapping)
    YAML(typ="safe").dump(params, Path("params.yaml"))
    for file in RAW.rglob("*.json"):
        value = json.loads(file.read_text())
        shapes = [shape | {"label": shape["label"].replace(",", "-")} for shape in value["shapes"]]
        write_json(file, value | {"shapes": shapes})
    predictions = predicted(converted("clean"))
    file = next(file for file in sorted(RAW.glob("val/*.json")) if len(json.loads(file.read_text())["shapes"]) >= 3)
    value = json.loads(file.read_text())
    gone = value["shapes"].pop(1)
    write_json(file, value)
    as_after_repro(predictions)
    relabel(out=Path("check"))
    assert json.loads(Path("check", file.relative_to(RAW)).read_text())["shapes"][-1]["label"] == gone["label"]


def test_labels_without_a_category_get_the_nearest_that_convert_reads():
    categories = {"a": {"shape": "circle", "fill": "plain"}, "b": {"shape": "star", "fill": "spotted"}, "no": None}
    vocabulary = labels.Vocabulary({}, categories)
    assert suspects._flat({"shape": "star", "fill": "spotted"}, vocabulary) == ("b", "")
    for fill in ("plain", "striped"):
        category, lost = suspects._flat({"shape": "star", "fill": fill}, vocabulary)
        assert category == "b" and f"star, {fill}" in lost, "the main task counts most"


@pytest.mark.parametrize("format", [Format.cvat, Format.label_studio])
def test_other_tools_get_the_annotations_the_notes_and_the_images(project, format):
    predictions = predicted(converted("clean"))
    spoil(RAW, CLASSES, share=0.1)
    as_after_repro(predictions)
    relabel(out=Path("check"), format=format)
    listed = pd.read_csv("check/suggestions.csv")
    images = {path.relative_to("check/images").as_posix() for path in Path("check/images").rglob("*.jpg")}
    assert images == {*listed["image"]}
    written = "".join(
        path.read_text() for path in Path("check").rglob("*") if path.suffix in (".xml", ".json") and path.is_file()
    )
    texts = [f"check {row.task}: not {row.given} but {row.suggested}?" for row in listed.itertuples()]
    assert texts and all(text in written for text in texts)


def test_what_raw_data_changed_after_convert_is_refused(project):
    predictions = predicted(converted("clean"))
    spoil(RAW, CLASSES, share=0.3)
    as_after_repro(predictions)
    for file in RAW.glob("val/*.json"):
        value = json.loads(file.read_text())
        write_json(file, value | {"shapes": value["shapes"][1:]})
    with pytest.raises(UserError, match="dvc repro"):
        relabel(out=Path("check"))
    assert not Path("check").exists()


def vocabulary() -> labels.Vocabulary:
    return labels.Vocabulary(CLASSES)


def corrected_copy(names: list[str]) -> Path:
    """A folder with some of the raw images and their annotations, whose shapes are all removed."""
    for name in names:
        Path("check", name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(RAW / name, Path("check", name))
        value = json.loads((RAW / name).with_suffix(".json").read_text())
        write_json(Path("check", name).with_suffix(".json"), value | {"shapes": []})
    return Path("check")


def test_corrections_never_reach_what_the_raw_data_link_to(project):
    cached = project / "cache.json"
    linked = RAW / "val/00003.json"
    linked.rename(cached)
    linked.symlink_to(cached)
    text = cached.read_bytes()
    cached.chmod(0o444)  # as DVC protects its cache
    folder = corrected_copy(["val/00003.jpg"])
    assert corrections.apply(folder, RAW, Path("new"), vocabulary()) == (1, 0, [])
    assert cached.read_bytes() == text and linked.is_symlink()
    assert json.loads(Path("new/val/00003.json").read_text())["shapes"] == []
    assert len(contents(Path("new"))) == len(contents(RAW))


def test_pipes_links_to_nothing_and_a_full_disk_are_one_line(project, monkeypatch):
    folder = corrected_copy(["val/00003.jpg"])
    (RAW / "val" / "above").symlink_to(Path.cwd() / RAW)
    assert corrections.apply(folder, RAW, Path("new"), vocabulary())[0] == 1
    assert not [*Path("new").rglob("above")]
    for place in (folder, RAW):
        os.mkfifo(place / "pipe.json")
        with pytest.raises(UserError, match=r"pipe\.json is a pipe"):
            corrections.apply(folder, RAW, Path("newer"), vocabulary())
        (place / "pipe.json").unlink()
    (RAW / "gone.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(UserError, match=r"gone\.jpg is a link to nothing"):
        corrections.apply(folder, RAW, Path("newer"), vocabulary())
    (RAW / "gone.jpg").unlink()

    def full(source, copy):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(copy))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space") as error:
        corrections.apply(folder, RAW, Path("newer"), vocabulary())
    assert "free some space" in str(as_user_error(error.value)) and not Path("newer").exists()


def test_new_images_are_added_to_train_and_another_image_of_the_same_name_is_refused(project):
    folder = corrected_copy(["val/00003.jpg"])
    shutil.move(folder / "val/00003.jpg", folder / "fresh.jpg")
    shutil.move(folder / "val/00003.json", folder / "fresh.json")
    value = json.loads((folder / "fresh.json").read_text())
    write_json(folder / "fresh.json", value | {"imagePath": "fresh.jpg"})
    assert corrections.apply(folder, RAW, Path("new"), vocabulary()) == (0, 1, [])
    assert Path("new/train/fresh.jpg").read_bytes() == (RAW / "val/00003.jpg").read_bytes()
    shutil.copy(RAW / "val/00004.jpg", RAW / "train/fresh.jpg")
    with pytest.raises(UserError, match="fresh.jpg"):
        corrections.apply(folder, RAW, Path("newer"), vocabulary())
    assert not Path("newer").exists()


def test_invalid_corrections_and_an_existing_target_are_refused(project):
    folder = corrected_copy(["val/00003.jpg"])
    file = folder / "val/00003.json"
    shape = {"label": "circle,red", "points": [[0, 0], [9, 0], [9, 9]], "shape_type": "polygon"}
    write_json(file, json.loads(file.read_text()) | {"shapes": [shape]})
    with pytest.raises(UserError, match="val/00003.json, shape 1"):
        corrections.apply(folder, RAW, Path("new"), vocabulary())
    for target in (RAW, RAW / "below"):
        with pytest.raises(UserError, match="new folder"):
            corrections.apply(folder, RAW, target, vocabulary(), check=False)


class Stub:
    """A network that finds one square in each image; the brighter the image, the less sure it is of the last label. In
    a dark image it finds a second one, too faint for the filter."""

    def __init__(self, tasks):
        self.tasks = tasks

    def detect(self, squares, content, sizes):
        found = []
        for pixels, (height, width) in zip(squares, sizes, strict=True):
            light = pixels[:8, :8].mean() / 255
            count = 2 if light < 0.2 else 1
            masks = np.zeros((count, height, width), dtype=bool)
            for k in range(count):
                masks[k, 4 + 20 * k : 16 + 20 * k, 4:16] = True
            logits = {task.name: np.zeros((count, task.num_outputs)) for task in self.tasks}
            for name in logits:
                logits[name][:, 0] = 9.0
            logits[self.tasks[-1].name][0, 1] = 9.0 * light
            logits[self.tasks[0].name][1:, 0] = 0.0  # 1 / 4 of the main task: below min_score
            found.append(
                Detections(
                    query=np.arange(count), labels=np.zeros((count, len(self.tasks)), dtype=int), logits=logits,
                    probabilities=None, mask_quality=np.full(count, 0.95), masks=masks, mask=np.arange(count),
                )
            )  # fmt: skip
        return found


@pytest.fixture
def predictor():
    tasks = make_tasks(3)
    rules = FILTER.model_copy(update={"min_score": 0.4, "min_logit": {}, "nms": "none"})
    known = Metadata(
        version="0.1.0", licence=None, model=tiny.params().model, seen=(), detections=9, ranking="product_quality",
        step=0, filter=rules, data={}, params={},
        tasks=[{"name": t.name, "classes": t.classes, "background": t.background} for t in tasks],
        input={"size": 64, "pixel_mean": (0, 0, 0), "pixel_std": (1, 1, 1)}, scores={},
    )  # fmt: skip
    return Predictor(Stub(tasks), known)


def draw(path: Path, light: int, seed: int) -> None:
    """An image of noise, whose top left corner has a brightness of 0 to 255."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    pixels = pixels.repeat(8, axis=0).repeat(8, axis=1)
    pixels[:8, :8] = light
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def test_the_least_certain_images_come_first_without_near_duplicates(tmp_path, predictor):
    shots = tmp_path / "shots"
    for name, light in (("sure", 100), ("doubtful", 250), ("between", 235), ("faint", 0)):
        draw(shots / f"a/{name}.png", light, seed=light)
    draw(shots / "copy.png", 249, seed=250)
    (shots / "broken.png").write_bytes(b"no image")
    bad = []
    found = list(uncertain.candidates(predictor, shots, batch=2, on_error=lambda name, _: bad.append(name)))
    assert bad == ["broken.png"] and len(found) == 5
    chosen = uncertain.choose(found, 4)
    assert [*chosen] == ["a/doubtful.png", "a/between.png", "a/faint.png", "a/sure.png"]
    assert [*uncertain.choose(found, 2)] == ["a/doubtful.png", "a/between.png"]

    table = uncertain.write(tmp_path / "out", predictor, shots, chosen, format="labelme", batch=2)
    assert table["reason"].tolist() == ["uncertain", "uncertain", "faint"]
    assert table["rank"].tolist() == [1, 2, 3] and pd.isna(table["object"][2])
    classes = {task.name: task.classes for task in predictor.tasks}
    read = labelme.read(tmp_path / "out", labels.Vocabulary(classes))
    assert not read.faults and {image.file_name for image in read.images} == {*chosen}
    assert all(len(image.objects) == 1 for image in read.images), "what the filter drops is no annotation"
    last = predictor.tasks[-1]
    (noted,) = notes(tmp_path / "out/a/doubtful.json")
    assert last.name in noted and last.classes[1] in noted
    assert (tmp_path / "out/a/sure.png").read_bytes() == (shots / "a/sure.png").read_bytes()


def test_images_unlike_the_training_come_first_and_none_twice(tmp_path, predictor):
    for number in range(6):
        draw(tmp_path / f"train/{number}.png", 100, seed=number)
        draw(tmp_path / f"new/{number}.png", 110, seed=10 + number)
    for name in ("outlier", "twin"):
        PIL.Image.new("RGB", (64, 64), (250, 20, 20)).save(tmp_path / f"new/{name}.png")
    PIL.Image.new("RGB", (64, 64), (20, 250, 20)).save(tmp_path / "new/second.png")
    (tmp_path / "new/broken.png").write_bytes(b"no image")
    predictor.network.features = lambda squares: squares.mean(axis=(1, 2))
    bad, given = [], {"batch": 4, "on_error": lambda name, _: bad.append(name)}
    chosen = different.choose(predictor, tmp_path / "new", tmp_path / "train", 9, **given)
    assert bad == ["broken.png"] and {*[*chosen][:2]} == {"outlier.png", "second.png"}
    assert [*chosen][-1] == "twin.png" and chosen["twin.png"] < 1e-3
    assert [*chosen.values()] == sorted(chosen.values(), reverse=True)
    table = uncertain.write(tmp_path / "out", predictor, tmp_path / "new", chosen, format="labelme", batch=4)
    listed = table[table["reason"] == "different"]
    assert listed["image"].tolist() == [*chosen] and listed["score"].tolist() == pytest.approx(
        [*chosen.values()], abs=1e-4
    )


def test_nothing_to_choose_from():
    assert not uncertain.choose([], 3)


def test_images_of_one_name_are_refused(tmp_path, predictor):
    for folder in ("a", "b"):
        draw(tmp_path / folder / "same.png", 100, seed=1)
    with pytest.raises(UserError, match="same.png"):
        list(uncertain.candidates(predictor, [tmp_path / "a", tmp_path / "b"], batch=4))


def test_a_trained_model_from_the_command_line(project):
    """Whatever it predicts: the train split and new images go through the checkpoint and the exported model."""
    params = YAML(typ="safe").load(Path("params.yaml"))
    for section, changes in tiny.SMALL.items():
        params[section] |= changes
    YAML(typ="safe").dump(params, Path("params.yaml"))
    as_after_repro(predicted(converted("clean")))
    settings, data = load(), manifest.load(Path("data/manifest.json"))
    tasks = data.tasks(settings.tasks)
    network = tiny.network(tasks)
    known = description(tasks, settings.model, seed=0, input=settings.input) | {"seen": []}
    tiny.save(Path("models/best.safetensors"), network, known)
    rules = settings.filter.model_copy(update={"min_score": 0.0, "min_logit": {}, "drop_background": False, "most": 3})
    checkpoint.complete(
        Path("models/best.safetensors"), Path("model.safetensors"), size=settings.input.size, test=settings.test,
        filter=rules, licence=None,
    )  # fmt: skip
    with contextlib.suppress(UserError):  # nothing is suspected
        relabel(out=Path("train"), split=Split.train, device="cpu")
        assert {name.split("/")[0] for name in pd.read_csv("train/suggestions.csv")["image"]} == {"train"}
    arguments = {"origin": Origin.predictions, "weights": Path("model.safetensors"), "device": "cpu", "most": 2}
    relabel([str(RAW / "train")], out=Path("new"), **arguments)
    assert len(list(Path("new").rglob("*.jpg"))) == len(list(Path("new").rglob("*.json"))) == 2
    relabel([str(RAW / "train")], out=Path("far"), unlike=str(RAW / "train"), **arguments)
    assert pd.read_csv("far/suggestions.csv").query("reason == 'different'")["rank"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "--out"),
        ({"apply": Path("check")}, "--to"),
        ({"out": Path("new"), "origin": Origin.predictions}, "--weights"),
        ({"out": Path("new"), "weights": Path("model.safetensors")}, "--from predictions"),
        ({"out": Path("new"), "batch": 2}, "--from predictions"),
        ({"out": Path("new"), "origin": Origin.predictions, "split": Split.train}, "--split: .*--from suspects"),
        ({"apply": Path("check"), "to": Path("new"), "format": "cvat", "most": 3}, "--format, --most: .*LabelMe"),
        (
            {
                "out": Path("new"),
                "sources": ["a"],
                "origin": Origin.predictions,
                "weights": Path("m.onnx"),
                "unlike": "b",
            },
            "safetensors",
        ),
    ],
)
def test_options_that_do_not_go_together(given, named):
    with pytest.raises(UserError, match=named):
        relabel(**given)


@pytest.mark.parametrize("given", [{}, {"origin": Origin.predictions, "weights": Path("m.onnx"), "sources": ["a"]}])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(project, monkeypatch, given):
    as_after_repro(predicted(converted("clean")))
    monkeypatch.setattr(mtseg, "load", lambda *_, **__: None)
    for module, work in ((suspects, "find"), (uncertain, "candidates")):
        monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("the work is begun"))
    with pytest.raises(UserError, match="/proc/new cannot be created"):
        relabel(out=Path("/proc/new"), **given)


@pytest.mark.parametrize("given", [{"out": Path("new")}, {"apply": Path("check"), "to": Path("new")}])
def test_a_folder_that_is_no_project_is_refused(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="params.yaml: run it in the project's folder"):
        relabel(**given)


def test_annotation_changes_of_other_images_outlines_and_tasks(project):
    images = converted("clean")
    records = list(images)
    row = next(i for i, image in enumerate(records) if len(image.instances) >= 2)
    first, second, *rest = records[row].instances
    moved = replace(second, segmentation=[[1, 1, 20, 1, 20, 20]])
    changed = [
        replace(image, instances=(first, moved, *rest)) if i == row else image for i, image in enumerate(records)
    ]
    other = Images.from_records(changed[:-1], images.classes)
    assert annotation_changes(images, images) == []
    assert annotation_changes(images, other) == [
        {"what": "images", "changed": 0, "added": 0, "removed": 1},
        {"what": "objects", "changed": 0, "added": 1, "removed": 1},
    ]
