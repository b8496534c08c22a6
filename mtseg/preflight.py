"""What can be known to go wrong before a step is trained. Errors stop the training, warnings are printed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mtseg.errors import UserError
from mtseg.records import Image
from mtseg.sections import Input, Model, Solver, Task

LR_TOLERANCE = 2.0  # times the rule's lr, up or down, that needs no remark


def check(
    train: Sequence[Image], val: Sequence[Image], *, tasks: Sequence[Task], model: Model, input: Input, solver: Solver
) -> list[str]:
    """The warnings, one line each. Raises UserError when there is nothing to train on."""
    if not train or not val:
        raise UserError(f"the {'val' if train else 'train'} split has no pictures: see data.split, or add some")
    warnings = [lr_warning(solver), norm_warning(model), query_warning(train, model)]
    for task in tasks:
        seen, wanted = (_counts(images, task) for images in (train, val))
        if not seen:
            raise UserError(f"task '{task.name}' has no labelled instance in train: remove the task or label some")
        missing = sorted(task.classes[label] for label in wanted.keys() - seen.keys())
        if missing:
            warnings.append(f"task '{task.name}': in val but not in train: {', '.join(missing)}")
        warnings.append(flip_warning(task, input))
    return [warning for warning in warnings if warning]


def lr_warning(solver: Solver) -> str | None:
    """F6: the lr of another batch size."""
    ratio = solver.lr / solver.rule_lr
    if 1 / LR_TOLERANCE <= ratio <= LR_TOLERANCE:
        return None
    return (
        f"solver.base_lr {solver.lr:g} is {ratio:.3g} times the lr that the rule gives: reference_lr "
        f"{solver.reference_lr:g} x {solver.ims_per_batch * solver.accumulate} pictures a step / reference_batch "
        f"{solver.reference_batch} = {solver.rule_lr:g}; set base_lr: auto, or expect a poor AP"
    )


def flip_warning(task: Task, input: Input) -> str | None:
    """A horizontal flip makes a wrong label of left and of right unless flip_pairs swaps them."""
    if not input.flip:
        return None
    mirrored = {
        name: re.sub(r"left|right", lambda side: {"left": "right", "right": "left"}[side[0].lower()], name, flags=re.I)
        for name in task.classes
    }
    swapped = {name for pair in task.flip_pairs for name in pair}
    pairs = sorted({tuple(sorted(pair)) for pair in mirrored.items() if pair[0] != pair[1] and pair[1] in task.classes})
    forgotten = [pair for pair in pairs if not swapped.intersection(pair)]
    if not forgotten:
        return None
    named = ", ".join(f"[{a}, {b}]" for a, b in forgotten)
    return f"task '{task.name}': pictures are flipped (input.flip {input.flip:g}) but flip_pairs lacks {named}"


def norm_warning(model: Model) -> str | None:
    """Batch norm that nothing has trained yet and that is kept as it is does not normalise."""
    if model.weights is None and model.freeze_norm:
        return "model.weights is null but model.freeze_norm is true: random weights need freeze_norm: false"
    return None


def query_warning(images: Sequence[Image], model: Model) -> str | None:
    """F7: a picture with more instances than there are queries can never be found whole."""
    counts = [sum(not instance.crowd for instance in image.instances) for image in images]
    over = sum(count > model.num_queries for count in counts)
    if not over:
        return None
    return f"{over} train pictures hold more instances (up to {max(counts)}) than model.num_queries {model.num_queries}"


def _counts(images: Sequence[Image], task: Task) -> Counter[int]:
    return Counter(
        label for image in images for instance in image.instances
        if not instance.crowd and (label := instance.labels[task.name]) is not None
    )  # fmt: skip
