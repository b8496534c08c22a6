"""`python -m stages.visualise`: ground truth beside raw and filtered predictions, and every number, on one page.

About 3 s for 12 pictures on one core. Expect report/index.html with the worst, the median and the best pictures.
"""

from pathlib import Path

from mtseg.data import manifest
from mtseg.errors import run_stage
from mtseg.params import load
from mtseg.report import page
from mtseg.scoring import predictions


def main() -> None:
    params = load()
    data = manifest.load(Path("data/manifest.json"))
    tasks = data.tasks(params.tasks)
    page.write(
        Path("report"),
        data.images("val"),
        raw=predictions.read(Path("data/predictions/val.json"), tasks),
        filtered=predictions.read(Path("data/filtered/val.json"), tasks, made_by="filter"),
        tasks=tasks,
        ranking=params.test.ranking,
        root=params.data.raw,
        settings=params.visualise,
        numbers=page.read_numbers(
            evaluate=Path("metrics/evaluate.json"),
            filter=Path("metrics/filter.json"),
            classes=Path("plots/classes.csv"),
            train=Path("plots/train.tsv"),
            val=Path("plots/val.tsv"),
        ),
    )
    print("open report/index.html")


if __name__ == "__main__":
    run_stage(main)
