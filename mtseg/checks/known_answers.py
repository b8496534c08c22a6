"""A right answer sent through matching, losses and detection: the matching must find who answers what, the losses must
vanish, and what is detected must be what was answered. Without a picture, a training or the network's weights.

L layers, B pictures, Q queries, N instances of a picture, T tasks, K outputs of a task's head, C = N + 1 channels:
channel i of the mask features is the mask of instance i, the last one is empty.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mtseg.checks.findings import Finding
from mtseg.core.params import Loss, Task
from mtseg.model import losses as criterion
from mtseg.model import matching
from mtseg.model.decoder import QueryOutput
from mtseg.model.heads import Combinations, Heads
from mtseg.model.mask2former import Mask2Former
from mtseg.model.matching import Target

SIDE, STRIDE, QUERIES, LAYERS = 64, 4, 8, 2
SURE = 12.0  # logit of a right answer; of a softmax over combinations above what all others weigh together
BOXES = ((4, 4, 28, 20), (36, 8, 60, 24), (12, 28, 40, 44))  # x0, y0, x1, y1, above row 48
PICTURE = (48, 64)  # height and width of what of the square is picture
ENLARGED = 2  # size of the original picture, as a multiple of that
OVERLAP = 0.75  # IoU of a box and its mask, drawn at STRIDE and enlarged: its corners are round
LOW, HIGH = 0.05, 1.0  # of a label loss / its weight: what a right answer stays below, a wrong one above
SOURCE = "mend mtseg/model/{}"


@dataclass(frozen=True)
class Scene:
    """owner[layer][picture][query]: index of the instance that the query answers, or -1."""

    output: QueryOutput
    targets: list[Target]
    owner: Tensor
    heads: Heads  # the network's, on the host as the rest


def check(network: Mask2Former) -> list[Finding]:
    """Errors. The heads' sizes must be right."""
    tasks, loss = network.tasks, network.loss
    given = pictures(network)
    found = list(matched(given, loss))
    sound = not found
    for i, task in enumerate(tasks):
        if loss.labels and task.loss_weight and task.match_weight and task.num_classes > 1 and sound:
            twin = twins(network, i)
            if list(matched(twin, loss)):
                evidence = "of two objects of one mask the matching does not tell which query answers the task's label"
                change = SOURCE.format("matching.py")
                found.append(Finding("task_untrained_in_matching", "error", evidence, change, f"task '{task.name}'"))
    if not found:  # on which the losses build
        found += empty(network) or trained(given, loss)
    return found + list(detected(network, given))


def pictures(network: Mask2Former) -> Scene:
    """Two pictures with the same boxes, answered by other queries in each layer and picture, with other labels, which
    differ between neighbouring tasks too."""
    tasks = network.tasks
    masks = torch.stack([box(*corners) for corners in BOXES])
    classes = torch.tensor([task.num_classes for task in tasks])
    # of two classes, too, the labels are others when read backwards
    labels = torch.stack([torch.zeros_like(classes), torch.ones_like(classes), classes - 1])
    labels = (labels + torch.arange(len(tasks))) % classes
    return scene([Target(masks, labels), Target(masks, (labels + 1) % classes)], network)


def twins(network: Mask2Former, which: int) -> Scene:
    """Two instances of one mask, whose labels differ in one task; in two pictures, answered in this order and in that:
    where the costs tie, the one or the other is right by chance."""
    mask = box(*BOXES[0])
    labels = torch.zeros(2, len(network.tasks), dtype=torch.long)
    labels[1, which] = 1
    return scene([Target(torch.stack([mask, mask]), labels)] * 2, network)


def scene(targets: list[Target], network: Mask2Former) -> Scene:
    tasks = network.tasks
    most = max(len(target.labels) for target in targets)
    owner = torch.full((LAYERS, len(targets), QUERIES), -1)
    for layer in range(LAYERS):
        for b, target in enumerate(targets):
            count = len(target.labels)
            for i in range(count):
                place = count - 1 - i if b % 2 else i
                owner[layer, b, (3 * place + 3 * b + layer + 1) % QUERIES] = i
    sure, main = SURE, network.heads[0]
    if isinstance(main, Combinations):
        sure += sum(math.log(task.num_classes) for task in tasks) - math.log(main.unseen)
    logits = {}
    for t, task in enumerate(tasks):
        outputs = network.decoder.heads[f"head_{task.name}"].out_features
        logits[task.name] = torch.zeros(LAYERS, len(targets), QUERIES, outputs)
        for (layer, b, q), i in zip(_places(owner), owner.flatten().tolist(), strict=True):
            if i >= 0:
                logits[task.name][layer, b, q, targets[b].labels[i, t]] = sure
            elif task.background:
                logits[task.name][layer, b, q, -1] = sure
    embed = F.one_hot(torch.where(owner < 0, most, owner), most + 1).float()
    features = torch.full((len(targets), most + 1, SIDE // STRIDE, SIDE // STRIDE), -SURE)
    for b, target in enumerate(targets):
        inside = F.avg_pool2d(target.masks[:, None].float(), STRIDE)[:, 0] > 0.5
        features[b, : len(inside)] = torch.where(inside, SURE, -SURE)
    return Scene(QueryOutput(logits, embed, features), targets, owner, copy.deepcopy(network.heads).cpu())


def matched(given: Scene, loss: Loss) -> Iterator[Finding]:
    """The matching gives each instance to the query that answers it, in every layer and picture."""
    loss = loss.model_copy(update={"num_points": max(loss.num_points, 256), "mask": loss.mask or 1.0})
    change = SOURCE.format("matching.py")
    try:
        found = matching.match(given.output, given.targets, heads=given.heads, loss=loss)
        right = given.owner[found.layer, found.image, found.query] == found.instance
    except (IndexError, RuntimeError, ValueError) as error:
        evidence = f"it fails on a right answer: {str(error).splitlines()[0]}"
        yield Finding("matcher_wrong", "error", evidence, change)
        return
    wanted = int((given.owner >= 0).sum())
    if len(right) != wanted or not right.all():
        evidence = (
            f"of {wanted} right answers {int(right.sum())} are matched to their own object, in {len(right)} pairs"
        )
        yield Finding("matcher_wrong", "error", evidence, change)


def empty(network: Mask2Former) -> list[Finding]:
    """Where there is nothing, no-object, the last output, is right."""
    tasks = network.tasks
    nothing = Target(torch.zeros(0, SIDE, SIDE, dtype=torch.bool), torch.zeros(0, len(tasks), dtype=torch.long))
    found = _losses(scene([nothing] * 2, network), network.loss)
    return [
        Finding(
            "no_object_slot", "error", f"the loss of no-object, in the last slot, where nothing is, is {low:.3g}",
            SOURCE.format("losses.py"), f"task '{task.name}'",
        )
        for task in tasks
        if task.loss_weight and (low := found[f"loss_{task.name}_{LAYERS - 1}"] / task.loss_weight) > LOW
    ]  # fmt: skip


def trained(given: Scene, loss: Loss) -> Iterator[Finding]:
    """The losses of a right answer vanish, and rise where it turns wrong, whence its logits get a gradient."""
    loss = loss.model_copy(update={"num_points": max(loss.num_points, 256)})
    right = _losses(given, loss)
    for task in given.heads.tasks:
        own, name = f"loss_{task.name}_{LAYERS - 1}", f"task '{task.name}'"
        if not task.loss_weight or min(task.weights) < 0.01:
            continue
        low = right[own] / task.loss_weight
        wrong = given.output.logits[task.name].roll(1, dims=-1).requires_grad_()
        output = replace(given.output, logits={**given.output.logits, task.name: wrong})
        relabelled = _losses(replace(given, output=output), loss)[own]
        high = float(relabelled.detach()) / task.loss_weight
        if low > LOW or (high < HIGH and task.num_outputs > 1):
            evidence = f"the loss of right labels is {low:.3g}, of wrong ones {high:.3g}: its targets are others"
            yield Finding("loss_targets", "error", evidence, SOURCE.format("losses.py"), name)
        elif task.num_outputs > 1 and not (
            relabelled.requires_grad and torch.autograd.grad(relabelled, wrong)[0].any()
        ):
            evidence = f"the loss of wrong labels is {high:.3g}, and its gradient on their logits 0"
            yield Finding("gradient_missing", "error", evidence, SOURCE.format("losses.py"), name)
    shifted = replace(given.output, mask_features_BCHW=given.output.mask_features_BCHW.roll(4, dims=-1))
    moved = _losses(replace(given, output=shifted), loss)
    for name, weight in (("mask", loss.mask), ("dice", loss.dice)):
        low, high = (values[f"loss_{name}_{LAYERS - 1}"] for values in (right, moved))
        if weight and low > 0.6 * high:
            evidence = f"loss_{name} of right masks is {low:.3g}, of masks {4 * STRIDE} pixels off {high:.3g}"
            yield Finding("loss_targets", "error", evidence, SOURCE.format("losses.py"))


def detected(network: Mask2Former, given: Scene) -> Iterator[Finding]:
    """What is detected of a right answer are its masks, where they belong, each with the labels of its own query (F12).
    Every picture by itself gives the same."""
    device, change = network.device, SOURCE.format("mask2former.py")
    output = QueryOutput(
        {name: logits.to(device) for name, logits in tempted(given, network.tasks).items()},
        given.output.mask_embed_LBQC.to(device), given.output.mask_features_BCHW.to(device),
    )  # fmt: skip
    height, width = (ENLARGED * side for side in PICTURE)
    batch = [
        {"image": torch.zeros(3, SIDE, SIDE), "image_size": PICTURE, "height": height, "width": width}
        for _ in given.targets
    ]
    truth = torch.stack([box(*(ENLARGED * x for x in corners), height, width) for corners in BOXES])
    count = min(len(BOXES), network.detections)
    wrong: dict[str, int] = dict.fromkeys((task.name for task in network.tasks), 0)
    of_other = dict.fromkeys(wrong, True)  # a picture with wrong labels has all those of its queries in the other
    empty, offsets = dict.fromkeys(wrong, 0), []
    for b, picture in enumerate(network.detect(output, batch)):
        masks, labels = picture.pred_masks[:count].cpu(), picture.pred_labels[:count].cpu()
        before, same = dict(wrong), dict.fromkeys(wrong, True)
        for mask, own, query in zip(masks, labels.tolist(), picture.query[:count].tolist(), strict=True):
            overlap = (mask & truth).flatten(1).sum(1) / (mask | truth).flatten(1).sum(1).clamp(min=1)
            i = int(overlap.argmax())
            offsets.append((float(overlap[i]), *(_centre(mask) - _centre(truth[i])).tolist()))
            for t, task in enumerate(network.tasks):
                empty[task.name] += own[t] >= task.num_classes
                wrong[task.name] += int(own[t] != given.targets[b].labels[i, t])
                other = given.output.logits[task.name][-1, 1 - b, query, : task.num_classes]
                silent = isinstance(network.heads[0], Combinations) and not other.any()  # then the prior chooses
                same[task.name] &= silent or own[t] == int(other.argmax())
        of_other = {name: of_other[name] and (same[name] or wrong[name] == before[name]) for name in wrong}
    if not offsets or min(overlap for overlap, *_ in offsets) < OVERLAP:
        x, y = torch.tensor(offsets)[:, 1:].nanmedian(0).values.tolist() if offsets else (0.0, 0.0)
        worst = min((overlap for overlap, *_ in offsets), default=0.0)
        evidence = f"masks detected of a right answer overlap by {worst:.2f} at worst, lie off by ({x:+.1f}, {y:+.1f})"
        yield Finding("masks_displaced", "error", evidence, change)
        return
    for name, count in wrong.items():
        if empty[name]:
            evidence = f"of {len(offsets)} detections {empty[name]} are labelled no-object, which is no class"
            yield Finding("no_object_slot", "error", evidence, change, f"task '{name}'")
        elif count:
            cause = "labels_of_other_image" if of_other[name] else "labels_of_other_query"
            evidence = f"{count} of {len(offsets)} detections of a right answer have other labels than their query"
            yield Finding(cause, "error", evidence, change, f"task '{name}'")


def tempted(given: Scene, tasks: Sequence[Task]) -> dict[str, Tensor]:
    """The logits, where the further tasks are surer of no-object than of any class. A detection is one of the main
    task: its further labels are the best of the classes."""
    logits = dict(given.output.logits)
    for task in tasks[1:]:
        if task.background:
            logits[task.name] = F.pad(logits[task.name][..., :-1], (0, 1), value=SURE + 1)
    return logits


def box(x0: int, y0: int, x1: int, y1: int, height: int = SIDE, width: int = SIDE) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def _losses(given: Scene, loss: Loss) -> dict[str, Tensor]:
    labels = [target.labels for target in given.targets]
    norm = criterion.normaliser(labels, tasks=given.heads.tasks, num_queries=QUERIES, loss=loss)
    return criterion.losses(given.output, given.targets, heads=given.heads, loss=loss, norm=norm)


def _places(owner: Tensor) -> Iterator[tuple[int, ...]]:
    return (tuple(place) for place in torch.cartesian_prod(*(torch.arange(n) for n in owner.shape)).tolist())


def _centre(mask: Tensor) -> Tensor:
    """(x, y)"""
    return mask.nonzero().float().mean(0).flip(0)
