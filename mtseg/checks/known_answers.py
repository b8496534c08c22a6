"""Pass a perfect output through matching, losses and detection. Each instance must be matched to its query, the losses
must be near 0, and the detections must equal the ground truth. Needs neither images nor the network's weights.

L layers, B images, Q queries, N instances of an image, T tasks, k detections, C = N + 1 channels: channel i of the mask
features is the mask of instance i, the last one is empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from mtseg.checks.findings import Finding, exception_text
from mtseg.core.errors import out_of_memory
from mtseg.core.params import Loss, Task
from mtseg.core.tables import UNLABELLED
from mtseg.model import losses, matching
from mtseg.model.decoder import QueryOutput
from mtseg.model.heads import Combinations, Heads
from mtseg.model.mask2former import Mask2Former
from mtseg.model.matching import Target

SIDE, STRIDE, QUERIES, LAYERS = 64, 4, 8, 2
LOGIT = 12.0  # logit of a correct label
BOXES = ((4, 4, 28, 20), (36, 8, 60, 24), (12, 28, 40, 44))  # x0, y0, x1, y1, above row 48
SIZE = (48, 64)  # height and width of the part of the square that is the image
ENLARGED = 2  # size of the original image as a multiple of SIZE
OVERLAP = 0.75  # smallest IoU of a box and its mask, which is upsampled from STRIDE and has round corners
PEAK, STEEP = 4.0, 70.0  # of smooth mask logits: the highest, and how fast they fall from the centre
UNEVEN = 1.57  # size of the original image of smooth masks as a multiple of SIZE
EXACT, CLOSE = 0.97, 0.01  # least IoU of a smooth mask with the expected one, and largest difference of its quality
LOW, HIGH = 0.05, 1.0  # label loss over its weight: at most LOW for correct labels, at least HIGH for wrong ones
UNDECIDED = {"mask": math.log(2), "dice": 1 / 3}  # mask loss over its weight if all logits are 0, at least
UNEQUAL = 4  # factor by which the losses of wrong outputs of two labels may differ, over the weights of the labels
UNSEEN = 1 / 16  # share of the mask loss of inverted masks that those wrong in a quarter must have
LOST = 1 / 30  # share of that, below which a mask loss teaches nothing; a focal loss has 1/16 or more
MATCHING, LOSSES, DETECT = (f"fix mtseg/model/{file}" for file in ("matching.py", "losses.py", "mask2former.py"))


@dataclass(frozen=True)
class Scene:
    """owner[layer, image, query]: index of the instance that the query predicts, or -1. labels: the predicted ones."""

    output: QueryOutput
    targets: list[Target]
    owner: Tensor
    labels_LBQT: Tensor
    heads: Heads


def check(network: Mask2Former) -> list[Finding]:
    """Errors. The sizes of the heads must have been checked."""
    loss = network.loss.model_copy(update={"num_points": max(network.loss.num_points, 256)})
    with network.device:
        perfect = two_images(network)
        findings = list(matched(perfect, loss)) or [*matched_by_label(network, loss), *matched_by_mask(network, loss)]
        findings = findings or list(empty_images(network, loss)) or list(loss_values(perfect, loss))
        findings = findings or [*label_weights(perfect, loss), *all_quarters(perfect, loss)]
        return findings + (list(detections_match(network, perfect)) or list(resized(network, perfect)))


def two_images(network: Mask2Former) -> Scene:
    """Two images with the same boxes. Queries and labels differ between layers and images; labels also differ between
    neighbouring tasks."""
    masks = torch.stack([box(*corners) for corners in BOXES])
    classes = torch.tensor([task.num_classes for task in network.tasks])
    # the order of the labels is no palindrome, also with two classes: instances in reverse order are noticed
    labels = torch.stack([torch.zeros_like(classes), torch.ones_like(classes), classes - 1])
    labels = (labels + torch.arange(len(classes))) % classes
    return scene(network, [Target(masks, labels), Target(masks, (labels + 1) % classes)])


def scene(network: Mask2Former, targets: list[Target]) -> Scene:
    """A perfect output for these targets. The queries of the instances differ between layers and images."""
    most = max(len(target.labels) for target in targets)
    owner = torch.full((LAYERS, len(targets), QUERIES), -1)
    for layer in range(LAYERS):
        for b, target in enumerate(targets):
            for i in range(count := len(target.labels)):
                place = count - 1 - i if b % 2 else i
                owner[layer, b, (3 * place + 3 * b + layer + 1) % QUERIES] = i
    no_object_1T = torch.full((1, len(network.tasks)), UNLABELLED)  # the last row, which the owner -1 picks
    labels = [torch.cat([target.labels, no_object_1T])[owner[:, b]] for b, target in enumerate(targets)]
    labels_LBQT = torch.stack(labels, dim=1)
    embed = F.one_hot(torch.where(owner < 0, most, owner), most + 1).float()
    features = torch.full((len(targets), most + 1, SIDE // STRIDE, SIDE // STRIDE), -LOGIT)
    for b, target in enumerate(targets):
        inside = F.avg_pool2d(target.masks[:, None].float(), STRIDE)[:, 0] > 0.5
        features[b, : len(inside)] = torch.where(inside, LOGIT, -LOGIT)
    logits = network.heads.logits_of(labels_LBQT, LOGIT)
    return Scene(QueryOutput(logits, embed, features), targets, owner, labels_LBQT, network.heads)


def matched(perfect: Scene, loss: Loss) -> Iterator[Finding]:
    """The matching must assign each instance to the query that predicts it, in every layer and image."""
    try:
        right = assigned(perfect, loss)
    except (IndexError, RuntimeError, ValueError) as error:
        if out_of_memory(error):
            raise
        evidence = f"the matching fails on a perfect output: {exception_text(error)}"
        yield Finding("matcher_wrong", "error", evidence, MATCHING)
        return
    expected, correct = int((perfect.owner >= 0).sum()), int(right.sum())
    if not len(right) == correct == expected:
        evidence = f"only {correct} of {expected} perfect outputs are matched to their object, in {len(right)} pairs"
        yield Finding("matcher_wrong", "error", evidence, MATCHING)


def assigned(perfect: Scene, loss: Loss) -> Tensor:
    """Whether each matched pair is of an instance and the query that predicts it, bool [M]."""
    loss = loss.model_copy(update={"mask": loss.mask or 1.0})
    pairs = matching.match(perfect.output, perfect.targets, heads=perfect.heads, loss=loss)
    return perfect.owner[pairs.layer, pairs.image, pairs.query] == pairs.instance


def matched_by_label(network: Mask2Former, loss: Loss) -> Iterator[Finding]:
    """Two instances with the same mask differ in the label of one task. Each must be matched to the query with its
    label. Two images have the queries in opposite order, so that equal costs give an error in one of them."""
    mask = box(*BOXES[0])
    for t, task in enumerate(network.tasks):
        labels = torch.zeros(2, len(network.tasks), dtype=torch.long)
        labels[1, t] = 1
        used = loss.labels and task.loss_weight and task.match_weight and task.num_classes > 1
        pair = scene(network, [Target(torch.stack([mask, mask]), labels)] * 2)
        if used and list(matched(pair, loss)):
            where = f"task '{task.name}'"
            if assigned(pair, loss).any():
                evidence = "of two objects with the same mask, the matching ignores which query has the correct label"
                yield Finding("task_untrained_in_matching", "error", evidence, MATCHING, where)
            else:
                evidence = "of two objects with the same mask, the matching gives each the query with the wrong label"
                yield Finding("matcher_wrong", "error", f"{evidence}: the cost has the wrong sign", MATCHING, where)


def matched_by_mask(network: Mask2Former, loss: Loss) -> Iterator[Finding]:
    """The same of two instances with the same labels and different masks, in another order in the second image."""
    masks = torch.stack([box(*BOXES[0]), box(*BOXES[2])])
    labels = torch.zeros(2, len(network.tasks), dtype=torch.long)
    if list(matched(scene(network, [Target(masks, labels), Target(masks.flip(0), labels)]), loss)):
        evidence = "of two objects with the same labels, the matching ignores which query has the mask of which"
        yield Finding("matcher_wrong", "error", evidence, MATCHING)


def empty_images(network: Mask2Former, loss: Loss) -> Iterator[Finding]:
    """In an image without objects, the correct label is no-object, the last output. All losses are finite."""
    nothing = Target(torch.zeros(0, SIDE, SIDE, dtype=torch.bool), torch.zeros(0, len(network.tasks), dtype=torch.long))
    empty = scene(network, [nothing] * 2)

    def value(t: int, task: Task, label: int) -> float:
        """The loss of the task, over its weight, if all outputs have this label of it."""
        labels_LBQT = empty.labels_LBQT.clone()
        labels_LBQT[..., t] = label
        logits = empty.output.logits | {task.name: empty.heads.logits_of(labels_LBQT, LOGIT)[task.name]}
        output = replace(empty.output, logits=logits)
        return float(last_losses(replace(empty, output=output), loss)[task.name]) / task.loss_weight

    if wrong := [name for name, own in last_losses(empty, loss).items() if not own.isfinite()]:
        evidence = f"in images without objects, the losses of {', '.join(wrong)} are infinite or not a number"
        yield Finding("loss_not_finite", "error", evidence, LOSSES)
        return
    for t, task in enumerate(network.tasks):
        if task.loss_weight and (low := value(t, task, UNLABELLED)) > LOW:
            evidence = f"in images without objects, the loss of a perfect no-object output is {low:.3g}, expected 0"
            learnt = next((name for label, name in enumerate(task.classes) if value(t, task, label) < LOW), None)
            if learnt is not None:
                evidence += f", which it is if all outputs are '{learnt}'"
            cause = "loss_targets" if learnt is None else "no_object_slot"
            yield Finding(cause, "error", evidence, LOSSES, f"task '{task.name}'")


def loss_values(perfect: Scene, loss: Loss) -> Iterator[Finding]:
    """The losses of a perfect output must be near 0. Those of a wrong output must not, and must have a gradient."""
    right = last_losses(perfect, loss)
    for t, task in enumerate(perfect.heads.tasks):
        if not task.loss_weight or min(task.weights) < 0.01:
            continue
        low, where = float(right[task.name]) / task.loss_weight, f"task '{task.name}'"
        wrong = perfect.heads.logits_of(with_next_class(perfect.labels_LBQT, t, task), LOGIT)[
            task.name
        ].requires_grad_()
        output = replace(perfect.output, logits=perfect.output.logits | {task.name: wrong})
        relabelled = last_losses(replace(perfect, output=output), loss)[task.name]
        high = float(relabelled.detach()) / task.loss_weight
        if low > LOW or (high < HIGH and task.num_outputs > 1):
            evidence = f"the loss is {low:.3g} for correct labels and {high:.3g} for wrong ones: its targets are wrong"
            yield Finding("loss_targets", "error", evidence, LOSSES, where)
        elif task.num_outputs > 1 and not (
            relabelled.requires_grad and torch.autograd.grad(relabelled, wrong)[0].any()
        ):
            evidence = f"the loss of wrong labels is {high:.3g}, but its gradient is 0"
            yield Finding("gradient_missing", "error", evidence, LOSSES, where)
    shifted = replace(perfect.output, mask_features_BCHW=perfect.output.mask_features_BCHW.roll(4, dims=-1))
    moved = last_losses(replace(perfect, output=shifted), loss)
    for name, weight in (("mask", loss.mask), ("dice", loss.dice)):
        if weight and right[name] > 0.6 * moved[name]:
            evidence = f"loss_{name} is {right[name]:.3g} for perfect masks, {moved[name]:.3g} {4 * STRIDE} pixels off"
            yield Finding("loss_targets", "error", evidence, LOSSES)
    no_mask = torch.zeros_like(perfect.output.mask_features_BCHW)
    undecided = last_losses(replace(perfect, output=replace(perfect.output, mask_features_BCHW=no_mask)), loss)
    for name, weight in (("mask", loss.mask), ("dice", loss.dice)):
        if weight and (value := float(undecided[name]) / weight) < LOST * UNDECIDED[name]:
            evidence = f"loss_{name} over its weight is {value:.2g} for masks whose logits are all 0, expected "
            evidence += f"{UNDECIDED[name]:.2g} or more: it is divided by too much, and hardly teaches anything"
            yield Finding("loss_muted", "error", evidence, LOSSES)


def label_weights(perfect: Scene, loss: Loss) -> Iterator[Finding]:
    """With a softmax for each task, wrong outputs must have about the same loss for every label, over its weight: that
    of the class, or loss.no_object."""
    if isinstance(perfect.heads[0], Combinations):  # a wrong label costs more or less by the others
        return
    labels = [target.labels for target in perfect.targets]
    norm = losses.normaliser(labels, tasks=perfect.heads.tasks, num_queries=QUERIES, loss=loss)
    right = last_losses(perfect, loss)
    for t, task in enumerate(perfect.heads.tasks):
        weights = dict(enumerate(task.weights)) | ({UNLABELLED: loss.no_object} if task.background else {})
        if not task.loss_weight or task.num_outputs == 1 or min(weights.values()) < 0.01:
            continue
        wrong = perfect.heads.logits_of(with_next_class(perfect.labels_LBQT, t, task), LOGIT)[task.name]
        found = {}  # label: loss of a wrong output, over the weight of the label
        for label, weight in weights.items():
            rows = perfect.labels_LBQT[..., t] == label
            if rows[-1].any():
                logits = torch.where(rows[..., None], wrong, perfect.output.logits[task.name])
                output = replace(perfect.output, logits=perfect.output.logits | {task.name: logits})
                gain = last_losses(replace(perfect, output=output), loss)[task.name] - right[task.name]
                total = float(gain) / task.loss_weight * norm.labels[task.name]
                found[label] = total / int(rows[-1].sum()) / weight
        if max(found.values()) > UNEQUAL * min(found.values()):
            label = max(found, key=lambda one: abs(math.log(max(found[one], 1e-9) / LOGIT)))
            name = f"class '{task.classes[label]}'" if label >= 0 else "no-object"
            evidence = f"{name} weighs {found[label] / LOGIT * weights[label]:.2g} in the loss, "
            evidence += f"expected {weights[label]:.2g}"
            yield Finding("loss_targets", "error", evidence, LOSSES, f"task '{task.name}'")


def all_quarters(perfect: Scene, loss: Loss) -> Iterator[Finding]:
    """Masks that are wrong in one quarter of the image must have about a quarter of the mask loss of inverted ones."""
    if not loss.mask:
        return
    half, values = SIDE // STRIDE // 2, []
    parts = [(slice(y, y + half), slice(x, x + half)) for y in (0, half) for x in (0, half)]
    for part in ((slice(None), slice(None)), *parts):
        inverted = perfect.output.mask_features_BCHW.clone()
        inverted[..., *part].neg_()
        output = replace(perfect.output, mask_features_BCHW=inverted)
        values.append(float(last_losses(replace(perfect, output=output), loss)["mask"]))
    whole, *quarters = values
    if min(quarters) < UNSEEN * whole:
        evidence = f"loss_mask is {whole:.3g} for inverted masks, and {min(quarters):.3g} if they are so in a quarter"
        yield Finding("loss_targets", "error", f"{evidence}: its points do not cover the image", LOSSES)


def with_next_class(labels_T: Tensor, t: int, task: Task) -> Tensor:
    """Labels [..., T] with each class of one task replaced by the next, cyclic, no-object included."""
    labels_T, old = labels_T.clone(), labels_T[..., t]
    after = torch.where(old + 1 == task.num_classes, UNLABELLED, old + 1)
    labels_T[..., t] = after if task.background else torch.where(old < 0, old, (old + 1) % task.num_classes)
    return labels_T


def last_losses(perfect: Scene, loss: Loss) -> dict[str, Tensor]:
    """Losses of the last layer: {mask, dice or task: loss}."""
    labels = [target.labels for target in perfect.targets]
    norm = losses.normaliser(labels, tasks=perfect.heads.tasks, num_queries=QUERIES, loss=loss)
    values = losses.losses(perfect.output, perfect.targets, heads=perfect.heads, loss=loss, norm=norm)
    return {
        name: values[f"loss_{name}_{LAYERS - 1}"] for name in ("mask", "dice", *(t.name for t in perfect.heads.tasks))
    }


def detections_match(network: Mask2Former, perfect: Scene) -> Iterator[Finding]:
    """The detections of a perfect output must have its masks, each with the labels of its query. The logits of the
    further tasks are highest for no-object; their labels must still be the best class."""
    logits = dict(perfect.output.logits)
    for task in network.tasks[1:]:
        if task.background and network.heads.outputs()[task.name] == task.num_outputs:
            logits[task.name] = F.pad(logits[task.name][..., :-1], (0, 1), value=LOGIT + 1)
    height, width = (ENLARGED * side for side in SIZE)
    example = {"image": torch.zeros(3, SIDE, SIDE), "image_size": SIZE, "height": height, "width": width}
    truth = torch.stack([box(*(ENLARGED * x for x in corners), height, width) for corners in BOXES])
    classes = torch.tensor([task.num_classes for task in network.tasks])
    number, worst, offsets = 0, 1.0, []
    wrong, no_object = torch.zeros_like(classes), torch.zeros_like(classes)
    of_other = torch.ones_like(classes, dtype=torch.bool)  # all wrong labels of the task are those of the other image
    detected = network.detect(replace(perfect.output, logits=logits), [example] * len(perfect.targets))
    for b, (detections, masks) in enumerate(detected):
        detections = detections[: len(BOXES)]
        masks, labels_kT = masks[detections.mask], detections.pred_labels
        both, either = (f(masks[:, None], truth).sum((2, 3)) for f in (torch.logical_and, torch.logical_or))
        iou, instance = (both / either.clamp(min=1)).max(1)
        worst, number = min(worst, *iou.tolist()), number + len(detections)
        offsets += [centre(mask) - centre(truth[i]) for mask, i in zip(masks, instance, strict=True)]
        right_kT = labels_kT == perfect.targets[b].labels[instance]
        other = perfect.owner[-1, 1 - b, detections.query]
        as_other_kT = (labels_kT == perfect.targets[1 - b].labels[other.clamp(min=0)]) | (other < 0)[:, None]
        wrong += (~right_kT).sum(0)
        no_object += (labels_kT >= classes).sum(0)
        of_other &= right_kT.all(0) | as_other_kT.all(0)
    if not number or worst < OVERLAP:
        x, y = torch.stack(offsets).nanmedian(0).values.tolist() if offsets else (0.0, 0.0)
        evidence = f"detected masks of a perfect output have IoU {worst:.2f} at worst, offset ({x:+.1f}, {y:+.1f})"
        yield Finding("masks_displaced", "error", evidence, DETECT)
        return
    for t, task in enumerate(network.tasks):
        if no_object[t]:
            evidence = f"{no_object[t]} of {number} detections have the label no-object, which is not a class"
            yield Finding("no_object_slot", "error", evidence, DETECT, f"task '{task.name}'")
        elif wrong[t]:
            cause = "labels_of_other_image" if of_other[t] else "labels_of_other_query"
            evidence = f"{wrong[t]} of {number} detections of a perfect output do not have the labels of their query"
            yield Finding(cause, "error", evidence, DETECT, f"task '{task.name}'")


def resized(network: Mask2Former, perfect: Scene) -> Iterator[Finding]:
    """Smooth mask logits must come out at the original size as OpenCV's bilinear interpolation gives them, cut at 0,
    with the mean probability inside each mask as its quality."""
    count = len(BOXES)
    x, y = torch.meshgrid(torch.arange(SIDE // STRIDE) + 0.5, torch.arange(SIDE // STRIDE) + 0.5, indexing="xy")
    logits = perfect.output.mask_features_BCHW.clone()
    for i, (x0, y0, x1, y1) in enumerate(BOXES):
        at = (x - (x0 + x1) / 2 / STRIDE) / (x1 - x0), (y - (y0 + y1) / 2 / STRIDE) / (y1 - y0)
        logits[:, i] = PEAK * (1 - STEEP * (at[0] ** 2 + at[1] ** 2))
    height, width = (round(UNEVEN * side) for side in SIZE)
    example = {"image": torch.zeros(3, SIDE, SIDE), "image_size": SIZE, "height": height, "width": width}
    output = replace(perfect.output, mask_features_BCHW=logits)
    worst, qualities = 1.0, []
    for b, (found, masks) in enumerate(network.detect(output, [example] * len(perfect.targets))):
        instance = perfect.owner[-1, b, found.query]
        for row in (instance >= 0).nonzero().flatten()[: 2 * count].tolist():
            small = logits[b, instance[row]].cpu().numpy()
            square = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)[: SIZE[0], : SIZE[1]]
            expected = torch.from_numpy(cv2.resize(square, (width, height), interpolation=cv2.INTER_LINEAR))
            inside, mask = expected > 0, masks[found.mask[row]].cpu()
            worst = min(worst, float((inside & mask).sum() / (inside | mask).sum().clamp(min=1)))
            qualities.append((float(found.mask_quality[row]), float(expected.sigmoid()[inside].mean())))
    if worst < EXACT:
        evidence = (
            f"smooth masks brought to another size have IoU {worst:.2f} at worst with their bilinear interpolation"
        )
        change = f"{DETECT}: upsample logits bilinearly (align_corners=False), cut the padding off, resize, cut at 0"
        yield Finding("postprocessing_wrong", "error", evidence, change)
    elif off := [pair for pair in qualities if abs(pair[0] - pair[1]) > CLOSE]:
        evidence = f"the mask quality of a known mask is {off[0][0]:.3g}, expected {off[0][1]:.3g}"
        change = f"{DETECT}: it is the mean probability of the pixels inside the mask"
        yield Finding("postprocessing_wrong", "error", evidence, change)


def box(x0: int, y0: int, x1: int, y1: int, height: int = SIDE, width: int = SIDE) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def centre(mask: Tensor) -> Tensor:
    """The centre (x, y) of a mask."""
    return mask.nonzero().float().mean(0).flip(0)
