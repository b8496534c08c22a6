"""`python -m ablations.saturation`: how many of the objects in an image the model finds, depending on their number.

After DETR's study (arXiv 2005.12872, appendix "Increasing the number of instances", figure 12): one object is repeated
on k random cells of a grid of 10 x 10, 100 times for each k, and the share of missed objects is plotted. A repeat has
its own object and background, the same for every k and model. The same is measured with grids of different objects,
because queries may have learned to separate objects by their appearance and then find only one of several copies, which
is no lack of queries. The networks are those of studies/saturation.yaml, from DVC (`ablations.run` trains them).

About two minutes per model on one core; existing measurements are kept, --again repeats them. Writes
ablations/results/saturation.csv, the table in docs/results.md and docs/figures/saturation.svg.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.progress import track

from ablations import experiments, page, studies
from ablations.rows import mean_and_half
from ablations.studies import Run
from mtseg.core.errors import UserError
from mtseg.core.files import replace_file
from mtseg.core.params import Model, Task
from mtseg.core.signals import run_stage
from mtseg.data.shapes import grid
from mtseg.inference.torch_network import load_model
from mtseg.model import weights
from mtseg.model.mask2former import Mask2Former
from mtseg.report.plotting import COLOURS, canvas, legend_above, style, svg

NAME = "saturation"
RESULTS = Path("ablations/results/saturation.csv")
SIDE = 10  # cells
SHOWN = tuple(range(10, 101, 10))
REPEATS = 100
OBJECTS = ("copies", "different")
SIZE = 192  # side of the image in pixels, as in training
SCORE = 0.4  # minimum of main class probability x mask quality, as filter.min_score in params.yaml
HIT = 0.5  # mask IoU above which an object is found
BATCH = 8
KEY = {"params": str, "model": str, "measure": str, "commit": str}  # columns that are text, even if only of digits


@dataclass(frozen=True)
class Scene:
    """image: uint8 [S, S, 3]; labels: main classes, [k]; masks: bool [k, S, S]."""

    image: np.ndarray
    labels: list[str]
    masks: np.ndarray


def scenes(shown: int, *, alike: bool) -> Iterator[Scene]:
    """REPEATS scenes with `shown` objects, copies of one if `alike`."""
    for repeat in range(REPEATS):
        cells = np.random.default_rng([repeat, shown]).permutation(SIDE**2)[:shown]
        image, labels, masks = grid(repeat, SIZE, SIDE, cells.tolist(), alike=alike)
        yield Scene(image, [label.split(",")[0] for label in labels], masks)


@torch.no_grad()
def missed(model: Mask2Former, shown: Sequence[Scene]) -> np.ndarray:
    """Shares of objects, [scenes, 2], that no prediction with mask IoU > HIT matches: with the correct main class and
    score >= SCORE, and with any class and score. Objects do not overlap, so a mask matches at most one."""
    examples = [_example(number, scene.image) for number, scene in enumerate(shown)]
    shares = []
    for scene, (found, masks) in zip(shown, model.eval()(examples), strict=True):
        truth = torch.from_numpy(scene.masks).flatten(1).float()
        masks = masks.flatten(1).float()  # detections of a query share its mask
        both = masks @ truth.T  # [masks, k]
        hit = both / (masks.sum(1)[:, None] + truth.sum(1) - both) > HIT
        sure = found.scores >= SCORE
        named = torch.zeros(len(masks), model.tasks[0].num_classes, dtype=torch.bool)
        named[found.mask[sure], found.pred_classes[sure]] = True
        right = hit & named[:, [model.tasks[0].index(label) for label in scene.labels]]
        shares.append([1 - which.any(0).float().mean().item() for which in (right, hit)])
    return np.array(shares)


def _example(number: int, image: np.ndarray) -> dict:
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    height, width = image.shape[:2]
    return {
        "image": pixels, "image_size": (height, width), "height": height, "width": width, "image_id": number,
        "file_name": f"{number}",
    }  # fmt: skip


def measure(path: Path, run: Run, *, commit: str) -> pd.DataFrame:
    """Measure the checkpoint of a run: a row for each of OBJECTS and SHOWN, with the means of both shares `missed` over
    the repeats, in percent, and the 95 % interval of the first (normal, clipped to 0 to 100)."""
    model, rows = read_model(path), []
    first = {"queries": model.num_queries, "seed": run.seed, "params": run.digest}
    model_hash = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    last = {"model": model_hash, "measure": digest(), "commit": commit}
    for objects, k in track([*itertools.product(OBJECTS, SHOWN)], f"{model.num_queries} queries"):
        images = list(scenes(k, alike=objects == "copies"))
        shares = 100 * np.concatenate([missed(model, images[at : at + BATCH]) for at in range(0, REPEATS, BATCH)])
        mean, masks = shares.mean(axis=0)
        margin = 1.96 * shares[:, 0].std(ddof=1) / np.sqrt(REPEATS)
        low, high = np.clip([mean - margin, mean + margin], 0, 100)
        row = {"objects": objects, "shown": k, "missed": mean, "low": low, "high": high, "missed_masks": masks}
        rows.append(first | row | last)
    return pd.DataFrame(rows)


def _checkpoint(run: Run, folder: Path) -> Path:
    """The model of a run, fetched from DVC. Raises UserError if its experiment is missing."""
    ref = experiments.find(run)
    if ref is None:
        raise UserError(f"experiment {run.name} is missing: run `python -m ablations.run {NAME} --again` first")
    path, revision = folder / "model.safetensors", experiments.git("rev-parse", ref).strip()
    source = f"models/{run.checked.test.checkpoint}.safetensors"
    experiments.dvc("get", ".", source, "--rev", revision, "--out", str(path))
    return path


def read_model(path: Path) -> Mask2Former:
    """The model of a checkpoint, built from its metadata, without a limit on the number of detections."""
    _, metadata = weights.load(path)
    tasks = tuple(Task(**task) for task in metadata["tasks"])
    model = Model(**metadata["model"], weights=None, partial_weights=False, recompute="none")
    return load_model(path, tasks=tasks, model=model, detections=sys.maxsize)


def table(rows: pd.DataFrame) -> str:
    """Markdown, and the commits of the rows. Intervals are over the images, or over the trainings if several have the
    same number of queries."""
    trainings = rows.groupby(["queries", "objects", "shown"])
    parts = ("missed, ", "found, ", "no matching mask, ")
    head = ["queries", "shown", *(f"{part}{name}" for name in OBJECTS for part in parts)]
    lines = []
    for q, k in itertools.product(sorted(rows["queries"].unique()), sorted(rows["shown"].unique())):
        cells = [str(q), str(k)]
        for name in OBJECTS:
            own = trainings.get_group((q, name, k))
            row = own.iloc[0]
            one = f"{row.missed:.1f} ({row.low:.1f} to {row.high:.1f})"
            cells += [one if len(own) == 1 else mean_and_half([*own["missed"]])]
            cells += [f"{k * (1 - own['missed'].mean() / 100):.0f}", f"{own['missed_masks'].mean():.1f}"]
        lines.append(cells)
    return f"{page.table(head, lines)}\n\n{page.commits(rows['commit'])}"


def figure(rows: pd.DataFrame) -> str:
    """SVG like figure 12 of DETR: share missed over the number shown. Dashed: the minimum with so many queries."""
    with style():
        drawing = canvas(6.8, 3.4)
        axes = drawing.subplots()
        counts = np.arange(1, SIDE**2 + 1)
        for q, colour in zip(sorted(rows["queries"].unique()), COLOURS, strict=False):
            for (_, name), line in rows[rows["queries"] == q].groupby(["seed", "objects"]):
                dots = {"marker": "o" if name == "copies" else "s", "markersize": 3}
                label = f"{q} queries, {name}" if line["seed"].iloc[0] == rows["seed"].min() else None
                shade = 1.0 if name == "copies" else 0.55
                axes.plot(line["shown"], line["missed"], color=colour, alpha=shade, label=label, **dots)
                axes.fill_between(line["shown"], line["low"], line["high"], color=colour, alpha=0.2, lw=0)
            axes.plot(counts, 100 * np.maximum(0, 1 - q / counts), color=colour, lw=0.9, ls="--")
        axes.set(xlabel="objects in the image", ylabel="missed, %", xlim=(0, SIDE**2), ylim=(0, 102))
        axes.grid(axis="y")
        axes.set_title("Missed objects; dashed: one object per query", pad=20)
        legend_above(axes)
        return svg(drawing, NAME, "Share of objects missed against the number in the image")


def read() -> pd.DataFrame:
    """The measurements, no rows if there is no file."""
    if not RESULTS.exists():
        return pd.DataFrame(columns=[*KEY])
    return pd.read_csv(RESULTS, dtype=KEY, keep_default_na=False)


def publish() -> None:
    """Write table and figure, if there are measurements."""
    if (rows := read()).empty:
        return
    page.FIGURES.mkdir(parents=True, exist_ok=True)
    drawn = page.FIGURES / f"{NAME}.svg"
    with replace_file(drawn) as temporary:
        temporary.write_text(figure(rows), encoding="utf-8")
    shown = f"![Share missed against the number of objects]({page.FIGURES.name}/{drawn.name})"
    page.write(page.PAGE, {NAME: f"{table(rows)}\n\n{shown}"})


def update(runs: Sequence[Run], *, again: bool) -> None:
    """Measure the networks of these runs and write the csv file after each. Rows of other runs are removed.

    Existing measurements of the same params and of the same kind are kept, unless `again`."""
    before = read()
    same = before[before["measure"] == digest()]
    known = {} if again else dict([*same.groupby("params")])
    for run in runs:
        if run.digest not in known:
            with tempfile.TemporaryDirectory() as folder:
                path = _checkpoint(run, Path(folder))
                known[run.digest] = measure(path, run, commit=experiments.head()[:7])
            _write(known.values())
    _write([known[run.digest] for run in runs])


def digest() -> str:
    """Hash of what a measurement depends on besides the model: the constants, and a drawn scene of each kind."""
    found = hashlib.sha256(repr((SIZE, REPEATS, SHOWN, SCORE, HIT)).encode())
    for objects in OBJECTS:
        scene = next(scenes(SIDE**2, alike=objects == "copies"))
        for part in (scene.image.tobytes(), scene.masks.tobytes(), ",".join(scene.labels).encode()):
            found.update(part)
    return found.hexdigest()[:12]


def _write(parts: Iterable[pd.DataFrame]) -> None:
    ordered = pd.concat(parts).sort_values(["queries", "seed", "objects", "shown"])
    with replace_file(RESULTS) as temporary:
        ordered.round(3).to_csv(temporary, index=False, lineterminator="\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ablations.saturation", description=__doc__.partition("\n")[0])
    parser.add_argument("--again", action="store_true", help="also repeat existing measurements")
    again = parser.parse_args().again
    update(studies.runs(studies.read(NAME), studies.SCALES[0], params=Path("params.yaml")), again=again)
    publish()


if __name__ == "__main__":
    run_stage(main)
