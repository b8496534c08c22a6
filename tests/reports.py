"""A small report that holds every kind of mistake, with names that are markup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import PIL.Image

from mtseg.core.files import read_table, write_table
from mtseg.core.params import Task, Visualise
from mtseg.core.tables import Images
from mtseg.data import coco, manifest
from mtseg.evaluation import analysis, intervals
from mtseg.evaluation.ap import classes, scores
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.report import figures, page
from mtseg.report.history import Baseline
from tests.scenes import SIZE, Row, box_instance, images_of, make_tasks, predict, scene, table

EVIL = "<script>alert(1)</script>"
EVIL_FILE = "x'\"<b>&<!--</script><img src=x onerror=alert(1)>.jpg"  # the slash makes its start a folder
SETTINGS = Visualise(pictures=20, min_score=0.1, size=96)
FINDINGS = [
    {"cause": "masks_displaced", "severity": "error", "title": "<i>", "evidence": "by 3 pixels", "change": "see <b>"}
    | {"where": "shape"}
]
DIAGNOSIS = {
    "findings": FINDINGS,
    "figures": {
        "detections": {"missed": 0.25},
        "oracles": {"AP": 50.0, "labels": 55.0, "masks": 70.0},
        "raise_ap": {
            "finer": {"gain": 5.0, "cost": "time"}, "more": {"gain": 20.0, "cost": "images"},
            "steps": {"gain": None, "cost": "unknown"},
        },
    },
    "verdict": None, "looked_at": "masks", "not_visible": "the rest",
}  # fmt: skip
KEYS = ("precision", "recall", "f1", "joint_f1")
KEPT = 0.5  # quality from which the filter of this report keeps a prediction


def evil_tasks(count: int) -> tuple[Task, ...]:
    main, *further = make_tasks(count)
    return (main.model_copy(update={"classes": (EVIL, "none", "NA")}), *further)


def make_images(root: Path, tasks: tuple[Task, ...], count: int = 9) -> Images:
    """Images of four boxes, the first empty, the second badly named, as files in `root`."""
    images = list(scene(tasks, count=count))
    if count > 1:
        images[1] = replace(images[1], file_name=EVIL_FILE)
    for image in images:
        (root / image.file_name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (SIZE, SIZE), (9 * image.id, 90, 90)).save(root / image.file_name, format="JPEG")
    return images_of(images, tasks)


def predicted(images: Images, tasks: tuple[Task, ...]) -> list[Row]:
    """Mistakes by the number of the image: missed, misplaced, a label wrong, one more object; duplicates everywhere,
    of low quality and so filtered out."""
    found = []
    for image in images:
        options = {"tasks": tasks, "image_id": image.id}
        for place, instance in enumerate(image.instances[image.id % 3 :]):
            quality, last = 0.95 - 0.1 * place, tasks[-1]
            wrong = {last.name: (instance.labels[last.name] + 1) % last.num_classes} if not image.id % 4 else {}
            shift = 10 if image.id % 5 == 0 and place == 0 else 0
            found.append(predict(instance, **options, query=place, quality=quality, shift=shift, **wrong))
            found.append(predict(instance, **options, query=place + 10, quality=0.3, shift=1))
        if image.id == 7:
            extra = box_instance((28, 28, 8, 8), {task.name: 0 for task in tasks})
            found.append(predict(extra, **options, query=30, quality=0.7))
    return found


def evaluated(images: Images, rows: list[Row], tasks: tuple[Task, ...], ranking: str = "product_quality") -> Evaluation:
    return Evaluation(images, table(rows, tasks), tasks=tasks, ranking=ranking, max_dets=(1, 10))


def make_numbers(folder: Path, evaluation: Evaluation) -> page.Numbers:
    metrics = scores.metrics(evaluation)
    write_table(folder / "classes.csv", classes.table(evaluation))
    for split in ("train", "val"):
        coco.write(folder / f"{split}.json", evaluation.images, evaluation.tasks)
    steps = (("raw", 0, 50.0), ("low_score", 20, 60.0))
    return {
        "evaluate": metrics | {"segm": {"AP": 50.0}, "bbox": {"AP": 49.0}},
        "filter": {"raw": {"joint_f1": 50.0}, "filtered": {"joint_f1": 60.0}, "removed": {"low_score": 20}},
        "classes": read_table(folder / "classes.csv", made_by="evaluate"),
        "rankings": pd.DataFrame([{"ranking": "main_quality", "segm_AP": 50.0, "joint_AP": None}]),
        "intervals": pd.DataFrame(intervals.tables(evaluation)[0], columns=intervals.COLUMNS),
        "rules": pd.DataFrame(
            [{"stage": stage, "removed": n} | dict.fromkeys((*KEYS, "low", "high"), f) for stage, n, f in steps]
        ),
        "analysis": analysis.report(evaluation),
        "manifest": manifest.build(folder),
        "check": [],
        "test": {},
        "test_classes": pd.DataFrame(columns=intervals.CLASS_COLUMNS),
        "test_intervals": pd.DataFrame(columns=intervals.COLUMNS),
        "diagnosis": DIAGNOSIS,
    }


def make_report(folder: Path, tasks: tuple[Task, ...], *, count: int = 9, drawn: bool = False, **options) -> Path:
    """`folder`/report, with figures if they are to be `drawn`; `options` replace arguments of `page.write`."""
    images = make_images(folder / "raw", tasks, count)
    rows = predicted(images, tasks)
    raw = evaluated(images, rows, tasks)
    numbers = make_numbers(folder, raw)
    if drawn:
        numbers["train"] = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "loss_mask": [1.0, 0.0], "lr": [1e-3, 0]})
        numbers["val"] = pd.DataFrame({"step": [2], "segm_AP": [30.0]})
    given = {
        "root": folder / "raw",
        "settings": SETTINGS,
        "numbers": numbers,
        "drawn": figures.figures(numbers) if drawn else {},
        "removed": [None if row.mask_quality >= KEPT else "low_score" for row in rows],
        "params": {"solver": {"max_iter": 9}},
        "baseline": Baseline(why="nothing before"),
    }
    filtered = evaluated(images, [row for row in rows if row.mask_quality >= KEPT], tasks)
    page.write(folder / "report", raw, filtered, **given | options)
    return folder / "report"
