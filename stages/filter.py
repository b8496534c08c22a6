"""`python -m stages.filter`: sieve the predictions by the rules of mtseg/scoring/filter.py.

About 2 s for 100 pictures with 50 predictions each on one core. Expect data/filtered/val.json and
metrics/filter.json: precision, recall, f1, joint_f1 before and after, and what each rule removed.
"""

from pathlib import Path

from mtseg.data import manifest
from mtseg.errors import run_stage
from mtseg.files import write_json
from mtseg.params import load
from mtseg.scoring import f1, filter, predictions


def main() -> None:
    params = load()
    data = manifest.load(Path("data/manifest.json"))
    tasks, images = data.tasks(params.tasks), data.images("val")
    ranking = params.test.ranking
    raw = predictions.read(Path("data/predictions/val.json"), tasks)
    kept, removed = filter.sieve(raw, tasks=tasks, settings=params.filter, ranking=ranking)
    metrics = f1.compare(images, raw, kept, tasks=tasks, ranking=ranking) | {"removed": removed}
    predictions.write(Path("data/filtered/val.json"), None, kept, images, tasks)
    write_json(Path("metrics/filter.json"), metrics)
    print(f"{len(raw)} predictions, {len(kept)} kept  (metrics/filter.json)")


if __name__ == "__main__":
    run_stage(main)
