"""`python -m stages.filter`: post-process the predictions by the rules of mtseg/evaluation/filter.py.

About 2 s for 100 images with 60 predictions each on one core; thresholds picked on val take a few seconds more. Expect
in data/filtered val.parquet and val.json, the predictions that were kept, pairs.parquet, which instances they overlap,
and val.csv, a row for each prediction before: `prediction`, its row, and `rule`, the one that removed it, empty if it
was kept; in metrics/filter.json precision, recall, f1 and joint_f1 before (`raw`) and after (`filtered`), what each
rule `removed`, and the thresholds if they were `picked`; in plots/filter.csv the same scores after each rule in turn.
"""

import json
from pathlib import Path

from mtseg.core.files import replace_folder, write_json, write_table
from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.core.tables import Pairs, Predictions
from mtseg.data import manifest
from mtseg.evaluation import filter, thresholds
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference.export import coco


def main() -> None:
    params = load()
    data = manifest.load(Path("data/manifest.json"))
    tasks, images = data.tasks(params.tasks), data.images("val", outlines=False)
    raw = Predictions.read("data/predictions/val.parquet", tasks)
    pairs = Pairs.read("data/evaluation/pairs.parquet", images, raw)
    evaluation = Evaluation(images, raw, pairs, tasks=tasks, ranking=params.test.ranking)
    settings, picked = params.filter, {}
    if settings.thresholds == "auto":
        picked = thresholds.pick(evaluation, settings)
        settings = settings.model_copy(update=picked)
    filtered = filter.apply(evaluation, settings)
    steps = filter.table(filtered)
    metrics = filter.sum_up(steps) | ({"picked": picked} if picked else {})
    kept, kept_pairs = filtered.predictions
    with replace_folder("data/filtered") as folder:
        kept.write(folder / "val.parquet", tasks)
        kept_pairs.write(folder / "pairs.parquet", images, kept)
        coco.write_results(folder / "val.json", kept, tasks)
        write_table(folder / "val.csv", filtered.removed)
    write_table("plots/filter.csv", steps)
    write_json("metrics/filter.json", metrics)
    joint_f1 = metrics["filtered"].get("joint_f1", "undefined")
    print(f"{len(raw)} predictions, {len(kept)} kept  joint F1 {joint_f1}  (metrics/filter.json)")
    if picked:
        print(f"thresholds picked on val, so these scores of val are optimistic: {json.dumps(picked)}")


if __name__ == "__main__":
    run_stage(main, help=__doc__)
