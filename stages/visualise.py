"""`python -m stages.visualise`: every number, every figure, and a gallery of ground truth and predictions, on one page.

About 4 s for 100 pictures with 80 predictions each on one core. Expect report/index.html, which needs nothing but the
pictures beside it, and plots/figures, the page's figures for `dvc plots show`.
"""

from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.core.params import load
from mtseg.data import manifest
from mtseg.evaluation import predictions
from mtseg.report import baseline, figures, page, revision


def main() -> None:
    params = load()
    data = manifest.load(Path("data/manifest.json"))
    tasks = data.tasks(params.tasks)
    numbers = page.read_numbers(
        evaluate=Path("metrics/evaluate.json"),
        filter=Path("metrics/filter.json"),
        classes=Path("plots/classes.csv"),
        rankings=Path("plots/rankings.csv"),
        intervals=Path("plots/intervals.csv"),
        sieve=Path("plots/filter.csv"),
        evaluation=Path("data/evaluation.json"),
        manifest=Path("data/manifest.json"),
        diagnosis=Path("data/diagnosis.json"),
        train=Path("plots/train.tsv"),
        val=Path("plots/val.tsv"),
        health=Path("plots/health.tsv"),
    )
    drawn = figures.figures(numbers)
    page.write_figures(Path("plots/figures"), drawn)
    page.write(
        Path("report"),
        data.images("val"),
        raw=predictions.read(Path("data/predictions/val.json"), tasks),
        filtered=predictions.read(Path("data/filtered/val.json"), tasks, made_by="filter"),
        tasks=tasks,
        ranking=params.test.ranking,
        root=params.data.raw,
        settings=params.visualise,
        numbers=numbers,
        figures=drawn,
        removed=page.read_removed(Path("data/filtered/val.csv")),
        params=revision.read(revision.WORKSPACE)["params"],
        baseline=baseline.read(),
    )
    print("open report/index.html")


if __name__ == "__main__":
    run_stage(main)
