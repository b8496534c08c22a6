"""The report: one page with the numbers, the curves, and the pictures that tell most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import PIL.Image
from markupsafe import Markup

from mtseg.data.pictures import read_picture
from mtseg.errors import UserError
from mtseg.files import read_json, replace_folder
from mtseg.records import Image, Prediction
from mtseg.report import curves, draw
from mtseg.scoring import f1
from mtseg.scoring.matching import Picture, pictures
from mtseg.scoring.predictions import Ranking, score
from mtseg.sections import Task, Visualise

TEMPLATES = Path(__file__).parent / "templates"
Numbers = dict[str, Any]


def read_numbers(evaluate: Path, filter: Path, classes: Path, train: Path, val: Path) -> Numbers:
    """What the page tells beside pictures, under these names; `train` and `val`, the curves, only if both exist.

    Raises UserError when a file is missing or broken.
    """
    numbers = {
        "evaluate": read_json(evaluate, made_by="evaluate"),
        "filter": read_json(filter, made_by="filter"),
        "classes": _table(classes, made_by="evaluate"),
    }
    if train.exists() and val.exists():
        numbers |= {"train": _table(train, made_by="train"), "val": _table(val, made_by="train")}
    return numbers


def write(
    folder: Path,
    images: Sequence[Image],
    raw: Sequence[Prediction],
    filtered: Sequence[Prediction],
    *,
    tasks: Sequence[Task],
    ranking: Ranking,
    root: Path,
    settings: Visualise,
    numbers: Numbers,
) -> None:
    """Write `folder`: index.html, and ID.jpg of each picture shown. The same input gives the same bytes.

    root: folder of the pictures. Raises UserError when a picture cannot be read.
    """
    drawn_raw = [p for p in raw if score(p, tasks, "main_quality") >= settings.min_score]
    scene = {picture.image.id: picture for picture in pictures(images, filtered, tasks=tasks, ranking=ranking)}
    before = {picture.image.id: picture for picture in pictures(images, drawn_raw, tasks=tasks, ranking=ranking)}
    scores = {key: f1.summary([f1.count(picture, tasks)]) for key, picture in scene.items()}
    chosen = choose({key: s["joint_f1"] for key, s in scores.items() if "joint_f1" in s}, settings.pictures)
    with replace_folder(folder) as temporary:
        for key in (key for keys in chosen.values() for key in keys):
            sheet = _sheet(scene[key], before[key], tasks, root, settings)
            sheet.save(temporary / f"{key}.jpg", quality=88, subsampling=0)
        groups = {
            group: [{"id": key, "name": scene[key].image.file_name, **scores[key]} for key in keys]
            for group, keys in chosen.items()
        }
        html = render(numbers, groups, tasks=tasks, images=images, settings=settings)
        (temporary / "index.html").write_bytes(html.encode())


def choose(scores: Mapping[int, float], count: int) -> dict[str, list[int]]:
    """`worst`, `median`, `best`: up to `count` ids each and none twice, by score, equal scores by id."""
    left = sorted(scores, key=lambda key: (scores[key], key))
    worst, left = left[:count], left[count:]
    left.sort(key=lambda key: (-scores[key], key))
    best, left = left[:count], left[count:]
    start = max(0, (len(left) - count) // 2)
    return {"worst": worst, "median": left[start : start + count], "best": best}


def render(
    numbers: Numbers,
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    tasks: Sequence[Task],
    images: Sequence[Image],
    settings: Visualise,
) -> str:
    """The page as HTML. groups: of the pictures, each with id, name and the scores of `f1.summary`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: "–" if value is None or pd.isna(value) else f"{value:.1f}"
    scored, sieved = numbers["evaluate"], numbers["filter"]
    by_task = {task.name: scored["tasks"].get(task.name, {}) for task in tasks}
    cards = [
        ("mask AP", scored["segm"].get("AP"), tasks[0].name),
        ("mask AP50", scored["segm"].get("AP50"), tasks[0].name),
        ("box AP", scored["bbox"].get("AP"), tasks[0].name),
        ("joint AP", scored["joint"].get("AP"), "every label right"),
        *((f"{name} accuracy", own.get("accuracy"), "where matched") for name, own in by_task.items()),
        ("joint F1", sieved["filtered"].get("joint_f1"), "after the filter"),
    ]
    return environment.get_template("page.html").render(
        cards=cards,
        tasks=by_task,
        sieve=[(name, sieved[name]) for name in ("raw", "filtered")],
        removed=sieved["removed"],
        classes=numbers["classes"].to_dict("records"),
        curves=Markup(curves.svg(numbers["train"], numbers["val"])) if "train" in numbers else "",
        groups=groups,
        images=len(images),
        instances=sum(not instance.crowd for image in images for instance in image.instances),
        min_score=settings.min_score,
    )


def _sheet(after: Picture, before: Picture, tasks: Sequence[Task], root: Path, settings: Visualise) -> PIL.Image.Image:
    image = after.image
    columns = {
        "ground truth": draw.truth(image, tasks),
        f"predicted, score ≥ {settings.min_score:g}": draw.found(image, before.predictions, tasks),
        "after the filter": draw.found(image, after.predictions, tasks),
    }
    return draw.compare(read_picture(root, image), columns, size=settings.size)


def _table(path: Path, *, made_by: str) -> pd.DataFrame:
    try:
        # empty is undefined, yet a class may well be called "none" or "NA"
        table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", keep_default_na=False, dtype=str)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro {made_by}` first") from None
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} is not a table ({error}): run `dvc repro {made_by}` again") from None
    numeric = [name for name in table if name not in ("task", "class")]
    table[numeric] = table[numeric].apply(pd.to_numeric, errors="coerce")
    return table
