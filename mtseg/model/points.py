"""Point sampling of masks (PointRend, arXiv 1912.08193; Mask2Former, section 3.3). Points are the same for one process
as for several that share a batch: each draws those of the whole batch and keeps its own.

Point coordinates are (x, y) in 0..1 of the image. N masks, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.projects.point_rend.point_features import point_sample
from torch import Tensor

from mtseg.core.params import Loss


@dataclass(frozen=True)
class Place:
    """Where the images of a process are in a batch that several processes share. before, after: number of instances of
    each image that other processes have, before and after them."""

    before: Sequence[int] = ()
    after: Sequence[int] = ()


WHOLE = Place()  # of a process that has the whole batch


def uniform(rows: int, *size: int, device: torch.device, before: int = 0, after: int = 0) -> Tensor:
    """Random numbers [rows, *size] in 0..1: of [before + rows + after, *size] those in the middle."""
    drawn = torch.rand(before + rows + after, *size, device=device)
    return drawn[before : before + rows].clone() if before or after else drawn


def sample(maps_NCHW: Tensor, points_NP2: Tensor) -> Tensor:
    """Bilinear values [N, C, P] of `maps` at `points`."""
    return point_sample(maps_NCHW, points_NP2, align_corners=False)


@torch.no_grad()
def uncertain_points(logits_NHW: Tensor, loss: Loss, *, before: int = 0, after: int = 0) -> Tensor:
    """Points [N, P, 2]: the fraction `loss.importance` where logits are closest to 0, the rest uniform. Those of
    detectron2's `get_uncertain_point_coords_with_randomness`, in another order. before, after: see `uniform`."""
    count = int(loss.importance * loss.num_points)
    draw = partial(uniform, len(logits_NHW), device=logits_NHW.device, before=before, after=after)
    candidates = draw(int(loss.num_points * loss.oversample), 2)
    others = draw(loss.num_points - count, 2)
    if not len(logits_NHW):
        return others.new_zeros(0, loss.num_points, 2)
    certainty = sample(logits_NHW[:, None], candidates)[:, 0].abs()
    chosen = certainty.topk(count, dim=1, largest=False, sorted=False).indices
    return torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), others], dim=1)
