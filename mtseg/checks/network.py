"""The network before it is trained: its heads, its answers to known questions and to two pictures, and one step."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from mtseg.checks import combinations as prior
from mtseg.checks import known_answers as answers
from mtseg.checks import step as trial
from mtseg.checks.findings import Finding
from mtseg.core.params import Input, Model, Solver
from mtseg.core.tables import Image
from mtseg.data.loader import Example, Mapper
from mtseg.model.mask2former import Mask2Former

LARGEST = 256  # pixels: the network is looked at on small pictures
DRAWS = 8  # of the augmentation, until the pictures chosen show a label of every task
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean and standard deviation of its pictures' pixels
SAME = 1e-2  # of logits, relative to their spread, that a batch may change by rounding


def check(
    network: Mask2Former, train: Sequence[Image], *, root: Path, model: Model, input: Input, solver: Solver, seed: int
) -> list[Finding]:
    """Errors. The network is left as it was."""
    change = "build the network on the combinations of labels of train, in the order of tasks (mtseg/train.py)"
    if found := list(heads(network)) or prior.check(network, train, model=model, change=change):
        return found  # what follows would stumble, on CUDA with an assert
    torch.manual_seed(seed)
    found: list[Finding] = []
    small = input.model_copy(update={"size": min(input.size, LARGEST), "workers": 0})
    try:
        found += answers.check(network)
        batch = two_pictures(network, train, Mapper(network.tasks, small, root=root, training=True))
        found += normalisation(network, batch, model)
        if not found:
            found += looked_at(network, batch)
        return found + trial.check(network, batch, solver=solver)
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = ([frame for frame in frames if "site-packages" not in frame.filename] or frames)[-1]  # ours, not torch's
        evidence = f"a step fails with {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return [*found, Finding("step_fails", "error", evidence, f"mend {last.filename}:{last.lineno}")]


def heads(network: Mask2Former) -> Iterator[Finding]:
    """F8: a head has an output for each class and, where the task has a background, one for no-object."""
    outputs = network.heads.outputs()
    for task in network.tasks:
        for name, size, wanted in (
            ("outputs of its head", network.decoder.heads[f"head_{task.name}"].out_features, outputs[task.name]),
            ("weights of its loss and background", len(task.weights) + task.background, task.num_outputs),
        ):
            if size != wanted:
                classes = f"{len(task.classes)} classes and {'' if task.background else 'no '}background"
                change = "mend mtseg/model/decoder.py or mtseg/sections.py: sizes come from the task"
                yield Finding("head_size", "error", f"{size} {name}, {classes}", change, f"task '{task.name}'")


def two_pictures(network: Mask2Former, train: Sequence[Image], mapper: Mapper) -> list[Example]:
    """Pictures that show, after the crop, labels of as many tasks as possible; two of them, so that the step is small
    and the answer to one can be told from that to the other."""

    def shown(examples: Sequence[Example]) -> int:
        labels = [example["instances"].gt_labels for example in examples]
        return int((torch.cat(labels) >= 0).any(0).sum()) if labels else 0

    def labelled(image: Image) -> tuple[int, float]:
        own = [instance for instance in image.instances if not instance.crowd]
        tasks = {name for instance in own for name, label in instance.labels.items() if label is not None}
        return len(tasks), max((instance.area / (image.height * image.width) for instance in own), default=0.0)

    chosen = sorted(train, key=labelled, reverse=True)[:2]
    rarest = [next((image for image in train if _shows(image, task.name)), None) for task in network.tasks]
    most, best = -1, []
    for draw in range(DRAWS):
        candidates = [*chosen, *(image for image in rarest if image and image not in chosen)][: 2 + len(rarest)]
        examples = [mapper(image, draw) for image in candidates]
        if shown(examples[:2]) == len(network.tasks):
            return examples[:2]
        if shown(examples) > most:
            most, best = shown(examples), examples
    return best


def _shows(image: Image, task: str) -> bool:
    return any(not instance.crowd and instance.labels[task] is not None for instance in image.instances)


def normalisation(network: Mask2Former, batch: Sequence[Example], model: Model) -> Iterator[Finding]:
    """What the backbone is handed is the picture, normalised as the backbone's file says, and it says so in 0..255."""
    mean, std = (torch.tensor(getattr(network.backbone, name)) for name in ("pixel_mean", "pixel_std"))
    centre = (torch.tensor(IMAGENET[0]) - mean) / std
    spread = torch.tensor(IMAGENET[1]) / std
    least = 0.2 if model.backbone.startswith("timm/") else 0.4  # some of timm's take 0..1
    if centre.abs().max() > 0.7 or spread.min() < least or spread.max() > 1.6:
        evidence = (
            f"ImageNet's pictures would reach '{model.backbone}' with means {_listed(centre)} and standard deviations "
            f"{_listed(spread)}, where 0 and 1 are usual"
        )
        yield Finding("normalisation", "error", evidence, "mend its PIXEL_MEAN and PIXEL_STD, of values 0..255")
        return
    seen = []
    handle = network.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().cpu()))
    try:
        answer(network, batch)
    finally:
        handle.remove()
    pictures = torch.stack([example["image"] for example in batch]).float()
    wanted = (pictures - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    if (seen[0] - wanted).abs().max() > 1e-3:
        off = (seen[0] - wanted).mean((0, 2, 3))
        other = (pictures.flip(1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        swapped = (seen[0] - other).abs().max() < 1e-3
        evidence = (
            "the backbone is handed blue, green, red"
            if swapped
            else f"what the backbone is handed is off by {_listed(off)} standard deviations in red, green, blue"
        )
        cause = "channels_swapped" if swapped else "normalisation"
        yield Finding(cause, "error", evidence, "mend mtseg/model/mask2former.py")


def looked_at(network: Mask2Former, batch: Sequence[Example]) -> Iterator[Finding]:
    """The labels depend on the picture (F11), and on no other picture of the batch (F12)."""
    first, *others = batch
    if not others or torch.equal(first["image"], others[0]["image"]):  # of a copy, or a training on one picture
        others = [first | {"image": 255 - first["image"]}]
    together, alone = answer(network, [first, *others]), answer(network, [first])
    for task in network.tasks:
        both_BQK, own_QK = together[task.name], alone[task.name][0]
        if not both_BQK.isfinite().all():  # a network of random weights and frozen norms: of which preflight warns
            continue
        where, spread = f"task '{task.name}'", both_BQK.std() + 1e-12
        if (both_BQK[0] - both_BQK[1]).abs().max() <= 1e-6 * spread:
            evidence = "its logits for two different pictures are the same to the last bit"
            change = "mend mtseg/model/decoder.py: heads take the decoder's output, not the queries' weights"
            yield Finding("labels_ignore_image", "error", evidence, change, where)
            continue
        changed = ((both_BQK[0] - own_QK).abs().amax(-1) > SAME * spread).float().mean()
        if changed > 0.5:
            evidence = f"for a picture alone {changed:.0%} of the queries answer otherwise than in a batch"
            change = "mend mtseg/model: nothing may look across the batch"
            yield Finding("answer_depends_on_batch", "error", evidence, change, where)


@torch.no_grad()
def answer(network: Mask2Former, batch: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Logits [B, Q, K] of each task, in float32 on the host, without a step's side effects."""
    training = network.training
    network.eval()
    try:
        return {name: logits[-1].float().cpu() for name, logits in network.queries(list(batch)).logits.items()}
    finally:
        network.train(training)


def _listed(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.2f}" for value in values.tolist())
