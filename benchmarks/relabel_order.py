"""`python -m benchmarks.relabel_order MODEL [--train DIR]`: the first images of `mtseg relabel --from predictions`.

MODEL: a file of the stage `export`, trained on the embedded data set, whose images are in DIR. Draws 250 new images:
150 as in the training, 50 with objects of half the size, 50 with up to 12 objects. Half a minute on two cores. Expect a
line for each order: the corrections that the first 50 images need (objects missed, found in excess, or with a wrong
label), and how many of the 100 unusual images are among them.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

import mtseg
from mtseg.core import params
from mtseg.core.tables import Images
from mtseg.data.convert import convert
from mtseg.data.shapes import generate
from mtseg.evaluation import f1
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference.predictor import Predictor
from mtseg.relabel import different, uncertain

ROOT = Path(__file__).parents[1]
KINDS = {"usual": (150, {}), "small": (50, {"scale": 0.5}), "many": (50, {"max_objects": 12})}
FIRST, BATCH = 50, 8
RAW = Path("raw")


def draw() -> Images:
    """The new images, in RAW/val, and their ground truth."""
    given = params.load(ROOT / "params.yaml")
    for seed, (kind, (count, changes)) in enumerate(KINDS.items(), start=100):
        one = given.generate.model_copy(update={"train": 1, "val": count, **changes})
        generate(one, Path(kind), seed=seed)
        for split in ("train", "val"):
            (RAW / split).mkdir(parents=True, exist_ok=True)
            for file in Path(kind, split).iterdir():
                content = file.read_bytes()
                if file.suffix == ".json":
                    content = content.replace(b'"imagePath": "', f'"imagePath": "{kind}-'.encode())
                (RAW / split / f"{kind}-{file.name}").write_bytes(content)
    data = given.data.model_copy(update={"raw": RAW})
    convert(data, given.tasks, Path("coco"), seed=0)
    return Images.read("coco/val.parquet")


def corrections(predictor: Predictor, images: Images) -> dict[str, int]:
    """Of each image, by its name in RAW/val."""
    result = predictor.predict([RAW / name for name in images.file_name])
    rows = np.argsort(images.id)
    found = result.replace(image_id=images.id[result.image_id - 1])
    evaluation = Evaluation(images, found, tasks=predictor.tasks, ranking=predictor.metadata.ranking)
    predictions, objects, hits, correct = f1.counts(evaluation).T
    needed = predictions + objects - hits - correct
    return {Path(images.file_name[row]).name: int(needed[row]) for row in rows}


def totals(names: Collection[str], needed: Mapping[str, int]) -> tuple[int, int]:
    """Of these images: the corrections they need, and how many are unusual."""
    return sum(needed[name] for name in names), sum(not name.startswith("usual") for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relabel_order", description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--train", type=Path, default=Path("data/raw/shapes/train"), help="images of the training")
    given = parser.parse_args()
    predictor, train = mtseg.load(given.model), given.train.resolve()
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        needed = corrections(predictor, draw())
        every = list(uncertain.candidates(predictor, RAW / "val", batch=BATCH))
        orders: dict[str, Sequence[str]] = {
            "best possible": sorted(needed, key=needed.get, reverse=True),
            "expected corrections": list(uncertain.choose(every, FIRST)),
            "most different": list(different.choose(predictor, RAW / "val", train, FIRST, batch=BATCH)),
        }
    for name, order in orders.items():
        corrected, unusual = totals(order[:FIRST], needed)
        print(f"{name:<22}{corrected:>6}{unusual:>6}")
    corrected, unusual = totals(needed, needed)
    share = FIRST / len(needed)
    print(f"{'random':<22}{share * corrected:>6.0f}{share * unusual:>6.0f}")


if __name__ == "__main__":
    main()
