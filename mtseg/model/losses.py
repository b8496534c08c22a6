"""The training losses of Mask2Former (arXiv 2112.01527, section 3.3), one label loss for every task, all decoder
layers at once. Follows `SetCriterion` of facebookresearch/Mask2Former (MIT); the layers are batched and the
normalisers are those of the whole step, so that accumulated gradients equal those of the large batch.

L layers, B pictures, Q queries, K head outputs, N ground-truth instances of a picture, M matched pairs, P points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mtseg.core.params import Loss, Task
from mtseg.model.combinations import Reading
from mtseg.model.decoder import QueryOutput
from mtseg.model.matching import Matches, Target, match
from mtseg.model.points import sample, uncertain_points

IGNORE = -1  # as a target: neither trained nor counted
Watch = Callable[[QueryOutput, list[Target], Matches], None]


@dataclass(frozen=True)
class Normaliser:
    """What a step's sums are divided by: masks, and for each task the summed weights of its targets."""

    masks: float
    labels: dict[str, float]


def normaliser(labels: list[Tensor], *, tasks: tuple[Task, ...], num_queries: int, loss: Loss) -> Normaliser:
    """Of the labels [N, T] of every picture of a step, however many batches it is computed in."""
    masks = sum(len(picture) for picture in labels)
    empty = sum(max(num_queries - len(picture), 0) for picture in labels)
    # Of more instances than queries only a share is matched, and which ones the matching alone will tell: each counts
    # as that share of a target.
    matched = [min(1, num_queries / max(len(picture), 1)) for picture in labels]
    weights = {}
    for i, task in enumerate(tasks):
        labelled = sum(
            share * task.weights[label]
            for picture, share in zip(labels, matched, strict=True)
            for label in picture[:, i].tolist()
            if label != IGNORE
        )
        weights[task.name] = max(labelled + loss.no_object * empty * task.background, 1e-6)
    return Normaliser(max(masks, 1), weights)


def losses(
    output: QueryOutput, targets: list[Target], *, tasks: tuple[Task, ...], loss: Loss, norm: Normaliser,
    watch: Watch | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Named scalars, weights included: `loss_mask_0`, `loss_dice_0`, `loss_TASK_0`, ... a layer; their sum is trained.
    `watch` is shown what they are made of.

    Raises FloatingPointError (see `match`). Every loss stays attached to the graph, on pictures without objects too.
    """
    matches = match(output, targets, tasks=tasks, loss=loss)
    if watch:
        watch(output, targets, matches)
    per_layer = mask_losses(output, targets, matches, loss=loss, norm=norm)
    if reading := output.reading():
        per_layer |= combined_losses(reading, targets, matches, tasks=tasks, no_object=loss.no_object, norm=norm)
    for i, task in enumerate(() if reading else tasks):
        per_layer[f"loss_{task.name}"] = label_loss(
            output.logits[task.name], [target.labels[:, i] for target in targets], matches,
            task=task, no_object=loss.no_object, norm=norm.labels[task.name],
        )  # fmt: skip
    return {f"{name}_{layer}": value for name, values in per_layer.items() for layer, value in enumerate(values)}


def label_loss(
    logits_LBQK: Tensor, labels: list[Tensor], matches: Matches, *, task: Task, no_object: float, norm: float
) -> Tensor:
    """Weighted cross-entropy [L]. Unmatched queries: no-object (the last output) if the task has that slot, else
    ignored; instances without a label are ignored. A class weighs what the task's `class_weights` say."""
    L, B, Q, K = logits_LBQK.shape
    target = torch.full((L, B, Q), K - 1 if task.background else IGNORE, device=logits_LBQK.device)
    target[matches.layer, matches.picture, matches.query] = _matched(labels, matches)
    weight = logits_LBQK.new_tensor([*task.weights, no_object][:K])
    each = F.cross_entropy(logits_LBQK.flatten(0, 2), target.flatten(), weight, ignore_index=IGNORE, reduction="none")
    return task.loss_weight * each.view(L, -1).sum(1) / norm


def combined_losses(
    reading: Reading, targets: list[Target], matches: Matches, *, tasks: tuple[Task, ...], no_object: float,
    norm: Normaliser,
) -> dict[str, Tensor]:  # fmt: skip
    """{"loss_TASK": [L]}: of a softmax over combinations, by the chain rule: -log p of the main label, unmatched
    queries no-object's; of every further label given those before it, over the matched alone. One without a label has
    no term, and any of its labels may stand before the next. A class weighs what `class_weights` say."""
    labels_MT = _matched([target.labels for target in targets], matches)
    total_LBQ = reading.total
    matched = matches.layer, matches.picture, matches.query
    terms_MT = reading.steps(matched, labels_MT)
    zero = total_LBQ.new_zeros(len(total_LBQ))
    found = {}
    for t, task in enumerate(tasks):
        weight_M = total_LBQ.new_tensor(task.weights)[labels_MT[:, t].clamp(min=0)] * (labels_MT[:, t] >= 0)
        found[task.name] = zero.index_add(0, matches.layer, -weight_M * terms_MT[:, t])
    nothing_LBQ = (total_LBQ - reading.no_object).index_put(matched, total_LBQ.new_zeros(()))
    found[tasks[0].name] = found[tasks[0].name] + no_object * nothing_LBQ.flatten(1).sum(1)
    return {f"loss_{task.name}": task.loss_weight * found[task.name] / norm.labels[task.name] for task in tasks}


def _matched(labels: list[Tensor], matches: Matches) -> Tensor:
    """[M, ...]: of every picture's labels [N, ...], those of the matched instances."""
    start = torch.tensor([0, *(len(picture) for picture in labels)], device=matches.picture.device).cumsum(0)
    return torch.cat(labels)[start[matches.picture] + matches.instance]


def mask_losses(
    output: QueryOutput, targets: list[Target], matches: Matches, *, loss: Loss, norm: Normaliser
) -> dict[str, Tensor]:
    """Point-sampled binary cross-entropy and dice of the matched masks: {"loss_mask": [L], "loss_dice": [L]}."""
    L, _, Q, _ = output.mask_embed_LBQC.shape
    embed_MC = output.mask_embed_LBQC[matches.layer, matches.picture, matches.query]
    counts = [L * min(Q, len(target.labels)) for target in targets]  # of each picture's pairs
    pairs = zip(embed_MC.split(counts), output.mask_features_BCHW, strict=True)
    logits_MHW = torch.cat([torch.einsum("mc,chw->mhw", embed, features) for embed, features in pairs])
    points_MP2 = uncertain_points(logits_MHW, loss) if len(logits_MHW) else logits_MHW.new_zeros(0, loss.num_points, 2)
    x_MP = sample(logits_MHW[:, None], points_MP2)[:, 0]

    per_picture = (x.split(counts) for x in (points_MP2, matches.instance, matches.layer))
    t_MP = torch.cat([_inside(*args, layers=L) for args in zip(targets, *per_picture, strict=True)])

    bce = F.binary_cross_entropy_with_logits(x_MP, t_MP, reduction="none").mean(1)
    inside = x_MP.sigmoid()
    dice = 1 - (2 * (inside * t_MP).sum(1) + 1) / (inside.sum(1) + t_MP.sum(1) + 1)
    zero = x_MP.new_zeros(L)
    return {
        "loss_mask": loss.mask * zero.index_add(0, matches.layer, bce) / norm.masks,
        "loss_dice": loss.dice * zero.index_add(0, matches.layer, dice) / norm.masks,
    }


@torch.no_grad()
def _inside(target: Target, points_MP2: Tensor, instance: Tensor, layer: Tensor, *, layers: int) -> Tensor:
    """Whether the points lie in their instance's mask [M, P]. A layer matches an instance once at most, so that each
    mask is read once, at the points of all layers: no copy of it for each, and no wait for the device."""
    N, P = len(target.masks), points_MP2.shape[1]
    grid = points_MP2.new_zeros(N, layers, P, 2)
    grid[instance, layer] = points_MP2
    return sample(target.masks[:, None].float(), grid.flatten(1, 2)).view(N, layers, P)[instance, layer]
