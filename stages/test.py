"""`python -m stages.test`: score the predictions on the test split, if the data have one.

About as long as evaluate and filter together. Expect metrics/test.json: the keys of metrics/evaluate.json, and
precision, recall, f1 and joint_f1 after the filter (`filtered`); plots/test_classes.csv and plots/test_intervals.csv,
the tables of evaluate for this split; in data/test pairs.parquet, filtered.parquet, the predictions that the filter
kept, filtered_pairs.parquet, and filtered.csv, the rule that removed each of the others. Without a test split {} and
tables without rows. The checkpoint and, with `filter.thresholds: auto`, the thresholds are those chosen on val: nothing
is chosen here.
"""

from pathlib import Path

from mtseg.core.files import read_json, replace_folder, write_json, write_table
from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.core.tables import Predictions
from mtseg.data import manifest
from mtseg.evaluation import analysis, filter, forks, intervals
from mtseg.evaluation.ap.evaluation import Evaluation


def main() -> None:
    params, data = load(), manifest.load(Path("data/manifest.json"))
    picked = read_json("metrics/filter.json", made_by="filter", keys=("filtered",)).get("picked", {})
    metrics, main, classes, removed = {}, [], [], []
    with replace_folder("data/test") as folder:
        if "test" in data.splits:
            tasks, images = data.tasks(params.tasks), data.images("test", outlines=False)
            predictions = Predictions.read("data/predictions/test.parquet", tasks)
            pairs = forks.overlaps(images, predictions).write(folder / "pairs.parquet", images, predictions)
            evaluation = Evaluation(
                images, predictions, pairs, tasks=tasks, ranking=params.test.ranking, max_dets=params.test.max_dets
            )
            metrics = analysis.metrics(evaluation, analysis.report(evaluation), data.combinations("train"))
            main, classes = intervals.tables(evaluation)
            rules = params.filter.model_copy(update={"thresholds": "given"} | picked)
            filtered = filter.apply(evaluation, rules)
            removed = filtered.removed
            steps = filter.table(filtered)
            metrics["filtered"] = filter.sum_up(steps)["filtered"]
            last = steps.iloc[-1]
            main.append({"metric": "filtered.joint_f1", "value": last.joint_f1, "low": last.low, "high": last.high})
            kept, kept_pairs = filtered.predictions
            kept.write(folder / "filtered.parquet", tasks)
            kept_pairs.write(folder / "filtered_pairs.parquet", images, kept)
            print(f"test: AP {metrics['segm'].get('AP', '-')}  joint AP {metrics['joint'].get('AP', '-')}")
        write_table(folder / "filtered.csv", removed, columns=("prediction", "rule"))
    write_table("plots/test_classes.csv", classes, columns=intervals.CLASS_COLUMNS)
    write_table("plots/test_intervals.csv", main, columns=intervals.COLUMNS)
    write_json("metrics/test.json", metrics)


if __name__ == "__main__":
    run_stage(main, help=__doc__)
