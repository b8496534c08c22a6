"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159), in plain PyTorch.

Follows the formula of `ms_deform_attn` (fundamentalvision/Deformable-DETR), by `grid_sample`. On a CPU that moves a
channel at a time; there the sum over all points is the product of a sparse matrix, with four corners for each point,
and the matrix of the values of all pixels. PyTorch has the products that its gradients need where it has MKL.
B batch, Q queries, S pixels of all levels together, C channels, M heads, D channels per head, L levels, P points.
N rows of a sparse matrix: pairs of a query and a head; K points of a row; R rows of values.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.autograd import Function

Shapes = list[tuple[int, int]]  # (height, width) of each level

BORDER = 2  # pixels with the value 0 around each level; a point outside is moved there
with warnings.catch_warnings(action="ignore"):  # the first such tensor warns that they are in beta
    torch.zeros(1, 1).to_sparse_csr()


def deformable_attention(value_BSMD: Tensor, shapes: Shapes, location_BQMLP2: Tensor, weight_BQMLP: Tensor) -> Tensor:
    """Weighted sum [B, Q, C] of values sampled at `location` (x, y in 0..1 of each level; bilinear, zeros outside)."""
    computable = torch.backends.mkl.is_available() or not torch.is_grad_enabled()
    rows = computable and value_BSMD.device.type == "cpu" and not torch.compiler.is_compiling()
    form = by_rows if rows else by_planes
    return form(value_BSMD, shapes, location_BQMLP2, weight_BQMLP)


def by_planes(value_BSMD: Tensor, shapes: Shapes, location_BQMLP2: Tensor, weight_BQMLP: Tensor) -> Tensor:
    """`deformable_attention` by one `grid_sample` per level, the fastest form on CUDA without a compiled kernel."""
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


def by_rows(value_BSMD: Tensor, shapes: Shapes, location_BQMLP2: Tensor, weight_BQMLP: Tensor) -> Tensor:
    """`deformable_attention` by sparse products."""
    B, _, M, D = value_BSMD.shape
    Q, L, P = location_BQMLP2.shape[1], len(shapes), location_BQMLP2.shape[4]
    levels = zip(value_BSMD.flatten(2).split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    padded = [F.pad(part.unflatten(1, shape), (0, 0, *(BORDER,) * 4)).flatten(1, 2) for part, shape in levels]
    table = torch.cat(padded, dim=1).view(-1, D)  # rows: image, pixel, head

    size, down, start = map(torch.from_numpy, _layout(tuple(map(tuple, shapes)), B, M, P))
    pixel = location_BQMLP2.reshape(B, Q, -1) * size - 0.5
    corner = pixel.detach().floor()
    fraction = pixel - corner
    column, row = corner.int().maximum(size.new_tensor(-BORDER)).minimum(size).view(B, Q, -1, 2).unbind(-1)
    first = (row * down + column * M + start).view(B, Q, M, -1)
    down = down.view(M, -1)
    index = torch.stack([first, first + M, first + down, first + (down + M)], dim=3).view(-1, 4, L * P)
    given = table, fraction.view(-1, L * P, 2), weight_BQMLP.reshape(-1, L * P), index
    rows = SparseSum.apply(*given) if torch.is_grad_enabled() else _sum(*given)[0]
    return rows.view(B, Q, M * D)


@lru_cache(maxsize=8)
def _layout(shapes: tuple[tuple[int, int], ...], images: int, heads: int, points: int) -> tuple[np.ndarray, ...]:
    """Of all points of a query, as operations on short last dimensions are slow: size of the level [M L P 2], rows of
    `table` to the pixel below [M L P], and row of the first pixel [B, 1, M L P]."""

    def of_points(of_levels: list) -> np.ndarray:
        each = np.array(of_levels, dtype=np.int32).reshape(1, len(shapes), 1, -1)
        return np.tile(each, (heads, 1, points, 1)).reshape(-1)

    padded = [(height + 2 * BORDER, width + 2 * BORDER) for height, width in shapes]
    *starts, pixels = accumulate((height * width for height, width in padded), initial=0)
    down = of_points([heads * width for _, width in padded])
    start = of_points([heads * first for first in starts]) + BORDER * (down + heads)
    start = start + np.arange(heads, dtype=np.int32).repeat(len(shapes) * points)
    start = start + heads * pixels * np.arange(images, dtype=np.int32)[:, None, None]
    return of_points([(width, height) for height, width in shapes]), down, start


def _sum(table_RD: Tensor, fraction_NK2: Tensor, weight_NK: Tensor, index_N4K: Tensor) -> tuple[Tensor, Tensor]:
    """[N, D]: the sums of the rows `index` of `table`, and their coefficients [N, 4, K]. fraction: of a pixel, from the
    first corner, x and y. Corners: upper left, upper right, lower left, lower right."""
    x, y = fraction_NK2.unbind(-1)
    right = weight_NK * x
    left = weight_NK - right
    lower_left, lower_right = left * y, right * y
    coefficient = torch.stack([left - lower_left, right - lower_right, lower_left, lower_right], dim=1)
    given = {"mode": "sum", "per_sample_weights": coefficient.flatten(1)}
    return F.embedding_bag(index_N4K.flatten(1), table_RD, **given), coefficient


class SparseSum(Function):
    """`_sum` with gradients."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, fraction: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        total, coefficient = _sum(table, fraction, weight, index)
        ctx.save_for_backward(table, fraction, weight, index, coefficient)
        return total

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        table, fraction, weight, index, coefficient = ctx.saved_tensors
        gradient_ND = gradient_ND.contiguous()
        N, _, K = index.shape
        ends = torch.arange(0, index.numel() + 1, 4 * K, dtype=torch.int32)
        sparse = ends, index.flatten(), coefficient.flatten()
        size = N, len(table)
        matrix = torch.sparse_csr_tensor(*sparse, size, check_invariants=False)
        products = torch.sparse.sampled_addmm(matrix, gradient_ND, table.t(), beta=0.0).values().view(N, 4, K)
        a, b, c, d = products.unbind(1)  # of the gradient with the value of each corner
        x, y = fraction.unbind(-1)
        upper, lower = a.lerp(b, x), c.lerp(d, x)
        of_fraction = torch.stack([(b - a).lerp_(d - c, y).mul_(weight), (lower - upper).mul_(weight)], dim=-1)
        ends, index, coefficient = (part.numpy() for part in sparse)
        # SciPy's product of a transposed matrix needs no sorting, unlike PyTorch's
        of_table = csr_array((coefficient, index, ends), shape=size).T @ gradient_ND.numpy()
        return torch.from_numpy(of_table), of_fraction, upper.lerp(lower, y), None


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
        # transposed: the softmax of a short last dimension takes several times as long
        weight = self.weight(query_BQC).view(-1, L * P).T.softmax(0).T.reshape(B, Q, M, L, P)
        value = self.value(memory_BSC).unflatten(-1, (M, -1))
        location = (reference_Q2.repeat(1, M * L * P) + offset).view(B, Q, M, L, P, 2)
        return self.out(deformable_attention(value, shapes, location, weight))
