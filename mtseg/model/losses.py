"""Training losses of Mask2Former (arXiv 2112.01527, section 3.3) with a label loss for each task.

Follows `SetCriterion` of facebookresearch/Mask2Former (MIT). Differences: all decoder layers are computed together; the
normalisers are those of a whole step, so that accumulated gradients equal those of one large batch.

L layers, B images, Q queries, T tasks, N ground-truth instances of an image, M matched pairs, P points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mtseg.core.params import Loss, Task
from mtseg.core.tables import UNLABELLED
from mtseg.model.decoder import QueryOutput
from mtseg.model.heads import Heads
from mtseg.model.matching import Matches, Target, match
from mtseg.model.points import WHOLE, Place, sample, uncertain_points

Watch = Callable[[QueryOutput, list[Target], Matches], None]


@dataclass(frozen=True)
class Normaliser:
    """Divisors of a step's losses. masks: number of instances. labels: {task: sum of the weights of its targets}."""

    masks: float
    labels: dict[str, float]


def normaliser(labels: list[Tensor], *, tasks: tuple[Task, ...], num_queries: int, loss: Loss) -> Normaliser:
    """The normaliser of a step. labels: int [N, T] of each image, of all batches of the step."""
    masks = sum(len(image) for image in labels)
    empty = sum(max(num_queries - len(image), 0) for image in labels)
    # with more instances than queries, only num_queries of them are matched, unknown which: each counts as a fraction
    matched = [min(1, num_queries / max(len(image), 1)) for image in labels]
    rows, weights = [image.tolist() for image in labels], {}
    for i, task in enumerate(tasks):
        labelled = sum(
            share * task.weights[label]
            for image, share in zip(rows, matched, strict=True)
            for label in (row[i] for row in image)
            if label != UNLABELLED
        )
        weights[task.name] = max(labelled + loss.no_object * empty * task.background, 1e-6)
    return Normaliser(max(masks, 1), weights)


def losses(
    output: QueryOutput, targets: list[Target], *, heads: Heads, loss: Loss, norm: Normaliser,
    watch: Watch | None = None, place: Place = WHOLE,
) -> dict[str, Tensor]:  # fmt: skip
    """Weighted scalar losses of each layer: `loss_mask_0`, `loss_dice_0`, `loss_TASK_0`, ...; training minimises their
    sum. `watch` is called with the outputs, targets and matches. place: of the images in a batch that several processes
    share.

    Raises FloatingPointError (see `match`). Images without objects give losses with a gradient too.
    """
    matches = match(output, targets, heads=heads, loss=loss, place=place)
    if watch:
        watch(output, targets, matches)
    per_layer = mask_losses(output, targets, matches, loss=loss, norm=norm, place=place)
    labels_MT = _matched([target.labels for target in targets], matches)
    matched = matches.layer, matches.image, matches.query
    sums = heads.losses(output.logits, labels_MT, matched, no_object=loss.no_object)
    for task in heads.tasks:
        per_layer[f"loss_{task.name}"] = task.loss_weight * sums[task.name] / norm.labels[task.name]
    return {f"{name}_{layer}": value for name, values in per_layer.items() for layer, value in enumerate(values)}


def _matched(labels: list[Tensor], matches: Matches) -> Tensor:
    """Labels [M, ...] of the matched instances. labels: [N, ...] of each image."""
    return pad_sequence(labels, batch_first=True)[matches.image, matches.instance]


def mask_losses(
    output: QueryOutput, targets: list[Target], matches: Matches, *, loss: Loss, norm: Normaliser,
    place: Place = WHOLE,
) -> dict[str, Tensor]:  # fmt: skip
    """Point-sampled binary cross-entropy and dice of the matched masks: {"loss_mask": [L], "loss_dice": [L]}."""
    L, _, Q, _ = output.mask_embed_LBQC.shape
    embed_MC = output.mask_embed_LBQC[matches.layer, matches.image, matches.query]
    instances = [place.before, [len(target.labels) for target in targets], place.after]
    before, counts, after = ([L * min(Q, count) for count in part] for part in instances)  # pairs of each image
    pairs = zip(embed_MC.split(counts), output.mask_features_BCHW, strict=True)
    logits_MHW = torch.cat([torch.einsum("mc,chw->mhw", embed, features) for embed, features in pairs])
    points_MP2 = uncertain_points(logits_MHW, loss, before=sum(before), after=sum(after))
    x_MP = sample(logits_MHW[:, None], points_MP2)[:, 0]

    per_image = (x.split(counts) for x in (points_MP2, matches.instance, matches.layer))
    t_MP = torch.cat([_inside(*args, layers=L) for args in zip(targets, *per_image, strict=True)])

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
    """Mask values [M, P] at the points of each matched instance. A layer matches an instance at most once, so that each
    mask is sampled once at the points of all layers, without copies and without synchronising with the device."""
    N, P = len(target.masks), points_MP2.shape[1]
    grid = points_MP2.new_zeros(N, layers, P, 2)
    grid[instance, layer] = points_MP2
    return sample(target.masks[:, None].float(), grid.flatten(1, 2)).view(N, layers, P)[instance, layer]
