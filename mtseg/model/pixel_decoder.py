"""Pixel decoder of Mask2Former (arXiv 2112.01527, section 3.2.1): deformable encoder over strides 8, 16 and 32, then
one feature-pyramid step to stride 4.

Follows `MSDeformAttnPixelDecoder` of facebookresearch/Mask2Former (MIT), without padding masks: all images of a batch
have the same size. B batch, C channels, S pixels of the three levels together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtseg.model.deformable import DeformableAttention, Shapes
from mtseg.model.layers import FeedForward, sine_position

LEVELS = ("res5", "res4", "res3")  # the encoder's order: coarse to fine


class EncoderLayer(nn.Module):
    def __init__(self, dim: int, *, heads: int, feedforward_dim: int):
        super().__init__()
        self.attention = DeformableAttention(dim, heads=heads, levels=len(LEVELS), points=4)
        self.attention_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim)
        self.feedforward_norm = nn.LayerNorm(dim)

    def forward(self, x_BSC: Tensor, position_SC: Tensor, reference_S2: Tensor, shapes: Shapes) -> Tensor:
        x = self.attention_norm(x_BSC + self.attention(x_BSC + position_SC, reference_S2, x_BSC, shapes))
        return self.feedforward_norm(x + self.feedforward(x))


class PixelDecoder(nn.Module):
    """Backbone features -> (mask features [B, C, H/4, W/4], three encoded levels [B, C, h, w], coarse to fine).

    channels: of each level of the backbone.
    """

    def __init__(self, channels: dict[str, int], *, dim: int, heads: int, layers: int, feedforward_dim: int):
        super().__init__()
        self.project = nn.ModuleDict(
            {name: nn.Sequential(nn.Conv2d(channels[name], dim, 1), nn.GroupNorm(32, dim)) for name in LEVELS}
        )
        for name in LEVELS:
            nn.init.xavier_uniform_(self.project[name][0].weight)
            nn.init.zeros_(self.project[name][0].bias)
        self.level_embed = nn.Parameter(torch.randn(len(LEVELS), dim))
        self.layers = nn.ModuleList(
            EncoderLayer(dim, heads=heads, feedforward_dim=feedforward_dim) for _ in range(layers)
        )
        self.lateral = nn.Sequential(nn.Conv2d(channels["res2"], dim, 1, bias=False), nn.GroupNorm(32, dim))
        self.smooth = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(32, dim), nn.ReLU())
        self.mask_features = nn.Conv2d(dim, dim, 1)
        for conv in (self.lateral[0], self.smooth[0], self.mask_features):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        levels = [self.project[name](features[name]) for name in LEVELS]
        shapes = [level.shape[-2:] for level in levels]
        dim, device = levels[0].shape[1], levels[0].device
        position = torch.cat(
            [
                sine_position(h, w, dim, device).flatten(1).T + embed
                for (h, w), embed in zip(shapes, self.level_embed, strict=True)
            ]
        )
        reference = torch.cat([_pixel_centres(h, w, device) for h, w in shapes])
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        for layer in self.layers:
            x = layer(x, position, reference, shapes)
        encoded = [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(x.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
        ]
        fine = self.lateral(features["res2"])
        fine = fine + F.interpolate(encoded[-1], size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_features(self.smooth(fine)), encoded


def _pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """(x, y) in 0..1 of the pixel centres, row by row: [height * width, 2]."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1).flatten(0, 1)
