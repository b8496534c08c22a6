"""Diagnose the training from the loss curves and the predictions on train images: too short, too long, or with a wrong
learning rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mtseg.checks.findings import Finding
from mtseg.core.params import Solver, Task
from mtseg.core.tables import UNLABELLED
from mtseg.diagnosis.split import Split
from mtseg.evaluation.bootstrap import Interval, ratio

LEARNT = 0.25  # share of the objects in train images: nothing was learnt if the 99 % interval of `hits` is below
OFF = 2.0  # factor, up or down, by which the lr may differ from the linear scaling rule
STEPS, EPOCHS = 200, 3  # with fewer of either, training was too short to judge the lr
CONVERGED = 0.75  # share of its first value by which the loss must fall for a flat end to mean that it was learnt
RISE = 0.1  # share of its fall by which the loss may rise again


def hits(split: Split) -> Interval | None:
    """Share of the objects that are matched by a confident prediction with all labels correct."""
    return ratio(_hits(split), split.objects)


def difference(one: Split, other: Split) -> Interval | None:
    """`hits` of `one` minus that of `other`, with predictions for the same images."""
    return ratio(_hits(one) - _hits(other), one.objects)


def _hits(split: Split) -> np.ndarray:
    """int [I]: number of objects that are matched by a confident prediction with all labels correct."""
    matches = split.matches
    right = np.isin(matches.prediction, split.confident())
    for task in split.trained:
        true = split.images.instances.labels[task.name][matches.instance]
        right &= (true == UNLABELLED) | (true == split.predictions.labels[task.name][matches.prediction])
    return split.per_image(matches.prediction[right])


def check(
    train: Split, val: Split, *, curve: pd.DataFrame, validated: pd.DataFrame, solver: Solver, images: int,
    checkpoint: str,
) -> tuple[list[Finding], dict[str, float]]:  # fmt: skip
    """Findings (an error if the model has learnt nothing), and numbers: train_hits and val_hits (`hits`), epochs, and
    those of `loss_shape`. curve: plots/train.tsv; validated: plots/val.tsv; images: number of train images."""
    learnt, transferred = hits(train), hits(val)
    steps = int(curve["step"].max()) if len(curve) else 0
    epochs = steps * solver.ims_per_batch * solver.accumulate / max(images, 1)
    numbers = {
        "train_hits": learnt.value if learnt else None,
        "val_hits": transferred.value if transferred else None,
        "epochs": epochs,
        **loss_shape(curve),
    }
    findings = []
    if learnt and (learnt.high if np.isfinite(learnt.high) else learnt.value) < LEARNT and steps:
        evidence = f"{learnt.text(0, 100)} % of the objects in train images are detected with all labels correct"
        if numbers["fallen"] is not None:
            evidence += f"; the loss has fallen by {numbers['fallen']:.0%}"
        reached, dead = float(curve["lr"].max()), train.collapsed
        cause, further, change = _untrained(solver, steps, epochs, reached, numbers, dead=dead)
        findings.append(Finding(cause, "error", evidence + further, change))
    elif learnt and transferred and transferred.high < learnt.low / 2:
        evidence = f"{learnt.text(0, 100)} % of the objects are detected with all labels correct in train, "
        evidence += f"{transferred.text(0, 100)} % in val"
        change = f"add images (train has {images}), widen input.min_scale to max_scale, or lower solver.max_iter"
        findings.append(Finding("overtrained", "warning", evidence, change))
    return findings + _decline(validated, checkpoint, transferred), numbers


def loss_shape(curve: pd.DataFrame) -> dict[str, float | None]:
    """fallen: fall of the loss from first to last value, over the first. falling: fall in the last third of training
    (by the sum of the lr), over the whole fall. risen: largest rise above the lowest value so far, over the whole fall.
    None with fewer than 3 points."""
    if len(curve) < 3:
        return {"fallen": None, "falling": None, "risen": None}
    loss = curve["loss"].to_numpy(dtype=np.float64)
    lr_sum = np.cumsum(curve["lr"].to_numpy(dtype=np.float64) * np.diff(curve["step"], prepend=0))
    fall = max(loss[0] - loss.min(), 1e-9)
    late = np.interp(lr_sum[-1] * 2 / 3, lr_sum, loss) - loss[-1]
    return {
        "fallen": float(1 - loss[-1] / loss[0]) if loss[0] else None,
        "falling": float(late / fall),
        "risen": float((loss - np.minimum.accumulate(loss)).max() / fall),
    }


def _untrained(
    solver: Solver, steps: int, epochs: float, reached: float, numbers: dict[str, float], *, dead: bool
) -> tuple[str, str, str]:
    """(cause, further evidence, change) for a model that has learnt nothing. reached: highest lr. numbers: of
    `loss_shape`. dead: whether all queries of an image give the same logits."""
    off, fallen, falling, risen = solver.lr / solver.rule_lr, *(numbers[key] for key in ("fallen", "falling", "risen"))
    lower = f"lower solver.reference_lr ({solver.reference_lr:g}) by a factor of 10"
    if not 1 / OFF <= off <= OFF:
        further = f"; solver.base_lr {solver.lr:g} is {off:.3g} times the lr of the linear scaling rule"
        return "lr_for_batch", further, "set solver.base_lr: auto"
    if dead:
        return "lr_too_high", "; all queries of an image give the same logits: the network has stopped learning", lower
    if steps < STEPS or epochs < EPOCHS:
        further = f"; training had {steps} steps, or {epochs:.1f} epochs"
        return "too_few_steps", further, "raise solver.max_iter"
    if reached < solver.lr / OFF:
        change = f"lower solver.warmup ({solver.warmup}) below solver.max_iter ({solver.max_iter})"
        return "lr_too_low", f"; the lr never went above {reached:.2g} of {solver.lr:.2g}", change
    if risen is not None and risen <= RISE and falling < 0.05 and fallen > CONVERGED:
        further = f", {falling:.0%} of that in the last third: the network was trained on other images"
        return "overtrained", further, "check that the loader (training_batches) gives all images and annotations"
    if risen is not None and (risen > RISE or falling < 0.05):
        further = f", rose again by up to {risen:.0%} of that and fell by {falling:.0%} in the last third"
        return "lr_too_high", further, lower
    change = f"raise solver.reference_lr ({solver.reference_lr:g}) by a factor of 10, or solver.max_iter"
    return "lr_too_low", f", {falling or 0:.0%} of that in the last third, and smoothly", change


def _decline(validated: pd.DataFrame, checkpoint: str, transferred: Interval | None) -> list[Finding]:
    """A val AP that falls during training by more than its uncertainty."""
    if len(validated) < 2 or transferred is None or "joint_AP" not in validated:
        return []
    if not np.isfinite(transferred.high):  # of a single image
        return []
    best, last = validated["joint_AP"].max(), validated["joint_AP"].iloc[-1]
    spread = (transferred.high - transferred.low) / max(transferred.value, 1e-9) / 2  # about that of AP, too
    if best - last <= max(spread * best, 1.0):
        return []
    step = int(validated["step"].iloc[int(validated["joint_AP"].to_numpy().argmax())])
    evidence = f"joint AP on val was {best:.1f} at step {step} and is {last:.1f} at the end"
    change = f"lower solver.max_iter to about {step}"
    if checkpoint == "best":
        return [Finding("overtrained", "note", evidence, change)]
    return [Finding("overtrained", "warning", evidence, f"{change}, set test.checkpoint: best")]


def without_gradient(health: pd.DataFrame, tasks: Sequence[Task]) -> list[Finding]:
    """Heads and decoders whose gradient was 0 in the last third of the training. health: plots/health.tsv"""
    parts = [f"head_{task.name}" for task in tasks if task.loss_weight] + ["decoder", "pixel_decoder"]
    findings = []
    for name in parts:
        norms = health.get(f"gradient_{name}", pd.Series(dtype=float)).to_numpy(dtype=np.float64)
        if len(norms) < 3 or (norms[-(len(norms) // 3) :] != 0).any():
            continue
        nonzero = np.flatnonzero(norms != 0)
        since = f"after step {health['step'].iloc[nonzero[-1]]:.0f}" if len(nonzero) else "throughout the training"
        evidence = f"the norm of its gradient is 0 {since} (plots/health.tsv)"
        change = "look for detach, no_grad or requires_grad between it and the losses"
        findings.append(Finding("gradient_missing", "error", evidence, change, name.replace("_", " ")))
    return findings
