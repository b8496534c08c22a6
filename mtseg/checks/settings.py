"""Check the values of params.yaml for consistency with each other and with the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mtseg.checks.findings import Finding
from mtseg.checks.labels import count
from mtseg.core.params import Input, Loss, Model, Solver, Task
from mtseg.core.tables import Images

LR_TOLERANCE = 2.0  # factor, up or down, by which the lr may differ from the linear scaling rule
SCALE_TOLERANCE = 1.25  # factor by which the scale of prediction may be outside the range of training
NO_OBJECT = (0.01, 0.5)  # usual range of loss.no_object; the paper: 0.1
LARGE_WEIGHT = 5.0  # largest label weight relative to both mask losses together; the paper: 0.2
FAST_BACKBONE = 2.0  # largest lr of the backbone relative to the other parts; the paper: 0.1
SMALLEST = 4.0  # pixels of an object's longer side in the network's input; the masks have a fourth of its resolution
MANY_SMALL = 0.05  # share of such objects that is a warning
UNEQUAL = 30.0  # largest ratio of the classes' shares of the loss, unless their frequencies alone give it


def check(
    train: Images, scored: Mapping[str, Images], *, tasks: Sequence[Task], model: Model, input: Input, solver: Solver,
    loss: Loss, detections: int, max_dets: Sequence[int],
) -> list[Finding]:  # fmt: skip
    """Warnings and notes. scored: val and, if the data have one, test."""
    splits = {"train": train, **scored}
    return [
        *lr(solver), *schedule(solver), *scales(input), *norms(model, solver), *queries(splits, model),
        *kept(splits, detections, max_dets), *small(train, input),
        *muted(tasks, loss), *no_object(tasks, loss), *class_weights(train, tasks),
        *unmatched(tasks, loss), *label_weights(tasks, loss),
    ]  # fmt: skip


def lr(solver: Solver) -> Iterator[Finding]:
    """Compare the lr with the linear scaling rule for this batch size."""
    ratio = solver.lr / solver.rule_lr
    if not 1 / LR_TOLERANCE <= ratio <= LR_TOLERANCE:
        evidence = (
            f"solver.base_lr {solver.lr:g} is {ratio:.3g} times the lr of the linear scaling rule: reference_lr "
            f"{solver.reference_lr:g} x {solver.ims_per_batch * solver.accumulate} images per step / reference_batch "
            f"{solver.reference_batch} = {solver.rule_lr:g}"
        )
        yield Finding("lr_for_batch", "warning", evidence, "set solver.base_lr: auto")


def schedule(solver: Solver) -> Iterator[Finding]:
    if solver.max_iter and 2 * solver.warmup > solver.max_iter:
        evidence = f"the warm-up takes {solver.warmup} of {solver.max_iter} steps"
        yield Finding("warmup_too_long", "warning", evidence, "lower solver.warmup or raise solver.max_iter")
    if solver.backbone_multiplier > FAST_BACKBONE:
        evidence = (
            f"solver.backbone_multiplier {solver.backbone_multiplier:g} gives the backbone a higher lr than the rest"
        )
        yield Finding("lr_too_high", "warning", evidence, "set it to 0.1 (paper), or to 1 for random weights")
    if solver.weight_decay > 1:
        evidence = f"solver.weight_decay is {solver.weight_decay:g}: with AdamW, weights stay below its inverse"
        yield Finding("weight_decay", "warning", evidence, "set it to 0.05 (paper)")


def label_weights(tasks: Sequence[Task], loss: Loss) -> Iterator[Finding]:
    """Label weights so large that they dominate the loss or the matching."""
    masks = loss.mask + loss.dice
    weights = [("loss_weight", task.loss_weight, f"task '{task.name}'") for task in tasks]
    for key, value, where in (*weights, ("loss.labels", loss.labels, "")):
        if value > LARGE_WEIGHT * masks > 0:
            evidence = f"{key} {value:g} is {value / masks:.3g} times loss.mask and loss.dice together ({masks:g})"
            yield Finding("task_weight", "warning", evidence, f"lower {key} to about 2", where)


def scales(input: Input) -> Iterator[Finding]:
    """Compare with the scale of prediction, which is 1: the longer side is resized to input.size."""
    if input.min_scale > SCALE_TOLERANCE or input.max_scale * SCALE_TOLERANCE < 1:
        evidence = f"the scale is {input.min_scale:g} to {input.max_scale:g} in training and 1 in prediction"
        yield Finding("scale_mismatch", "warning", evidence, "choose input.min_scale below 1 and max_scale above 1")


def norms(model: Model, solver: Solver) -> Iterator[Finding]:
    """Frozen batch norm with random weights does not normalise; an untrained random backbone gives useless features."""
    if model.weights is None and not solver.backbone_multiplier:
        evidence = "model.weights is null and solver.backbone_multiplier 0: the backbone stays random"
        yield Finding("weights_frozen", "warning", evidence, "set model.weights, or solver.backbone_multiplier: 1")
    if model.weights is None and model.freeze_norm:
        evidence = "model.weights is null but model.freeze_norm is true"
        yield Finding("random_frozen_norm", "warning", evidence, "set model.freeze_norm: false for random weights")


def queries(splits: Mapping[str, Images], model: Model) -> Iterator[Finding]:
    for split, most, text in _more_than(model.num_queries, "model.num_queries", splits):
        change = f"set model.num_queries: {2 * most}"
        yield Finding("queries_too_few", "warning", f"{text} cannot be detected", change, split)


def kept(splits: Mapping[str, Images], detections: int, max_dets: Sequence[int]) -> Iterator[Finding]:
    """Objects beyond the number of predictions that an image keeps, or that are scored."""
    limit = min(detections, max(max_dets))
    key = "test.detections" if limit == detections else "the largest of test.max_dets"
    for split, most, text in _more_than(limit, key, splits):
        change = f"raise test.detections and the largest of test.max_dets to {2 * most}"
        yield Finding("detections_too_few", "warning", f"{text} are missed", change, split)


def _more_than(limit: int, key: str, splits: Mapping[str, Images]) -> Iterator[tuple[str, int, str]]:
    """Splits with images of more instances than `limit`, the largest number of an image of any, and text on them."""
    counts = {
        split: np.bincount(images.instances.image[~images.instances.crowd], minlength=len(images))
        for split, images in splits.items()
    }
    most = max(int(own.max(initial=0)) for own in counts.values())
    for split, own in counts.items():
        over = own[own > limit]
        if len(over):
            lost = (over - limit).sum() / own.sum()
            text = f"{len(over)} of {len(own)} {split} images have more instances (up to {over.max()}) than {key}, "
            yield split, most, f"{text}{limit}: {lost:.1%} of the instances"


def small(train: Images, input: Input) -> Iterator[Finding]:
    """Objects of a few pixels after the image is resized to input.size."""
    instances = train.instances[~train.instances.crowd]
    scale = input.size / np.maximum(instances.height, instances.width)
    few = instances.box[:, 2:].max(1, initial=0) * scale < SMALLEST
    if few.any():
        first = np.flatnonzero(few)[0]
        evidence = (
            f"{few.sum()} of {len(instances)} train instances ({few.mean():.1%}) are smaller than {SMALLEST:g} pixels "
            f"at input.size {input.size}, for example in {train.file_name[instances.image[first]]}"
        )
        severity = "warning" if few.mean() > MANY_SMALL else "note"
        yield Finding("objects_too_small", severity, evidence, "raise input.size, or cut the images into tiles")


def muted(tasks: Sequence[Task], loss: Loss) -> Iterator[Finding]:
    if off := [f"loss.{name}" for name in ("mask", "dice") if not getattr(loss, name)]:
        effect = "masks are not trained" if len(off) == 2 else "masks are learnt with difficulty, if at all"
        yield Finding("loss_muted", "warning", f"{' and '.join(off)} 0: {effect}", "set them to 5.0 (paper)")
    for task in tasks:
        where = f"task '{task.name}'"
        if not task.loss_weight:  # allowed, and usually intended
            main = task is tasks[0]
            change = "set loss_weight above 0, or remove the task"
            evidence = "loss_weight is 0: its head is not trained and its labels are random"
            yield Finding("loss_muted", "warning" if main else "note", evidence, change, where)
        elif not any(task.weights):
            yield Finding("loss_muted", "warning", "all class_weights are 0", "set class_weights: null", where)


def no_object(tasks: Sequence[Task], loss: Loss) -> Iterator[Finding]:
    low, high = NO_OBJECT
    if any(task.background for task in tasks) and not low <= loss.no_object <= high:
        many = loss.no_object > high
        why = "queries learn to find nothing" if many else "queries never learn to predict no-object"
        evidence = f"loss.no_object is {loss.no_object:g}, usual range {low:g} to {high:g}: {why}"
        yield Finding("no_object_weight", "warning", evidence, "set it to 0.1 (paper)")


def class_weights(train: Images, tasks: Sequence[Task]) -> Iterator[Finding]:
    """The share of the loss that a class has is proportional to its weight times its number of examples."""
    for task in tasks:
        counts, where = count(train, task), f"task '{task.name}'"
        present = {name: (n, weight) for name, n, weight in zip(task.classes, counts, task.weights, strict=True) if n}
        muted = [f"'{name}' ({n} examples)" for name, (n, weight) in present.items() if not weight]
        if muted and task.loss_weight and any(task.weights):
            evidence = f"classes with weight 0 are not learnt: {', '.join(sorted(muted))}"
            yield Finding("class_weights", "warning", evidence, "set them above 0", where)
        shares = {name: n * weight for name, (n, weight) in present.items() if weight}
        if task.class_weights and len(shares) > 1:
            most, least = max(shares, key=shares.get), min(shares, key=shares.get)
            ratio, by_frequency = shares[most] / shares[least], counts.max() / counts[counts > 0].min()
            if ratio > max(UNEQUAL, by_frequency):  # more unequal than the frequencies alone
                evidence = f"'{most}' has {ratio:.0f} times the share of the loss of '{least}' (class_weights x counts)"
                yield Finding("class_weights", "warning", evidence, "set class_weights: auto", where)


def unmatched(tasks: Sequence[Task], loss: Loss) -> Iterator[Finding]:
    """A task that the matching ignores is trained on queries that are chosen by other criteria."""
    if not loss.labels and any(task.loss_weight for task in tasks):
        evidence = "loss.labels is 0: the matching ignores every label"
        yield Finding("task_untrained_in_matching", "warning", evidence, "set it to 2.0 (paper)")
        return
    for task in tasks:
        if task.loss_weight and not task.match_weight:
            evidence = f"match_weight is 0 while loss_weight is {task.loss_weight:g}: the matching ignores the task"
            where = f"task '{task.name}'"
            yield Finding("task_untrained_in_matching", "warning", evidence, "set match_weight: 1", where)
