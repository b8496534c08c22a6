"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159), in plain PyTorch.

Follows the formula of `ms_deform_attn` (fundamentalvision/Deformable-DETR). One `grid_sample` per level is the fastest
form without a compiled kernel, and the same code runs on CPU and CUDA.
B batch, Q queries, S pixels of all levels together, C channels, M heads, D channels per head, L levels, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

Shapes = list[tuple[int, int]]  # (height, width) of each level
BILINEAR, ZEROS = 0, 0  # ATen's numbers of the modes of `grid_sample`


def deformable_attention(value_BSMD: Tensor, shapes: Shapes, location_BQMLP2: Tensor, weight_BQMLP: Tensor) -> Tensor:
    """Weighted sum [B, Q, C] of values sampled at `location` (x, y in 0..1 of each level; bilinear, zeros outside)."""
    B, _, M, D = value_BSMD.shape
    Q = location_BQMLP2.shape[1]
    grid = (2 * location_BQMLP2 - 1).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # [L, B M, P, Q, 2]
    weight = weight_BQMLP.permute(3, 0, 2, 4, 1).flatten(1, 2)  # [L, B M, P, Q]
    parts = zip(value_BSMD.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    planes = [part.permute(0, 2, 3, 1).reshape(B * M, D, *shape) for part, shape in parts]
    total = SampledSum.apply(grid, weight, *planes) if torch.is_grad_enabled() else sampled_sum(grid, weight, planes)
    return total.view(B, M * D, Q).transpose(1, 2)


def sampled_sum(grid_LNPQ2: Tensor, weight_LNPQ: Tensor, planes: Sequence[Tensor]) -> Tensor:
    """[N, D, Q]: the sum over levels and points of weighted samples. planes: [N, D, h, w] of each level. grid: as of
    `grid_sample`. Points come before queries, as sums over the last of several dimensions are slow."""
    each = zip(grid_LNPQ2, weight_LNPQ, planes, strict=True)
    return sum((_read(plane, grid) * weight[:, None]).sum(2) for grid, weight, plane in each)


def _read(plane: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class SampledSum(Function):
    """`sampled_sum` that samples again in the backward pass: the samples are the largest tensors of the network, and to
    store them takes as long as to compute them."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, weight: Tensor, *planes: Tensor) -> Tensor:
        ctx.save_for_backward(grid, weight, *planes)
        return sampled_sum(grid, weight, planes)

    @staticmethod
    def backward(ctx: Any, gradient_NDQ: Tensor) -> tuple[Tensor, ...]:
        grids, weights, *planes = ctx.saved_tensors
        gradient = gradient_NDQ[:, :, None]
        found = []
        for grid, weight, plane in zip(grids, weights, planes, strict=True):
            samples = _read(plane, grid)
            of_weight = samples.mul_(gradient).sum(1)
            of_samples = torch.mul(gradient, weight[:, None], out=samples)
            of_plane, of_grid = torch.ops.aten.grid_sampler_2d_backward(
                of_samples, plane, grid, BILINEAR, ZEROS, False, [True, True]
            )
            found.append((of_grid, of_weight, of_plane))
        of_grids, of_weights, of_planes = zip(*found, strict=True)
        return torch.stack(of_grids), torch.stack(of_weights), *of_planes


class DeformableAttention(nn.Module):
    """Each query samples `points` locations per head and level, at learned offsets from its own position."""

    def __init__(self, dim: int, *, heads: int, levels: int, points: int):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offset = nn.Linear(dim, heads * levels * points * 2)
        self.weight = nn.Linear(dim, heads * levels * points)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        # initially the p-th point of a head lies p pixels away in a direction that differs between heads
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1).view(1, 1, points, 1)
        bias = direction.view(heads, 1, 1, 2).expand(-1, levels, points, -1) * steps
        nn.init.zeros_(self.offset.weight)
        self.offset.bias = nn.Parameter(bias.flatten())
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)
        for projection in (self.value, self.out):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query_BQC: Tensor, reference_Q2: Tensor, memory_BSC: Tensor, shapes: Shapes) -> Tensor:
        """reference: (x, y) in 0..1 of each query. Returns [B, Q, C]."""
        B, Q, _ = query_BQC.shape
        M, L, P = self.heads, self.levels, self.points
        size = torch.stack([query_BQC.new_full((), x) for h, w in shapes for x in (w, h)]).view(L, 2)  # no transfer
        # offsets are learned in pixels; rows of all points, not of pairs: ONNX Runtime is slow on short last dimensions
        offset = self.offset(query_BQC) / size[:, None].expand(M, L, P, 2).flatten()
        # the softmax of another dimension than the last takes a tenth of the time
        weight = self.weight(query_BQC).view(B, Q, M, L * P).permute(0, 2, 3, 1).softmax(2)
        weight = weight.view(B, M, L, P, Q).permute(0, 4, 1, 2, 3)
        value = self.value(memory_BSC).unflatten(-1, (M, -1))
        location = (reference_Q2.repeat(1, M * L * P) + offset).view(B, Q, M, L, P, 2)
        return self.out(deformable_attention(value, shapes, location, weight))
