"""`python -m stages.evaluate`: score the predictions on the validation split.

About 2 s for 100 pictures with 50 predictions each on one core. Expect metrics/evaluate.json (segm, bbox, tasks,
joint, in percent), plots/classes.csv, a row a class of each task, and plots/rankings.csv, a row a ranking.
"""

from pathlib import Path

from mtseg.data import manifest
from mtseg.errors import run_stage
from mtseg.files import write_json
from mtseg.params import load
from mtseg.scoring import predictions, reference, scores


def main() -> None:
    params = load()
    data = manifest.load(Path("data/manifest.json"))
    tasks = data.tasks(params.tasks)
    found = predictions.read(Path("data/predictions/val.json"), tasks)
    images, max_dets = data.images("val"), params.test.max_dets
    options = {"tasks": tasks, "ranking": params.test.ranking, "max_dets": max_dets}
    with reference.started(images, found, **options) as by_pycocotools:
        metrics, classes = scores.evaluate(images, found, **options)
        scores.write_classes(Path("plots/classes.csv"), classes)
        scores.write_table(Path("plots/rankings.csv"), scores.rankings(images, found, tasks=tasks, max_dets=max_dets))
        metrics |= by_pycocotools()
    write_json(Path("metrics/evaluate.json"), metrics)
    print(f"AP {metrics['segm'].get('AP', '-')}  joint AP {metrics['joint'].get('AP', '-')}  (metrics/evaluate.json)")


if __name__ == "__main__":
    run_stage(main)
