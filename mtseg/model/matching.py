"""Hungarian matching of queries to ground truth (DETR; Mask2Former, arXiv 2112.01527, section 3.3), for all decoder
layers and images together, with one transfer to the CPU.

L layers, B images, Q queries, N ground-truth instances (padded to the batch's largest), P points, T tasks,
M matched pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mtseg.core.params import Loss
from mtseg.core.tables import UNLABELLED
from mtseg.model.decoder import QueryOutput
from mtseg.model.device import to_device, to_host
from mtseg.model.heads import Heads
from mtseg.model.points import WHOLE, Place, sample, uniform


@dataclass(frozen=True)
class Target:
    """Ground truth of one image: masks [N, H, W] at input size, labels [N, T] with -1 where unlabelled."""

    masks: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Matches:
    """M pairs, sorted by image, int [M] each: layer, image, query, and index among the image's instances."""

    layer: Tensor
    image: Tensor
    query: Tensor
    instance: Tensor


@torch.no_grad()
def match(output: QueryOutput, targets: list[Target], *, heads: Heads, loss: Loss, place: Place = WHOLE) -> Matches:
    """The assignment of minimum cost for each layer and image. Raises FloatingPointError if a cost is not finite."""
    cost_LBQN = matching_cost(output, targets, heads=heads, loss=loss, place=place)
    (on_host,) = to_host([cost_LBQN])
    pairs = assignment(on_host.numpy(), [len(target.labels) for target in targets])
    (pairs_4M,) = to_device([torch.from_numpy(pairs)], cost_LBQN.device)
    return Matches(*pairs_4M)


def assignment(cost_LBQN: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Int [4, M]: the fields of `Matches`. counts: instances of each image. Raises FloatingPointError (see `match`)."""
    rows = []
    for image, count in enumerate(counts):
        for layer, cost in enumerate(cost_LBQN[:, image, :, :count]):
            if not np.isfinite(cost).all():
                raise FloatingPointError(f"matching cost of decoder layer {layer}, image {image} of the batch")
            query, instance = linear_sum_assignment(cost)
            rows.append(np.stack([np.full_like(query, layer), np.full_like(query, image), query, instance]))
    return np.concatenate(rows, axis=1)


def matching_cost(
    output: QueryOutput, targets: list[Target], *, heads: Heads, loss: Loss, place: Place = WHOLE
) -> Tensor:
    """Costs [L, B, Q, N]: weighted sum of binary cross-entropy and dice of masks, at random points that are the same
    for all masks of an image, minus the mean probability of the instance's labels.

    The mean is geometric and weighted by `match_weight`: it is high only if all labels are probable, and, unlike a
    product, does not shrink with the number of tasks. Missing labels and tasks of loss weight 0 are left out. Columns
    past the number of an image's instances are undefined.
    """
    embed_LBQC = output.mask_embed_LBQC
    L, B, Q, _ = embed_LBQC.shape
    most = max(len(target.labels) for target in targets)
    others = {"before": len(place.before), "after": len(place.after)}
    points = uniform(B, loss.num_points, 2, device=embed_LBQC.device, **others)

    features_BCP = sample(output.mask_features_BCHW, points)
    x = embed_LBQC.transpose(0, 1).flatten(1, 2) @ features_BCP  # [B, L Q, P]
    t = x.new_zeros(B, most, loss.num_points)
    labels = torch.full((B, most, len(heads.tasks)), UNLABELLED, device=x.device)
    for b, target in enumerate(targets):
        n = len(target.labels)
        if n:
            t[b, :n] = sample(target.masks[None].float(), points[b : b + 1])[0]
            labels[b, :n] = target.labels

    overlap = x @ t.transpose(1, 2)  # bce = softplus(x) - x t, summed over points
    bce = (F.softplus(x).sum(-1, keepdim=True) - overlap) / loss.num_points
    inside = x.sigmoid()
    dice = 1 - (2 * (inside @ t.transpose(1, 2)) + 1) / (inside.sum(-1, keepdim=True) + t.sum(-1)[:, None] + 1)
    cost = (loss.mask * bce + loss.dice * dice).view(B, L, Q, most).transpose(0, 1)

    labels = labels.masked_fill(heads.match_weights == 0, UNLABELLED)
    weights_BNT = heads.match_weights * (labels != UNLABELLED)
    powers_BNT = weights_BNT / weights_BNT.sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    each = zip(heads.probabilities(output.logits, labels), powers_BNT.unbind(-1), strict=True)
    return cost - loss.labels * math.prod(p_LBQN ** power_BN[None, :, None] for p_LBQN, power_BN in each)
