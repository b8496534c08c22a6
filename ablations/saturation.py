"""`python -m ablations.saturation [MODEL...]`: how many objects of one image a model finds, by how many there are.

DETR's study (arXiv 2005.12872, appendix "Increasing the number of instances", figure 12): one object is repeated on a
grid of 10 x 10 cells of which k random ones are shown, 100 times for each k; drawn is the share that is missed. Each
repeat has an object and a background of its own, the same for every k and model, so that no result depends on how hard
one is. Beside the copies stand grids of different objects: where training shows no two alike, queries may learn to
separate objects by their looks alone and take copies for one, which is no lack of queries. Without MODEL the networks
are those of studies/saturation.yaml, from DVC (ablations.run trains them).

Some two minutes a model on one core; what is measured is skipped, --again repeats it. Writes
ablations/results/saturation.csv and, from that file alone, the table in docs/results.md and
docs/figures/saturation.svg. With MODEL the table is printed, no more.
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
from pydantic import ValidationError
from rich.progress import track

from ablations import experiments, page, studies
from ablations.means import mean_and_half
from ablations.studies import Run
from mtseg.core.errors import UserError, run_stage
from mtseg.core.files import replace_file
from mtseg.core.params import Model, Task
from mtseg.data.shapes import SHAPES, grid
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
SIZE = 192  # pixels, side of the image: that of the training
SCORE = 0.4  # least probability of the main class x mask quality: filter.min_score of params.yaml
HIT = 0.5  # mask IoU above which an object is found
BATCH = 8
KEY = {"params": str, "model": str, "measure": str, "commit": str}  # columns of text: one of digits alone is no number


@dataclass(frozen=True)
class Scene:
    """image: uint8 [S, S, 3]; labels: main classes, [k]; masks: bool [k, S, S]."""

    image: np.ndarray
    labels: list[str]
    masks: np.ndarray


def scenes(shown: int, *, alike: bool, repeats: int, size: int) -> Iterator[Scene]:
    if size < 32 or size % 32:
        raise UserError(f"size {size} must be a multiple of 32, the model's stride")
    for repeat in range(repeats):
        cells = np.random.default_rng([repeat, shown]).permutation(SIDE**2)[:shown]
        image, labels, masks = grid(repeat, size, SIDE, cells.tolist(), alike=alike)
        yield Scene(image, [label.split(",")[0] for label in labels], masks)


@torch.no_grad()
def missed(model: Mask2Former, shown: Sequence[Scene]) -> np.ndarray:
    """Shares missed, [scenes, 2]: of objects that no prediction of the right main class and of score >= SCORE has at
    mask IoU > 0.5; and of those that no query's mask has, whatever its class. One mask cannot match two objects: they
    do not overlap."""
    examples = [_example(number, scene.image) for number, scene in enumerate(shown)]
    shares = []
    for scene, found in zip(shown, model.eval()(examples), strict=True):
        truth = torch.from_numpy(scene.masks).flatten(1).float()
        queries, query = torch.unique(found.query, return_inverse=True)  # of several detections, with one mask
        first = torch.zeros(len(queries), dtype=torch.long).scatter_(0, query, torch.arange(len(query)))
        masks = found.pred_masks[first].flatten(1).float()
        both = masks @ truth.T  # [queries, k]
        hit = both / (masks.sum(1)[:, None] + truth.sum(1) - both) > HIT
        sure = found.scores >= SCORE
        named = torch.zeros(len(queries), model.tasks[0].num_classes, dtype=torch.bool)
        named[query[sure], found.pred_classes[sure]] = True
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


def measure(
    path: Path, *, seed: int, params: str, commit: str, size: int, repeats: int, shown: Iterable[int] = SHOWN
) -> pd.DataFrame:
    """A row for copies and for different objects, and a k: the mean of both shares `missed` over the repeats, in
    percent, and the ends of the 95 % interval of the first (normal, over the repeats; 0 to 100)."""
    model, rows = read_model(path), []
    first = {"queries": model.num_queries, "seed": seed, "params": params}
    last = {"model": hashlib.sha256(path.read_bytes()).hexdigest()[:12], "measure": digest(size, repeats)}
    for objects, k in track([*itertools.product(OBJECTS, shown)], f"{model.num_queries} queries"):
        images = list(scenes(k, alike=objects == "copies", repeats=repeats, size=size))
        parts = [missed(model, images[at : at + BATCH]) for at in range(0, repeats, BATCH)]
        shares = 100 * np.concatenate(parts)
        mean, masks = shares.mean(axis=0)
        margin = 1.96 * shares[:, 0].std(ddof=1) / np.sqrt(repeats) if repeats > 1 else 0.0
        low, high = np.clip([mean - margin, mean + margin], 0, 100)
        row = {"objects": objects, "shown": k, "missed": mean, "low": low, "high": high, "missed_masks": masks}
        rows.append(first | row | last | {"commit": commit})
    return pd.DataFrame(rows)


def read_model(path: Path) -> Mask2Former:
    """The model of a checkpoint, built from its own metadata, not from params.yaml, and with no limit on the
    detections, so that only the queries bound what is found. Raises UserError where its classes are not those drawn."""
    _, metadata = weights.load(path)
    tasks = tuple(Task.predicted(**task) for task in metadata["tasks"])
    if lacking := [shape for shape in SHAPES if shape not in tasks[0].classes]:
        found = f"{path}: its main task, '{tasks[0].name}', has no class {', '.join(lacking)}; the images show"
        raise UserError(f"{found} {', '.join(SHAPES)}: give a model of the embedded data, shape first")
    try:
        model = Model(**metadata["model"], weights=None, partial_weights=False, recompute="none")
    except (KeyError, ValidationError):
        raise UserError(f"{path} does not describe its whole network, as this version needs: train again") from None
    return load_model(path, tasks=tasks, model=model, detections=sys.maxsize)


def table(rows: pd.DataFrame) -> str:
    """Markdown, a row a k, and the commits that measured them. Of one training with a number of queries: the interval
    over the images; of several: their mean, and half its interval over the trainings."""
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
    named = [commit for commit in rows["commit"].unique() if commit]
    return page.table(head, lines) + (f"\n\n{page.commits(named)}" if named else "")


def figure(rows: pd.DataFrame) -> str:
    """SVG as DETR's figure 12: share missed against the number shown; dashed, the least that so many queries miss."""
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


def read(results: Path = RESULTS) -> pd.DataFrame:
    """What was measured; no rows where there is no file."""
    if not results.exists():
        return pd.DataFrame(columns=[*KEY])
    return pd.read_csv(results, dtype=KEY, keep_default_na=False)


def publish() -> None:
    """Table and figure of the csv alone, if there is one."""
    if (rows := read()).empty:
        return
    page.FIGURES.mkdir(parents=True, exist_ok=True)
    drawn = page.FIGURES / f"{NAME}.svg"
    with replace_file(drawn) as temporary:
        temporary.write_text(figure(rows), encoding="utf-8")
    shown = f"![Share missed against the number of objects]({page.FIGURES.name}/{drawn.name})"
    page.write(page.PAGE, {NAME: f"{table(rows)}\n\n{shown}"})


def update(runs: Sequence[Run], *, again: bool, results: Path = RESULTS) -> None:
    """Bring the csv up to date with the networks of these runs, writing it anew after each. What was measured in the
    same way of the same params is not measured again, unless `again`. Raises UserError where a network is missing."""
    before = read(results)
    same = before[before["measure"] == digest(SIZE, REPEATS)]
    known = {} if again else dict([*same.groupby("params")])
    for run in runs:
        if run.digest not in known:
            with tempfile.TemporaryDirectory() as folder:
                path, own = _checkpoint(run, Path(folder)), {"seed": run.seed, "params": run.digest}
                commit = experiments.head()[:7]
                known[run.digest] = measure(path, **own, commit=commit, size=SIZE, repeats=REPEATS)
            _write(known.values(), results)
    if known:
        _write([known[run.digest] for run in runs], results)  # rows of other runs are removed


def _checkpoint(run: Run, folder: Path) -> Path:
    ref = experiments.find(run)
    if ref is None:
        raise UserError(f"experiment {run.name} is missing: `python -m ablations.run {NAME} --again` first")
    path, revision = folder / "model.safetensors", experiments.git("rev-parse", ref).strip()
    source = f"models/{run.checked.test.checkpoint}.safetensors"
    experiments.dvc("get", ".", source, "--rev", revision, "--out", str(path))
    return path


def digest(size: int, repeats: int) -> str:
    """Short, of what decides a measurement besides the model: numbers, and a scene of each kind as it is drawn."""
    found = hashlib.sha256(repr((size, repeats, SHOWN, SCORE, HIT)).encode())
    for objects in OBJECTS:
        (scene,) = scenes(SIDE**2, alike=objects == "copies", repeats=1, size=size)
        for part in (scene.image.tobytes(), scene.masks.tobytes(), ",".join(scene.labels).encode()):
            found.update(part)
    return found.hexdigest()[:12]


def _write(parts: Iterable[pd.DataFrame], results: Path) -> None:
    ordered = pd.concat(parts).sort_values(["queries", "seed", "objects", "shown"])
    with replace_file(results) as temporary:
        ordered.round(3).to_csv(temporary, index=False, lineterminator="\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ablations.saturation", description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL", help="checkpoints; default: DVC's experiments")
    parser.add_argument("--size", type=int, default=SIZE, help="of the images, pixels")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--again", action="store_true", help="also repeat what is measured")
    arguments = parser.parse_args()
    asked = {"size": arguments.size, "repeats": arguments.repeats}
    if asked != {"size": SIZE, "repeats": REPEATS} and not arguments.models:
        raise UserError("--size and --repeats go with MODEL: what is committed is measured in one way")
    if arguments.repeats < 1:
        raise UserError(f"--repeats {arguments.repeats} must be 1 or more")
    if missing := [str(path) for path in arguments.models if not path.is_file()]:
        raise UserError(f"no file {', '.join(missing)}")
    if arguments.models:
        models = enumerate(arguments.models)
        print(table(pd.concat(measure(path, seed=seed, params="", commit="", **asked) for seed, path in models)))
        return
    update(studies.runs(studies.read(NAME), studies.SCALES[0], params=Path("params.yaml")), again=arguments.again)
    publish()


if __name__ == "__main__":
    run_stage(main)
