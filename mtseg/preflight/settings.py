"""What params.yaml says against itself and against the counts of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtseg.findings import Finding
from mtseg.records import Image
from mtseg.sections import Loss, Model, Solver, Task

LR_TOLERANCE = 2.0  # times the rule's lr, up or down, that needs no remark


def check(
    train: Sequence[Image], *, tasks: Sequence[Task], model: Model, solver: Solver, loss: Loss
) -> list[Finding]:  # fmt: skip
    """The findings of all checks here, warnings and notes."""
    return [*lr(solver), *norms(model), *queries(train, model), *muted(tasks, loss), *unmatched(tasks)]


def lr(solver: Solver) -> Iterator[Finding]:
    """F6: the lr of another batch size."""
    ratio = solver.lr / solver.rule_lr
    if not 1 / LR_TOLERANCE <= ratio <= LR_TOLERANCE:
        evidence = (
            f"solver.base_lr {solver.lr:g} is {ratio:.3g} times the lr that the rule gives: reference_lr "
            f"{solver.reference_lr:g} x {solver.ims_per_batch * solver.accumulate} pictures a step / reference_batch "
            f"{solver.reference_batch} = {solver.rule_lr:g}"
        )
        yield Finding("lr_for_batch", "warning", evidence, "set solver.base_lr: auto, or expect a poor AP")


def norms(model: Model) -> Iterator[Finding]:
    """Batch norm that nothing has trained yet and that is kept as it is does not normalise."""
    if model.weights is None and model.freeze_norm:
        evidence = "model.weights is null but model.freeze_norm is true"
        yield Finding("random_frozen_norm", "warning", evidence, "random weights need model.freeze_norm: false")


def queries(train: Sequence[Image], model: Model) -> Iterator[Finding]:
    """F7: a picture with more instances than there are queries can never be found whole."""
    counts = [sum(not instance.crowd for instance in image.instances) for image in train]
    over = [count for count in counts if count > model.num_queries]
    if over:
        lost = sum(count - model.num_queries for count in over) / sum(counts)
        evidence = (
            f"{len(over)} of {len(counts)} train pictures hold more instances (up to {max(counts)}) than "
            f"model.num_queries {model.num_queries}: {lost:.1%} of the instances cannot be found"
        )
        yield Finding("queries_too_few", "warning", evidence, f"set model.num_queries: {2 * max(counts)}")


def muted(tasks: Sequence[Task], loss: Loss) -> Iterator[Finding]:
    if not loss.mask and not loss.dice:
        evidence = "loss.mask and loss.dice are both 0: no mask is learnt"
        yield Finding("loss_muted", "warning", evidence, "set them to the 5.0 of the paper")
    for task in tasks:
        where = f"task '{task.name}'"
        if not task.loss_weight:  # which is legal (F9), and on purpose as a rule
            main = task is tasks[0]
            change = "set loss_weight above 0, or remove the task"
            evidence = "loss_weight is 0: its head is not trained, its labels mean nothing"
            yield Finding("loss_muted", "warning" if main else "note", evidence, change, where)
        elif not any(task.weights):
            yield Finding("loss_muted", "warning", "all class_weights are 0", "set class_weights: null", where)


def unmatched(tasks: Sequence[Task]) -> Iterator[Finding]:
    """F10: a task that the matching ignores is trained on queries which were chosen for other reasons."""
    for task in tasks:
        if task.loss_weight and not task.match_weight:
            evidence = f"match_weight is 0 while loss_weight is {task.loss_weight:g}: the matching ignores the task"
            change = "set match_weight to the loss_weight"
            yield Finding("task_untrained_in_matching", "warning", evidence, change, f"task '{task.name}'")
