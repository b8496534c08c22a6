"""The trained network put to the test: its weights, its answers on samples of both splits, and whether these depend on
the batch or get better with red and blue swapped. What `mtseg/diagnosis` needs and cannot see in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from mtseg.checks import combinations as prior
from mtseg.checks.findings import Finding
from mtseg.core.params import Input, Model, Task
from mtseg.core.tables import Image, Prediction
from mtseg.diagnosis.label_alignment import MEND, SAME
from mtseg.diagnosis.masks import box_iou
from mtseg.diagnosis.run import Sample
from mtseg.inference import predictor as predict
from mtseg.model import weights
from mtseg.model.decoder import QueryOutput
from mtseg.model.device import pick
from mtseg.model.heads import Combinations
from mtseg.model.mask2former import Mask2Former

TRAIN, VAL, SWAPPED, ALONE = 300, 24, 40, 6  # pictures: of train, of val, of each in other colours, of val one by one
NOISE = 0.05  # of a logit: what another device or batch size may change
MOVED = 0.2  # of a mask's box, the same


def probe(
    checkpoint: Path, found: Sequence[Prediction], *, train: Sequence[Image], val: Sequence[Image],
    tasks: tuple[Task, ...], model: Model, input: Input, root: Path, detections: int, batch: int, device: str,
) -> tuple[Sample, Sample, list[Finding]]:  # fmt: skip
    """Samples of train and val, and findings of the network. found: the predictions of val that are diagnosed."""
    network = predict.load_model(checkpoint, tasks=tasks, model=model, detections=detections)
    change = f"{checkpoint} was trained on other data, or load_model leaves out what it says of them: train again"
    findings = _weights(network, checkpoint) or prior.check(network, train, model=model, change=change)
    findings += _normalisation(network)
    network.to(pick(device))

    def run(images: Sequence[Image], batch: int = batch) -> list[Prediction]:
        return predict.predict(network, images, root=root, input=input, batch=batch, progress=False)

    samples = []
    for images in (spread(train, TRAIN), spread(val, VAL)):
        answers = run(images)
        with _swapped(network):
            samples.append(Sample(images, answers, run(spread(images, SWAPPED))))
    few = spread(samples[1].images, ALONE)
    with _heard(network) as heads:
        ones = run(few, 1)
    if isinstance(network.heads[0], Combinations):  # or else the file tells
        findings += _blind(heads, tasks)
    alone, moved = apart(ones, samples[1].predictions), shifted(ones, samples[1].predictions)
    if alone > NOISE or moved > MOVED:
        findings.append(_mixed(alone, moved, _place(run, few, ones)))
    stale = apart(samples[1].predictions, found)
    if stale > NOISE and not findings:
        findings.append(
            Finding(
                "prediction_differs", "error",
                f"{checkpoint} gives other logits than data/predictions/val.json has, half by {stale:.2g} or more",
                "the file is of other weights, pictures or params: run `dvc repro predict`",
            )
        )  # fmt: skip
    return samples[0], samples[1], findings


def _place(run: Callable[..., list[Prediction]], few: Sequence[Image], ones: Sequence[Prediction]) -> str | None:
    """The place in a batch of two, first or last, at which alone a picture has the answer it has by itself."""
    placed: dict[str, list[Prediction]] = {"first": [], "last": []}
    for one, other in zip(few, [*few[1:], few[0]], strict=True) if len(few) > 1 else ():
        for p in run([one, other], 2):
            placed["first" if p.image_id == one.id else "last"].append(p)
    own = [place for place, found in placed.items() if apart(ones, found) <= NOISE and shifted(ones, found) <= MOVED]
    return own[0] if len(own) == 1 else None


def _mixed(alone: float, moved: float, place: str | None) -> Finding:
    changes = [f"half of a task's logits change by {alone:.2g} or more"] * (alone > NOISE)
    changes += [f"half of the masks' boxes change by {moved:.0%} or more"] * (moved > MOVED)
    evidence = ", ".join(changes)
    if place and len(changes) == 1:
        cause = "labels_of_other_image" if alone > NOISE else "masks_of_other_image"
        change = f"take each picture's own, never the batch's {place} (Mask2Former.detect)"
        return Finding(cause, "error", f"{evidence}, unless a picture is the {place} of its batch", change)
    change = "model.freeze_norm: true, and look for an index that mixes pictures (Mask2Former.detect)"
    return Finding("answer_depends_on_batch", "error", f"{evidence}, when a picture is alone in its batch", change)


def spread(images: Sequence[Image], count: int) -> list[Image]:
    """At most `count` pictures, evenly spread over all."""
    return [images[i] for i in np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]


def apart(one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
    """Median change of a logit of the task that changes most, between predictions of the same picture and query; 0
    where nothing is shared."""
    changes: dict[str, list[float]] = {}
    for p, twin in _twins(one, other):
        for task in p.logits:
            changes.setdefault(task, []).extend(
                abs(a - b) for a, b in zip(p.logits[task], twin.logits[task], strict=True)
            )
    return max((float(np.median(values)) for values in changes.values()), default=0.0)


def shifted(one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
    """Median of 1 - IoU of the boxes of masks, between predictions of the same picture and query; 0 where none is."""
    changes = [1 - box_iou(np.array([p.bbox]), np.array([twin.bbox])).item() for p, twin in _twins(one, other)]
    return float(np.median(changes)) if changes else 0.0


def _twins(one: Sequence[Prediction], other: Sequence[Prediction]) -> Iterator[tuple[Prediction, Prediction]]:
    """Pairs of one query's answers with the same main label; with any, where that is gone."""

    def key(p: Prediction) -> tuple[int, int, int]:
        return p.image_id, p.query, next(iter(p.labels.values()))

    known = {key(p): p for p in other}
    queries = {(p.image_id, p.query): p for p in other}
    for p in one:
        if twin := known.get(key(p), queries.get((p.image_id, p.query))):
            yield p, twin


@contextmanager
def _swapped(network: Mask2Former) -> Iterator[None]:
    """The network sees red for blue."""

    def swap(module: torch.nn.Module, inputs: tuple) -> tuple:
        batch, *rest = inputs
        return ([example | {"image": example["image"].flip(0)} for example in batch], *rest)

    handle = network.register_forward_pre_hook(swap)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _heard(network: Mask2Former) -> Iterator[list[dict[str, torch.Tensor]]]:
    """What the heads say of each batch [B, Q, K], before combinations are made of it."""
    heard: list[dict[str, torch.Tensor]] = []

    def note(module: torch.nn.Module, inputs: tuple, output: QueryOutput) -> None:
        heard.append({name: logits[-1].cpu() for name, logits in output.logits.items()})

    handle = network.decoder.register_forward_hook(note)
    try:
        yield heard
    finally:
        handle.remove()


def _blind(heads: Sequence[dict[str, torch.Tensor]], tasks: Sequence[Task]) -> Iterator[Finding]:
    """Heads that say the same of every picture (F11). What other heads say hides it in the labels' probabilities."""
    for task in tasks:
        if len(heads) < 2 or not task.loss_weight or task.num_outputs == 1:
            continue
        said_PQK = torch.cat([batch[task.name] for batch in heads])
        said_PQK = said_PQK - said_PQK.mean(-1, keepdim=True)  # softmax does not see what all share
        within, whole = ((said_PQK - said_PQK.mean(dim, keepdim=True)).square().sum() for dim in (0, (0, 1)))
        if whole > 0 and within < SAME * whole:
            yield Finding(
                "labels_ignore_image", "error", f"{within / whole:.2g} of the variance of its head's logits lies "
                "between pictures, the rest between queries", MEND["labels_ignore_image"], f"task '{task.name}'",
            )  # fmt: skip


def _weights(network: Mask2Former, checkpoint: Path) -> list[Finding]:
    state, own = weights.load(checkpoint)[0], network.state_dict()
    other = [name for name, value in state.items() if not torch.equal(own[name].cpu(), value)]
    if not other:
        return []
    return [
        Finding(
            "weights_not_loaded", "error", f"{len(other)} of {len(state)} tensors in use are not those of {checkpoint}",
            "look at load_model",
        )
    ]  # fmt: skip


def _normalisation(network: Mask2Former) -> list[Finding]:
    used = [tensor.flatten().tolist() for tensor in (network.pixel_mean, network.pixel_std)]
    wanted = [list(values) for values in (network.backbone.pixel_mean, network.backbone.pixel_std)]
    if np.allclose(used, wanted, rtol=1e-3):
        return []
    named = ["/".join(f"{value:.3g}" for value in values) for values in (*used, *wanted)]
    return [
        Finding(
            "normalisation", "error", f"prediction uses mean {named[0]} and deviation {named[1]}, the backbone was "
            f"trained with {named[2]} and {named[3]}", "take pixel_mean and pixel_std from the backbone (Mask2Former)",
        )
    ]  # fmt: skip
