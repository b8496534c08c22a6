"""Layers that the pixel decoder and the query decoder share.

B batch, Q queries of an attention, S keys, C channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention. mask: bool [B, Q, S], True where attended to, shared by all heads without a copy.

    Weights are initialised in the range of `nn.MultiheadAttention`, where query, key and value are one matrix [3C, C].
    """

    def __init__(self, dim: int, *, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        for projection in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(projection.weight, gain=1 if projection is self.out else 0.5**0.5)
            nn.init.zeros_(projection.bias)

    def forward(self, q_BQC: Tensor, k_BSC: Tensor, v_BSC: Tensor, mask_BQS: Tensor | None = None) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, x in ((self.query, q_BQC), (self.key, k_BSC), (self.value, v_BSC))
        )
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask_BQS is None else mask_BQS[:, None])
        return self.out(x.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.inner = nn.Linear(dim, hidden_dim)
        self.outer = nn.Linear(hidden_dim, dim)
        for layer in (self.inner, self.outer):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.relu(self.inner(x)))


def sine_position(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Sine embedding [C, height, width] of pixel positions normalised to (0, 2 pi] (DETR, arXiv 2005.12872)."""
    half = dim // 2
    wavelength = 10000 ** (2 * (torch.arange(half, device=device) // 2) / half)

    def axis(length: int) -> Tensor:
        position = torch.arange(1, length + 1, device=device) / (length + 1e-6) * 2 * math.pi
        angle = position[:, None] / wavelength
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)  # [length, half]

    y = axis(height)[:, None].expand(-1, width, -1)
    x = axis(width)[None].expand(height, -1, -1)
    return torch.cat((y, x), dim=2).permute(2, 0, 1)
