"""Was the model trained enough, too much, or at the wrong lr (F6)? From the loss curves and from what it answers on
pictures that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mtseg.checks.findings import Finding
from mtseg.core.params import Solver, Task
from mtseg.diagnosis.case import Case
from mtseg.diagnosis.intervals import Interval, ratio
from mtseg.evaluation.average_precision import EVERY

LEARNT = 0.25  # share of the train pictures' objects, surely below which nothing was learnt
OFF = 2.0  # times the rule's lr, up or down
STEPS, EPOCHS = 200, 3  # below either, there were too few to judge the lr by
CONVERGED = 0.75  # share of the first loss, above which a loss that is flat at the end has been learnt
AGAIN = 0.1  # share of what the loss had fallen by, that it rises again
FELL = 0.1  # share of the joint AP in training that predictions may lack: logits of another scale alone rank otherwise


def hits(case: Case) -> Interval | None:
    """Share of the objects found by a confident prediction with all labels right."""
    return ratio(_found(case), np.bincount(case.true_picture, minlength=len(case.images)))


def check(
    train: Case, val: Case, *, curve: pd.DataFrame, validated: pd.DataFrame, solver: Solver, pictures: int,
    checkpoint: str,
) -> tuple[list[Finding], dict[str, float]]:  # fmt: skip
    """Findings, an error if it is what explains a model that has learnt nothing, and numbers: train_hits, val_hits,
    epochs, and those of `shape`. curve: plots/train.tsv; validated: plots/val.tsv; pictures: of the train split."""
    learnt, transferred = hits(train), hits(val)
    steps = int(curve["step"].max()) if len(curve) else 0
    epochs = steps * solver.ims_per_batch * solver.accumulate / max(pictures, 1)
    numbers = {
        "train_hits": learnt.value if learnt else None,
        "val_hits": transferred.value if transferred else None,
        "epochs": epochs,
        **shape(curve),
    }
    findings = []
    if learnt and learnt.high < LEARNT and steps:
        findings.append(_untrained(learnt, curve, solver, steps, epochs, numbers, dead=train.collapsed))
    elif learnt and transferred and transferred.high < learnt.low / 2:
        findings.append(
            Finding(
                "overtrained", "warning",
                f"{learnt.text(0, 100)} % of the objects are found with all labels right in train, "
                f"{transferred.text(0, 100)} % in val",
                f"add pictures (train has {pictures}), widen input.min_scale to max_scale, or lower solver.max_iter",
            )
        )  # fmt: skip
    findings += _past_its_best(validated, checkpoint, transferred)
    return findings, numbers


def shape(curve: pd.DataFrame, name: str = "loss") -> dict[str, float | None]:
    """Of the loss, or of one by name. fallen: share of its first value that is gone at the end. falling: share of the
    fall that came in the last third of the lr spent. risen: the most that it rose above its lowest so far, as a share
    of the fall."""
    if len(curve) < 3 or name not in curve:
        return {"fallen": None, "falling": None, "risen": None}
    loss = curve[name].to_numpy(dtype=np.float64)
    spent = np.cumsum(curve["lr"].to_numpy(dtype=np.float64) * np.diff(curve["step"], prepend=0))
    fall = max(loss[0] - loss.min(), 1e-9)
    late = np.interp(spent[-1] * 2 / 3, spent, loss) - loss[-1]
    return {
        "fallen": float(1 - loss[-1] / loss[0]) if loss[0] else None,
        "falling": float(late / fall),
        "risen": float((loss - np.minimum.accumulate(loss)).max() / fall),
    }


def _untrained(
    learnt: Interval, curve: pd.DataFrame, solver: Solver, steps: int, epochs: float, numbers: dict[str, float], *,
    dead: bool,
) -> Finding:  # fmt: skip
    evidence = f"{learnt.text(0, 100)} % of the objects of train pictures are found with all labels right"
    off = solver.lr / solver.rule_lr
    reached = float(curve["lr"].max())
    if numbers["fallen"] is not None:
        evidence += f"; the loss has fallen by {numbers['fallen']:.0%}"
    if not 1 / OFF <= off <= OFF:
        return Finding(
            "lr_for_batch", "error", f"{evidence}; solver.base_lr {solver.lr:g} is {off:.3g} times what the rule gives",
            "set solver.base_lr: auto",
        )  # fmt: skip
    if dead:
        return Finding(
            "lr_too_high", "error", f"{evidence}; all queries of a picture say the same: the network has gone dead",
            f"lower solver.reference_lr ({solver.reference_lr:g}) by a factor of 10",
        )  # fmt: skip
    if steps < STEPS or epochs < EPOCHS:
        return Finding(
            "too_few_steps", "error", f"{evidence}; training was {steps} steps, each picture seen {epochs:.1f} times",
            "raise solver.max_iter",
        )  # fmt: skip
    if reached < solver.lr / OFF:
        return Finding(
            "lr_too_low", "error", f"{evidence}; the lr never went above {reached:.2g} of {solver.lr:.2g}",
            f"lower solver.warmup ({solver.warmup}) below solver.max_iter ({solver.max_iter})",
        )  # fmt: skip
    flat = numbers["risen"] is not None and numbers["risen"] <= AGAIN and numbers["falling"] < 0.05
    if flat and numbers["fallen"] > CONVERGED:
        return Finding(
            "overtrained", "error", f"{evidence}, {numbers['falling']:.0%} of that in the last third: what training "
            "was shown is known, and these pictures are not it",
            "look at which pictures and targets the loader gives (training_batches): are they all, and as annotated?",
        )  # fmt: skip
    if numbers["risen"] is not None and (numbers["risen"] > AGAIN or numbers["falling"] < 0.05):
        return Finding(
            "lr_too_high", "error",
            f"{evidence}, rose again by up to {numbers['risen']:.0%} of that and fell by {numbers['falling']:.0%} "
            "in the last third", f"lower solver.reference_lr ({solver.reference_lr:g}) by a factor of 10",
        )  # fmt: skip
    return Finding(
        "lr_too_low", "error", f"{evidence}, {numbers['falling'] or 0:.0%} of that in the last third, and smoothly",
        f"raise solver.reference_lr ({solver.reference_lr:g}) by a factor of 10, or solver.max_iter",
    )  # fmt: skip


def _past_its_best(validated: pd.DataFrame, checkpoint: str, transferred: Interval | None) -> list[Finding]:
    """A val AP that falls, by more than the pictures' chance explains, while training goes on."""
    if len(validated) < 2 or transferred is None or "joint_AP" not in validated:
        return []
    best, last = validated["joint_AP"].max(), validated["joint_AP"].iloc[-1]
    spread = (transferred.high - transferred.low) / max(transferred.value, 1e-9) / 2  # of AP too, roughly
    if best - last <= max(spread * best, 1.0):
        return []
    step = int(validated["step"].iloc[int(validated["joint_AP"].to_numpy().argmax())])
    return [
        Finding(
            "overtrained", "note" if checkpoint == "best" else "warning",
            f"joint AP on val was {best:.1f} at step {step} and is {last:.1f} at the end",
            f"lower solver.max_iter to about {step}" + ("" if checkpoint == "best" else ", set test.checkpoint: best"),
        )
    ]  # fmt: skip


def as_validated(validated: pd.DataFrame, now: float, checkpoint: str, *, detections: int) -> list[Finding]:
    """Whether the predictions score what the same weights scored in training (joint AP by the product of probabilities
    and mask quality): if not, weights, pictures, annotations or what is done with them differ."""
    if not len(validated) or "joint_AP" not in validated or detections < 100:
        return []
    column = validated["joint_AP"]
    then = float(column.max() if checkpoint == "best" else column.iloc[-1])
    if then - now <= max(1.0, FELL * then):
        return []
    return [
        Finding(
            "prediction_differs", "error", f"joint AP on val was {then:.1f} in training, predictions have {now:.1f}",
            "prediction does other than training's validation did: other weights, pictures, annotations or input.size; "
            "run `dvc repro predict`, look at load_model and the Mapper",
        )
    ]  # fmt: skip


def starved(health: pd.DataFrame, tasks: Sequence[Task]) -> list[Finding]:
    """Heads and decoders that got no gradient at all in the last third of the training. health: plots/health.tsv"""
    parts = [f"head_{task.name}" for task in tasks if task.loss_weight] + ["decoder", "pixel_decoder"]
    findings = []
    for name in parts:
        norms = health.get(f"gradient_{name}", pd.Series(dtype=float)).to_numpy(dtype=np.float64)
        if len(norms) < 3 or (norms[-(len(norms) // 3) :] != 0).any():
            continue
        given = np.flatnonzero(norms != 0)
        since = f"after step {health['step'].iloc[given[-1]]:.0f}" if len(given) else "in all of the training"
        findings.append(
            Finding(
                "gradient_missing", "error", f"the norm of its gradient is 0 {since} (plots/health.tsv)",
                "look for detach, no_grad or requires_grad between it and the losses", name.replace("_", " "),
            )
        )  # fmt: skip
    return findings


def difference(one: Case, other: Case) -> Interval | None:
    """Share of the objects found with all labels right by `one` minus that by `other`, of the same pictures."""
    return ratio(_found(one) - _found(other), np.bincount(one.true_picture, minlength=len(one.images)))


def _found(case: Case) -> np.ndarray:
    """Objects found by a confident prediction with all labels right, [P]."""
    right = np.isin(case.pairs.found, case.confident)
    for task in case.trained:
        true = case.true_labels[task.name][case.pairs.true]
        right &= (true == EVERY) | (true == case.labels[task.name][case.pairs.found])
    return np.bincount(case.pairs.picture[right], minlength=len(case.images)).astype(float)
