"""`python -m stages.filter`: sieve the predictions by the rules of mtseg/scoring/filter.py.

About 3 s for 100 pictures with 90 predictions each on one core, thresholds picked or given. Expect
- data/filtered/val.json: what was kept, in the order of data/predictions/val.json;
- data/filtered/val.csv: a row for each prediction there, `prediction` (its place, from 0) and `rule`, the name of the
  one that removed it, empty if it was kept;
- metrics/filter.json: precision, recall, f1 and joint_f1 before (`raw`) and after (`filtered`), what each rule
  `removed`, and the thresholds if they were `picked`;
- plots/filter.csv: the same scores after each rule in turn.
"""

import json
from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.core.files import replace_file, write_json
from mtseg.core.params import load
from mtseg.data import manifest
from mtseg.evaluation import filter, predictions, thresholds


def main() -> None:
    params = load()
    data = manifest.load(Path("data/manifest.json"))
    tasks, images = data.tasks(params.tasks), data.images("val")
    raw = predictions.read(Path("data/predictions/val.json"), tasks)
    settings, options = params.filter, {"tasks": tasks, "ranking": params.test.ranking}
    picked = {}
    if settings.thresholds == "auto":
        picked = thresholds.pick(images, raw, settings=settings, **options)
        settings = settings.model_copy(update=picked)
    sieved = filter.sieve(raw, settings=settings, **options)
    steps = filter.table(sieved, images, **options)
    metrics = filter.sum_up(steps) | ({"picked": picked} if picked else {})
    predictions.write(Path("data/filtered/val.json"), None, sieved.kept, images, tasks)
    for path, rows in ((Path("data/filtered/val.csv"), sieved.removed), (Path("plots/filter.csv"), steps)):
        with replace_file(path) as temporary:
            rows.to_csv(temporary, index=False, lineterminator="\n")
    write_json(Path("metrics/filter.json"), metrics)
    joint_f1 = metrics["filtered"].get("joint_f1", "undefined")
    print(f"{len(raw)} predictions, {len(sieved.kept)} kept  joint F1 {joint_f1}  (metrics/filter.json)")
    if picked:
        print(f"thresholds picked on val, which flatters these scores: {json.dumps(picked)}")


if __name__ == "__main__":
    run_stage(main)
