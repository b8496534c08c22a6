"""Training: steps, validation, checkpoints. A step depends only on the weights, the optimiser's state, the seed and its
number, so that an interrupted and resumed training gives the same bytes as an uninterrupted one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from mtseg.core.errors import UserError, interrupts_held
from mtseg.core.params import Input, Loss, Model, Solver, Task
from mtseg.core.tables import Image
from mtseg.data import manifest
from mtseg.data.loader import Mapper, training_batches
from mtseg.evaluation.ap.scores import headline
from mtseg.inference.torch_network import description, predict
from mtseg.model.device import keep_memory, pick
from mtseg.model.heads.combinations import seen_combinations
from mtseg.model.mask2former import Mask2Former
from mtseg.training.checkpoint import Run, work_folder
from mtseg.training.lock import sole
from mtseg.training.monitor import Progress


def train(
    data: Path, *, models: Path, metrics: Path, curves: Path, root: Path, tasks: Sequence[Task], model: Model,
    input: Input, solver: Solver, loss: Loss, device: str, seed: int,
) -> None:  # fmt: skip
    """Train on the split train of the manifest `data` and validate on val. Write checkpoints to the folder `models`,
    final scores to the file `metrics` and tables to the folder `curves`. root: folder of the images.

    Raises UserError for a loss or gradient that is not finite, and on interruption, after which a run can be resumed.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    where, records = pick(device), manifest.load(data)
    tasks = records.tasks(tasks)
    train, val = records.images("train"), records.images("val")
    keep_memory()
    torch.manual_seed(seed)
    seen = seen_combinations(records.combinations("train"), tasks, model)
    network = Mask2Former(tasks, model, loss=loss, seen=seen).to(where)
    # without device and workers, which may change when a training is resumed
    kept = [input.model_copy(update={"workers": 0}), solver.model_copy(update={"save_minutes": 0})]
    settings = [[section.model_dump() for section in (*tasks, model, *kept, loss)], seed, root]
    files = sorted({root / image.file_name for image in (*train, *val)})
    work = work_folder(settings, files=[data, Path(model.weights or ""), *files])
    metadata = description(tasks, model, seed=seed, input=input, solver=solver, loss=loss)
    metadata |= {"seen": seen, "data": records.summary()}
    with sole(work, console.print):
        run = Run(network, solver, work=work, metadata=metadata)
        for note in run.notes:
            console.print(note)
        batches = training_batches(
            train, Mapper(tasks, input, root=root, training=True), batch=solver.ims_per_batch, seed=seed,
            start=run.step * solver.accumulate, stop=solver.max_iter * solver.accumulate, workers=input.workers,
        )  # fmt: skip
        with Progress(console, total=solver.max_iter, start=run.step) as progress:
            try:
                while True:
                    if run.validation_is_due:
                        scores = validate(network, val, root=root, input=input, batch=solver.ims_per_batch)
                        with interrupts_held():
                            progress.validated(run.step, scores)
                            run.validated(scores)
                    if run.step == solver.max_iter:
                        break
                    with interrupts_held():
                        step = [next(batches) for _ in range(solver.accumulate)]
                        torch.manual_seed(seed * 1_000_003 + run.step)  # after the loader, which uses random numbers
                        averages = run.log(run.stepper(step, run.step))
                        progress.step(run.step, averages)
                    if run.save_is_due:
                        run.save()
            except KeyboardInterrupt:  # between two steps: a signal within one is held until its end
                run.save()
                raise UserError(
                    f"interrupted at step {run.step} of {solver.max_iter}: run again to resume there"
                ) from None
        run.finish(models=models, metrics=metrics, curves=curves)


def validate(
    network: Mask2Former, images: Sequence[Image], *, root: Path, input: Input, batch: int
) -> dict[str, float]:
    """Validation scores in percent (see `headline`). They do not depend on the section `test` of params.yaml, which can
    change without a new training."""
    found = predict(network, images, root=root, input=input, batch=batch, progress=False)
    return headline(images, found, network.tasks)
