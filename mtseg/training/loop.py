"""Training: steps, validation, checkpoints. A step depends only on the weights, the optimiser's state, the seed and its
number, so that an interrupted and resumed training gives the same bytes as an uninterrupted one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from mtseg.core.errors import UserError
from mtseg.core.params import Input, Loss, Model, Solver, Task
from mtseg.core.signals import interrupts_raised
from mtseg.core.tables import Images, Predictions
from mtseg.core.work import fingerprint, sole, work_folder
from mtseg.data import manifest
from mtseg.data.loader import Mapper, training_batches
from mtseg.evaluation.ap.scores import headline
from mtseg.evaluation.ap.summary import summary
from mtseg.inference.torch_network import description, predict
from mtseg.model.device import keep_memory
from mtseg.model.heads.combinations import seen_combinations
from mtseg.model.mask2former import Mask2Former
from mtseg.model.ranks import ALONE, Ranks, joined
from mtseg.training.checkpoint import Run
from mtseg.training.monitor import Progress


def train(
    data: Path, *, models: Path, metrics: Path, curves: Path, root: Path, tasks: Sequence[Task], model: Model,
    input: Input, solver: Solver, loss: Loss, device: str, seed: int, timeout: float,
) -> None:  # fmt: skip
    """Train on the split train of the manifest `data` and validate on val. Write checkpoints to the folder `models`,
    final scores to the file `metrics` and tables to the folder `curves`. root: folder of the images. timeout: see
    `joined`.

    Raises UserError for a loss or gradient that is not finite, and on interruption, after which a run can be resumed.
    """
    with joined(timeout) as ranks:
        if ranks.size > solver.ims_per_batch:
            raise UserError(
                f"{ranks.size} processes cannot share a batch of solver.ims_per_batch {solver.ims_per_batch} images: "
                "raise it, or start fewer processes"
            )
        if ranks.size > 1 and not model.freeze_norm:
            raise UserError(
                "model.freeze_norm: false needs a whole batch in one process, for its statistics: set it to true, or "
                "launch.nproc_per_node and launch.nnodes to 1"
            )
        console = Console(soft_wrap=True, highlight=False, markup=False)
        where, records = ranks.device(device), manifest.load(data)
        tasks = records.tasks(tasks)
        train, val = records.images("train"), records.images("val")
        keep_memory()
        torch.manual_seed(seed)
        seen = seen_combinations(records.combinations("train"), tasks, model)
        network = Mask2Former(tasks, model, loss=loss, seen=seen).to(where)
        # without device, launch and workers, which may change when a training is resumed
        kept = [input.model_copy(update={"workers": 0}), solver.model_copy(update={"save_minutes": 0})]
        settings = [[section.model_dump() for section in (*tasks, model, *kept, loss)], seed]
        files = sorted({root / image.file_name for image in (*train, *val)})
        if ranks.size > 1:
            ranks.compare(fingerprint(settings, files=[data], sized=files))
        work = Path()  # rank 0 alone has one
        if ranks.first:
            settings.append(root)
            work = work_folder("train", settings, files=[data, Path(model.weights or ""), *files])
        metadata = description(tasks, model, seed=seed, input=input, solver=solver, loss=loss)
        metadata |= {"seen": seen, "data": records.summary()}
        with sole(work, console.print) if ranks.first else nullcontext():
            ranks.wait()
            run = Run(network, solver, work=work, metadata=metadata, ranks=ranks)
            for note in run.notes:
                console.print(note)
            batches = training_batches(
                train, Mapper(tasks, input, root=root, training=True), batch=solver.ims_per_batch, seed=seed,
                start=run.step * solver.accumulate, stop=solver.max_iter * solver.accumulate, workers=input.workers,
                part=(ranks.rank, ranks.size),
            )  # fmt: skip
            with Progress(console, total=solver.max_iter, start=run.step) as progress, interrupts_raised():
                try:
                    while True:
                        if run.validation_is_due:
                            scores, predicted = validate(
                                network, val, root=root, input=input, batch=solver.ims_per_batch, ranks=ranks
                            )
                            with ranks.held():
                                progress.validated(run.step, scores)
                                run.validated(scores, predicted)
                        if run.step == solver.max_iter:
                            break
                        with ranks.held():
                            step = ranks.alone(lambda: [next(batches) for _ in range(solver.accumulate)])
                            ranks.agree()
                            # after the loader, which uses random numbers
                            torch.manual_seed(seed * 1_000_003 + run.step)
                            averages = run.log(run.stepper(step, run.step))
                            progress.step(run.step, averages)
                        if run.save_is_due:
                            run.save()
                except KeyboardInterrupt:  # between two steps: a signal within one is held until its end
                    if not ranks.whole:  # a second one within it: the weights may be those of the next step
                        raise
                    with suppress(KeyboardInterrupt), ranks.held():
                        run.save()
                    if not ranks.whole:
                        raise
                    ranks.gather(None)  # no rank ends the job while rank 0 writes
                    raise UserError(
                        f"interrupted at step {run.step} of {solver.max_iter}: run again to resume there"
                    ) from None
            run.finish(models=models, metrics=metrics, curves=curves)


def validate(
    network: Mask2Former, images: Images, *, root: Path, input: Input, batch: int, ranks: Ranks = ALONE
) -> tuple[dict[str, float], list[list[float]]]:
    """Validation scores in percent (see `headline`), and the `summary` of the predictions. They do not depend on the
    section `test` of params.yaml, which can change without a new training. Each rank predicts its share of the batches:
    those of one process, so that the results are the same."""
    numbers = np.arange(len(images)) // batch
    own = images[np.flatnonzero(numbers % ranks.size == ranks.rank)]
    part = ranks.alone(
        lambda: predict(network, own, root=root, input=input, batch=batch, progress=False) if own else ()
    )
    ranks.agree()
    parts = ranks.collect(part)  # on rank 0 alone: they can be large
    known = None
    if ranks.first:
        found = Predictions.concatenate([part for part in parts if len(part)] or parts[:1])
        if ranks.size > 1:
            found = found[np.argsort(found.image_id, kind="stable")]  # as `images` are sorted
        known = headline(images, found, network.tasks), summary(images, found, network.tasks).tolist()
    ranks.wait()  # of many detections it could take longer than launch.timeout
    return ranks.share(known)
