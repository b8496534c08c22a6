"""`python -m stages.visualise`: every number, every figure, and a gallery of ground truth and predictions, on one page.

About 4 s for 100 images with 80 predictions each on one core. Expect report/index.html, which needs nothing but the
images beside it, and plots/figures, the page's figures for `dvc plots show`.
"""

from pathlib import Path

from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.core.tables import Pairs, Predictions
from mtseg.data import manifest
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.report import figures, history, page

INTERVALS = ("value", "low", "high")
FILES = {  # (path, the stage that makes it, keys or columns that it must have)
    "manifest": ("data/manifest.json", "register", ("splits", "tasks")),
    "check": ("data/check/findings.json", "check", ["cause", "severity"]),
    "evaluate": ("metrics/evaluate.json", "evaluate", ("segm", "bbox", "tasks", "joint")),
    "classes": ("plots/classes.csv", "evaluate", ("label", "task", "class", "instances", "AP")),
    "rankings": ("plots/rankings.csv", "evaluate", ("ranking", "segm_AP", "joint_AP")),
    "intervals": ("plots/intervals.csv", "evaluate", ("metric", *INTERVALS)),
    "analysis": ("data/evaluation/analysis.json", "evaluate", ("joint", "label_errors", "score", "scores", "tasks")),
    "filter": ("metrics/filter.json", "filter", ("raw", "filtered", "removed")),
    "rules": ("plots/filter.csv", "filter", ("stage", "removed", "joint_f1", "low", "high")),
    "test": ("metrics/test.json", "test", ()),
    "test_classes": ("plots/test_classes.csv", "test", ("label", "AP")),
    "test_intervals": ("plots/test_intervals.csv", "test", ("metric", *INTERVALS)),
    "diagnosis": ("data/diagnosis.json", "diagnose", ("findings", "figures", "looked_at", "not_visible", "verdict")),
}
CURVES = {
    "train": ("plots/train.tsv", "train", ("step", "lr", "loss")),
    "val": ("plots/val.tsv", "train", ("step",)),
    "health": ("plots/health.tsv", "train", ("step", "stability")),
}


def main() -> None:
    params, data = load(), manifest.load(Path("data/manifest.json"))
    images, options = (
        data.images("val", outlines=False),
        {"tasks": data.tasks(params.tasks), "ranking": params.test.ranking},
    )
    raw = Predictions.read("data/predictions/val.parquet", options["tasks"])
    filtered = Predictions.read("data/filtered/val.parquet", options["tasks"], made_by="filter")
    pairs = Pairs.read("data/evaluation/pairs.parquet", images, raw)
    kept_pairs = Pairs.read("data/filtered/pairs.parquet", images, filtered, made_by="filter")
    numbers = page.read_numbers(FILES, CURVES)
    drawn = figures.figures(numbers)
    page.write_figures(Path("plots/figures"), drawn)
    page.write(
        Path("report"),
        Evaluation(images, raw, pairs, **options),
        Evaluation(images, filtered, kept_pairs, **options),
        root=params.data.raw,
        settings=params.visualise,
        numbers=numbers,
        drawn=drawn,
        removed=page.read_removed(Path("data/filtered/val.csv"), len(raw)),
        params=history.load(history.WORKSPACE).params,
        baseline=history.baseline(),
    )
    print("open report/index.html")


if __name__ == "__main__":
    run_stage(main, help=__doc__)
