"""Masked-attention transformer decoder of Mask2Former (arXiv 2112.01527, section 3.2) with a linear layer per task.

Follows `MultiScaleMaskedTransformerDecoder` of facebookresearch/Mask2Former (MIT). Differences: any number of tasks;
full-size masks of all queries are never computed, since interpolation and point sampling are linear in the mask
features: interpolate(E F) = E interpolate(F).
L decoder layers + 1 (the learned queries make a prediction too), B batch, Q queries, C channels, S pixels of a level,
K outputs of a task's linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtseg.model.layers import Attention, FeedForward, sine_position


@dataclass(frozen=True)
class QueryOutput:
    """Label logits and mask embeddings of every layer, from the same query states. float32 also under autocast, since
    matching costs, losses and scores are computed from them."""

    logits: dict[str, Tensor]  # task -> [L, B, Q, K]
    mask_embed_LBQC: Tensor
    mask_features_BCHW: Tensor

    def last(self) -> dict[str, Tensor]:
        """task -> [B, Q, K]: the logits of the last layer."""
        return {name: x_LBQK[-1] for name, x_LBQK in self.logits.items()}

    def masks(self, layer: int = -1) -> Tensor:
        """Mask logits [B, Q, H, W] of one layer, at stride 4. For tests: the network does not compute them all."""
        return torch.einsum("bqc,bchw->bqhw", self.mask_embed_LBQC[layer], self.mask_features_BCHW)


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and feed-forward network, each with residual connection and post-norm."""

    def __init__(self, dim: int, *, heads: int, feedforward_dim: int):
        super().__init__()
        self.cross_attention = Attention(dim, heads=heads)
        self.cross_attention_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads=heads)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim)
        self.feedforward_norm = nn.LayerNorm(dim)

    def forward(self, x_BQC: Tensor, query_QC: Tensor, memory_BSC: Tensor, key_BSC: Tensor, mask_BQS: Tensor) -> Tensor:
        x = self.cross_attention_norm(x_BQC + self.cross_attention(x_BQC + query_QC, key_BSC, memory_BSC, mask_BQS))
        q = x + query_QC
        x = self.self_attention_norm(x + self.self_attention(q, q, x))
        return self.feedforward_norm(x + self.feedforward(x))


class QueryDecoder(nn.Module):
    """outputs: {task: outputs of its linear layer}. levels: number of feature levels."""

    def __init__(
        self, outputs: Mapping[str, int], *, dim: int, heads: int, layers: int, feedforward_dim: int, num_queries: int,
        levels: int = 3,
    ):  # fmt: skip
        super().__init__()
        self.query_feature = nn.Parameter(torch.randn(num_queries, dim))
        self.query_position = nn.Parameter(torch.randn(num_queries, dim))
        self.level_embed = nn.Parameter(torch.randn(levels, dim))
        self.layers = nn.ModuleList(
            DecoderLayer(dim, heads=heads, feedforward_dim=feedforward_dim) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.mask_embed = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )
        # "head_": nn.ModuleDict refuses a key that is also an attribute of Module, as a task named "type" would be
        self.heads = nn.ModuleDict({f"head_{name}": nn.Linear(dim, count) for name, count in outputs.items()})

    def forward(self, mask_features_BCHW: Tensor, levels: list[Tensor]) -> QueryOutput:
        memory, keys, small_features = [], [], []
        for level, embed in zip(levels, self.level_embed, strict=True):
            height, width = level.shape[-2:]
            flat = level.flatten(2).transpose(1, 2) + embed
            memory.append(flat)
            keys.append(flat + sine_position(height, width, level.shape[1], level.device).flatten(1).T)
            small = F.interpolate(mask_features_BCHW.detach(), size=(height, width), mode="bilinear")
            small_features.append(small.flatten(2))

        x = self.query_feature.expand(mask_features_BCHW.shape[0], -1, -1)
        states = [self.norm(x)]
        for i, layer in enumerate(self.layers):
            level = i % len(levels)
            mask = self._attention_mask(states[-1], small_features[level])
            x = layer(x, self.query_position, memory[level], keys[level], mask)
            states.append(self.norm(x))
        state_LBQC = torch.stack(states)
        logits = {name.removeprefix("head_"): head(state_LBQC).float() for name, head in self.heads.items()}
        return QueryOutput(logits, self.mask_embed(state_LBQC).float(), mask_features_BCHW.float())

    @torch.no_grad()
    def _attention_mask(self, state_BQC: Tensor, features_BCS: Tensor) -> Tensor:
        """bool [B, Q, S], True where attended to: the foreground of the query's mask, or every pixel if it is empty."""
        inside = self.mask_embed(state_BQC) @ features_BCS >= 0
        return inside | ~inside.any(-1, keepdim=True)
