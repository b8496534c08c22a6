"""Test the trained network: its weights, its predictions on samples of both splits, and whether these depend on the
batch or improve with red and blue swapped. The stored files do not contain this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from mtseg.checks import combinations
from mtseg.checks.findings import Finding
from mtseg.core.params import Input, Model, Task
from mtseg.core.tables import Images, Predictions
from mtseg.diagnosis.label_alignment import CHANGES, SAME
from mtseg.diagnosis.run import Sample
from mtseg.evaluation.ap.pairs import box_overlaps
from mtseg.inference import torch_network
from mtseg.model import weights
from mtseg.model.decoder import QueryOutput
from mtseg.model.device import pick
from mtseg.model.mask2former import Mask2Former

TRAIN, VAL, SWAPPED, ALONE = 300, 24, 40, 6  # images: of train, of val, of each in other colours, of val one by one
NOISE = 0.05  # of a logit: what another device or batch size may change
MOVED = 0.2  # of a mask's box, the same

Run = Callable[[Images, int], Predictions]  # images and the size of a batch


def probe(
    checkpoint: Path, found: Predictions, *, train: Images, val: Images, tasks: tuple[Task, ...], model: Model,
    input: Input, root: Path, detections: int, batch: int, device: str,
) -> tuple[Sample, Sample, list[Finding]]:  # fmt: skip
    """Samples of train and val, and findings of the network. found: the predictions of val that are diagnosed."""
    network = torch_network.load_model(checkpoint, tasks=tasks, model=model, detections=detections)
    change = f"{checkpoint} was trained on other data, or load_model ignores the combinations stored in it: train again"
    findings = _weights(network, checkpoint) or combinations.check(network, train, model=model, change=change)
    findings += _normalisation(network)
    network.to(pick(device))

    def run(images: Images, batch: int = batch) -> Predictions:
        return torch_network.predict(network, images, root=root, input=input, batch=batch, progress=False)

    samples = []
    for images in (spread(train, TRAIN), spread(val, VAL)):
        predictions = run(images)
        with _swapped(network):
            samples.append(Sample(images, predictions, run(spread(images, SWAPPED))))
    own = samples[1].predictions
    few = spread(samples[1].images, ALONE)
    with _recorded(network) as logits:
        ones = run(few, 1)
    if model.unseen_combinations < 1 and len(tasks) > 1:  # otherwise the file of predictions shows it
        findings += _blind(logits, tasks)
    alone, moved = apart(ones, own), shifted(ones, own)
    if alone > NOISE or moved > MOVED:
        findings.append(_mixed(alone, moved, _place(run, few, ones)))
    stale = apart(own, found[np.isin(found.image_id, own.image_id)])
    if stale > NOISE and not findings:
        evidence = f"{checkpoint} and the stored predictions have different logits (median difference {stale:.2g})"
        change = "the stored predictions are from other weights, images or params: run `dvc repro predict`"
        findings.append(Finding("prediction_differs", "error", evidence, change))
    return samples[0], samples[1], findings


def _place(run: Run, few: Images, ones: Predictions) -> str | None:
    """The place in a batch of two, first or last, at which alone an image has the predictions it has by itself."""
    placed: dict[str, list[Predictions]] = {"first": [], "last": []}
    for row in range(len(few) - 1):
        found = run(few[row : row + 2], 2)
        placed["first"].append(found[found.image_id == few.id[row]])
        placed["last"].append(found[found.image_id == few.id[row + 1]])
    known = {place: Predictions.concatenate(parts) for place, parts in placed.items() if parts}
    own = [place for place, found in known.items() if apart(ones, found) <= NOISE and shifted(ones, found) <= MOVED]
    return own[0] if len(own) == 1 else None


def _mixed(alone: float, moved: float, place: str | None) -> Finding:
    changes = [f"half of a task's logits change by {alone:.2g} or more"] * (alone > NOISE)
    changes += [f"half of the masks' boxes change by {moved:.0%} or more"] * (moved > MOVED)
    evidence = ", ".join(changes)
    if place and len(changes) == 1:
        cause = "labels_of_other_image" if alone > NOISE else "masks_of_other_image"
        change = f"take each image's own output, never that of the batch's {place} (Mask2Former.detect)"
        return Finding(cause, "error", f"{evidence}, unless an image is the {place} of its batch", change)
    change = "set model.freeze_norm: true, and look for an index that mixes images (Mask2Former.detect)"
    return Finding("answer_depends_on_batch", "error", f"{evidence}, when an image is alone in its batch", change)


def spread(images: Images, count: int) -> Images:
    """At most `count` images, evenly spread over all."""
    return images[np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]


def apart(one: Predictions, other: Predictions) -> float:
    """Median change of a logit of the task that changes most, between predictions of the same image and query; 0
    where nothing is shared."""
    rows, twins = _twins(one, other)
    changes = (np.abs(values[rows] - other.logits[name][twins]) for name, values in one.logits.items())
    return max((float(np.median(values)) for values in changes if values.size), default=0.0)


def shifted(one: Predictions, other: Predictions) -> float:
    """Median of 1 - IoU of the boxes of masks, between predictions of the same image and query; 0 where none is."""
    rows, twins = _twins(one, other)
    both = zip(one.box[rows], other.box[twins], strict=True)
    changes = [1 - box_overlaps(box[None], twin[None])[0].item() for box, twin in both]
    return float(np.median(changes)) if changes else 0.0


def _twins(one: Predictions, other: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both that are of one query and have the same main label; with any label, where that is gone."""

    def keys(table: Predictions) -> list[tuple[int, int, int]]:
        columns = table.image_id, table.query, next(iter(table.labels.values()))
        return list(zip(*(column.tolist() for column in columns), strict=True))

    known = {key: row for row, key in enumerate(keys(other))}
    known |= {key[:2]: row for key, row in known.items()}
    found = [known.get(key, known.get(key[:2], -1)) for key in keys(one)]
    twins = np.array(found, dtype=int)
    return np.flatnonzero(twins >= 0), twins[twins >= 0]


@contextmanager
def _swapped(network: Mask2Former) -> Iterator[None]:
    """Swap red and blue in the network's input."""

    def swap(module: torch.nn.Module, inputs: tuple) -> tuple:
        batch, *rest = inputs
        return ([example | {"image": example["image"].flip(0)} for example in batch], *rest)

    handle = network.register_forward_pre_hook(swap)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _recorded(network: Mask2Former) -> Iterator[list[dict[str, torch.Tensor]]]:
    """The heads' logits of each batch [B, Q, K], before combinations are made of them."""
    recorded: list[dict[str, torch.Tensor]] = []

    def note(module: torch.nn.Module, inputs: tuple, output: QueryOutput) -> None:
        recorded.append({name: logits[-1].cpu() for name, logits in output.logits.items()})

    handle = network.decoder.register_forward_hook(note)
    try:
        yield recorded
    finally:
        handle.remove()


def _blind(recorded: Sequence[dict[str, torch.Tensor]], tasks: Sequence[Task]) -> Iterator[Finding]:
    """Heads whose logits are the same for every image. Probabilities of labels, which depend on all heads, hide it."""
    for task in tasks:
        if len(recorded) < 2 or not task.loss_weight or task.num_outputs == 1:
            continue
        logits_IQK = torch.cat([batch[task.name] for batch in recorded])
        logits_IQK = logits_IQK - logits_IQK.mean(-1, keepdim=True)  # softmax does not see what all share
        within, whole = ((logits_IQK - logits_IQK.mean(dim, keepdim=True)).square().sum() for dim in (0, (0, 1)))
        if whole > 0 and within < SAME * whole:
            cause, share = "labels_ignore_image", within / whole
            evidence = f"only {share:.2g} of the variance of its head's logits is between images, the rest between "
            yield Finding(cause, "error", f"{evidence}queries", CHANGES[cause], f"task '{task.name}'")


def _weights(network: Mask2Former, checkpoint: Path) -> list[Finding]:
    state, own = weights.load(checkpoint)[0], network.state_dict()
    other = [name for name, value in state.items() if not torch.equal(own[name].cpu(), value)]
    if not other:
        return []
    evidence = f"{len(other)} of {len(state)} tensors of the network differ from those of {checkpoint}"
    return [Finding("weights_not_loaded", "error", evidence, "check load_model (mtseg/inference)")]


def _normalisation(network: Mask2Former) -> list[Finding]:
    used = [tensor.flatten().tolist() for tensor in (network.pixel_mean, network.pixel_std)]
    wanted = [list(values) for values in (network.backbone.pixel_mean, network.backbone.pixel_std)]
    if np.allclose(used, wanted, rtol=1e-3):
        return []
    named = ["/".join(f"{value:.3g}" for value in values) for values in (*used, *wanted)]
    evidence = f"prediction uses mean {named[0]} and deviation {named[1]}, the backbone {named[2]} and {named[3]}"
    change = "take pixel_mean and pixel_std from the backbone (Mask2Former)"
    return [Finding("normalisation", "error", evidence, change)]
