"""Predictions of whole splits, in parts that several processes share and that an interrupted run keeps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from rich.progress import Progress

from mtseg.core.errors import UserError
from mtseg.core.files import replace_file, replace_folder, sync
from mtseg.core.params import Input, Model, Task
from mtseg.core.tables import Images, Predictions
from mtseg.core.work import sole, work_folder
from mtseg.data import manifest
from mtseg.inference.export import coco, csv
from mtseg.inference.torch_network import load_model, predict_batches
from mtseg.model.device import keep_memory
from mtseg.model.mask2former import Mask2Former
from mtseg.model.ranks import ALONE, Ranks, joined

PART = 64  # images of a part, or one batch if that is larger: what an interruption loses of each process


def predict_splits(
    data: Path, *, out: Path, checkpoint: Path, root: Path, tasks: Sequence[Task], model: Model, input: Input,
    detections: int, batch: int, device: str, timeout: float,
) -> None:  # fmt: skip
    """Write the predictions for val and, if the manifest `data` has it, test to the folder `out`, as Parquet, COCO
    results and CSV. root: folder of the images. detections: of an image, at most. batch: images per batch. timeout: see
    `joined`. An interrupted run continues where it stopped.
    Raises UserError if the checkpoint was trained for other tasks or with another `model`."""
    with joined(timeout) as ranks:
        keep_memory()
        where, records = ranks.device(device), manifest.load(data)
        splits = {name: records.images(name) for name in ("val", "test") if name in records.splits}
        network = load_model(checkpoint, tasks=records.tasks(tasks), model=model, detections=detections).to(where)
        work = Path()  # rank 0 alone chooses it
        if ranks.first:
            sections = (*tasks, model, input.model_copy(update={"workers": 0}))
            settings = [[one.model_dump() for one in sections], detections, batch, root, where.type]
            shown = sorted({root / image.file_name for images in splits.values() for image in images})
            work = work_folder("predict", settings, files=[data, checkpoint, *shown])
        work = ranks.share(work)
        with sole(work, print) if ranks.first else nullcontext():
            ranks.wait()
            found = {
                name: predict_in_parts(
                    network, images, work=work / name, root=root, input=input, batch=batch, ranks=ranks
                )
                for name, images in splits.items()
            }
            if ranks.first:
                with replace_folder(out) as folder:
                    for name, table in found.items():
                        table.write(folder / f"{name}.parquet", network.tasks)
                        coco.write_results(folder / f"{name}.json", table, network.tasks)
                        csv.write(folder / f"{name}.csv", splits[name], table, network.tasks)
                sync(out)


def predict_in_parts(
    model: Mask2Former, images: Images, *, work: Path, root: Path, input: Input, batch: int, ranks: Ranks = ALONE
) -> Predictions | None:
    """On rank 0 the predictions of all images, in their order, best first; on the others None. work: folder of the
    parts, those of this split alone. root: folder of the images. batch: images per batch."""
    size = batch * -(-PART // batch)  # whole batches: a result may depend on the other images of its batch
    starts = range(0, len(images), size)
    parts = {work / f"{start}.parquet": range(start, min(start + size, len(images))) for start in starts}
    work.mkdir(parents=True, exist_ok=True)
    todo = ranks.share([path for path in parts if _read(path, model.tasks) is None] if ranks.first else None)
    rows = [row for path in todo[ranks.rank :: ranks.size] for row in parts[path]]
    batches = predict_batches(model, images[np.array(rows, int)], root=root, input=input, batch=batch)

    def make(path: Path) -> None:
        found = Predictions.concatenate(list(islice(batches, size // batch)))
        with replace_file(path) as temporary:
            found.write(temporary, model.tasks)

    with Progress() as progress:
        left = sum(len(parts[path]) for path in todo)
        bar = progress.add_task("predict", total=len(images), completed=len(images) - left)
        for first in range(0, len(todo), ranks.size):
            turn = todo[first : first + ranks.size]
            if ranks.rank < len(turn):
                ranks.alone(partial(make, turn[ranks.rank]))
            ranks.agree()
            progress.advance(bar, sum(len(parts[path]) for path in turn))
    return Predictions.concatenate([_read(path, model.tasks) for path in parts]) if ranks.first else None


def _read(path: Path, tasks: Sequence[Task]) -> Predictions | None:
    """The predictions of a part; None if it is not done, or damaged."""
    try:
        found = Predictions.read(path, tasks)
        for name in found.names:
            found.column(name)
        return found
    except UserError:
        return None
