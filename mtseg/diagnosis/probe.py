"""Test the trained network itself: its weights, and its predictions on samples of both splits, which must not depend on
the batch. Also predicts with red and blue swapped. The stored predictions cannot show any of this."""

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
from mtseg.evaluation.ap.summary import spread
from mtseg.inference import torch_network
from mtseg.model import weights
from mtseg.model.decoder import QueryOutput
from mtseg.model.device import pick
from mtseg.model.mask2former import Mask2Former

TRAIN, VAL = 300, 24  # largest number of images of each split
SWAPPED, ALONE = 40, 6  # of these: with red and blue swapped (of each split), and in batches of one image (of val)
LOGIT_CHANGE = 0.05  # largest median change of a logit by another device or batch size
BOX_CHANGE = 0.2  # the same of 1 - IoU of the masks' boxes

Run = Callable[[Images, int], Predictions]  # (images, batch size) -> predictions


def probe(
    checkpoint: Path, stored: Predictions, *, train: Images, val: Images, tasks: tuple[Task, ...], model: Model,
    input: Input, root: Path, detections: int, batch: int, device: str,
) -> tuple[Sample, Sample, list[Finding]]:  # fmt: skip
    """Samples of train and val, and findings about the network. stored: the predictions of val that are diagnosed."""
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
        single = run(few, 1)
    if model.unseen_combinations < 1 and len(tasks) > 1:  # otherwise label_alignment finds it in the stored predictions
        findings += _ignoring_image(logits, tasks)
    logit, box = logit_change(single, own), box_change(single, own)
    if logit > LOGIT_CHANGE or box > BOX_CHANGE:
        findings.append(_of_another(run, few, single) or _depends_on_batch(logit, box, *_place(run, few, single)))
    stale = logit_change(own, stored[np.isin(stored.image_id, own.image_id)])
    if stale > LOGIT_CHANGE and not findings:
        evidence = f"{checkpoint} and the stored predictions have different logits (median difference {stale:.2g})"
        change = "the stored predictions are from other weights, images or params: run `dvc repro predict`"
        findings.append(Finding("prediction_differs", "error", evidence, change))
    return samples[0], samples[1], findings


def _place(run: Run, few: Images, single: Predictions) -> tuple[str | None, bool]:
    """The place in a batch of two ("first" or "last") at which predictions are the same as those of a single image, if
    they are at one place only. And whether the masks at the other place are rather those that the other image of the
    batch has alone."""
    parts: dict[str, list[Predictions]] = {"first": [], "last": []}
    as_other: dict[str, list[Predictions]] = {"first": [], "last": []}  # with id and size of the batch's other image
    for row in range(len(few) - 1):
        both, pair = run(few[row : row + 2], 2), few[row : row + 2]
        size = np.column_stack([pair.width, pair.height] * 2)
        for place, own in (("first", 0), ("last", 1)):
            parts[place].append(found := both[both.image_id == pair.id[own]])
            ids = _filled(found, pair.id[own], pair.id[1 - own])
            as_other[place].append(found.replace(image_id=ids, box=found.box * size[1 - own] / size[own]))
    if not all(len(_same_query(single, own)[0]) for own in (*parts["first"], *parts["last"])):
        return None, False
    joined = {place: Predictions.concatenate(own) for place, own in parts.items() if own}
    same = [
        place
        for place, own in joined.items()
        if logit_change(single, own) <= LOGIT_CHANGE and box_change(single, own) <= BOX_CHANGE
    ]
    if len(same) != 1:
        return None, False
    (other,) = {*parts} - {*same}
    changes = [box_change(single, own) for own in as_other[other] if len(_same_query(single, own)[0])]
    return same[0], bool(changes) and bool(np.median(changes) < box_change(single, joined[other]))


def _of_another(run: Run, few: Images, single: Predictions) -> Finding | None:
    """An error if each of two images in a batch has the logits that the other one has alone."""
    parts = []
    for row in range(len(few) - 1):
        both = run(few[row : row + 2], 2)
        ids = few.id[row : row + 2]
        parts += [both[both.image_id == ids[at]].replace(image_id=_filled(both, ids[at], ids[1 - at])) for at in (0, 1)]
    changes = [logit_change(single, part) for part in parts]
    compared = [len(_same_query(single, part)[0]) > 0 for part in parts]
    if not parts or not all(compared) or max(changes) > LOGIT_CHANGE:
        return None
    evidence = "in a batch of two, each image has the predictions that the other one has alone"
    change = "take each image's own pixels and output (prediction_batches, Mask2Former.detect)"
    return Finding("masks_of_other_image", "error", evidence, change)


def _filled(table: Predictions, image: int, value: int) -> np.ndarray:
    return np.full((table.image_id == image).sum(), value)


def _depends_on_batch(logit: float, box: float, place: str | None, of_place: bool) -> Finding:
    """logit, box: `logit_change` and `box_change`. place, of_place: result of `_place`."""
    changes = [f"half of a task's logits change by {logit:.2g} or more"] * (logit > LOGIT_CHANGE)
    changes += [f"half of the masks' boxes change by {box:.0%} or more"] * (box > BOX_CHANGE)
    evidence = ", ".join(changes)
    if place and len(changes) == 1 and (of_place or logit > LOGIT_CHANGE):
        cause = "labels_of_other_image" if logit > LOGIT_CHANGE else "masks_of_other_image"
        change = f"take each image's own output, never that of the batch's {place} (Mask2Former.detect)"
        return Finding(cause, "error", f"{evidence}, unless an image is the {place} of its batch", change)
    change = "set model.freeze_norm: true, and look for an index that mixes images (Mask2Former.detect)"
    return Finding("answer_depends_on_batch", "error", f"{evidence}, when an image is alone in its batch", change)


def logit_change(one: Predictions, other: Predictions) -> float:
    """Median absolute difference of the logits of the same image and query, for the task with the largest; 0 without
    common queries."""
    rows, others = _same_query(one, other)
    changes = (np.abs(values[rows] - other.logits[name][others]) for name, values in one.logits.items())
    return max((float(np.median(values)) for values in changes if values.size), default=0.0)


def box_change(one: Predictions, other: Predictions) -> float:
    """Median of 1 - IoU of the boxes of the same image and query; 0 without common queries."""
    rows, others = _same_query(one, other)
    boxes = zip(one.box[rows], other.box[others], strict=True)
    changes = [1 - box_overlaps(a[None], b[None])[0].item() for a, b in boxes]
    return float(np.median(changes)) if changes else 0.0


def _same_query(one: Predictions, other: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `one` and the rows of `other` of the same image and query; with the same main label if there is one."""

    def keys(table: Predictions) -> list[tuple[int, int, int]]:
        columns = table.image_id, table.query, next(iter(table.labels.values()))
        return list(zip(*(column.tolist() for column in columns), strict=True))

    known = {key: row for row, key in enumerate(keys(other))}
    known |= {key[:2]: row for key, row in known.items()}
    others = np.array([known.get(key, known.get(key[:2], -1)) for key in keys(one)], dtype=int)
    return np.flatnonzero(others >= 0), others[others >= 0]


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
    """The heads' logits [B, Q, K] of each batch, before a softmax over combinations."""
    recorded: list[dict[str, torch.Tensor]] = []

    def record(module: torch.nn.Module, inputs: tuple, output: QueryOutput) -> None:
        recorded.append({name: logits[-1].cpu() for name, logits in output.logits.items()})

    handle = network.decoder.register_forward_hook(record)
    try:
        yield recorded
    finally:
        handle.remove()


def _ignoring_image(recorded: Sequence[dict[str, torch.Tensor]], tasks: Sequence[Task]) -> Iterator[Finding]:
    """Heads whose logits are the same for every image. With a softmax over combinations, predictions do not show it,
    since they depend on all heads."""
    for task in tasks:
        if len(recorded) < 2 or not task.loss_weight or task.num_outputs == 1:
            continue
        logits_IQK = torch.cat([batch[task.name] for batch in recorded])
        logits_IQK = logits_IQK - logits_IQK.mean(-1, keepdim=True)  # softmax ignores a constant
        within, whole = ((logits_IQK - logits_IQK.mean(dim, keepdim=True)).square().sum() for dim in (0, (0, 1)))
        if whole > 0 and within < SAME * whole:
            cause, share = "labels_ignore_image", within / whole
            evidence = f"only {share:.2g} of the variance of its head's logits is between images, the rest between "
            yield Finding(cause, "error", f"{evidence}queries", CHANGES[cause], f"task '{task.name}'")


def _weights(network: Mask2Former, checkpoint: Path) -> list[Finding]:
    stored, loaded = weights.load(checkpoint)[0], network.state_dict()
    different = [name for name, value in stored.items() if not torch.equal(loaded[name].cpu(), value)]
    if not different:
        return []
    evidence = f"{len(different)} of {len(stored)} tensors of the network differ from those of {checkpoint}"
    return [Finding("weights_not_loaded", "error", evidence, "check load_model (mtseg/inference)")]


def _normalisation(network: Mask2Former) -> list[Finding]:
    used = [tensor.flatten().tolist() for tensor in (network.pixel_mean, network.pixel_std)]
    expected = [list(values) for values in (network.backbone.pixel_mean, network.backbone.pixel_std)]
    if np.allclose(used, expected, rtol=1e-3):
        return []
    mean, std, *backbone = ("/".join(f"{value:.3g}" for value in values) for values in (*used, *expected))
    evidence = f"prediction uses mean {mean} and standard deviation {std}, the backbone {' and '.join(backbone)}"
    change = "take pixel_mean and pixel_std from the backbone (Mask2Former)"
    return [Finding("normalisation", "error", evidence, change)]
