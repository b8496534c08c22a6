"""`python -m stages.overlays FILE ID...`: draw images of the validation split. Not a stage of the pipeline.

Expect a JPEG with the ground truth of each image on the left and its predictions after the filter on the right.
"""

import argparse
from pathlib import Path

from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.core.tables import Predictions
from mtseg.data import manifest
from mtseg.report import overlays


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.overlays", description="Draw images with all labels.")
    parser.add_argument("file", type=Path, help="the JPEG to write")
    parser.add_argument("ids", type=int, nargs="+", metavar="ID", help="of images of the validation split")
    arguments = parser.parse_args()
    params, data = load(), manifest.load(Path("data/manifest.json"))
    tasks = data.tasks(params.tasks)
    found = Predictions.read("data/filtered/val.parquet", tasks, made_by="filter")
    overlays.save(arguments.file, data.images("val"), found, arguments.ids, tasks=tasks, root=params.data.raw)


if __name__ == "__main__":
    run_stage(main)
