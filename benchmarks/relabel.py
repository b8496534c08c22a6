"""`python -m benchmarks.relabel [--steps N] [--folder DIR]`: wrong labels that `mtseg relabel` finds after a training.

Draws the embedded data set, gives a tenth of the objects of both splits one wrong label, trains and predicts by the
stages of the pipeline with the settings of params.yaml, lists the suspects of each split, corrects the wrong labels
that have a note, and converts the new data. About 8 minutes on two cores, a third with --steps 600. Expect a line for
each split: the wrong labels, how many are among the first 100 suggestions and in the first 100 images, and how many
labels differ between the old data and the new. DIR keeps the project.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from mtseg.cli import relabel
from mtseg.core import params
from mtseg.core.files import read_json, write_json
from mtseg.core.tables import Images
from mtseg.data import labels, manifest
from mtseg.data.convert import convert
from mtseg.data.formats import labelme
from mtseg.report.data_changes import annotation_changes

ROOT = Path(__file__).parents[1]
RAW = Path("data/raw/shapes")
SHARE = 0.1  # of the objects, with one wrong label each
FIRST = 100
STAGES = ("train", "predict", "evaluate")


def spoil(raw: Path, classes: dict[str, tuple[str, ...]], *, share: float, seed: int = 0) -> list[dict[str, Any]]:
    """Change one label of a share of the objects in LabelMe files. classes: of each task, in their order.

    Returns a record for each object changed: file (relative to `raw`), shapes (their places), task, given, true.
    """
    rng, changed = np.random.default_rng(seed), []
    for file in sorted(raw.rglob("*.json")):
        value = json.loads(file.read_text(encoding="utf-8"))
        objects: dict[Any, list[int]] = {}
        for place, shape in enumerate(value["shapes"]):
            objects.setdefault(("alone", place) if shape["group_id"] is None else shape["group_id"], []).append(place)
        for places in objects.values():
            if rng.random() >= share:
                continue
            labels = value["shapes"][places[0]]["label"].split(",")
            number = int(rng.integers(len(labels)))
            task, true = list(classes)[number], labels[number]
            labels[number] = str(rng.choice([name for name in classes[task] if name != true]))
            for place in places:
                value["shapes"][place]["label"] = ",".join(labels)
            where = file.relative_to(raw).as_posix()
            changed.append({"file": where, "shapes": places, "task": task, "given": labels[number], "true": true})
        write_json(file, value, indent=None)
    return changed


def correct(folder: Path, wrong: list[dict[str, Any]]) -> int:
    """As a person who knows better: put the true labels where a note of `mtseg relabel` names the task. Returns how
    many. wrong: as `spoil` returns it."""
    corrected = 0
    for one in wrong:
        if not (file := folder / one["file"]).exists():
            continue
        value = json.loads(file.read_text(encoding="utf-8"))
        shapes = [value["shapes"][place] for place in one["shapes"]]
        if one["task"] in shapes[0]["description"]:
            corrected += 1
            for shape in shapes:
                shape["label"] = shape["label"].replace(one["given"], one["true"])
            write_json(file, value)
    return corrected


def run_stages(*names: str) -> None:
    for name in names:
        import_module(f"stages.{name}").main()


def prepare(steps: int | None) -> None:
    """The project in this folder, up to the evaluation. wrong.json lists the wrong labels."""
    given = YAML(typ="safe").load(ROOT / "params.yaml")
    given["solver"] |= {"max_iter": steps} if steps else {}
    YAML(typ="safe").dump(given, Path("params.yaml"))
    run_stages("generate", "convert", "register")
    classes = dict(manifest.load(Path("data/manifest.json")).classes)
    write_json("wrong.json", spoil(RAW, classes, share=SHARE))
    run_stages("convert", "register")
    write_json("data/check/verdict.json", {"errors": []})  # the check would report what was spoilt
    run_stages(*STAGES)


def found(split: str) -> tuple[int, int, pd.DataFrame]:
    """Wrong labels of a split, how many objects it has, and the suggestions of `mtseg relabel`, with `hit`: whether the
    object is one of them and the task the one that is wrong."""
    vocabulary = labels.Vocabulary(dict(manifest.load(Path("data/manifest.json")).classes))
    objects = {  # by file, the first shape of each object
        image.where: (image.file_name, [labelme.first_shape(item) for item in image.objects])
        for image in labelme.read(RAW, vocabulary).images
        if image.split == split
    }
    wrong = {
        (objects[one["file"]][0], objects[one["file"]][1].index(one["shapes"][0]) + 1, one["task"])
        for one in read_json("wrong.json")
        if one["file"] in objects
    }
    out = Path("check") / split
    relabel.command(out=out, split=relabel.Split(split), most=FIRST)
    rows = pd.read_csv(out / "suggestions.csv")
    rows["hit"] = [key in wrong for key in zip(rows["image"], rows["object"], rows["task"], strict=True)]
    return len(wrong), sum(len(shapes) for _, shapes in objects.values()), rows


def changed(split: str) -> int:
    """Labels of a split that differ after the correction of what `found` wrote."""
    given, new = params.load(), Path("data/raw") / f"corrected-{split}"
    correct(Path("check") / split, read_json("wrong.json"))
    relabel.command(apply=Path("check") / split, to=new)
    convert(given.data.model_copy(update={"raw": new}), given.tasks, Path("data") / f"corrected-{split}", seed=0)
    old, now = (Images.read(f"data/{folder}/{split}.parquet") for folder in ("coco", f"corrected-{split}"))
    return sum(row["changed"] for row in annotation_changes(old, now))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relabel", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, help="of the training, in place of solver.max_iter")
    parser.add_argument("--folder", type=Path, help="new folder that keeps the project")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["MTSEG_WORK"] = "work"
        with contextlib.chdir(folder):
            if not Path("data/predictions").exists():
                prepare(arguments.steps)
            lines = []
            for split in manifest.load(Path("data/manifest.json")).splits:
                wrong, objects, rows = found(split)
                first, images = rows.head(FIRST), rows["rank"].max()
                lines.append(
                    f"{split}: {wrong} wrong labels of {objects} objects; {first['hit'].sum()} among the first "
                    f"{len(first)} suggestions, {rows['hit'].sum()} among the {len(rows)} in {images} images; "
                    f"{changed(split)} labels changed in the new data"
                )
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
