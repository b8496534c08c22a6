"""`python -m stages.evaluate`: score the predictions on the validation split.

About 5 s for 100 pictures with 50 predictions each, under a minute for 5,000 with 100, on two cores. Expect
metrics/evaluate.json (segm, bbox, tasks, joint, in percent; joint AP apart for combinations of labels that train
lacks), plots/classes.csv, a row a class of each task, plots/rankings.csv, a row a ranking, plots/intervals.csv, a row a
metric with its 95 % interval, and data/evaluation.json, what the report draws.
"""

from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.core.files import uncollected, write_json
from mtseg.core.params import load
from mtseg.data import manifest
from mtseg.evaluation import analysis, intervals, predictions, rankings, reference, scores, unseen
from mtseg.evaluation.evidence import Evidence


@uncollected()
def main() -> None:
    params = load()
    data = manifest.load(Path("data/manifest.json"))
    tasks = data.tasks(params.tasks)
    found = predictions.read(Path("data/predictions/val.json"), tasks)
    images = data.images("val")
    options = {"tasks": tasks, "ranking": params.test.ranking, "max_dets": params.test.max_dets}
    with reference.started(images, found, **options) as by_pycocotools:
        evidence = Evidence.of(images, found, **options)
        matches = {"whatever": evidence.whatever, "jointly": evidence.jointly, "pictures": evidence.pictures}
        metrics, classes = scores.by_label(tasks, evidence.matches, **matches)
        metrics["joint"] |= unseen.metrics(evidence, data.combinations("train"))
        evaluation = analysis.report(evidence)
        scores.write_classes(Path("plots/classes.csv"), classes)
        scores.write_table(Path("plots/rankings.csv"), rankings.rows(evidence))
        scores.write_table(Path("plots/intervals.csv"), intervals.rows(evidence), columns=intervals.COLUMNS)
        write_json(Path("data/evaluation.json"), evaluation, indent=None)
        metrics |= by_pycocotools()
    for name, task in evaluation["tasks"].items():
        metrics["tasks"][name] |= {"ece": ece} if (ece := task["calibration"]["ece"]) is not None else {}
    write_json(Path("metrics/evaluate.json"), metrics)
    print(f"AP {metrics['segm'].get('AP', '-')}  joint AP {metrics['joint'].get('AP', '-')}  (metrics/evaluate.json)")


if __name__ == "__main__":
    run_stage(main)
