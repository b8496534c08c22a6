"""`python -m stages.evaluate`: score the predictions on the validation split.

About 3 s for 100 images with 60 predictions each on two cores. Expect metrics/evaluate.json (segm, bbox, tasks, joint,
in percent, with a separate joint AP of label combinations that do not occur in train), plots/classes.csv (one row per
class, AP with 95 % intervals), plots/rankings.csv (one row per ranking), plots/intervals.csv (one row per metric, with
95 % intervals), and in data/evaluation pairs.parquet (overlapping predictions and instances) and analysis.json (data of
the report's figures).
"""

from pathlib import Path

from mtseg.core.files import replace_folder, write_json, write_table
from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.core.tables import Predictions
from mtseg.data import manifest
from mtseg.evaluation import analysis, forks, intervals
from mtseg.evaluation.ap.evaluation import Evaluation


def main() -> None:
    params = load()
    data = manifest.load(Path("data/manifest.json"))
    tasks, images = data.tasks(params.tasks), data.images("val", outlines=False)
    predictions = Predictions.read("data/predictions/val.parquet", tasks)
    with replace_folder("data/evaluation") as folder:
        pairs = forks.overlaps(images, predictions).write(folder / "pairs.parquet", images, predictions)
        evaluation = Evaluation(
            images, predictions, pairs, tasks=tasks, ranking=params.test.ranking, max_dets=params.test.max_dets
        )
        known = forks.works(evaluation)  # first: the processes need memory, and few arrays are held yet
        rankings = analysis.rankings(evaluation, known)
        report = analysis.report(evaluation, known)
        del evaluation.scores, evaluation.tie_order  # used no more: 120 MB of 10,000,000 predictions
        metrics = analysis.metrics(evaluation, report, data.combinations("train"), known)
        write_json(folder / "analysis.json", report, indent=None)
    main, classes = intervals.tables(evaluation)
    write_table("plots/classes.csv", classes, columns=intervals.CLASS_COLUMNS)
    write_table("plots/rankings.csv", rankings)
    write_table("plots/intervals.csv", main, columns=intervals.COLUMNS)
    write_json("metrics/evaluate.json", metrics)
    print(f"AP {metrics['segm'].get('AP', '-')}  joint AP {metrics['joint'].get('AP', '-')}  (metrics/evaluate.json)")


if __name__ == "__main__":
    run_stage(main, help=__doc__)
