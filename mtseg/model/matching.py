"""Hungarian matching of queries to ground truth (DETR; Mask2Former, arXiv 2112.01527, section 3.3), for every
decoder layer and picture in one pass and with one transfer to the host.

L layers, B pictures, Q queries, N ground-truth instances (padded to the batch's largest), P points, K head outputs,
T tasks, M matched pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mtseg.core.params import Loss, Task
from mtseg.model.decoder import QueryOutput
from mtseg.model.points import sample


@dataclass(frozen=True)
class Target:
    """Ground truth of one picture: masks [N, H, W] at input size, labels [N, T] with -1 for "no label"."""

    masks: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Matches:
    """M pairs, sorted by picture: layer, picture and query of the prediction, index of the picture's instance."""

    layer: Tensor
    picture: Tensor
    query: Tensor
    instance: Tensor


@torch.no_grad()
def match(output: QueryOutput, targets: list[Target], *, tasks: tuple[Task, ...], loss: Loss) -> Matches:
    """Cheapest assignment for each layer and picture. Raises FloatingPointError when a cost is not finite."""
    device = output.mask_embed_LBQC.device
    counts = [len(target.labels) for target in targets]
    cost_LBQN = matching_cost(output, targets, tasks=tasks, loss=loss).cpu().numpy()
    rows = []
    for picture, count in enumerate(counts):
        for layer, cost in enumerate(cost_LBQN[:, picture, :, :count]):
            if not np.isfinite(cost).all():
                raise FloatingPointError(f"matching cost of decoder layer {layer}, picture {picture} of the batch")
            query, instance = linear_sum_assignment(cost)
            rows.append(np.stack([np.full_like(query, layer), np.full_like(query, picture), query, instance]))
    return Matches(*torch.from_numpy(np.concatenate(rows, axis=1)).to(device))


def matching_cost(output: QueryOutput, targets: list[Target], *, tasks: tuple[Task, ...], loss: Loss) -> Tensor:
    """Costs [L, B, Q, N]: binary cross-entropy and dice at points shared by a picture's masks, and minus the geometric
    mean of the probabilities of the instance's labels, by match weights (F10): a query with all of them goes before one
    with some, and more labels do not make it smaller, as a product's would. A label has no part in it where it is
    missing, or where its task has no weight in the loss (F9), for what is not trained has no say. Columns past a
    picture's own instances mean nothing."""
    embed_LBQC = output.mask_embed_LBQC
    L, B, Q, _ = embed_LBQC.shape
    most = max(len(target.labels) for target in targets)
    points = torch.rand(B, loss.num_points, 2, device=embed_LBQC.device)

    features_BCP = sample(output.mask_features_BCHW, points)
    x = embed_LBQC.transpose(0, 1).flatten(1, 2) @ features_BCP  # [B, L Q, P]
    t = x.new_zeros(B, most, loss.num_points)
    labels = torch.full((B, most, len(tasks)), -1, device=x.device)
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

    weights_T = torch.tensor([task.match_weight if task.loss_weight else 0.0 for task in tasks], device=x.device)
    labels = labels.masked_fill(weights_T == 0, -1)
    weights_BNT = weights_T * (labels >= 0)
    powers_BNT = weights_BNT / weights_BNT.sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    each = zip(output.probabilities(labels), powers_BNT.unbind(-1), strict=True)
    return cost - loss.labels * math.prod(p_LBQN ** power_BN[None, :, None] for p_LBQN, power_BN in each)
