"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159), in plain PyTorch.

Follows the formula of `ms_deform_attn` (fundamentalvision/Deformable-DETR). One `grid_sample` per level is the fastest
form without a compiled kernel, and the same code runs on CPU and CUDA.
B batch, Q queries, S pixels of all levels together, C channels, M heads, D channels per head, L levels, P points.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = list[tuple[int, int]]  # (height, width) of each level


def deformable_attention(value_BSMD: Tensor, shapes: Shapes, location_BQMLP2: Tensor, weight_BQMLP: Tensor) -> Tensor:
    """Weighted sum [B, Q, C] of values sampled at `location` (x, y in 0..1 of each level; bilinear, zeros outside)."""
    B, _, M, D = value_BSMD.shape
    Q = location_BQMLP2.shape[1]
    grid = (2 * location_BQMLP2 - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # [L, B M, Q, P, 2]
    weight = weight_BQMLP.permute(3, 0, 2, 1, 4).flatten(1, 2).unsqueeze(2)  # [L, B M, 1, Q, P]
    total = value_BSMD.new_zeros(B * M, D, Q)
    for level, value in enumerate(value_BSMD.split([h * w for h, w in shapes], dim=1)):
        plane = value.permute(0, 2, 3, 1).reshape(B * M, D, *shapes[level])
        read = F.grid_sample(plane, grid[level], mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (read * weight[level]).sum(-1)
    return total.view(B, M * D, Q).transpose(1, 2)


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
        weight = self.weight(query_BQC).view(B, Q, M, L * P).softmax(-1).view(B, Q, M, L, P)
        value = self.value(memory_BSC).unflatten(-1, (M, -1))
        location = (reference_Q2.repeat(1, M * L * P) + offset).view(B, Q, M, L, P, 2)
        return self.out(deformable_attention(value, shapes, location, weight))
