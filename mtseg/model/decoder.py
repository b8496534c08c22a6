"""Masked-attention transformer decoder of Mask2Former (arXiv 2112.01527, section 3.2) with a head for every task.

Follows `MultiScaleMaskedTransformerDecoder` of facebookresearch/Mask2Former (MIT). What differs: any number of label
heads; full-size masks of all queries are never formed, since interpolation and point sampling are linear in the mask
features: interpolate(E F) = E interpolate(F).
L decoder layers + 1 (the learnt queries themselves predict too), B batch, Q queries, C channels, S pixels of a level,
K outputs of a task's head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtseg.core.params import Task
from mtseg.model.combinations import Combinations, Reading
from mtseg.model.layers import Attention, FeedForward, sine_position


@dataclass(frozen=True)
class QueryOutput:
    """What every layer's query states say. Labels and masks come from the same states (F11). In float32 under autocast
    too, for costs, losses and scores are worked out from it."""

    logits: dict[str, Tensor]  # task -> [L, B, Q, K]
    mask_embed_LBQC: Tensor
    mask_features_BCHW: Tensor
    combinations: Combinations | None = None  # None: every head has a softmax of its own

    def reading(self) -> Reading | None:
        """What the logits [L, B, Q, K] say of combinations of labels."""
        return self.combinations and self.combinations.read(list(self.logits.values()))

    def probabilities(self, labels_BNT: Tensor) -> list[Tensor]:
        """T x [L, B, Q, N]: of the labels of each of B pictures' instances; of a combination's, given those before
        it. A label -1 may be any."""
        if reading := self.reading():
            return reading.probabilities(labels_BNT)
        found = []
        for logits_LBQK, label_BN in zip(self.logits.values(), labels_BNT.unbind(-1), strict=True):
            index = label_BN.clamp(min=0)[None, :, None].expand(*logits_LBQK.shape[:1], -1, logits_LBQK.shape[2], -1)
            own = logits_LBQK.softmax(-1).gather(-1, index)
            found.append(own.masked_fill((label_BN < 0)[None, :, None], 1))
        return found

    def last(self) -> dict[str, Tensor]:
        """task -> [B, Q, K]: what each task by itself is said to be by the last layer, as logits."""
        logits = {name: x_LBQK[-1] for name, x_LBQK in self.logits.items()}
        if not self.combinations:
            return logits
        return dict(zip(logits, self.combinations.read(list(logits.values())).marginals(), strict=True))

    def masks(self, layer: int = -1) -> Tensor:
        """Mask logits [B, Q, H, W] of one layer, at stride 4: to compare; nothing else forms them all."""
        return torch.einsum("bqc,bchw->bqhw", self.mask_embed_LBQC[layer], self.mask_features_BCHW)


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; each with a residual and a norm behind it."""

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
    def __init__(
        self, tasks: tuple[Task, ...], *, dim: int, heads: int, layers: int, feedforward_dim: int, num_queries: int,
        levels: int = 3, combinations: Combinations | None = None,
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
        self.heads = nn.ModuleDict({f"head_{task.name}": nn.Linear(dim, task.num_outputs) for task in tasks})
        self.unseen = combinations and combinations.unseen
        self.register_buffer("seen", combinations and combinations.seen, persistent=False)

    @property
    def combinations(self) -> Combinations | None:
        return None if self.seen is None else Combinations(self.seen, self.unseen)

    def forward(self, mask_features_BCHW: Tensor, levels: list[Tensor]) -> QueryOutput:
        memory, keys, small_features = [], [], []
        for level, embed in zip(levels, self.level_embed, strict=True):
            height, width = level.shape[-2:]
            flat = level.flatten(2).transpose(1, 2) + embed
            memory.append(flat)
            keys.append(flat + sine_position(height, width, level.shape[1], level.device).flatten(1).T)
            small = F.interpolate(mask_features_BCHW.detach(), size=(height, width), mode="bilinear")
            small_features.append(small.flatten(2))

        x = self.query_feature.expand(len(mask_features_BCHW), -1, -1)
        states = [self.norm(x)]
        for i, layer in enumerate(self.layers):
            level = i % len(levels)
            mask = self._attention_mask(states[-1], small_features[level])
            x = layer(x, self.query_position, memory[level], keys[level], mask)
            states.append(self.norm(x))
        state_LBQC = torch.stack(states)
        logits = {name.removeprefix("head_"): head(state_LBQC).float() for name, head in self.heads.items()}
        return QueryOutput(logits, self.mask_embed(state_LBQC).float(), mask_features_BCHW.float(), self.combinations)

    @torch.no_grad()
    def _attention_mask(self, state_BQC: Tensor, features_BCS: Tensor) -> Tensor:
        """True [B, Q, S] where the query's own mask is foreground; a query with an empty mask looks everywhere."""
        inside = self.mask_embed(state_BQC) @ features_BCS >= 0
        return inside | ~inside.any(-1, keepdim=True)
