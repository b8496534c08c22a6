"""Compare two revisions on one page: params, scores with intervals of their change, and the images that changed
most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from markupsafe import Markup

from mtseg.core.errors import UserError
from mtseg.core.files import replace_folder, write_image
from mtseg.core.params import Ranking, Task
from mtseg.core.tables import Image, Images, Pairs, Predictions
from mtseg.data.images import read_image
from mtseg.evaluation import bootstrap, errors, f1, intervals
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference.overlays import labelled
from mtseg.report import breakdowns, history, html, overlays, page
from mtseg.report.history import Revision

SIZE = 384  # longer side of the images in pixels
SHOWN = 6  # largest number of improved images, and of worse ones
VAL_FILES = (  # annotations, predictions with their pairs, and the same after the filter
    history.VAL,
    "data/predictions/val.parquet",
    "data/evaluation/pairs.parquet",
    "data/filtered/val.parquet",
    "data/filtered/pairs.parquet",
)
TEST_FILES = (
    "data/coco/test.parquet",
    "data/predictions/test.parquet",
    "data/test/pairs.parquet",
    "data/test/filtered.parquet",
    "data/test/filtered_pairs.parquet",
)


@dataclass(frozen=True)
class Side:
    """A revision with its raw and its filtered predictions on a split, that is val. lacks: the reason if there are no
    predictions. test: the same of test, if the revision has one."""

    revision: Revision
    raw: Evaluation | None = None
    filtered: Evaluation | None = None
    lacks: str | None = None
    test: Side | None = None

    @property
    def root(self) -> Path:
        """The folder of its images, which may differ between revisions."""
        return Path(str(self.revision.section("data").get("raw") or "."))


def load(rev: str, scratch: Path) -> Side:
    """A revision with its predictions, if DVC's cache has them. scratch: a folder for copies.

    Raises UserError if there is no such revision or it has no results.
    """
    revision = history.load(rev)
    test = revision.section("test")
    ranking, max_dets = test.get("ranking"), test.get("max_dets")
    if ranking not in get_args(Ranking):
        ranking = "product_quality"
    if not (isinstance(max_dets, list) and max_dets and all(isinstance(n, int) and n > 0 for n in max_dets)):
        max_dets = [100]
    options = {"ranking": ranking, "max_dets": tuple(max_dets)}
    val = _predicted(revision, VAL_FILES, scratch, options)
    return (
        replace(val, test=_predicted(revision, TEST_FILES, scratch, options)) if revision.metrics.get("test") else val
    )


def _predicted(revision: Revision, files: Sequence[str], scratch: Path, options: Mapping[str, Any]) -> Side:
    """The predictions on a split. files: of VAL_FILES or TEST_FILES. options: of `Evaluation`."""
    try:
        table, *results = (revision.fetch(path, scratch) for path in files)
        images = Images.read(table)
        # the other settings of tasks in its params may be those of an older version
        tasks = tuple(Task(name=name, classes=own, background=True) for name, own in images.classes)
        evaluations = []
        for made_by, predicted, overlaps in (("predict", *results[:2]), ("filter", *results[2:])):
            predictions = Predictions.read(predicted, tasks, made_by=made_by)
            pairs = Pairs.read(overlaps, images, predictions)
            evaluations.append(Evaluation(images, predictions, pairs, tasks=tasks, **options))
        return Side(revision, *evaluations)
    except UserError as error:
        return Side(revision, lacks=str(error).replace(f"{scratch}/", ""))


def write(folder: Path, a: Side, b: Side, data: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Write `folder`: index.html and the images that changed most. data: of `data_changes.rows`. Returns notes on what
    could not be compared."""
    notes = [side.lacks for side in (a, b) if side.lacks]
    both = None if notes else common(a, b, notes)
    leading, of_class, costs, groups = [], {}, [], {}
    tested = _tested(a.test, b.test, notes) if a.test and b.test else {}
    with replace_folder(folder) as temporary:
        if both:
            leading, of_class, costs = paired(*both)
            better, worse = changed(*both)
            groups = {"Better": _draw(temporary, better, *both, notes), "Worse": _draw(temporary, worse, *both, notes)}
        one, other = a.revision, b.revision
        text = html.render(
            "compare.html",
            sides=[one, other],
            notes=notes,
            code=history.code(one.commit, other.commit),
            params=page.changes(one.params, other.params),
            data=data,
            more=more_images(page.changes(one.params, other.params), data, leading),
            leading=leading,
            errors=costs,
            images=len(both[0].raw.images) if both else 0,
            tasks=task_rows(one, other),
            classes=class_rows(one, other, of_class),
            metrics=metric_rows(one, other),
            tested=tested,
            groups=groups,
        )
        (temporary / "index.html").write_bytes(text.encode())
    return notes


def _tested(a: Side, b: Side, notes: list[str]) -> dict[str, Any]:
    """The scores on test of both: leading, images, tasks and classes of the template. Adds to notes."""
    own = [side.lacks for side in (a, b) if side.lacks]
    both = None if own else common(a, b, own, split="test")
    notes += [note for note in own if note not in notes]  # of val there may be the same
    leading, of_class, _ = paired(*both) if both else ([], {}, [])
    one, other = a.revision, b.revision
    return {
        "leading": leading,
        "images": len(both[0].raw.images) if both else 0,
        "tasks": task_rows(one, other, "test"),
        "classes": class_rows(one, other, of_class, "test_classes"),
    }


def common(a: Side, b: Side, notes: list[str], split: str = "val") -> tuple[Side, Side] | None:
    """Both sides reduced to their common tasks and images, with the image ids of `a`; None if nothing is common. Adds
    to notes."""
    theirs = {task.name: task.classes for task in b.raw.tasks}
    shared = tuple(task for task in a.raw.tasks if theirs.get(task.name) == task.classes)
    if not shared or shared[0] != a.raw.tasks[0] or shared[0].name != b.raw.tasks[0].name:
        notes.append("The main task or its classes differ: neither AP nor images can be compared.")
        return None
    if len(shared) < max(len(a.raw.tasks), len(b.raw.tasks)):
        names = ", ".join(task.name for task in shared)
        notes.append(f"The tasks differ. The scores below use those that both have: {names}.")

    def annotations(image: Image) -> tuple:
        labels = [[instance.labels[task.name] for task in shared] for instance in image.instances]
        return image.height, image.width, [(i.segmentation, i.crowd) for i in image.instances], labels

    rows = {image.file_name: (row, annotations(image)) for row, image in enumerate(b.raw.images)}
    pairs = [
        (row, *rows.get(image.file_name, (-1, None)), annotations(image)) for row, image in enumerate(a.raw.images)
    ]
    pairs = [(row, other) for row, other, known, own in pairs if known == own]
    if not pairs:
        notes.append(
            f"The {split} splits share no image with the same annotations: their scores are of different data."
        )
        return None
    if len(pairs) < max(len(a.raw.images), len(b.raw.images)):
        notes.append(
            f"The {split} splits differ: {len(a.raw.images)} and {len(b.raw.images)} images, of which {len(pairs)} are "
            "in both with the same annotations. Intervals and images are of those; the other metrics are of all."
        )
    of_a, of_b = np.array(pairs).T
    images = a.raw.images[of_a]
    return tuple(
        replace(side, raw=_shared(side.raw, images, own, shared), filtered=_shared(side.filtered, images, own, shared))
        for side, own in ((a, of_a), (b, of_b))
    )


def paired(
    a: Side, b: Side
) -> tuple[list[dict[str, Any]], dict[tuple[str, str], dict[str, float]], list[dict[str, Any]]]:
    """The main scores, the AP of each (task, class), and `error_rows`, of both sides on the same images.

    Rows have in percent: a, b, their difference `delta` and, except in `error_rows`, its 95 % interval, low and high
    (NaN if undefined). Both sides are scored on the same draws of images (a paired bootstrap).
    """
    weights = bootstrap.draws(len(a.raw.images), max(len(a.raw.predictions), len(b.raw.predictions)))
    scored = [intervals.average_precisions(side.raw, weights) for side in (a, b)]
    one, other = (
        intervals.samples(side.raw, weights, own) | _f1(side.filtered, weights)
        for side, own in zip((a, b), scored, strict=True)
    )
    rows = [{"metric": name, **row} for name in one if (row := _difference(one[name], other[name]))]
    of_class = {}
    for task in a.raw.tasks:
        one, other = (own[task.name].mean(axis=2) for own in scored)  # [1 + B, K]
        for index, name in enumerate(task.classes):
            if row := _difference(one[:, index], other[:, index]):
                of_class[task.name, name] = row
    return rows, of_class, error_rows(a.raw, b.raw)


def error_rows(a: Evaluation, b: Evaluation) -> list[dict[str, Any]]:
    """Rows with of, kind, a, b and delta: AP50 in percent that each `kind` of error costs, `of` each task and of all
    labels together; and joint AP that wrong labels of each task cost. Only what both sides have."""
    one, other = _costs(a), _costs(b)
    return [
        {"of": of, "kind": kind, "a": was, "b": other[of, kind], "delta": other[of, kind] - was}
        for (of, kind), was in one.items()
        if (of, kind) in other
    ]


def more_images(
    params: Sequence[tuple[str, str, str]], data: Sequence[Mapping[str, Any]], leading: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The learning curve through two runs that differ in `data.share` alone: joint AP rises by the same for each
    doubling of the train images (the logarithmic law of arXiv 1707.02968). images: of the larger run. rows: joint AP
    that `more` images would add to it, with the 95 % interval of the paired difference, low and high. Empty for other
    pairs of runs."""
    if [key for key, *_ in params] != ["data.share"]:
        return {}
    counts = next(([row["a"], row["b"]] for row in data if row["split"] == "train"), [0, 0])
    joint = next((row for row in leading if row["metric"] == "joint.AP"), None)
    if joint is None or min(counts) < 1 or counts[0] == counts[1]:
        return {}
    most, doublings, rows = max(counts), np.log2(counts[1] / counts[0]), []
    for more in (100, most):
        low, gain, high = sorted(joint[key] * np.log2(1 + more / most) / doublings for key in ("low", "delta", "high"))
        rows.append({"more": more, "gain": gain, "low": low, "high": high})
    return {"images": most, "rows": rows}


def changed(a: Side, b: Side) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Images whose filtered predictions improved, and those that became worse, by joint F1, largest change first."""
    rows, images = [], a.filtered.images
    for row, counts in enumerate(zip(f1.counts(a.filtered), f1.counts(b.filtered), strict=True)):
        # without objects and predictions, an image is all correct
        was, now = (f1.summary(own).get("joint_f1", 100.0) for own in counts)
        rows.append({"row": row, "id": int(images.id[row]), "name": images.file_name[row], "a": was, "b": now})
        rows[-1]["delta"] = now - was
    rows.sort(key=lambda row: (-abs(row["delta"]), row["id"]))
    better, worse = ([row for row in rows if sign * row["delta"] > 0] for sign in (1, -1))
    return better[:SHOWN], worse[:SHOWN]


def metric_rows(a: Revision, b: Revision) -> list[dict[str, Any]]:
    """Every metric that either side has, as in the files, with the intervals of plots/intervals.csv, and those on test
    of plots/test_intervals.csv."""
    one, other = (page.flat(side.metrics) for side in (a, b))
    ranges = [
        (side, _records(own, "intervals", "metric"), _records(own, "test_intervals", "metric"))
        for side, own in (("a", a), ("b", b))
    ]
    rows = []
    for key in sorted({*one, *other}):
        was, now = one.get(key), other.get(key)
        if not all(value is None or isinstance(value, int | float) for value in (was, now)):
            continue
        file, _, name = key.partition(".")
        row = {"file": file, "metric": name, "a": was, "b": now, "delta": _delta(was, now)}
        rows.append(
            row
            | {
                f"range_{side}": _range((on_test if file == "test" else on_val).get((name,)))
                for side, on_val, on_test in ranges
            }
        )
    return rows


def task_rows(a: Revision, b: Revision, file: str = "evaluate") -> list[dict[str, Any]]:
    """AP, accuracy, f1 and ece of each task that both sides have, each as (a, b, difference). file: `evaluate` or
    `test`."""
    one, other = (side.metrics[file].get("tasks", {}) for side in (a, b))
    rows = []
    for name in (name for name in other if name in one):
        values = {key: (one[name].get(key), other[name].get(key)) for key in ("AP", "accuracy", "f1", "ece")}
        rows.append({"task": name} | {key: (*pair, _delta(*pair)) for key, pair in values.items()})
    return rows


def class_rows(
    a: Revision, b: Revision, of_class: Mapping[tuple[str, str], Any], table: str = "classes"
) -> list[dict[str, Any]]:
    """One row per class that either side has: AP and accuracy of both with differences, for AP with the interval.
    table: classes or test_classes."""
    one, other = (_records(side, table, "task", "class") for side in (a, b))
    rows = []
    for key in dict.fromkeys([*other, *one]):
        was, now = one.get(key, {}), other.get(key, {})
        row: dict[str, Any] = {"task": key[0], "class": key[1], "instances": now.get("instances", was.get("instances"))}
        for name in ("AP", "accuracy"):
            row |= {f"{name}_a": was.get(name), f"{name}_b": now.get(name)}
            row[f"{name}_delta"] = _delta(was.get(name), now.get(name))
        rows.append(row | {"paired": of_class.get(key)})
    return rows


def _records(revision: Revision, table: str, *keys: str) -> dict[tuple, dict[str, Any]]:
    """The rows of a table by the values of the columns `keys`; empty if the revision has no such table."""
    rows = revision.tables[table].to_dict("records") if table in revision.tables else ()
    return {tuple(row[key] for key in keys): row for row in rows}


def _delta(was: float | None, now: float | None) -> float | None:
    return None if was is None or now is None else now - was


def _shared(evaluation: Evaluation, images: Images, own: np.ndarray, tasks: Sequence[Task]) -> Evaluation:
    """The evaluation reduced to `images` and `tasks`. own: int, row in the evaluation of each of `images`."""
    place = np.full(len(evaluation.images), -1)
    place[own] = np.arange(len(own))
    at = place[evaluation.image]
    kept, names = at >= 0, {"", *(task.name for task in tasks)}
    predictions = evaluation.predictions[kept]
    columns = {name: predictions.column(name) for name in predictions.names if name.partition(".")[2] in names}
    pairs = evaluation.pairs[kept[evaluation.pairs.prediction]]
    of_image = evaluation.images.instances.image[pairs.instance]
    within = pairs.instance - np.searchsorted(evaluation.images.instances.image, of_image)
    return evaluation.replace(
        images=images,
        predictions=Predictions.of(columns | {"image_id": images.id[at[kept]]}),
        pairs=pairs.replace(
            prediction=(np.cumsum(kept) - 1)[pairs.prediction],
            instance=np.searchsorted(images.instances.image, place[of_image]) + within,
        ),
        tasks=tasks,
    )


def _costs(evaluation: Evaluation) -> dict[tuple[str, str], float]:
    """Percent that each (of, kind) of `error_rows` costs; empty without ground truth."""
    several = len(evaluation.tasks) > 1
    matched = evaluation.matches | ({breakdowns.ALL_LABELS: evaluation.joint} if several else {})
    costs = {
        (of, kind): cost
        for of, matches in matched.items()
        for kind, cost in errors.errors(evaluation, matches)["cost"].items()
    }
    of_labels = errors.label_costs(evaluation) if several else {}
    return costs | {("joint AP", f"labels of {name}"): cost for name, cost in of_labels.items() if cost is not None}


def _difference(one: np.ndarray, other: np.ndarray) -> dict[str, float] | None:
    """Row of `paired`; None if either is undefined. one, other: [1 + B], 0 to 1, the first without resampling."""
    if np.isnan([one[0], other[0]]).any():
        return None
    delta, low, high = bootstrap.interval(other - one, minimum=-1)
    return {"a": 100 * float(one[0]), "b": 100 * float(other[0]), "delta": delta, "low": low, "high": high}


def _f1(filtered: Evaluation, weights: np.ndarray) -> dict[str, np.ndarray]:
    """F1 and joint F1 of the filtered predictions, [1 + B] each."""
    shares = f1.shares(weights @ f1.counts(filtered))
    return {f"filtered.{name}": shares[name] for name in ("f1", "joint_f1")}


def _range(row: Mapping[str, Any] | None) -> tuple[float, float] | None:
    return None if row is None or np.isnan(row["low"]) else (row["low"], row["high"])


def _draw(folder: Path, group: list[dict[str, Any]], a: Side, b: Side, notes: list[str]) -> list[dict[str, Any]]:
    """Write ID.jpg of each image. Returns the entries that could be drawn, with width, height and `panels`: (title,
    SVG) of ground truth, a and b. Images that cannot be read are added to notes."""
    drawn, tasks = [], a.raw.tasks
    for entry in group:
        row, images = entry["row"], a.raw.images
        try:
            pixels = _pixels(images[row], a, b)
        except UserError as error:
            notes.append(f"Image {entry['name']} is not shown: {error}")
            continue
        write_image(folder / f"{entry['id']}.jpg", overlays.thumbnail(pixels, SIZE), "JPEG", **page.JPEG)
        scale = SIZE / max(pixels.shape[:2])
        width, height = (max(1, round(side * scale)) for side in pixels.shape[1::-1])
        truth = images.instances[images.instances.image == row]
        panels = {"truth": ("ground truth", truth)}
        for name, side in (("a", a), ("b", b)):
            title = f"{side.revision.name}, joint F1 {entry[name]:.1f}"
            panels[name] = (title, side.filtered.predictions[side.filtered.image == row])
        drawings = [
            (title, labelled(objects, tasks, scale=scale), f"{entry['id']}-{name}")
            for name, (title, objects) in panels.items()
        ]
        svgs = [(title, Markup(overlays.as_svg(own, (width, height), name, title))) for title, own, name in drawings]
        drawn.append(entry | {"width": width, "height": height, "panels": svgs})
    return drawn


def _pixels(image: Image, a: Side, b: Side) -> np.ndarray:
    """The image from the data of `b`, otherwise of `a`. Raises UserError if neither can be read."""
    try:
        return read_image(b.root, image)
    except UserError:
        return read_image(a.root, image)
