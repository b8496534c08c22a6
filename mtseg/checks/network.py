"""Check the untrained network: its heads, perfect outputs, its outputs for two images, and two training steps."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from heapq import nlargest
from itertools import islice
from pathlib import Path

import torch

from mtseg.checks import combinations, known_answers, step
from mtseg.checks.findings import FAILURES, Finding, exception_text
from mtseg.core.errors import out_of_memory
from mtseg.core.params import Input, Model, Solver
from mtseg.core.tables import Image
from mtseg.data.loader import Example, Mapper
from mtseg.model.mask2former import Mask2Former
from mtseg.model.weights import initialise

LARGEST = 256  # pixels: the network is checked on small images
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean and standard deviation of its pixels, RGB
PARTLY = 0.1  # share of the backbone's tensors that may be new
SAME = 1e-2  # largest change of logits by the other images of a batch (rounding), over their standard deviation


def check(
    network: Mask2Former, train: Sequence[Image], *, root: Path, model: Model, input: Input, solver: Solver, seed: int
) -> list[Finding]:
    """Errors. The network is not changed."""
    change = "build the network with the combinations of labels of train, in the order of tasks"
    if findings := list(heads(network)) or combinations.check(network, train, model=model, change=change):
        return findings  # the other checks would fail as well, on CUDA with a device-side assert
    torch.manual_seed(seed)
    unaugmented = {"size": min(input.size, LARGEST), "min_scale": 1.0, "max_scale": 1.0, "flip": 0.0, "workers": 0}
    mapper = Mapper(network.tasks, input.model_copy(update=unaugmented), root=root, training=True)
    batch, findings = [mapper(image) for image in choose(network, train)], []
    try:
        findings += known_answers.check(network)
        findings += normalisation(network, batch, model)
        findings = findings or list(dependence(network, batch))
        return findings + step.check(network, batch, solver=solver)
    except FAILURES as error:
        if out_of_memory(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        # the last line of this project, not of PyTorch
        last = ([frame for frame in frames if "site-packages" not in frame.filename] or frames)[-1]
        evidence = f"a training step raises {exception_text(error)}"
        return [*findings, Finding("step_fails", "error", evidence, f"fix {last.filename}:{last.lineno}")]


def loaded(network: Mask2Former, *, model: Model, solver: Solver) -> Iterator[Finding]:
    """Tensors of the backbone that are not those of the file, and those that the file lacks, which
    `model.partial_weights` allows. The weights are loaded again."""
    if model.weights is None:
        return
    built = {name: float(value.double().sum()) for name, value in network.backbone.state_dict().items()}
    transfer = initialise(
        network, model.weights, backbone=model.backbone, tasks=network.tasks, partial=model.partial_weights
    )
    whole = network.backbone.state_dict()
    changed = [name for name, value in whole.items() if float(value.double().sum()) != built[name]]
    if changed:
        evidence = f"{len(changed)} of {len(whole)} tensors of the backbone are not those of {transfer.source.name}"
        change = "fix mtseg/model/mask2former.py: the weights are loaded last"
        yield Finding("weights_partly_loaded", "error", f"{evidence}: {', '.join(changed[:5])}", change)
    new, frozen = [key for key in transfer.new if key.startswith("backbone.")], not solver.backbone_multiplier
    if len(new) > PARTLY * len(whole) or new and frozen:
        evidence = (
            f"{len(new)} of {len(whole)} tensors of the backbone are not in {transfer.source.name}, they stay random"
        )
        change = "provide a file of this backbone"
        if frozen:
            evidence += ", and solver.backbone_multiplier 0 does not train them"
            change += ", or set solver.backbone_multiplier: 1"
        yield Finding("weights_partly_loaded", "warning", evidence, change)


def heads(network: Mask2Former) -> Iterator[Finding]:
    """The linear layer of each task must have as many outputs as its head reads."""
    for name, outputs in network.heads.outputs().items():
        if (size := network.decoder.heads[f"head_{name}"].out_features) != outputs:
            evidence = f"its linear layer has {size} outputs, its head expects {outputs}"
            yield Finding("head_size", "error", evidence, "fix mtseg/model/decoder.py or heads", f"task '{name}'")


def choose(network: Mask2Former, train: Sequence[Image]) -> list[Image]:
    """The two images with labels of most tasks and the largest objects, and one more for each task without a label in
    these. Few images keep the step small; two are needed to compare their outputs."""

    def labelled(image: Image) -> set[str]:
        labels = (instance.labels.items() for instance in image.instances if not instance.crowd)
        return {name for items in labels for name, label in items if label is not None}

    def largest(image: Image) -> float:
        return max((one.area for one in image.instances if not one.crowd), default=0.0) / (image.height * image.width)

    images = nlargest(2, train, key=lambda image: (len(labelled(image)), largest(image)))
    for task in network.tasks:
        if not any(task.name in labelled(image) for image in images):
            images += islice((image for image in train if task.name in labelled(image)), 1)
    return images


def normalisation(network: Mask2Former, batch: Sequence[Example], model: Model) -> Iterator[Finding]:
    """The backbone must get images that are normalised as its file states, from values 0..255."""
    mean, std = (torch.tensor(getattr(network.backbone, name)) for name in ("pixel_mean", "pixel_std"))
    centre, spread = (torch.tensor(IMAGENET[0]) - mean) / std, torch.tensor(IMAGENET[1]) / std
    least = 0.2 if model.backbone.startswith("timm/") else 0.4  # some timm models take images scaled to 0..1 only
    if centre.abs().max() > 0.7 or spread.min() < least or spread.max() > 1.6:
        evidence = (
            f"ImageNet images normalised for '{model.backbone}' have means {_listed(centre)} and standard deviations "
            f"{_listed(spread)}, expected about 0 and 1"
        )
        yield Finding("normalisation", "error", evidence, "fix its PIXEL_MEAN and PIXEL_STD (scale 0..255)")
        return
    inputs = []
    handle = network.backbone.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach().cpu()))
    try:
        logits(network, batch)
    finally:
        handle.remove()
    images = torch.stack([example["image"] for example in batch]).float()
    wanted, swapped = ((x - mean.view(3, 1, 1)) / std.view(3, 1, 1) for x in (images, images.flip(1)))
    change = "fix mtseg/model/mask2former.py"
    if (inputs[0] - swapped).abs().max() < 1e-3 < (inputs[0] - wanted).abs().max():
        yield Finding("channels_swapped", "error", "the backbone gets BGR images", change)
    elif (inputs[0] - wanted).abs().max() > 1e-3:
        off = _listed((inputs[0] - wanted).mean((0, 2, 3)))
        evidence = f"the backbone's input is off by {off} standard deviations in red, green, blue"
        yield Finding("normalisation", "error", evidence, change)


def dependence(network: Mask2Former, batch: Sequence[Example]) -> Iterator[Finding]:
    """The labels of an image must depend on it, and on no other image of the batch."""
    first, *others = batch
    if not others or torch.equal(first["image"], others[0]["image"]):  # a copy, or the only image
        others = [first | {"image": 255 - first["image"]}]
    together, alone = logits(network, [first, *others]), logits(network, [first])
    for task in network.tasks:
        both_BQK, own_QK = together[task.name], alone[task.name][0]
        if not both_BQK.isfinite().all():  # random weights with frozen norms, reported by random_frozen_norm
            continue
        where, spread = f"task '{task.name}'", both_BQK.std() + 1e-12
        changed = ((both_BQK[0] - own_QK).abs().amax(-1) > SAME * spread).float().mean()
        if network.num_queries > 1 and (both_BQK - both_BQK[:, :1]).abs().max() <= SAME * spread:
            evidence = "all queries of an image have the same logits: they act as one"
            change = "fix mtseg/model/decoder.py: each query has embeddings of its own"
            yield Finding("queries_too_few", "error", evidence, change, where)
        elif (both_BQK[0] - both_BQK[1]).abs().max() <= 1e-6 * spread:
            evidence = "its logits for two different images are identical"
            change = "fix mtseg/model/decoder.py: the input of heads is the decoder's output, not the learnt queries"
            yield Finding("labels_ignore_image", "error", evidence, change, where)
        elif changed > 0.5:
            evidence = f"{changed:.0%} of the queries have other outputs if an image is alone in its batch"
            change = "fix mtseg/model: the output for an image must not depend on other images"
            yield Finding("answer_depends_on_batch", "error", evidence, change, where)


@torch.no_grad()
def logits(network: Mask2Former, batch: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Logits [B, Q, K] of each task, float32 on the CPU. Does not change the network's state."""
    training = network.training
    network.eval()
    try:
        return {name: x_BQK.float().cpu() for name, x_BQK in network.queries(list(batch)).last().items()}
    finally:
        network.train(training)


def _listed(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.2f}" for value in values.tolist())
